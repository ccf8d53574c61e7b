"""Sweeps that are killed and started again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.conf import HydraConf, SweepDir
from killable_runs import KILL_AT, Ended, start, start_forked
from mistakes import Told, check
from omegaconf import OmegaConf
from safetensors.torch import load_file

from qatlab.config import job_name
from qatlab.sweep.jobs import NOTES, Note, Watch, take_notes
from qatlab.system.files import read_json

SWEEP = (
    *("-m", "quant.weight.bits=2,4", "data=synthetic", "data.source.training_images=90"),
    *("data.source.test_images=50", "data.validation=0", "data.batch_size=30"),
    *("schedule.clamp_epochs=1", "schedule.quantize_epochs=1", "trainer.accelerator=cpu"),
    *("callbacks.checkpoint.every_n_steps=1", "~callbacks.quant_monitor"),
    "+callbacks.kill._target_=killable_runs.KillAt",
)
Sweep = Callable[..., Ended]


def places(folder: Path) -> tuple[str, str]:
    return f'hydra.sweep.dir="{folder}"', f'sweep.cache="{folder}.cache"'


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Start a sweep in a folder of the given name."""

    def started(name: str, *more: str, **environment: str) -> Ended:
        words = (*SWEEP, *places(tmp_path / name), *more)
        return start_forked(tmp_path / "log", "train.py", *words, **environment)

    return started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    ended = start_forked(folder.with_suffix(".log"), "train.py", *SWEEP, *places(folder))
    assert ended.code == 0, ended.output
    return folder


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
    sweep: Sweep, whole: Path, tmp_path: Path
) -> None:
    for place in ("1 2", "1 end", "2 1"):  # epoch and step, of the first job that gets there
        assert sweep("killed", **{KILL_AT: f"SIGKILL {place}"}).code == -9
    ended = sweep("killed")
    assert ended.code == 0, ended.output
    assert "\n1 done, 1 resumed\n" in ended.output
    for file in ("metrics.csv", "result.json", "layers.json"):
        assert of_jobs(tmp_path / "killed", file) == of_jobs(whole, file)
        assert of_jobs(whole, file).keys() == {"2", "4"}

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
        assert not (tmp_path / "s/job_0/error.txt").exists()  # the run has not failed
    assert "\n1 done\n" in sweep("s", *place).output


def test_a_job_that_fails_does_not_stop_the_others(sweep: Sweep, tmp_path: Path) -> None:
    ended = sweep("s", "quant.weight.bits=33,2")
    assert ended.code == 1
    assert "\n1 done, 1 failed\n" in ended.output
    assert "Error: 1 of the sweep's jobs failed" in ended.output
    assert "Traceback" not in ended.output
    (error,) = tmp_path.glob("s/*/error.txt")
    assert "bits=33,quant" not in error.read_text()
    assert "bits=33 is wrong. Accepted: a whole number from 1 to 16" in error.read_text()
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
    assert shared.output.count(f"epoch 1/2 [{first}]") == 1
    assert re.search(rf"\nthe {first} phase of \S*bits=2,\S* is reused", shared.output)
    alone = sweep("alone", *words, "sweep.cache=null")
    assert alone.code == 0, alone.output
    assert alone.output.count(f"epoch 1/2 [{first}]") == 2

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


def test_jobs_side_by_side_share_the_first_phase_too(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is missing")
    # Not forked: such a process waits at its end for joblib's workers, which stay for minutes.
    words = ("hydra/launcher=parallel", "quant.weight.bits=2,3,33")
    ended = start("train.py", *SWEEP, *places(tmp_path / "s"), *words)
    assert ended.code == 1
    assert "\n2 done, 1 failed\n" in ended.output
    assert "bits=33 is wrong. Accepted: a whole number" in ended.output
    assert "Error executing job" not in ended.output  # Hydra's, with its trace
    assert ended.output.count("[clamp]") == 1
    assert of_jobs(tmp_path / "s", "result.json").keys() == {"2", "3"}


@pytest.mark.parametrize(
    "settings",
    [
        ("quant.weight.bits=4", "seed=1,2"),
        ("quant.weight.grid=full_range",),  # whose range depends on the bits
        # Of which one has fewer parameters to learn.
        ("quant.weight.bits=4", "quant.one_step_for_sums=false,true", "model=resnet8"),
    ],
)
def test_jobs_that_differ_before_quantization_share_nothing(
    sweep: Sweep, settings: tuple[str, ...]
) -> None:
    ended = sweep("s", *settings)
    assert ended.code == 0, ended.output
    assert ended.output.count("[clamp]") == 2
    assert "is reused" not in ended.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("hydra/launcher=parallel",), "hydra/launcher=parallel has no effect without -m"),
        (("hydra/sweeper=optuna",), "hydra/sweeper=optuna has no effect without -m"),
        (("hydra.sweeper.n_trials=3",), "hydra.sweeper.n_trials=3 has no effect without -m"),
        (("+hydra.launcher.n_jobs=3",), "+hydra.launcher.n_jobs=3 has no effect without -m"),
        (("hydra.sweep.dir=a",), "hydra.sweep.dir=a has no effect without -m"),
        (("-m", "hydra.run.dir=a"), "hydra.run.dir=a cannot be combined with -m"),
        (("hydra.mode=MULTIRUN", "hydra.run.dir=a"), "hydra.run.dir=a cannot be combined with -m"),
        (("sweep=x.yaml",), "cannot read x.yaml: No such file"),
        (
            ("-m", "hydra/sweeper=zip", "quant.weight.bits=2,4", "seed=1,2,3"),
            "lists of one length: quant.weight.bits has 2 and seed has 3",
        ),
        (("-m", "seed=range(3,1)"), "seed=range(3,1) has no values"),
        (("-m", "model=lenet", "seed=range(2,2)"), "seed=range(2,2) has no values"),
        (("-m", "experiment=glob(none*)"), "experiment=glob(none*) has no values"),
        (("-m", "seed=1,2", "hydra.sweep.dir=''"), "hydra.sweep.dir='' is wrong"),
        (("-m", "seed=1,2", "hydra.sweep.dir=/dev/null/s"), "cannot write to /dev/null/s: Not a"),
        (
            ("-m", "hydra/sweeper=random", "solver.optimizer.lr=interval(0.2,0.1)"),
            "solver.optimizer.lr=interval(0.2,0.1) has no values",
        ),
    ],
)
def test_sweeps_that_cannot_begin_are_refused_in_a_sentence(
    command: Told, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    check(command(*words), (sentence,))
    assert not list(tmp_path.rglob("*.yaml"))


def test_the_options_of_a_launcher_can_be_looked_at(sweep: Sweep, tmp_path: Path) -> None:
    words = ("--cfg", "hydra", "--package", "hydra.launcher", "hydra/launcher=slurm")
    ended = start_forked(tmp_path / "log", "train.py", *words)
    assert ended.code == 0, ended.output
    assert "timeout_min: 1440" in ended.output


def test_what_killed_sweeps_have_noted_is_removed_by_the_next(sweep: Sweep, tmp_path: Path) -> None:
    notes, job = tmp_path / "s" / ".jobs", "quant.weight.bits=2"
    assert sweep("s", job, **{KILL_AT: "SIGKILL 1 1"}).code == -9
    (killed,) = notes.glob("*/0.json")
    lives = FileLock(notes / f"{uuid4().hex}.lock")
    with lives:  # another sweep
        own = Path(lives.lock_file).with_suffix("")
        own.mkdir()
        assert sweep("s", job).code == 0
        assert not killed.exists()
        assert own.is_dir()
    assert sweep("s", job).code == 0
    assert not notes.exists()


@pytest.mark.parametrize("content", ["", '{"number": 0, "overri', "[1]", '{"number": 0}', None])
def test_a_damaged_note_counts_as_a_failed_job(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "0.json"
    if content is None:
        file.mkdir()
    else:
        file.write_text(content)
    note = Note.of(file)
    assert (note.number, note.state) == (0, "failed")
    assert note.reason.startswith("what it has noted is damaged: ")


def test_a_note_that_was_half_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hydra = OmegaConf.structured(HydraConf(sweep=SweepDir(dir=str(tmp_path))))
    hydra.overrides.task = ["seed=1,2"]
    sweep_config = OmegaConf.create({"hydra": hydra})
    monkeypatch.setenv(NOTES, "")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        Watch().on_multirun_start(sweep_config)
    folder = Path(os.environ[NOTES])
    folder.mkdir()
    (folder / ".1.tmp.json").write_text("{")
    assert take_notes() == []
    assert not folder.parent.exists()


def test_a_cache_that_is_no_folder_is_reported(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = sweep("s", f"sweep.cache={tmp_path / 'file'}", "quant.weight.bits=2")
    assert ended.code == 1
    assert "Traceback" not in ended.output, ended.output
    assert f"sweep.cache={tmp_path / 'file'} is wrong: File exists" in ended.output


DEFAULT = (*SWEEP[2:], "sweep.cache=null")  # of sweeps in folders that are named by themselves


def test_sweeps_have_folders_of_their_own_that_the_same_words_find_again(tmp_path: Path) -> None:
    def sweep_of(*words: str) -> Ended:
        return start_forked(tmp_path / "log", "train.py", "-m", *words, PWD=str(tmp_path))

    first = ("quant.weight.bits=2,4", "seed=1", *DEFAULT)
    ended = sweep_of(*first)
    assert "\n2 done\n" in ended.output, ended.output
    rows = [line for line in ended.output.splitlines() if re.search(r"│ [01] +│ quant", line)]
    result = [read_json(path) for path in sorted(tmp_path.glob("outputs/sweeps/*/*/result.json"))]
    for row, of in zip(rows, result, strict=True):
        assert f"{of['test']['top1']:.2%}" in row
        assert f"{of['size_bytes']:,}" in row
    # In another order, with words that no job depends on.
    again = sweep_of("sweep.fail_fast=true", *reversed(first))
    assert "\n2 skipped\n" in again.output, again.output
    other = sweep_of("quant.weight.bits=2,4", "seed=2", *DEFAULT)
    assert "\n2 done\n" in other.output
    folders = sorted(path.name for path in (tmp_path / "outputs/sweeps").iterdir())
    assert len(folders) == 2
    assert all(re.fullmatch(r"lenet_bits_[0-9a-f]{6}", name) for name in folders), folders
    named = sweep_of("sweep.name=mine", "quant.weight.bits=2", "quant.activation.bits=2", *DEFAULT)
    assert named.code == 0
    assert (tmp_path / "outputs/sweeps/mine/sweep.json").exists()
    assert f"qatlab status {Path('outputs/sweeps/mine')}" in named.output


def test_a_sweep_in_a_file_takes_lists_together(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "hydra/sweeper: zip\nhydra.sweeper.keys: [quant.weight.bits, quant.activation.bits]\n"
        "quant: [sat_4bit, lsq_4bit]\nquant.weight.bits: [2, 4]\nquant.activation.bits: [3, 5]\n"
        "schedule.first_epochs: 1\nschedule.quantize_epochs: 1\n"
    )
    words = ("-m", "sweep=s.yaml", "trainer.accelerator=cpu", *SWEEP[2:6])
    ended = start_forked(tmp_path / "log", "train.py", *words, PWD=str(tmp_path))
    assert "\n4 done\n" in ended.output, ended.output
    jobs = [OmegaConf.load(path) for path in tmp_path.glob("outputs/sweeps/*/*/config.yaml")]
    bits = {(j.quant.weight.bits, j.quant.activation.bits, j.schedule.float_epochs) for j in jobs}
    # SAT begins with a clamp phase, LSQ in float.
    assert bits == {(2, 3, 0), (4, 5, 0), (2, 3, 1), (4, 5, 1)}
    (facts,) = [read_json(path) for path in tmp_path.glob("outputs/sweeps/*/sweep.json")]
    assert facts["jobs"] == 4


def test_two_sweeps_of_one_folder_at_once_leave_each_job_once(
    sweep: Sweep, whole: Path, tmp_path: Path
) -> None:
    def start_one(name: str) -> Ended:
        return start_forked(tmp_path / name, "train.py", *SWEEP, *places(tmp_path / "s"))

    with ThreadPoolExecutor() as both:
        ended = list(both.map(start_one, ("one", "other")))
    for one in ended:  # each job is left to the sweep that came first
        assert "Traceback" not in one.output, one.output
        assert one.code == 0 or "is being trained by another process" in one.output, one.output
    again = sweep("s")
    assert again.code == 0, again.output
    for file in ("metrics.csv", "result.json", "layers.json"):
        assert of_jobs(tmp_path / "s", file) == of_jobs(whole, file)
    assert not (tmp_path / "s" / ".jobs").exists()
