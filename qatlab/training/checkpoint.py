"""Checkpoints of a run: the last one, the one before it, and the best of each phase.

Lightning's ``ModelCheckpoint`` compares all epochs of a run with each other, so a clamped model
could be kept as the best 4-bit one, and it keeps no second file to fall back on.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from qatlab.errors import CheckpointError, ConfigError, wrong
from qatlab.system.files import TEMPORARY, put, write_bytes
from qatlab.system.terminal import say
from qatlab.training.loaded_values import fault_of, learned_names
from qatlab.training.torch_files import LAST, SETTINGS, describe, read

PREVIOUS = "previous.ckpt"
NEW = ".new"  # the suffix of one that is being written; a kill may leave it


class BesideIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning's own writer goes through the system's temporary folder, where a kill leaves half a
    checkpoint that nobody looks for, and which may be smaller than the checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            ConfigError: if the folder cannot be written to.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer())


class RunCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` and ``best_<phase>.ckpt``; ``previous.ckpt`` is the last one's elder.

    Best is the epoch of highest validation accuracy or, where there is none, of lowest validation
    loss; the earlier of equals. Epochs without a validation count only as long as the phase has
    seen none: the last of them is taken.

    Args:
        folder: where the files go.
        every_n_steps: save ``last.ckpt`` in the middle of an epoch too, whenever this number of
            optimizer steps is done; 0 saves at the end of epochs only.

    Attributes:
        best: for each phase the number of its best epoch, and ``val/acc`` or ``val/loss`` there.
        restored: whether all that a checkpoint holds has been taken from it.
        settings: what the run is trained under, which each checkpoint then tells.
    """

    def __init__(self, folder: str, every_n_steps: int = 0) -> None:
        if type(every_n_steps) is not int or every_n_steps < 0:
            key = "callbacks.checkpoint.every_n_steps"
            raise wrong(key, every_n_steps, "a whole number of at least 0")
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.best: dict[str, dict[str, float]] = {}
        self.restored = False
        self.settings: dict[str, str] = {}
        self._score: dict[str, float] = {}  # of the validation at the end of this epoch
        self._seconds = 0.0  # of training, before the interruption
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """How long the training has taken: of an interrupted run, all that led to its weights."""
        return self._seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    def best_path(self, phase: str) -> Path:
        """Return the file of the best epoch of a phase."""
        return self.folder / f"best_{phase}.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written beside their place, unless ``trainer.plugins`` has a writer."""
        self.restored = False
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = BesideIO()

    def state_dict(self) -> dict[str, Any]:
        """Return the best epochs so far, how long it took, and under what settings."""
        return {"best": self.best, "seconds": self.seconds, SETTINGS: self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best epochs of the interrupted run."""
        self.best = {phase: {**score} for phase, score in state_dict["best"].items()}
        self._seconds = float(state_dict["seconds"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at what was loaded.

        Raises:
            CheckpointError: for a value that no network can compute with.
        """
        learned = learned_names(pl_module)
        for name, value in checkpoint["state_dict"].items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            if fault := fault_of(name, value, learned):
                raise CheckpointError(f"{trainer.ckpt_path}: {name} {fault}")
            if name in learned and (value < 0).any() and trainer.is_global_zero:
                say(f"{trainer.ckpt_path}: {name} is negative; its absolute value is used")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.restored = True
        self._began = time.monotonic()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All has been restored."""
        self.restored = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All has been restored."""
        self.restored = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._seconds, self._began = self.seconds, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the accuracy or, where there is none, the loss."""
        # Not read at the end of the epoch: there, one of an earlier epoch may still stand.
        metrics = trainer.callback_metrics
        found = [key for key in ("val/acc", "val/loss") if key in metrics]
        if found and not trainer.sanity_checking:
            self._score = {found[0]: metrics[found[0]].item()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch, after a step of the optimizer."""
        step = trainer.global_step
        due = self.every_n_steps > 0 and step % self.every_n_steps == 0
        # A checkpoint holds no gradients: where several batches share a step, only the last of
        # them leaves none behind. The last batch of all is left to the end of the epoch.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if due and stepped and not trainer.is_last_batch:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best epoch of the phase and the last one."""
        phase: str = pl_module.phase_name  # type: ignore[assignment]
        score, self._score = self._score, {}
        if _is_better(score, self.best.get(phase, {})):
            self.best[phase] = {"epoch": trainer.current_epoch + 1, **score}
            self._save(trainer, self.best_path(phase))
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, self.folder / LAST, self.folder / PREVIOUS)

    def _save(self, trainer: Trainer, path: Path, previous: Path | None = None) -> None:
        """Save under a temporary name, keep what there was as ``elder``, and rename.

        Raises:
            CheckpointError: if the disk refuses it.
        """
        new = path.with_suffix(NEW)
        try:
            # With the state of optimizer and loops.
            trainer.save_checkpoint(new, weights_only=False)
            trainer.strategy.checkpoint_io.teardown()  # waits for one that writes in a thread
            if trainer.is_global_zero:
                if previous is not None and path.exists():
                    os.replace(path, previous)
                put(new, path)
        except (OSError, ConfigError) as error:
            refusal = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(refusal, OSError):
                raise
            raise CheckpointError(f"cannot write {path}: {refusal.strerror}") from error


def _is_better(score: dict[str, float], best: dict[str, float]) -> bool:
    """Compare the score of an epoch, empty without a validation, with that of the best so far."""
    if "val/acc" in best:
        return "val/acc" in score and score["val/acc"] > best["val/acc"]
    if "val/loss" in best:
        return "val/loss" in score and score["val/loss"] < best["val/loss"]
    return True


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: if it is missing, truncated or no such file.
    """
    content = read(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {describe(content)}, not a checkpoint")
    return content


def newest(folder: Path) -> tuple[Path | None, str]:
    """Find the checkpoint to resume from: the last one or, if it is damaged, the one before it.

    That one then takes the place of the last: the next checkpoint would otherwise replace it by
    the damaged file. What a kill has left of one that was being written is removed.

    Returns:
        The checkpoint, None if the run had not saved any, and a remark unless it is the last one.

    Raises:
        CheckpointError: if those that there are cannot be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"nothing to resume from: {folder} is not a folder; move it away")
    for pattern in (f"*{NEW}", f".*{TEMPORARY}.ckpt"):
        for unfinished in folder.glob(pattern):
            unfinished.unlink(missing_ok=True)  # several processes may do so
    if not os.path.lexists(last) and not os.path.lexists(previous):
        return None, f"no checkpoint in {folder} yet: starting from the first epoch"
    try:
        load(last)
    except CheckpointError as error:
        try:
            load(previous)
        except CheckpointError as other:
            raise CheckpointError(f"nothing to resume from: {error}; {other}") from other
        try:
            os.replace(previous, last)
        except OSError as other:
            raise CheckpointError(
                f"{error}; {previous} cannot take its place before it is moved away"
            ) from other
        return last, f"{error}; resuming from {PREVIOUS}, the one before it"
    return last, ""
