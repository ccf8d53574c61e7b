"""What a person sees of a training: a bar on a terminal, one line per epoch in a log file."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsFloat

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    CustomTimeColumn,
    ProcessingSpeedColumn,
)
from rich import get_console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.text import Text

from qatlab.errors import ConfigError
from qatlab.system import files
from qatlab.system.terminal import clock, note, say
from qatlab.training.time_left import TimeLeft

FILE = "progress.json"  # as in qatlab.results.record
SECONDS_OF_FILE = 5.0  # between two times that it is written
UPDATES_PER_SECOND = 5
NARROW = 90  # characters of a terminal that has no room for the accuracy of the training
LINE_METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "lr")
BAR_METRICS = ("train/loss", "train/acc", "val/acc")  # with more, the bar breaks over two lines
TEXT_WIDTH = 96  # characters of all columns but the bar


class _TimeLeftColumn(ProgressColumn):
    """``0:20 of 12:03 left``: of the epoch and of the run."""

    def __init__(self, bar: PhaseProgressBar) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        left = self._bar.time_left()
        if left is None or task.id != self._bar.train_progress_bar_id:
            return Text("")
        epoch, run = map(clock, left)
        return Text(f"{epoch} of {run} left", style="dim")


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich bar with the phase in front of the epoch: ``quantize 2/15``.

    Where the output is no terminal there is no bar, but one plain line for each finished epoch,
    which ``train.log`` gets in any case. The phase in it is the module's ``phase_name``, where
    there is such an attribute; loss and accuracy on the bar are its ``running`` ones, those of the
    present epoch.

    Args:
        phase_epochs: how many epochs each phase lasts, in order. Without it the bar shows the
            module's ``phase_name`` and the epochs of the whole run: ``quantize 14/27``.
        folder: of the run, for ``progress.json``; None writes none.
    """

    def __init__(
        self, phase_epochs: Mapping[str, int] | None = None, folder: Path | None = None
    ) -> None:
        super().__init__(refresh_rate=UPDATES_PER_SECOND, leave=False)
        self._phase_epochs = dict(phase_epochs or {})
        self._folder = folder
        self._time_left = TimeLeft(list(self._phase_epochs.values()))
        self._writes_lines = False
        self._finished: tuple[int, str, float] | None = None  # epoch, phase and seconds to report
        self._validated = False
        self._epoch_start = 0.0
        self._next_update = 0.0
        self._next_file = 0.0
        self._share = 0.0  # of the epoch's training batches that are done

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()
            self._writes_lines = trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # For a run resumed in the middle of an epoch: Lightning does not start that one again.
        self._validated = False
        self._epoch_start = time.monotonic()
        if self._phase_epochs:
            self._time_left.begin(trainer.current_epoch, self._epoch_start, is_whole=False)
        self._write_file(trainer)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.monotonic()
        self._share = 0.0
        if self._phase_epochs:
            self._time_left.begin(trainer.current_epoch, self._epoch_start, is_whole=True)
        self._write_line(trainer, goes_on=True)
        self._validated = False
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Named again here: the callback that switches the phase may have run after this one.
        if batch_idx == 0 and self.progress is not None and self.train_progress_bar_id is not None:
            description = self._get_train_description(trainer.current_epoch)
            self.progress.update(self.train_progress_bar_id, description=description)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._share = (batch_idx + 1) / self.total_train_batches
        if time.monotonic() >= self._next_file:
            self._write_file(trainer)
        # Without this Lightning fetches every metric from the device after each step.
        if self.is_enabled and self._is_due(batch_idx, self.total_train_batches):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.is_enabled and self._is_due(batch_idx, self.total_val_batches_current_dataloader):
            super().on_validation_batch_end(
                trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        seconds = time.monotonic() - self._epoch_start
        self._finished = (trainer.current_epoch, _phase_name(pl_module), seconds)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_line(trainer, goes_on=False)
        super().on_train_end(trainer, pl_module)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        running = getattr(pl_module, "running", {})  # of the present epoch
        metrics = _logged(trainer, BAR_METRICS) | {f"train/{k}": v for k, v in running.items()}
        if get_console().width < NARROW:
            metrics.pop("train/acc", None)
        return {k.removeprefix("train/"): format_metric(k, v) for k, v in metrics.items()}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        columns = [  # Lightning's knows the epoch only
            _TimeLeftColumn(self) if isinstance(c, CustomTimeColumn) else c for c in columns
        ]
        bar_width = min(get_console().width - TEXT_WIDTH, 40)
        if bar_width < 8:  # a narrow terminal: rather the numbers on one line than a bar
            return [c for c in columns if not isinstance(c, (BarColumn, ProcessingSpeedColumn))]
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = bar_width
        return columns

    def _get_train_description(self, current_epoch: int) -> str:
        text = self._phase_and_epoch(current_epoch + 1)
        return text.ljust(len(self.validation_description))  # or the bars below would not align

    def _phase_and_epoch(self, epoch: int) -> str:
        phase, number, epochs = self._place_of(epoch)
        phase = phase or _phase_name(self.trainer.lightning_module)
        return f"{phase or 'epoch'} {_count(number, epochs)}"

    def _place_of(self, epoch: int) -> tuple[str, int, int | None]:
        """Return the phase of an epoch counted from 1, its number there, and how many it has."""
        before = 0
        for phase, epochs in self._phase_epochs.items():
            if epoch - before <= epochs:
                return phase, epoch - before, epochs
            before += epochs
        return "", epoch, self.trainer.max_epochs

    def time_left(self) -> tuple[float, float] | None:
        """Return the seconds that epoch and run still take; None where nothing tells it yet."""
        return self._time_left.seconds(self._share, time.monotonic())

    def _write_file(self, trainer: Trainer) -> None:
        if self._folder is None or not trainer.is_global_zero:
            return
        self._next_file = time.monotonic() + SECONDS_OF_FILE
        phase, epoch, epochs = self._place_of(trainer.current_epoch + 1)
        left = self.time_left()
        facts = {
            "phase": phase,
            "epoch": epoch,
            "epochs": epochs,
            "share": round(self._share, 4),
            "seconds_left": None if left is None else round(left[1], 1),
            "updated": round(time.time(), 1),
            "pid": os.getpid(),
            "host": platform.node(),
        }
        with suppress(ConfigError):  # nothing depends on it
            files.write_json(self._folder / FILE, facts)

    def _is_due(self, batch_idx: int, batches: float) -> bool:
        now = time.monotonic()
        if now < self._next_update and batch_idx + 1 < batches:
            return False
        self._next_update = now + 1 / UPDATES_PER_SECOND
        return True

    def _write_line(self, trainer: Trainer, goes_on: bool) -> None:
        # One hook after the end of the epoch: until then its values are still being logged.
        if self._finished is None or not trainer.is_global_zero:
            return
        epoch, phase, seconds = self._finished
        self._finished = None
        metrics = _logged(trainer, LINE_METRICS)
        if not self._validated:  # those there are would be an earlier epoch's
            metrics = {k: value for k, value in metrics.items() if not k.startswith("val/")}
        _, number, epochs = self._place_of(epoch + 1)
        line = epoch_line(number, epochs, phase, metrics, seconds)
        left = self.time_left()
        if left is not None and goes_on:
            line += f", {clock(left[1])} left"
        if self._writes_lines:
            say(line)
        else:
            note(line)


def epoch_line(
    epoch: int,
    epochs: int | None,
    phase: str,
    metrics: Mapping[str, SupportsFloat],
    seconds: float,
) -> str:
    """Return ``epoch 3/12 [clamp] train/loss 0.0312 val/acc 98.84% 5.3 s`` for a log file."""
    parts = [f"epoch {_count(epoch, epochs)}"]
    if phase:
        parts.append(f"[{phase}]")
    parts += [f"{name} {format_metric(name, value)}" for name, value in metrics.items()]
    return " ".join([*parts, f"{seconds:.1f} s"])


def format_metric(name: str, value: SupportsFloat) -> str:
    """Return accuracies in percent with two decimals, all else with three significant digits."""
    return f"{100 * float(value):.2f}%" if name.endswith("/acc") else f"{float(value):.3g}"


def _count(epoch: int, epochs: int | None) -> str:
    # Lightning's max_epochs is None or -1 where a number of steps ends the training.
    return f"{epoch}/{epochs}" if epochs is not None and epochs > 0 else str(epoch)


def _logged(trainer: Trainer, names: tuple[str, ...]) -> dict[str, SupportsFloat]:
    logged = trainer.callback_metrics
    return {name: logged[name] for name in names if name in logged}


def _phase_name(pl_module: LightningModule) -> str:
    return str(getattr(pl_module, "phase_name", ""))
