"""What callbacks that steer the weights of the quantize phase share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from qatlab.quant import Phase
from qatlab.quant.layers import QuantConv2d, QuantLinear

Layer = QuantConv2d | QuantLinear


def rounded_layers(module: LightningModule) -> dict[str, Layer]:
    """Return the layers whose weights are rounded now, by their paths in the network."""
    network: Any = module.model
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Layer)
        and layer.weight_quantizer.on_grid
        and layer.weight_quantizer.phase is Phase.QUANTIZE
    }


@torch.no_grad()
def levels_of(layer: Layer) -> Tensor:
    """Return the numbers of the levels that the weights of a layer are at."""
    return layer.weight_quantizer.positions(layer.weight).round()


def begins_phase(trainer: Trainer, module: LightningModule, batch_idx: int) -> bool:
    """Tell whether a batch is the first of its phase."""
    position: Any = module.position
    return batch_idx == 0 and bool(position(trainer.current_epoch)[0] == 0)


def stepped(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether the optimizer has taken a step with a batch."""
    return trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def done_of(trainer: Trainer, module: LightningModule) -> float:
    """Return the share of the phase that is over with the batch that is being computed."""
    batches = (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
    position: Any = module.position
    done, epochs = position(trainer.current_epoch)
    return float((done + batches) / epochs)


def log_epoch(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Write values of the epoch that its last batch ends, before its checkpoint."""
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, trainer.global_step - 1)


def falling(done: float) -> float:
    """Return a half cosine that falls from 1 to 0 over a phase."""
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2
