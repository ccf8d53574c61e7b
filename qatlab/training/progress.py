"""What a person sees of a training: a bar on a terminal, one line per epoch in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich import get_console
from rich.progress import BarColumn, ProgressColumn

UPDATES_PER_SECOND = 5
LINE_METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "lr")
BAR_METRICS = ("train/loss", "train/acc", "val/acc")  # with more, the bar breaks over two lines
TEXT_WIDTH = 96  # characters of all columns but the bar


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich bar with the phase in front of the epoch: ``quantize 2/15``.

    Where the output is no terminal there is no bar, but one plain line for each finished epoch.
    The phase in it is the module's ``phase_name``, where there is such an attribute.

    Args:
        phase_epochs: how many epochs each phase lasts, in order. Without it the bar shows the
            module's ``phase_name`` and the epochs of the whole run: ``quantize 14/27``.
    """

    def __init__(self, phase_epochs: Mapping[str, int] | None = None) -> None:
        super().__init__(refresh_rate=UPDATES_PER_SECOND, leave=False)
        self._phase_epochs = dict(phase_epochs or {})
        self._writes_lines = False
        self._finished: tuple[int, str, float] | None = None  # epoch, phase and seconds to report
        self._validated = False
        self._epoch_start = 0.0
        self._next_update = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()
            self._writes_lines = trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # For a run resumed in the middle of an epoch: Lightning does not start that one again.
        self._validated = False
        self._epoch_start = time.monotonic()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_line(trainer)
        self._validated = False
        self._epoch_start = time.monotonic()
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
        self._write_line(trainer)
        super().on_train_end(trainer, pl_module)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = _logged(trainer, BAR_METRICS)
        return {k.removeprefix("train/"): format_metric(k, v) for k, v in metrics.items()}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        columns: list[ProgressColumn] = super().configure_columns(trainer)
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
        before = 0
        for phase, epochs in self._phase_epochs.items():
            if epoch - before <= epochs:
                return f"{phase} {epoch - before}/{epochs}"
            before += epochs
        phase = _phase_name(self.trainer.lightning_module)
        return f"{phase or 'epoch'} {_count(epoch, self.trainer.max_epochs)}"

    def _is_due(self, batch_idx: int, batches: float) -> bool:
        now = time.monotonic()
        if now < self._next_update and batch_idx + 1 < batches:
            return False
        self._next_update = now + 1 / UPDATES_PER_SECOND
        return True

    def _write_line(self, trainer: Trainer) -> None:
        # One hook after the end of the epoch: until then its values are still being logged.
        if self._finished is None or not self._writes_lines:
            return
        epoch, phase, seconds = self._finished
        self._finished = None
        metrics = _logged(trainer, LINE_METRICS)
        if not self._validated:  # those there are would be an earlier epoch's
            metrics = {k: value for k, value in metrics.items() if not k.startswith("val/")}
        print(epoch_line(epoch + 1, trainer.max_epochs, phase, metrics, seconds), flush=True)


def epoch_line(
    epoch: int,
    epochs: int | None,
    phase: str,
    metrics: Mapping[str, SupportsFloat],
    seconds: float,
) -> str:
    """Return ``epoch 3/27 [clamp] train/loss 0.0312 val/acc 98.84% 5.3 s`` for a log file."""
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
