"""What lowering needs of batch norms and sites, as numbers in float64."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.integer.network import Codes, Reals
from qatlab.quant.learned import ActivationQuantizer

LARGEST_OF = {nn.Identity: None, nn.ReLU: None, nn.ReLU6: 6.0}  # activation functions with a form


def reals(values: Tensor) -> Reals:
    """Return a tensor in float64."""
    return np.asarray(values.detach().double().numpy())


def folded(name: str, norm: nn.BatchNorm2d) -> tuple[Reals, Reals]:
    """Return factor and shift of a batch norm in evaluation, ``(C,)`` each.

    Raises:
        ConfigError: if it has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError(f"{name}: a batch norm without running statistics has no integer form.")
    factor = 1 / np.sqrt(reals(norm.running_var) + norm.eps)
    if norm.weight is not None:
        factor = factor * reals(norm.weight)
    shift = -reals(norm.running_mean) * factor
    return factor, shift if norm.bias is None else shift + reals(norm.bias)


def site_codes(name: str, quantizer: ActivationQuantizer) -> Codes:
    """Return the codes of a site.

    A ReLU in front of the quantizer only cuts codes off, as rounding keeps the order of numbers.

    Raises:
        ConfigError: for another activation function.
    """
    grid, kind = quantizer.grid, type(quantizer.activation)
    step = abs(float(quantizer.parameter.detach())) / grid.divisor
    moved = quantizer.learned_offset
    offset = 0.0 if moved is None else float(moved.detach())
    if quantizer.clips:
        return Codes(grid.q_min, grid.q_max, step, offset)
    if kind not in LARGEST_OF:
        raise ConfigError(
            f"{name}: {kind.__name__} has no integer form; nn.ReLU and nn.ReLU6 have one."
        )
    low, high, largest = grid.q_min, grid.q_max, LARGEST_OF[kind]
    if kind is not nn.Identity:
        low = min(max(round(-offset / step), low), high)
    if largest is not None:
        high = max(min(round((largest - offset) / step), high), low)
    return Codes(low, high, step, offset)
