"""How weights and biases are drawn at first: N2D2's fillers, by its own formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qatlab.errors import ConfigError, wrong
from qatlab.models.graph_layers.kinds import chosen

Norm = Literal["fan_in", "fan_out", "average"]
Fill = Callable[[Tensor, "Fans"], None]
DEFAULT: Mapping[str, Any] = {"type": "normal", "mean": 0.0, "std": 0.05}  # as N2D2


@dataclass(frozen=True)
class Fans:
    """Sizes of a weight tensor: its weights by output, and by input channel.

    Attributes:
        fan_in: ``C_in / groups * kH * kW``.
        fan_out: ``C_out * kH * kW``, also where there are groups.
    """

    fan_in: int
    fan_out: int

    def by(self, norm: Norm) -> float:
        """Return the size that a filler divides by."""
        sizes = {"fan_in": self.fan_in, "fan_out": self.fan_out}
        return sizes.get(norm, (self.fan_in + self.fan_out) / 2)


def constant(tensor: Tensor, fans: Fans, *, value: float) -> None:
    """Set all to ``value``."""
    tensor.fill_(value)


def normal(tensor: Tensor, fans: Fans, *, mean: float = 0.0, std: float = 1.0) -> None:
    """Draw from ``N(mean, std)``."""
    tensor.normal_(mean, std)


def uniform(tensor: Tensor, fans: Fans, *, low: float = 0.0, high: float = 1.0) -> None:
    """Draw from ``U(low, high)``."""
    tensor.uniform_(low, high)


def xavier(
    tensor: Tensor,
    fans: Fans,
    *,
    norm: Norm = "fan_in",
    distribution: Literal["uniform", "normal"] = "uniform",
    scaling: float = 1.0,
) -> None:
    """Draw from ``scaling * U(-sqrt(3/n), sqrt(3/n))`` or ``scaling * N(0, sqrt(1/n))``."""
    n = fans.by(norm)
    if distribution == "uniform":
        tensor.uniform_(-((3 / n) ** 0.5), (3 / n) ** 0.5)
    else:
        tensor.normal_(0.0, (1 / n) ** 0.5)
    tensor.mul_(scaling)


def he(
    tensor: Tensor, fans: Fans, *, norm: Norm = "fan_in", mean: float = 0.0, scaling: float = 1.0
) -> None:
    """Draw from ``scaling * N(mean/n, sqrt(2/n))``."""
    n = fans.by(norm)
    tensor.normal_(mean / n, (2 / n) ** 0.5).mul_(scaling)


INITS: dict[str, Callable[..., None]] = {
    "constant": constant,
    "normal": normal,
    "uniform": uniform,
    "xavier": xavier,
    "he": he,
}
BIAS_INITS = {name: INITS[name] for name in ("constant", "normal", "uniform")}  # no fans


def filler(key: str, node: Mapping[str, Any] | None, bias: bool) -> Fill:
    """Return what fills a tensor as ``node`` says, without gradients; None: N2D2's default.

    Raises:
        ConfigError: naming ``key`` and what is accepted.
    """
    node = DEFAULT if node is None else node
    function = chosen(key, node, BIAS_INITS if bias else INITS)
    if node["type"] == "normal" and node.get("std", 1.0) < 0:
        raise wrong(f"{key}.std", node["std"], "a number of at least 0")
    if node["type"] == "uniform" and node.get("low", 0.0) > node.get("high", 1.0):
        raise ConfigError(
            f"{key}: low={node.get('low', 0.0)} is above high={node.get('high', 1.0)}."
        )
    return torch.no_grad()(function)
