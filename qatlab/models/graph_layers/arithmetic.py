"""Sums and products of layers, scales, norms and thresholds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.models.graph_layers.activations import alike
from qatlab.models.graph_layers.place import Layer, Place, is_number

Factors = Sequence[Any] | None
# What is done with all inputs, after each was multiplied by its weight.
OPERATIONS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "sum": partial(reduce, operator.add),
    "abs_sum": partial(reduce, operator.add),
    "euclidean_sum": lambda xs: torch.linalg.vector_norm(torch.stack(tuple(xs)), dim=0),
    "prod": partial(reduce, operator.mul),
    "max": partial(reduce, torch.maximum),
}


def elementwise(
    at: Place,
    *,
    operation: Literal["sum", "abs_sum", "euclidean_sum", "prod", "max"],
    weights: Factors = None,
    shifts: Factors = None,
) -> Layer:
    """Inputs of one shape, combined number by number.

    ``sum w x + shift``, ``sum w abs(x)``, ``sqrt(sum (w x)^2)``, the product or the maximum.
    """
    shape = at.alike()
    if weights is not None and operation in ("prod", "max"):
        raise at.wrong("weights", weights, f"null for operation={operation}")
    if shifts is not None and operation != "sum":
        raise at.wrong("shifts", shifts, f"null for operation={operation}")
    factors = _by_input(at, "weights", weights, shape[0])
    module = Elementwise(operation, factors, _by_input(at, "shifts", shifts, shape[0]))
    return Layer(shape, at.separate(), module, flat=at.flat)


def scale(at: Place, *, factor: float | Sequence[float]) -> Layer:
    """``factor * x``; one factor, or one for each channel."""
    if is_number(factor):
        return Layer(at.joined(), at.same(), before=(partial(operator.mul, factor),), flat=at.flat)
    factors = at.numbers("factor", factor, at.joined()[0], "channel of the input")
    return alike(at, Elementwise("sum", [at.by_channel(factors)], None))


def normalize(at: Place, *, norm: Literal["l1", "l2"]) -> Layer:
    """``x`` divided by the norm over the channels at its place."""
    step = partial(F.normalize, p=float(norm[1]), dim=1)
    return Layer(at.joined(), at.same(), before=(step,), flat=at.flat)


def threshold(
    at: Place,
    *,
    threshold: float = 0.0,
    operation: Literal[
        "binary", "binary_inverted", "truncate", "to_zero", "to_zero_inverted"
    ] = "binary",
    max_value: float = 1.0,
) -> Layer:
    """What OpenCV's ``threshold`` makes of ``x > threshold``."""
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "binary": partial(_chosen, threshold=threshold, above=max_value, below=0.0),
        "binary_inverted": partial(_chosen, threshold=threshold, above=0.0, below=max_value),
        "truncate": partial(torch.clamp, max=threshold),
        "to_zero": partial(F.threshold, threshold=threshold, value=0.0),
        "to_zero_inverted": partial(_zero_above, threshold=threshold),
    }
    if max_value != 1 and not operation.startswith("binary"):
        raise at.wrong("max_value", max_value, f"1 for operation={operation}, which ignores it")
    return Layer(at.joined(), at.same(), before=(steps[operation],), flat=at.flat)


def batch_norm(at: Place, *, eps: float = 1e-5, momentum: float = 0.1) -> Layer:
    """Batch norm; ``momentum`` 0 takes the running statistics in training too."""
    if not eps >= 0:
        raise at.wrong("eps", eps, "a number of at least 0")
    if not 0 <= momentum <= 1:
        raise at.wrong("momentum", momentum, "a number from 0 to 1")
    shape = at.joined()
    module: nn.Module = FrozenBatchNorm2d(shape[0], eps)
    if momentum:
        module = nn.BatchNorm2d(shape[0], eps, momentum)
    return Layer(shape, at.spatial(), module)


def lrn(
    at: Place, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Layer:
    """``x / (k + alpha / size * sum of x^2 over size channels around) ** beta``."""
    size = at.whole("size", size)
    return Layer(at.joined(), at.spatial(), nn.LocalResponseNorm(size, alpha, beta, k))


class FrozenBatchNorm2d(nn.Module):
    """Batch norm that takes the running statistics always, and never changes them."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``(N, C, H, W)``."""
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, False, 0.0, self.eps)


class Elementwise(nn.Module):
    """Combines tensors of one shape; numbers are written into the graph, tensors are buffers."""

    def __init__(
        self,
        operation: str,
        weights: Sequence[float | Tensor] | None,
        shifts: Sequence[float | Tensor] | None,
    ) -> None:
        super().__init__()
        self.operation = operation
        self.weights = self._kept("weight", weights)
        self.shifts = self._kept("shift", shifts)

    def _kept(self, name: str, values: Sequence[float | Tensor] | None) -> list[float | str] | None:
        """Return the numbers, and in the place of each tensor the name of its buffer."""
        kept: list[float | str] = []
        for i, value in enumerate(values or ()):
            if isinstance(value, Tensor):
                self.register_buffer(f"{name}{i}", value, persistent=False)
            kept.append(f"{name}{i}" if isinstance(value, Tensor) else value)
        return kept or None

    def _value(self, kept: float | str) -> Any:
        return getattr(self, kept) if isinstance(kept, str) else kept

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the result for tensors ``(N, C, ...)``."""
        xs = list(tensors)
        if self.operation == "abs_sum":
            xs = [torch.abs(x) for x in xs]
        for i, weight in enumerate(self.weights or ()):
            xs[i] = xs[i] if weight == 1 else self._value(weight) * xs[i]
        for i, shift in enumerate(self.shifts or ()):
            xs[i] = xs[i] if shift == 0 else xs[i] + self._value(shift)
        return OPERATIONS[self.operation](xs)


def _by_input(at: Place, name: str, values: Factors, channels: int) -> list[float | Tensor] | None:
    """Return a number for each input, or for each input a tensor of a number for each channel."""
    if values is None:
        return None
    if len(values) != len(at.sources):
        count = len(at.sources)
        raise at.wrong(name, list(values), f"{count} entries, one for each input, or null")
    made: list[float | Tensor] = []
    for value in values:
        if is_number(value):
            made.append(value)
        else:
            numbers = at.numbers(name, value, channels, "channel")
            made.append(at.by_channel(numbers))
    return made


def _chosen(x: Tensor, threshold: float, above: float, below: float) -> Tensor:
    return torch.where(x > threshold, torch.full_like(x, above), torch.full_like(x, below))


def _zero_above(x: Tensor, threshold: float) -> Tensor:
    return torch.where(x > threshold, torch.zeros_like(x), x)
