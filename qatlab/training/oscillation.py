"""Weights that jump to and fro between two levels: counted, frozen, or drawn to a level.

Source: Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training",
arXiv:2203.11086.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qatlab.errors import wrong
from qatlab.quant.quantizer import is_number
from qatlab.training.weight_levels import (
    Layer,
    begins_phase,
    done_of,
    falling,
    levels_of,
    log_epoch,
    rounded_layers,
    stepped,
)

OFTEN = 0.005  # jumps in a step: those above oscillate, as the paper counts them


@dataclass
class Watched:
    """What is known of the weights of a layer; all tensors but ``changed`` have their shape.

    Attributes:
        levels: their numbers, after the last step.
        direction: in which each jumped last: -1, 1, or 0 for not yet.
        frequency: moving average of jumps back, a share of the steps.
        average: moving average of the levels.
        frozen: which weights stay at the level nearest to their average.
        changed: how many weights changed their level, summed over the steps of the epoch.
    """

    levels: Tensor
    direction: Tensor
    frequency: Tensor
    average: Tensor
    frozen: Tensor
    changed: Tensor

    @classmethod
    def of(cls, levels: Tensor) -> Watched:
        """Begin to watch weights at these levels."""
        nothing = torch.zeros_like(levels)
        return cls(levels, nothing, nothing, levels, nothing.bool(), nothing.sum())

    def step(self, levels: Tensor, momentum: float) -> None:
        """Count the jumps of a step.

        ``o = jumps and against the last jump``, ``f = m o + (1 - m) f``: the paper's section 2.3.
        """
        jump = levels - self.levels
        jumps = jump != 0
        direction = jump.sign()
        back = jumps & (direction * self.direction < 0)
        self.direction = torch.where(jumps, direction, self.direction)
        self.frequency = torch.lerp(self.frequency, back.to(levels), momentum)
        self.average = torch.where(
            self.frozen, self.average, torch.lerp(self.average, levels, momentum)
        )
        self.changed = self.changed + jumps.sum()
        self.levels = levels


class Oscillation(Callback):
    """Counts weights that jump between levels in the quantize phase; freezes or dampens them.

    After each epoch ``metrics.csv`` gets, for each layer, ``quant/<layer>/changed``: the share of
    weights that changed their level, a mean over the steps; ``quant/<layer>/oscillating``: the
    share of those that jump back in more than 0.5 % of the steps; and ``quant/<layer>/frozen``.

    Frozen weights stay at the level nearest to the mean of where they were, whatever the step of
    the grid becomes. Dampening adds ``dampening * sum (clip(w) - level)^2`` to the loss, with the
    level held constant; it is added to the gradient, so that ``train/loss`` does not show it. Its
    factor grows from 0 along a half cosine over the phase, and the threshold of freezing falls
    from ``freeze_first`` to ``freeze`` along one.

    Args:
        freeze: frequency of jumps back above which a weight is frozen at the phase's end; null
            freezes none.
        freeze_first: the same at the phase's beginning; null for ``freeze``.
        dampening: factor of the loss at the phase's end.
        momentum: of the moving averages, in (0, 1]; they look back over 1 / momentum steps.
    """

    def __init__(
        self,
        freeze: float | None = None,
        freeze_first: float | None = None,
        dampening: float = 0.0,
        momentum: float = 0.01,
    ) -> None:
        self.freeze, self.dampening, self.momentum = freeze, dampening, momentum
        self.freeze_first = freeze if freeze_first is None else freeze_first
        for key, value in (("freeze", freeze), ("freeze_first", freeze_first)):
            if value is not None and not (is_number(value) and 0 <= value <= 1):
                raise wrong(f"callbacks.oscillation.{key}", value, "a number in [0, 1], null")
        if freeze is None and freeze_first is not None:
            raise wrong(
                "callbacks.oscillation.freeze_first", freeze_first, "null where freeze is null"
            )
        if not (is_number(dampening) and 0 <= dampening < math.inf):
            raise wrong("callbacks.oscillation.dampening", dampening, "a number of at least 0")
        if not (is_number(momentum) and 0 < momentum <= 1):
            raise wrong("callbacks.oscillation.momentum", momentum, "a number in (0, 1]")
        self._watched: dict[str, Watched] = {}
        self._steps = 0  # of the epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin anew with a phase."""
        if begins_phase(trainer, pl_module, batch_idx):
            self._watched, self._steps = {}, 0
            for name, layer in rounded_layers(pl_module).items():
                self._watched[name] = Watched.of(levels_of(layer))

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradient of the dampening."""
        if not self.dampening:
            return
        factor = 2 * self.dampening * (1 - falling(done_of(trainer, pl_module)))
        for layer in rounded_layers(pl_module).values():
            weight, quantizer = layer.weight, layer.weight_quantizer
            if weight.grad is not None:
                positions = quantizer.positions(weight)
                clipped = quantizer.weights_at(positions, weight)
                level = quantizer.weights_at(positions.round(), weight)
                weight.grad.add_(clipped - level, alpha=factor)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count after a step of the optimizer, and hold what is frozen."""
        if not (self._watched and stepped(trainer, batch_idx)):
            return
        self._steps += 1
        layers, threshold = rounded_layers(pl_module), self._threshold(done_of(trainer, pl_module))
        for name, watched in self._watched.items():
            layer = layers[name]
            watched.step(levels_of(layer), self.momentum)
            if threshold is not None:
                watched.frozen |= watched.frequency > threshold
                _hold(layer, watched.average.round(), watched.frozen)
                watched.levels = levels_of(layer)
        if trainer.is_last_batch:
            self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of all weights."""
        layers = {
            name: {field.name: getattr(watched, field.name) for field in fields(watched)}
            for name, watched in self._watched.items()
        }
        return {"steps": self._steps, "layers": layers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was known."""
        self._steps = state_dict["steps"]
        self._watched = {name: Watched(**own) for name, own in state_dict["layers"].items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move what a checkpoint has brought to the model's device."""
        for watched in self._watched.values():
            for field in fields(watched):
                setattr(watched, field.name, getattr(watched, field.name).to(pl_module.device))

    def _threshold(self, done: float) -> float | None:
        """Return the frequency above which weights are frozen now."""
        if self.freeze is None or self.freeze_first is None:
            return None
        return self.freeze + (self.freeze_first - self.freeze) * falling(done)

    def _log(self, trainer: Trainer) -> None:
        """Write the shares of the epoch; on its last batch, before its checkpoint."""
        found: dict[str, Tensor] = {}
        for name, watched in self._watched.items():
            count = watched.levels.numel() * self._steps
            found[f"quant/{name}/changed"] = watched.changed / count
            found[f"quant/{name}/oscillating"] = (watched.frequency > OFTEN).float().mean()
            if self.freeze is not None:
                found[f"quant/{name}/frozen"] = watched.frozen.float().mean()
            watched.changed = torch.zeros_like(watched.changed)
        self._steps = 0
        if trainer.is_global_zero:
            values = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
            log_epoch(trainer, values)


def _hold(layer: Layer, levels: Tensor, frozen: Tensor) -> None:
    """Put frozen weights at their levels; at an outer one also those beyond it, which stay."""
    quantizer, weight = layer.weight_quantizer, layer.weight
    off = frozen & (quantizer.positions(weight) != levels)
    weight.copy_(torch.where(off, quantizer.weights_at(levels, weight), weight))
