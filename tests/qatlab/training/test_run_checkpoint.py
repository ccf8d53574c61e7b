from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qatlab.errors import CheckpointError, ConfigError
from qatlab.training.checkpoint import RunCheckpoint, load, newest


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


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"every_n_steps=-1 is below 0"):
        RunCheckpoint("checkpoints", every_n_steps=-1)


class Scored:
    """What a trainer and a module are to the checkpoints of an epoch."""

    sanity_checking = False
    is_global_zero = True
    phase_name = "float"

    def __init__(self) -> None:
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.current_epoch = -1

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        torch.save({"epoch": self.current_epoch + 1}, path)


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
