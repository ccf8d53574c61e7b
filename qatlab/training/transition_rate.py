"""The share of weights that change their level in a step, steered along a schedule.

Source: Lee et al. 2024, "Scheduling Weight Transitions for Quantization-Aware Training",
arXiv:2404.19248.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from qatlab.errors import wrong
from qatlab.quant.quantizer import is_number
from qatlab.training.weight_levels import (
    begins_phase,
    done_of,
    falling,
    levels_of,
    log_epoch,
    rounded_layers,
    stepped,
)


class TransitionRate(Callback):
    """Steers how many weights change their level, in place of their learning rate.

    In the quantize phase the steps of a layer's weights are ``U lr0 g``: ``g`` is the direction of
    the optimizer, SGD with momentum or Adam, and ``lr0`` the learning rate that the configuration
    states, without its schedule. ``U`` is one number for each layer:

        K = m K + (1 - m) k       k: share of its weights that have just changed their level
        T = m T + (1 - m) R       R: target, which falls along a half cosine from R0 to 0
        F = F exp(gain max(-1, 1 - K / T)),  U = F R / R0

    The paper adds a multiple of ``R - K`` to U. Here the schedule is a factor of its own, so that
    what is steered hardly changes, and F is multiplied, so that the same gain does for any
    learning rate.
    What is no rounded weight, such as norms, steps and clip values, follows its schedule as ever.
    After each epoch ``metrics.csv`` gets ``quant/<layer>/transition_rate``, which is K, and
    ``quant/<layer>/rate``, which is U.

    Args:
        first: R0, the target at the beginning of the phase: a share of the weights in each step.
        gain: of the steering: by how much U grows in a step in which nothing changes.
        momentum: m, in [0, 1): the mean looks back over 1 / (1 - m) steps.
    """

    def __init__(self, first: float = 0.005, gain: float = 0.02, momentum: float = 0.99) -> None:
        key = "callbacks.transition_rate"
        if not (is_number(first) and 0 < first < 1):
            raise wrong(f"{key}.first", first, "a number in (0, 1)")
        if not (is_number(gain) and 0 < gain < math.inf):
            raise wrong(f"{key}.gain", gain, "a number above 0")
        if not (is_number(momentum) and 0 <= momentum < 1):
            raise wrong(f"{key}.momentum", momentum, "a number in [0, 1)")
        self.first, self.gain, self.momentum = first, gain, momentum
        self._rates: dict[str, float] = {}  # K
        self._factors: dict[str, float] = {}  # F
        self._target = first  # T
        self._before: dict[str, tuple[Tensor, Tensor]] = {}  # weights and their levels
        self._others: list[tuple[Tensor, Tensor, float]] = []  # of the same groups

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin anew with a phase."""
        if begins_phase(trainer, pl_module, batch_idx):
            names = rounded_layers(pl_module)
            self._rates = dict.fromkeys(names, self.first)
            self._factors = dict.fromkeys(names, 1.0)
            self._target = self.first

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the weights, and let the optimizer take steps that no schedule has made smaller."""
        if not self._factors:
            return
        self._before = {
            name: (layer.weight.clone(), levels_of(layer))
            for name, layer in rounded_layers(pl_module).items()
        }
        rounded = {id(layer.weight) for layer in rounded_layers(pl_module).values()}
        self._others = []
        for group in optimizer.param_groups:
            others = [p for p in group["params"] if id(p) not in rounded]
            if len(others) < len(group["params"]):
                share = group["lr"] / group["initial_lr"]
                group["lr"] = group["initial_lr"]  # until the schedule sets it again
                self._others += [(p, p.clone(), share) for p in others]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Scale the step that was taken, and steer."""
        if not (self._factors and stepped(trainer, batch_idx)):
            return
        for parameter, before, left in self._others:
            parameter.copy_(torch.lerp(before, parameter, left))
        share = falling(done_of(trainer, pl_module))
        self._target = self._mean(self._target, self.first * share)
        for name, layer in rounded_layers(pl_module).items():
            weight, levels = self._before[name]
            layer.weight.copy_(torch.lerp(weight, layer.weight, self._factors[name] * share))
            changed = (levels_of(layer) != levels).double().mean().item()
            self._rates[name] = self._mean(self._rates[name], changed)
            off = max(-1.0, 1 - self._rates[name] / self._target) if self._target else 0.0
            self._factors[name] *= math.exp(self.gain * off)
        if trainer.is_last_batch and trainer.is_global_zero:
            values = {f"quant/{name}/transition_rate": rate for name, rate in self._rates.items()}
            factors = {name: factor * share for name, factor in self._factors.items()}
            values |= {f"quant/{name}/rate": factor for name, factor in factors.items()}
            log_epoch(trainer, values)

    def state_dict(self) -> dict[str, Any]:
        """Return K and U of all layers."""
        return {"rates": self._rates, "factors": self._factors, "target": self._target}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._rates, self._factors = dict(state_dict["rates"]), dict(state_dict["factors"])
        self._target = state_dict["target"]

    def _mean(self, mean: float, value: float) -> float:
        """Return a moving mean with one more value."""
        return self.momentum * mean + (1 - self.momentum) * value
