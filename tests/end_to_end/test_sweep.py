"""Sweeps that are killed and started again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killable_runs import KILL_AT, Ended, start_forked

from qatlab.config import job_name

SWEEP = (
    *("-m", "quant.weight.bits=2,4", "data=synthetic", "data.source.training_images=90"),
    *("data.source.test_images=50", "data.validation=0", "data.batch_size=30"),
    *("schedule.clamp_epochs=1", "schedule.quantize_epochs=1", "trainer.accelerator=cpu"),
    *("callbacks.checkpoint.every_n_steps=1", "~callbacks.quant_monitor"),
    "+callbacks.kill._target_=killable_runs.KillAt",
)
Sweep = Callable[..., Ended]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Start a sweep in a folder of the given name."""

    def started(name: str, *more: str, **environment: str) -> Ended:
        words = (*SWEEP, f'hydra.sweep.dir="{tmp_path / name}"', *more)
        return start_forked(tmp_path / "log", "train.py", *words, **environment)

    return started


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("data=mnist,seed=1", "data=mnist,seed=1"),
        ("init_weights=a/b.ckpt", "init_weights=a_b.ckpt"),
        ("+a.b={c.d: 1}," + "model.very_long_key=1," * 12, "+a.b={c.d: 1},very_long_key=1,"),
    ],
)
def test_folders_of_jobs_have_names_that_a_file_system_takes(overrides: str, name: str) -> None:
    assert job_name(overrides).startswith(name)
    assert len(job_name(overrides)) <= 255
    assert job_name(overrides) != job_name(overrides + "1")


def of_jobs(folder: Path, file: str) -> dict[str, Any]:
    """Return what the jobs of a sweep have written, by their bits."""
    found = {}
    for path in folder.glob(f"*/{file}"):
        bits = path.parent.name.partition("bits=")[2].partition(",")[0]
        text = path.read_text()
        found[bits] = json.loads(text) if file.endswith("json") else text
        if file == "result.json":
            del found[bits]["seconds"], found[bits]["resumed"]
    return found


def test_a_sweep_that_was_killed_three_times_equals_one_that_was_not(
    sweep: Sweep, tmp_path: Path
) -> None:
    for place in ("1 2", "1 end", "2 1"):  # epoch and step, of the first job that gets there
        assert sweep("killed", **{KILL_AT: f"SIGKILL {place}"}).code == -9
    ended = sweep("killed")
    assert ended.code == 0, ended.output
    assert "\n1 done, 1 resumed\n" in ended.output
    assert sweep("whole").code == 0
    for file in ("metrics.csv", "result.json", "layers.json"):
        killed, whole = (of_jobs(tmp_path / name, file) for name in ("killed", "whole"))
        assert killed == whole
        assert whole.keys() == {"2", "4"}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*.ckpt")}
    again = sweep("killed")
    assert again.code == 0
    assert "\n2 skipped\n" in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_in_the_place_of_a_run_are_refused(sweep: Sweep, tmp_path: Path) -> None:
    place = ("hydra.sweep.subdir=job_${hydra:job.num}", "quant.weight.bits=2")
    assert sweep("s", *place).code == 0
    before = (tmp_path / "s/job_0/result.json").read_bytes()
    changed = sweep("s", *place, "seed=3")
    assert changed.code == 1
    error = (tmp_path / "s/job_0/error.txt").read_text()
    assert "job_0 holds a run of other settings: " in error
    assert "seed was 1 and is 3 now" in error
    assert (tmp_path / "s/job_0/result.json").read_bytes() == before
    allowed = sweep("s", *place, "sweep.fail_fast=true")  # says nothing about the run
    assert "\n1 skipped\n" in allowed.output


def test_a_job_that_fails_does_not_stop_the_others(sweep: Sweep, tmp_path: Path) -> None:
    ended = sweep("s", "quant.weight.bits=33,2")
    assert ended.code == 1
    assert "\n1 done, 1 failed\n" in ended.output
    assert "Error: 1 of the sweep's jobs failed" in ended.output
    assert "Traceback" not in ended.output
    (error,) = tmp_path.glob("s/*/error.txt")
    assert "bits=33,quant" not in error.read_text()
    assert "bits=33 is not a whole number from 1 to 16" in error.read_text()
    assert of_jobs(tmp_path / "s", "result.json").keys() == {"2"}

    fast = sweep("fast", "quant.weight.bits=33,2", "sweep.fail_fast=true")
    assert fast.code == 1
    assert "\n1 failed\n" in fast.output
    assert of_jobs(tmp_path / "fast", "result.json") == {}


def test_a_sweep_that_is_interrupted_says_so_and_goes_on(sweep: Sweep) -> None:
    ended = sweep("s", **{KILL_AT: "SIGINT 2 1"})
    assert ended.code == 130
    assert "interrupted; the sweep's command continues it" in ended.output
    assert "Traceback" not in ended.output
    assert "\n1 done, 1 resumed\n" in sweep("s").output
