"""One optimizer for parameter groups of different methods: N2D2's SGD and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

VELOCITY = "velocity"
STEP, MEAN, SQUARE = "step", "mean", "square"  # of Adam


class MixedOptimizer(Optimizer):
    """Updates each parameter group by its ``method``, and clamps it.

    ``sgd`` has the learning rate inside its velocity, so that a change of the rate does not rescale
    the momentum of earlier steps; ``torch.optim.SGD`` is the same for a constant rate only:

        v <- momentum * v - lr * (g + weight_decay * theta)
        theta <- theta + v

    At ``lr`` 0 it does nothing: velocities stay as they are, and nothing is clamped. ``adam`` is
    the same as that of torch.

    Source: the solvers SGD and Adam of N2D2.

    Args:
        groups: each with ``params``, ``method``, ``lr`` and ``clamp``, a pair of bounds each of
            which may be None; of ``sgd`` also with ``momentum`` and ``weight_decay``, of ``adam``
            with ``betas`` and ``eps``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                parameters = [p for p in group["params"] if p.grad is not None]
                if parameters:
                    update = self._sgd if group["method"] == "sgd" else self._adam
                    update(group, parameters, [p.grad for p in parameters])
        return loss

    def _sgd(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if lr == 0:
            return
        if momentum == 0 and decay == 0:
            torch._foreach_add_(parameters, gradients, alpha=-lr)
        else:
            for parameter in parameters:
                if VELOCITY not in self.state[parameter]:
                    self.state[parameter][VELOCITY] = torch.zeros_like(parameter)
            velocities = [self.state[parameter][VELOCITY] for parameter in parameters]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, gradients, alpha=-lr)
            if decay != 0:
                torch._foreach_add_(velocities, parameters, alpha=-lr * decay)
            torch._foreach_add_(parameters, velocities)
        _clamp(parameters, *group["clamp"])

    def _adam(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state |= {STEP: 0, MEAN: torch.zeros_like(parameter)}
                state[SQUARE] = torch.zeros_like(parameter)
            state[STEP] += 1
        states = [self.state[parameter] for parameter in parameters]
        means, squares = ([state[key] for state in states] for key in (MEAN, SQUARE))
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [math.sqrt(1 - beta2 ** s[STEP]) for s in states])
        torch._foreach_add_(denominators, group["eps"])
        rates = [-group["lr"] / (1 - beta1 ** s[STEP]) for s in states]
        torch._foreach_addcdiv_(parameters, means, denominators, rates)
        _clamp(parameters, *group["clamp"])


def _clamp(parameters: list[Tensor], low: float | None, high: float | None) -> None:
    if low is not None:
        torch._foreach_clamp_min_(parameters, low)
    if high is not None:
        torch._foreach_clamp_max_(parameters, high)
