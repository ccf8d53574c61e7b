"""The words of a training with what a search has found."""

from __future__ import annotations

from pathlib import Path

import pytest

from qatlab.run.loading import composed
from qatlab.run.search import train_words
from qatlab.sweep import setting
from qatlab.system import files


def run(folder: Path, *words: str) -> Path:
    files.write_text(folder / "config.yaml", "")
    text = "".join(f"- {word}\n" for word in words)
    files.write_text(folder / ".hydra" / "overrides.yaml", text)
    return folder


@pytest.mark.parametrize(
    "word", ["experiment=mlperf_tiny_ic", "experiment=lenet_sat_clamp", "model=resnet8"]
)
def test_only_the_quantize_phase_is_trained(tmp_path: Path, word: str) -> None:
    folder = run(tmp_path / "run", word, "schedule.float_epochs=3", "seed=4", "name=mine")
    words = train_words(folder, "best", "lsq_4bit", leaves=False)
    cfg = composed([*words, "schedule.quantize_epochs=3", "name=search"], "config")
    assert cfg.trainer.max_epochs == cfg.schedule.quantize_epochs == 3
    assert cfg.schedule.first_epochs is None
    assert cfg.seed == 4
    assert cfg.init_weights == str(folder)


def test_the_words_of_the_newest_run_of_a_name_are_taken(tmp_path: Path) -> None:
    newest = run(tmp_path / "lenet" / "2026-01-02", "data.batch_size=64")
    (newest.parent / "latest").symlink_to(newest.name)
    assert "data.batch_size=64" in train_words(newest.parent, "best", None, leaves=False)


@pytest.mark.parametrize("name", ["lenet", "a b", "a=b,c", 'a"b'])
def test_names_are_quoted_as_hydra_reads_them(name: str) -> None:
    assert composed([setting("name", name)], "config").name == name


def test_folders_are_quoted_as_hydra_reads_them(tmp_path: Path) -> None:
    folder = run(tmp_path / "a run, with commas", "seed=4")
    words = train_words(folder, "best", None, leaves=True)
    assert composed([*words, "name=search"], "config").init_weights == str(folder)
