"""Flipped bits and impossible values in what a run has left: told, or what was before is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killable_runs import start_forked
from mistakes import TINY, Told, check

from qatlab.errors import CheckpointError
from qatlab.run.loading import load_run
from qatlab.training.checkpoint import load

CHECKSUM = "is damaged: the checksum of its part"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, for each test to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def unfinished(run: Path) -> Path:
    """A run that was killed after its training."""
    (run / "result.json").unlink()
    return run


def flip(file: Path) -> None:
    """Flip the highest bit of an exponent in the last layer."""
    weight = load(file)["state_dict"]["model.fc2.weight"]
    content = bytearray(file.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 43] ^= 1 << 6
    file.write_bytes(content)


def change(file: Path, name: str, value: float) -> None:
    content = load(file)
    content["state_dict"][f"model.{name}"].fill_(value)
    torch.save(content, file)


def scores(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["test"]


def test_a_flipped_bit_in_the_best_checkpoint_is_reported_by_all_who_read_it(
    run: Path, command: Told
) -> None:
    best = run / "checkpoints/best_quantize.ckpt"
    flip(best)
    check(command(f"run={run}", script="test.py"), (str(best), CHECKSUM))
    check(command(*TINY, f"init_weights={run}"), (f"init_weights={run}", best.name, CHECKSUM))
    with pytest.raises(CheckpointError, match=rf"{best} {CHECKSUM}"):
        load_run(run)
    (run / "result.json").unlink()
    check(command(f"resume={run}"), (str(best), CHECKSUM))


def test_a_resume_falls_back_on_the_checkpoint_before_a_flipped_bit(
    unfinished: Path, finished: Path
) -> None:
    last = unfinished / "checkpoints/last.ckpt"
    flip(last)
    ended = start_forked(unfinished / "log", "train.py", f"resume={unfinished}")
    assert ended.code == 0, ended.output
    assert f"{last} {CHECKSUM}" in ended.output
    assert "resuming from previous.ckpt, the one before it" in ended.output
    assert scores(unfinished) == scores(finished)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("relu1.alpha", 0.0, "is 0, which no grid can have as its step or end"),
        ("relu1.alpha", torch.nan, "holds NaN"),
        ("relu1.alpha", torch.inf, "holds infinite values"),
        ("conv1.weight", -torch.inf, "holds infinite values"),
    ],
)
def test_values_that_no_network_can_compute_with_are_reported(
    name: str, value: float, fault: str, run: Path, command: Told
) -> None:
    best = run / "checkpoints/best_quantize.ckpt"
    change(best, name, value)
    check(command(f"run={run}", script="test.py"), (str(best), name, fault))


def test_values_that_no_network_can_compute_with_are_reported_by_a_resume(
    unfinished: Path, command: Told
) -> None:
    for stem in ("best_quantize", "last"):  # the best is what it would be tested with
        file = unfinished / f"checkpoints/{stem}.ckpt"
        change(file, "relu1.alpha", torch.nan)
        check(command(f"resume={unfinished}"), (str(file), "relu1.alpha", "holds NaN"))


@pytest.mark.parametrize(
    ("result", "fault"),
    [("[1]", "it holds no mapping"), ("{}", "its checkpoint is"), ("", "cannot read")],
)
def test_a_damaged_result_is_reported(result: str, fault: str, run: Path, command: Told) -> None:
    (run / "result.json").write_text(result)
    check(command(f"run={run}", script="test.py"), (str(run / "result.json"), fault))
    check(command(*TINY, f"init_weights={run}"), (f"init_weights={run}", "result.json", fault))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda place: place.write_text(""), "is not a folder; move it away"),
        (lambda place: (place / "last.ckpt").mkdir(parents=True), "last.ckpt: it is a folder"),
    ],
)
def test_what_stands_in_the_place_of_checkpoints_is_reported(
    damage: Callable[[Path], None], fault: str, unfinished: Path, command: Told
) -> None:
    shutil.rmtree(unfinished / "checkpoints")
    damage(unfinished / "checkpoints")
    check(command(f"resume={unfinished}"), (str(unfinished / "checkpoints"), fault))


def test_initial_weights_without_a_value_are_reported(command: Told) -> None:
    check(command(*TINY, "init_weights="), ("init_weights has no value", "null"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state_dict", 5),
        ("state_dict", {"a": torch.ones(1)}),
        ("callbacks", [1]),
        ("callbacks", {"RunCheckpoint": {"best": 3, "seconds": 1.0}}),
        ("optimizer_states", [{}]),
        ("loops", 3),
        ("train_sums", "x"),
        ("pytorch-lightning_version", 7),
    ],
)
def test_a_sound_file_of_other_content_is_reported(
    key: str, value: Any, unfinished: Path, command: Told
) -> None:
    last = unfinished / "checkpoints/last.ckpt"
    torch.save({**load(last), key: value}, last)
    check(command(f"resume={unfinished}"), (f"{last} does not fit this run: ",))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}])
def test_a_best_checkpoint_of_other_content_is_reported(
    content: Any, unfinished: Path, command: Told
) -> None:
    best = unfinished / "checkpoints/best_quantize.ckpt"
    torch.save(content, best)
    check(command(f"resume={unfinished}"), (f"{best} does not fit this run: ",))
