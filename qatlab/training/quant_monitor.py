"""Watches what the quantizers learn: steps, clip values, and how much they clip."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qatlab.quant import Phase
from qatlab.quant.evaluating import evaluating
from qatlab.quant.layers import WEIGHT_QUANTIZER
from qatlab.quant.learned import ActivationQuantizer, LearnedQuantizer

IMAGES = 256


class QuantMonitor(Callback):
    """Logs the state of the quantizers after each epoch of the quantize phase.

    ======================================  =====================================================
    ``quant/<site or layer>/alpha``         clip value, if the method learns that
    ``quant/<site or layer>/step_size``     step, if it learns that; mean if it is per channel
    ``quant/<site>/offset``                 learned offset, of LSQ+
    ``quant/<site or layer>/clipped``       share of the values that lie beyond the grid's ends
    ======================================  =====================================================

    Alpha and steps are given without their sign, which quantizers ignore. Sites are measured in
    evaluation, on up to 256 images of the epoch's last batch; weight layers are those whose step is
    learned. What a ReLU cuts off is not counted, but its zeros are where LSQ+ puts its lowest level
    above 0.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after the last batch of an epoch."""
        # Here the epoch's checkpoint is still to come, and a resumed run has the batch, too.
        if not trainer.is_last_batch or not trainer.is_global_zero:
            return
        values = measure(pl_module.model, batch[0][:IMAGES])  # type: ignore[arg-type]
        if not values:
            return
        for logger in trainer.loggers:  # not by self.log: the progress bar would fetch all of them
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, trainer.global_step - 1)


@torch.no_grad()
def measure(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the values of :class:`QuantMonitor` in the order of computation.

    Args:
        model: converted network; empty is returned unless it is in the quantize phase.
        images: ``(N, C, H, W)``, on the device of the model.
    """
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        is_site = isinstance(module, ActivationQuantizer)
        quantizer: Any = module if is_site else getattr(module, WEIGHT_QUANTIZER, None)
        if isinstance(quantizer, LearnedQuantizer) and quantizer.phase is Phase.QUANTIZE:
            hooks.append(module.register_forward_pre_hook(partial(_note, found, f"quant/{name}")))
    if not hooks:
        return {}
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))


def _note(found: dict[str, Tensor], key: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
    """Add what is measured at a site or a weight layer; the forward pre-hook of both."""
    if isinstance(module, ActivationQuantizer):
        quantizer: LearnedQuantizer = module
        values = module.float_values(inputs[0])
    else:
        quantizer, values = getattr(module, WEIGHT_QUANTIZER), module.get_parameter("weight")
    parameter, offset = quantizer.size, quantizer.learned_offset
    found[f"{key}/{quantizer.learned}"] = quantizer.shown.abs().mean()
    if offset is not None:
        found[f"{key}/offset"] = offset
    found[f"{key}/clipped"] = quantizer.grid.clipped_share(values, parameter, offset)
