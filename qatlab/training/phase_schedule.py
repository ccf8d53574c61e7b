"""What happens where the phases of a run begin."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn

from qatlab.errors import wrong
from qatlab.quant import Phase, quantizers, set_phase, start_quantizers
from qatlab.quant.evaluating import evaluating
from qatlab.training.schedule import Schedule


class PhaseSchedule(Callback):
    """Sets the phase of all quantizers, and begins each new phase like a training of its own.

    Its state is a function of the epoch, so a resumed run needs none. Where a phase follows
    another, the optimizer's state is dropped (the learning rate is a function of the position in
    the phase anyway), and loss and accuracy just before and just after are logged.

    Args:
        schedule: the phases.
        calibration_batches: first training batches from which activation quantizers start.
    """

    def __init__(self, schedule: Schedule, calibration_batches: int) -> None:
        if calibration_batches < 1:
            key = "schedule.calibration_batches"
            raise wrong(key, calibration_batches, "a whole number above 0")
        self.schedule = schedule
        self.calibration_batches = calibration_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the phase of a run that is resumed in the middle of an epoch."""
        # Not on_fit_start: there, a resumed trainer may still report epoch 0; and of an epoch that
        # was begun before, on_train_epoch_start is not called again.
        # Its grids need nothing: a checkpoint brings those that it was saved with.
        set_phase(pl_module, self.schedule.at(trainer.current_epoch).phase)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a phase with its first batch."""
        epoch = trainer.current_epoch
        if batch_idx > 0 or not self.schedule.starts_at(epoch):
            return
        switches = epoch > 0
        if switches:
            set_phase(pl_module, self.schedule.at(epoch - 1).phase)
            before = self._measure(trainer, pl_module)
        phase, _, bits = self.schedule.at(epoch)
        for quantizer in quantizers(pl_module):
            quantizer.widen(bits)
        if phase is Phase.QUANTIZE:
            images = self._first_images(trainer, self.calibration_batches)
            start_quantizers(pl_module.model, images)  # type: ignore[arg-type]
            _agree(pl_module)
        set_phase(pl_module, phase)
        if switches:
            trainer.optimizers[0].state.clear()
            after = self._measure(trainer, pl_module)
            values = {f"switch/{key}_before": value for key, value in before.items()}
            values |= {f"switch/{key}_after": value for key, value in after.items()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)  # row of the last epoch
                logger.save()  # now: a run that is resumed within this epoch does not measure again

    def _first_images(self, trainer: Trainer, count: int) -> Iterable[Tensor]:
        # Of several processes each looks at the images of all, so that all start alike.
        loader = trainer.datamodule.images.train_dataloader().of_all_processes()  # type: ignore[attr-defined]
        convert = trainer.precision_plugin.convert_input
        return (convert(images) for images, _ in itertools.islice(loader, count))

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Return the means on the validation images, or on as many training images."""
        # Not the trainer's loaders: which of them exist depends on whether the run was resumed.
        data: Any = trainer.datamodule.images  # type: ignore[attr-defined]
        batches = iter(data.val_dataloader())
        if data.validation == 0:
            loader = data.train_dataloader()
            batches = itertools.islice(loader, max(1, 5000 // loader.batch_size))
        with evaluating(pl_module):
            sums = [
                pl_module.evaluate_batch(trainer.precision_plugin.convert_input(images), labels)  # type: ignore[operator]
                for images, labels in batches
            ]
        local = sum(sums, torch.zeros(3, device=pl_module.device))
        total = trainer.strategy.reduce(local, reduce_op="sum")
        means: dict[str, float] = pl_module.means(total)  # type: ignore[operator]
        return means


@torch.no_grad()
def _agree(model: nn.Module) -> None:
    """Give all processes the first one's quantizers; a GPU may round differently from another."""
    if distributed.is_available() and distributed.is_initialized():
        for quantizer in quantizers(model):
            for parameter in quantizer.parameters():
                distributed.broadcast(parameter, 0)
