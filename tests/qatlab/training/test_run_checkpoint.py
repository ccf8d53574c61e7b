from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qatlab.cli.messages import is_refusal
from qatlab.errors import CheckpointError, ConfigError
from qatlab.system import files
from qatlab.training.checkpoint import BesideIO, RunCheckpoint, load, newest


def save(file: Path, number: int, damaged: bool = False) -> None:
    torch.save({"number": number, "weights": torch.zeros(1000)}, file)
    if damaged:
        file.write_bytes(file.read_bytes()[:2000])


def test_the_last_checkpoint_is_resumed_from(tmp_path: Path) -> None:
    save(tmp_path / "previous.ckpt", 1)
    save(tmp_path / "last.ckpt", 2)
    assert newest(tmp_path) == (tmp_path / "last.ckpt", "")


def test_the_one_before_takes_the_place_of_a_damaged_last_one(tmp_path: Path) -> None:
    save(tmp_path / "previous.ckpt", 1)
    save(tmp_path / "last.ckpt", 2, damaged=True)
    path, remark = newest(tmp_path)
    assert path is not None
    assert load(path)["number"] == 1
    assert "last.ckpt is truncated or no checkpoint" in remark
    assert "resuming from previous.ckpt" in remark
    # or the next save would make the damaged file the one to fall back on
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_killed_between_the_two_renames_resumes_from_the_previous(tmp_path: Path) -> None:
    save(tmp_path / "previous.ckpt", 1)
    path, remark = newest(tmp_path)
    assert path is not None
    assert load(path)["number"] == 1
    assert "last.ckpt does not exist" in remark


def test_a_run_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    save(tmp_path / "last.new", 1, damaged=True)  # killed while it saved the first one
    path, remark = newest(tmp_path)
    assert path is None
    assert "starting from the first epoch" in remark


@pytest.mark.parametrize("with_previous", [True, False])
def test_nothing_is_touched_if_no_checkpoint_can_be_read(
    tmp_path: Path, with_previous: bool
) -> None:
    save(tmp_path / "last.ckpt", 2, damaged=True)
    if with_previous:
        save(tmp_path / "previous.ckpt", 1, damaged=True)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"nothing to resume from: .*last.*; .*previous"):
        newest(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoints is not a folder; move it away"):
        newest(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a pipe or a device"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("none"), "does not exist"),
    ],
)
def test_the_one_before_takes_the_place_of_what_is_no_file(
    make: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    make(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=f"nothing to resume from: .*{what}"):
        newest(tmp_path)
    save(tmp_path / "previous.ckpt", 1)
    path, remark = newest(tmp_path)
    assert path is not None
    assert load(path)["number"] == 1
    assert what in remark


def test_a_folder_in_the_place_of_the_last_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()
    save(tmp_path / "previous.ckpt", 1)
    told = r"last.ckpt: it is a folder; .*previous.ckpt cannot take its place before it is moved"
    with pytest.raises(CheckpointError, match=told):
        newest(tmp_path)
    assert load(tmp_path / "previous.ckpt")["number"] == 1


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    for name in (".last.tmp.new", "last.new", ".best_clamp.tmp.ckpt"):
        save(tmp_path / name, 1, damaged=True)
    save(tmp_path / "last.ckpt", 2)
    newest(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_the_disk_refuses_names_the_checkpoint(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "sync", refuse)
    told = rf"^cannot write {tmp_path}/best_float.ckpt: {os.strerror(number)}$"
    with pytest.raises(CheckpointError, match=told) as caught:
        RunCheckpoint(str(tmp_path)).on_train_epoch_end(Scored(), Scored())  # type: ignore[arg-type]
    assert is_refusal(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"every_n_steps=-1 is wrong"):
        RunCheckpoint("checkpoints", every_n_steps=-1)


class Scored:
    """What a trainer and a module are to the checkpoints of an epoch."""

    sanity_checking = False
    is_global_zero = True
    phase_name = "float"
    strategy = SimpleNamespace(checkpoint_io=BesideIO())

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.current_epoch = -1

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        self.strategy.checkpoint_io.save_checkpoint({"epoch": self.current_epoch + 1}, path)


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        # Validation scores of the epochs; None: no validation.
        ([{"val/loss": 3.0}, {"val/loss": 1.0}, {"val/loss": 1.0}, {"val/loss": 2.0}], 2),
        ([{"val/loss": 3.0, "val/acc": 0.1}, {"val/loss": 4.0, "val/acc": 0.2}], 2),
        ([{"val/loss": 3.0, "val/acc": 0.1}, {"val/loss": 1.0, "val/acc": 0.1}], 1),
        ([{"val/loss": 3.0}, None], 1),
        ([None, {"val/loss": 3.0}, None], 2),
        ([None, None], 2),
    ],
)
def test_the_epoch_of_highest_accuracy_is_kept_or_else_of_lowest_loss(
    tmp_path: Path, epochs: list[dict[str, float] | None], kept: int
) -> None:
    checkpoint, scored = RunCheckpoint(str(tmp_path)), Scored()
    for scores in epochs:
        scored.current_epoch += 1
        if scores is not None:
            scored.callback_metrics = {k: torch.tensor(v) for k, v in scores.items()}
            checkpoint.on_validation_end(scored, scored)  # type: ignore[arg-type]
        checkpoint.on_train_epoch_end(scored, scored)  # type: ignore[arg-type]
    assert load(tmp_path / "best_float.ckpt")["epoch"] == kept
    best = checkpoint.best["float"]
    assert best["epoch"] == kept
    scores = epochs[kept - 1] or {}
    key = "val/acc" if "val/acc" in scores else "val/loss"
    assert best.get(key) == (pytest.approx(scores[key]) if scores else None)
