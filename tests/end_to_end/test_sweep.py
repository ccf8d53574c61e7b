"""Sweeps that are killed and started again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from killable_runs import KILL_AT, Ended, start, start_forked
from safetensors.torch import load_file

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

    def started(name: str, *more: str, forked: bool = True, **environment: str) -> Ended:
        places = (f'hydra.sweep.dir="{tmp_path / name}"', f'sweep.cache="{tmp_path / name}.cache"')
        words = (*SWEEP, *places, *more)
        if not forked:
            return start("train.py", *words, **environment)
        return start_forked(tmp_path / "log", "train.py", *words, **environment)

    return started


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("data=mnist,seed=1", "data=mnist,seed=1"),
        ("init_weights=a/b.ckpt", "init_weights=a_b.ckpt"),
        (
            "quant.activation.bits=2,quant.weight.bits=3," + "trainer.devices=1," * 20,
            "activation.bits=2,weight.bits=3,devices=1,devices=1,",
        ),
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
            for key in ("seconds", "resumed", "first_phases_of"):
                del found[bits][key]
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


def test_a_job_that_another_process_trains_is_left_to_it(sweep: Sweep, tmp_path: Path) -> None:
    place = ("hydra.sweep.subdir=job_${hydra:job.num}", "quant.weight.bits=2")
    (tmp_path / "s/job_0").mkdir(parents=True)
    with FileLock(tmp_path / "s/job_0/.lock"):
        ended = sweep("s", *place)
        assert ended.code == 1
        assert "job_0 is being trained by another process; wait" in ended.output
        assert not (tmp_path / "s/job_0/config.yaml").exists()
    assert "\n1 done\n" in sweep("s", *place).output


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


@pytest.mark.parametrize("preset", ["sat_4bit", pytest.param("lsq_4bit", marks=pytest.mark.slow)])
def test_the_phases_before_quantization_are_trained_once(
    sweep: Sweep, tmp_path: Path, preset: str
) -> None:
    first = "clamp" if preset.startswith("sat") else "float"
    words = (f"quant={preset}", "schedule.clamp_epochs=0", f"schedule.{first}_epochs=2")
    shared = sweep("shared", *words)
    assert shared.code == 0, shared.output
    assert shared.output.count(f"epoch 1/3 [{first}]") == 1
    assert re.search(rf"\n{first} phase of \S*bits=2,\S* taken over", shared.output)
    alone = sweep("alone", *words, "sweep.cache=null")
    assert alone.code == 0, alone.output
    assert alone.output.count(f"epoch 1/3 [{first}]") == 2

    for file in ("metrics.csv", "result.json", "layers.json"):
        one, other = (of_jobs(tmp_path / name, file) for name in ("shared", "alone"))
        assert one.keys() == {"2", "4"}
        assert one == other
    for bits in ("2", "4"):
        one, other = (
            load_file(*(tmp_path / name).glob(f"*bits={bits},*/weights.safetensors"))
            for name in ("shared", "alone")
        )
        assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())


def test_jobs_side_by_side_share_the_first_phase_too(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is missing")
    # Not forked: joblib does not start processes out of such a one.
    ended = sweep("s", "hydra/launcher=parallel", "quant.weight.bits=2,3,33", forked=False)
    assert ended.code == 1
    assert "\n2 done, 1 failed\n" in ended.output
    assert "bits=33 is not a whole number" in ended.output
    assert "Error executing job" not in ended.output  # Hydra's, with its trace
    assert ended.output.count("[clamp]") == 1
    assert of_jobs(tmp_path / "s", "result.json").keys() == {"2", "3"}


@pytest.mark.parametrize(
    "settings",
    [
        ("quant.weight.bits=4", "seed=1,2"),
        ("quant.weight.grid=full_range",),  # whose range depends on the bits
    ],
)
def test_jobs_that_differ_before_quantization_share_nothing(
    sweep: Sweep, settings: tuple[str, ...]
) -> None:
    ended = sweep("s", *settings)
    assert ended.code == 0, ended.output
    assert ended.output.count("[clamp]") == 2
    assert "taken over" not in ended.output
