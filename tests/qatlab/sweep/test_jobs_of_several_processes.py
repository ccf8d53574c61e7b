"""What the processes of one job write for its sweep."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from qatlab.sweep import jobs


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = OmegaConf.create({"job": {"num": 3}, "overrides": {"task": ["seed=1"]}})
    monkeypatch.setattr(jobs, "HydraConfig", SimpleNamespace(get=lambda: config))
    monkeypatch.setenv(jobs.NOTES, str(tmp_path / "notes"))
    return tmp_path / "notes"


def told(notes: Path) -> Any:
    return json.loads((notes / "3.json").read_text())


@pytest.mark.parametrize("rank", ["LOCAL_RANK", "SLURM_PROCID"])
def test_only_the_first_process_notes_what_became_of_a_job(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv(rank, "1")
    other = jobs.SweepJob(tmp_path / "job")
    other.succeeded()
    assert not (notes / "3.json").exists()
    monkeypatch.setenv(rank, "0")
    first = jobs.SweepJob(tmp_path / "job")
    assert told(notes)["state"] == jobs.FAILED  # until it has ended
    first.succeeded()
    assert told(notes)["state"] == jobs.DONE
    monkeypatch.setenv(rank, "1")
    other.failed("no memory")  # which the first one cannot know
    assert (told(notes)["state"], told(notes)["reason"]) == (jobs.FAILED, "no memory")
