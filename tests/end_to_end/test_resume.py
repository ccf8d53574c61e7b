"""Kills and resumes runs: what comes after is bit-identical to the run that nobody killed."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from killable_runs import DRAW, KILL_AT, SAVE_START, Ended, start_forked

from qatlab.training.checkpoint import load

SETTINGS = (
    "data=synthetic",
    "data.source.training_images=420",
    "data.source.test_images=200",
    "data.source.noise=250",  # hard enough that few epochs are perfect
    "data.validation=100",
    "data.random_shift=1",
    "data.batch_size=30",  # 320 images: 11 batches, the last of 20
    "schedule.clamp_epochs=2",
    "schedule.quantize_epochs=2",
    "callbacks.checkpoint.every_n_steps=3",
    "trainer.accelerator=cpu",
    "+callbacks.kill._target_=killable_runs.KillAt",
)
ACCUMULATED = ("trainer.accumulate_grad_batches=2", "callbacks.checkpoint.every_n_steps=2")
UNVALIDATED = ("data.validation=0", "data.source.training_images=320")
RARELY_VALIDATED = ("+trainer.check_val_every_n_epoch=2",)
LEARNED = (  # quantizers that start from data; and tensors that are made again
    *("quant=lsq_plus_4bit", "memory=compact"),
    *("schedule.clamp_epochs=0", "schedule.float_epochs=2"),
)
START = "start.ckpt"  # of the quantize phase

Run = Callable[..., Ended]
Whole = Callable[..., Path]
Killed = Callable[..., None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run ``train.py`` or ``test.py``, and return its exit code and output."""
    log = tmp_path_factory.mktemp("log") / "log"
    return lambda script, *arguments, **env: start_forked(log, script, *arguments, **env)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return the folder of a run with the given settings that nobody killed."""
    folders: dict[tuple[str, ...], Path] = {}

    def of(*settings: str) -> Path:
        if settings not in folders:
            folder = tmp_path_factory.mktemp("whole")
            environment = {SAVE_START: str(folder / START)}
            ended = run("train.py", *SETTINGS, *settings, in_folder(folder), **environment)
            assert ended.code == 0, ended.output
            folders[settings] = folder
        return folders[settings]

    return of


def in_folder(folder: Path) -> str:
    return f'hydra.run.dir="{folder}"'


@pytest.fixture(scope="module")
def killed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Make the folder of a run that was killed: a copy, if there was such a run before."""
    folders: dict[tuple[str, ...], Path] = {}

    def at(place: str, folder: Path, *settings: str) -> None:
        key = (place, *settings)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("killed")
            words = (*SETTINGS, *settings, in_folder(folders[key]))
            ended = run("train.py", *words, **{KILL_AT: place})
            assert ended.code == -9, ended.output
        shutil.copytree(folders[key], folder, dirs_exist_ok=True)

    return at


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def assert_refused(run: Run, folder: Path, words: str) -> None:
    ended = run("train.py", f"resume={folder}")
    assert ended.code == 1
    assert f"Error: {words}" in ended.output
    assert "Traceback" not in ended.output


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def differences(one: Any, other: Any, where: str) -> list[str]:
    """Name what is not bit for bit the same in two checkpoints or results."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other} - {"seconds", "resumed", "environment"}
        pairs = [(key, one.get(key, "absent"), other.get(key, "absent")) for key in keys]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        pairs = [("length", len(one), len(other))]
        pairs += [(i, *both) for i, both in enumerate(zip(one, other, strict=False))]
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    else:
        return [] if type(one) is type(other) and one == other else [f"{where}: {one}, {other}"]
    return [text for key, a, b in pairs for text in differences(a, b, f"{where}/{key}")]


def assert_identical(folder: Path, other: Path) -> None:
    """Compare all that two runs have left, but for how long they took."""
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    assert differences(result_of(folder), result_of(other), "result.json") == []
    names = sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))
    assert names == sorted(path.name for path in (other / "checkpoints").glob("*.ckpt"))
    assert {"last.ckpt", "previous.ckpt", "best_quantize.ckpt"} < set(names)
    for name in names:  # weights, optimizer, random states, best epochs, ...
        one, two = (load(run / "checkpoints" / name) for run in (folder, other))
        assert differences(one, two, name) == []


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("1 2", ()),  # before the first checkpoint
        # Between the phases: the first is saved, of the second nothing is done.
        pytest.param("2 end", (), marks=pytest.mark.slow),
        ("3 1", ()),  # the switch was made and logged, and is in no checkpoint
        ("2 end", LEARNED),
        pytest.param("3 7", LEARNED, marks=pytest.mark.slow),
        # A step takes two batches: one has been added to the gradient.
        pytest.param("3 5", ACCUMULATED, marks=pytest.mark.slow),  # see test_recipes.py
        pytest.param("3 7", UNVALIDATED, marks=pytest.mark.slow),  # likewise
        pytest.param("2 end", RARELY_VALIDATED, marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, run: Run, killed: Killed, whole: Whole, place: str, settings: tuple[str, ...]
) -> None:
    killed(f"SIGKILL {place}", tmp_path, *settings)
    resumed = run("train.py", f"resume={tmp_path}")
    assert resumed.code == 0, resumed.output
    assert_identical(tmp_path, whole(*settings))


def test_a_run_killed_in_each_phase_equals_an_uninterrupted_one(
    tmp_path: Path, run: Run, killed: Killed, whole: Whole
) -> None:
    killed("SIGKILL 1 5", tmp_path)
    again = run("train.py", f"resume={tmp_path}", **{KILL_AT: "SIGKILL 3 7"})
    assert again.code == -9, again.output
    resumed = run("train.py", f"resume={tmp_path}", **{DRAW: "1"})
    assert resumed.code == 0, resumed.output
    assert_identical(tmp_path, whole())
    assert result_of(tmp_path)["resumed"]
    assert "quant/relu1/clipped" in (tmp_path / "metrics.csv").read_text()
    assert (tmp_path / "figures" / "learning_curves.png").exists()
    assert (tmp_path / "figures" / "quantizers.png").exists()


def test_a_run_killed_after_its_training_is_only_tested(
    tmp_path: Path, run: Run, killed: Killed, whole: Whole
) -> None:
    killed("SIGKILL 4 end", tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    saved = last.read_bytes()

    best = tmp_path / "checkpoints" / "best_quantize.ckpt"
    sound = best.read_bytes()
    truncate(best)
    assert_refused(run, tmp_path, f"{best} is truncated")
    best.write_bytes(sound)

    resumed = run("train.py", f"resume={tmp_path}")
    assert resumed.code == 0, resumed.output
    assert_identical(tmp_path, whole())
    assert last.read_bytes() == saved
    seconds = load(last)["callbacks"]["RunCheckpoint"]["seconds"]
    assert seconds > 0  # all of them were spent before the run was killed
    assert result_of(tmp_path)["seconds"] == round(seconds, 1)


def test_damaged_checkpoints_are_reported_and_the_one_before_is_used(
    tmp_path: Path, run: Run, killed: Killed, whole: Whole
) -> None:
    killed("SIGKILL 3 7", tmp_path)
    last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    sound = previous.read_bytes()
    for file in (last, previous):
        truncate(file)

    assert_refused(run, tmp_path, f"nothing to resume from: {last} is truncated")

    previous.write_bytes(sound)
    last.with_suffix(".new").write_bytes(sound[:1000])  # as if killed while saving
    resumed = run("train.py", f"resume={tmp_path}")
    assert resumed.code == 0, resumed.output
    assert "metrics.csv" not in resumed.output  # nothing is lost of it
    assert f"{last} is truncated" in resumed.output
    assert "resuming from previous.ckpt, the one before it" in resumed.output
    assert_identical(tmp_path, whole())


@pytest.mark.parametrize(
    ("place", "left", "told"),
    [
        # Rows of epochs 1 and 2 were there.
        ("3 7", None, "metrics.csv is missing: the run goes on, and its curves lack epoch 1 to 2."),
        pytest.param(  # within the header
            *("3 7", 40, "metrics.csv has no rows: "), marks=pytest.mark.slow
        ),
        ("4 end", -10, "metrics.csv ends at step 32, in epoch 3: "),  # nothing is left to train
    ],
)
def test_lost_metrics_are_reported_and_the_run_goes_on(
    tmp_path: Path, run: Run, killed: Killed, whole: Whole, place: str, left: int | None, told: str
) -> None:
    killed(f"SIGKILL {place}", tmp_path)
    file = tmp_path / "metrics.csv"
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[:left])
    resumed = run("train.py", f"resume={tmp_path}")
    assert resumed.code == 0, resumed.output
    assert resumed.output.count(told) == 1
    assert str(file) in resumed.output
    assert differences(result_of(tmp_path), result_of(whole()), "result.json") == []


def test_ctrl_c_leaves_a_run_that_the_printed_command_continues(
    tmp_path: Path, run: Run, whole: Whole
) -> None:
    folder = tmp_path / "lenet sat/seed=1,quant=sat_4bit"  # like the folder of a sweep
    interrupted = run("train.py", *SETTINGS, in_folder(folder), **{KILL_AT: "SIGINT 3 7"})
    assert interrupted.code == 130, interrupted.output
    assert "Traceback" not in interrupted.output
    _, command = interrupted.output.split("Interrupted. To continue: ")
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "train.py")
    resumed = run(script, *arguments, "trainer.accelerator=cpu", "hydra.job.name=again")
    assert resumed.code == 0, resumed.output
    assert_identical(folder, whole())


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
def test_a_resume_under_other_conditions_is_reported(
    tmp_path: Path, run: Run, killed: Killed
) -> None:
    folder = tmp_path / "run"
    killed("SIGKILL 3 7", folder)
    begun = json.loads((folder / "environment.json").read_text())["environments"]
    assert [one["kernels"] for one in begun] == ["compiled"]
    other = {"CXX": "/nonexistent/c++", "OMP_NUM_THREADS": "1"}
    resumed = run("train.py", f"resume={folder}", **other)
    assert resumed.code == 0, resumed.output
    changed = "kernels changed from compiled to definitions"
    assert "the run is resumed under other conditions" in resumed.output
    assert changed in " ".join(resumed.output.split())
    result = result_of(folder)
    assert (result["changes"], result["environment"]["kernels"]) == ([changed], "definitions")


def test_a_configuration_that_was_edited_is_reported(
    tmp_path: Path, run: Run, killed: Killed
) -> None:
    folder = tmp_path / "run"
    killed("SIGKILL 3 7", folder)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("mixup: 0.0", "mixup: 0.2"))
    resumed = run("train.py", f"resume={folder}")
    assert resumed.code == 0, resumed.output
    assert "mixup changed from 0.0 to 0.2" in " ".join(resumed.output.split())
    assert result_of(folder)["changes"] == ["mixup changed from 0.0 to 0.2"]


def test_a_finished_run_is_left_alone(run: Run, whole: Whole) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole().glob("*.*")}
    ended = run("train.py", f"resume={whole()}")
    assert (ended.code, "is finished" in ended.output) == (0, True), ended.output
    assert {path: path.stat().st_mtime_ns for path in whole().glob("*.*")} == before


def test_what_cannot_be_done_is_reported_in_a_sentence(
    tmp_path: Path, run: Run, whole: Whole
) -> None:
    finished = whole()
    for script, arguments, sentence in [
        ("train.py", [f"resume={tmp_path / 'none'}"], "is not the folder of a run"),
        ("train.py", [f"resume={finished}", "seed=3"], "seed=3 cannot be combined with resume="),
        ("train.py", [f"resume={finished}", "data=synthetic"], "data=synthetic cannot be combined"),
        ("train.py", [*SETTINGS, in_folder(finished)], "already holds a run"),
        ("test.py", [f"run={finished}", "quant=none"], "quant=none cannot be combined with run="),
        ("test.py", [f"run={finished}", "data=mnist"], "data=mnist cannot be combined with run="),
        ("test.py", [f"resume={finished}"], "resume= has no effect on a test"),
    ]:
        logs = in_folder(tmp_path / "logs") if script == "test.py" else "hydra.verbose=false"
        ended = run(script, *arguments, logs)
        assert (ended.code, sentence in ended.output) == (1, True), ended.output
        assert "Traceback" not in ended.output
    with FileLock(finished / ".lock"):
        assert_refused(
            run, finished, f"{finished} is being trained by another process; wait for it"
        )
        assert ended.output.count("Error: ") == 1
    assert not (tmp_path / "none").exists()


def test_testing_a_run_repeats_the_scores_of_its_report(
    tmp_path: Path, run: Run, whole: Whole
) -> None:
    file = tmp_path / "outputs.npz"
    ended = run("test.py", f"run={whole()}", f"save_outputs={file}", in_folder(tmp_path / "logs"))
    assert ended.code == 0, ended.output
    test = result_of(whole())["test"]
    assert f"Final recognition rate: {100 * test['recognition_rate']:.6g}%" in ended.output
    assert f"Top-1: {test['top1']:.2%} / Top-5: {test['top5']:.2%}" in ended.output
    with np.load(file) as saved:
        outputs, labels = saved["outputs"], saved["labels"]
    assert (outputs.shape, labels.shape) == ((200, 10), (200,))
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (labels, outputs.argmax(1)), 1)
    assert confusion.tolist() == test["confusion"]


def test_testing_a_run_takes_other_data_and_trainer_settings(
    tmp_path: Path, run: Run, whole: Whole
) -> None:
    arguments = ("++data.source.test_images=100", "+trainer.limit_test_batches=1")
    ended = run("test.py", f"run={whole()}", *arguments, in_folder(tmp_path / "logs"))
    assert "(100 test images" in ended.output


def test_two_runs_with_one_phase_each_start_the_second_like_one_run_with_both(
    tmp_path: Path, run: Run, whole: Whole
) -> None:
    one = whole(*UNVALIDATED)  # so that the last epoch of the clamp phase is its best
    clamp, quantize = tmp_path / "clamp", tmp_path / "quantize"
    only = ("schedule.clamp_epochs=2", "schedule.quantize_epochs=0")
    ended = run("train.py", *SETTINGS, *UNVALIDATED, *only, in_folder(clamp))
    assert ended.code == 0, ended.output
    only = ("schedule.clamp_epochs=0", "schedule.quantize_epochs=2", f"init_weights={clamp}")
    environment = {SAVE_START: str(tmp_path / START), KILL_AT: "SIGKILL 1 5"}
    run("train.py", *SETTINGS, *UNVALIDATED, *only, in_folder(quantize), **environment)
    states = [load(folder / START) for folder in (tmp_path, one)]
    assert states[0]["optimizer_states"][0]["state"] == {}  # no momentum left of the clamp phase
    for key in ("state_dict", "optimizer_states"):  # alphas have got their starting values
        assert differences(*(state[key] for state in states), key) == []

    clamp.rename(tmp_path / "elsewhere")
    resumed = run("train.py", f"resume={quantize}")  # needs the first run no more
    assert resumed.code == 0, resumed.output
