"""Checkpoints of a run: the last one, the one before it, and the best of each phase.

Lightning's ``ModelCheckpoint`` compares all epochs of a run with each other, so a clamped model
could be kept as the best 4-bit one, and it keeps no second file to fall back on.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from qatlab.errors import CheckpointError, ConfigError

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class RunCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` and ``best_<phase>.ckpt``; ``previous.ckpt`` is the last one's elder.

    Best is the epoch of highest validation accuracy, the earlier of equals; without validation
    data it is the last epoch of the phase.

    Args:
        folder: where the files go.
        every_n_steps: save ``last.ckpt`` in the middle of an epoch too, whenever this number of
            optimizer steps is done; 0 saves at the end of epochs only.
    """

    def __init__(self, folder: str, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"callbacks.checkpoint.every_n_steps={every_n_steps} is below 0")
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.best: dict[str, dict[str, float]] = {}  # phase -> epoch, val/acc
        self._saved_step = -1

    def best_path(self, phase: str) -> Path:
        """Return the file of the best epoch of a phase."""
        return self.folder / f"best_{phase}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Return the best epochs so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best epochs of the interrupted run."""
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch, after a step of the optimizer."""
        step = trainer.global_step
        due = self.every_n_steps > 0 and step % self.every_n_steps == 0 and step > 0
        # With gradient accumulation several batches share a step. The first of them finds it just
        # done, and no gradient in hand; the last batch is left to the end of the epoch.
        fresh = step != self._saved_step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if due and fresh and not trainer.is_last_batch:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best epoch of the phase and the last one."""
        phase: str = pl_module.phase_name  # type: ignore[assignment]
        accuracy = trainer.callback_metrics.get("val/acc")
        if accuracy is None or accuracy.item() > self.best.get(phase, {}).get("val/acc", -1.0):
            self.best[phase] = {"epoch": trainer.current_epoch + 1}
            if accuracy is not None:
                self.best[phase]["val/acc"] = accuracy.item()
            self._save(trainer, self.best_path(phase))
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        last = self.folder / LAST
        new = last.with_suffix(".new")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if last.exists():
                os.replace(last, self.folder / PREVIOUS)
            os.replace(new, last)

    def _save(self, trainer: Trainer, path: Path) -> None:
        new = path.with_suffix(".new")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            os.replace(new, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a weights file; nothing in it is executed.

    Raises:
        CheckpointError: if it is missing, truncated or no such file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or no checkpoint: {reason[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def newest(folder: Path) -> tuple[Path, str]:
    """Return the checkpoint to resume from, and a remark if it is not the last one.

    Raises:
        CheckpointError: if there is none that can be read.
    """
    remarks = []
    for name in (LAST, PREVIOUS):
        try:
            load(folder / name)
        except CheckpointError as error:
            remarks.append(str(error))
        else:
            remark = f"{remarks[0]}; resuming from {name}, the one before it" if remarks else ""
            return folder / name, remark
    raise CheckpointError(f"nothing to resume from: {'; '.join(remarks)}")
