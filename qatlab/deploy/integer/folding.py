"""What lowering needs of batch norms and sites, as numbers in float64."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.deploy.integer.operations import Codes, Integers, Reals
from qatlab.errors import ConfigError
from qatlab.quant.grid import SMALLEST
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.ops import clip_range, is_table

NEAR = 1e-6  # of the largest value: what float32 may make of a value in another order
log = logging.getLogger(__name__)


def reals(values: Tensor) -> Reals:
    """Return a tensor in float64."""
    return np.asarray(values.detach().double().numpy())


def folded(name: str, norm: _BatchNorm) -> tuple[Reals, Reals]:
    """Return factor and shift of a batch norm in evaluation, ``(C,)`` each.

    Raises:
        ConfigError: if it has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError(f"{name}: a batch norm without running statistics has no integer form.")
    with np.errstate(invalid="ignore"):
        factor = 1 / np.sqrt(reals(norm.running_var) + norm.eps)
    if norm.weight is not None:
        factor = factor * reals(norm.weight)
    shift = -reals(norm.running_mean) * factor
    shift = shift if norm.bias is None else shift + reals(norm.bias)
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        raise ConfigError(
            f"{name}: its statistics or parameters are not finite numbers, or a running_var is "
            "below 0, so the batch norm has no integer form."
        )
    return factor, shift


def site_codes(name: str, quantizer: ActivationQuantizer) -> Codes:
    """Return the codes of a site.

    A function in front of the quantizer that clips its input, such as a ReLU, only cuts codes off,
    as rounding keeps the order of numbers; what else has a form is computed by the site.

    Raises:
        ConfigError: for another activation function, and for learned values that are no numbers.
    """
    whole, activation = grid_codes(name, quantizer), quantizer.activation
    bends = isinstance(activation, nn.LeakyReLU)
    if quantizer.clips or bends or is_table(activation):
        return whole
    ends = (0.0, 1.0) if isinstance(activation, nn.Hardsigmoid) else clip_range(activation)
    assert ends is not None, name
    low, high = (
        end
        if math.isinf(end)
        else min(max(round((end - whole.offset) / whole.step), whole.low), whole.high)
        for end in ends
    )
    return replace(whole, low=int(max(low, whole.low)), high=int(min(high, whole.high)))


def grid_codes(name: str, quantizer: ActivationQuantizer) -> Codes:
    """Return the codes of all levels of a site.

    Raises:
        ConfigError: for learned values that are no numbers.
    """
    grid, moved = quantizer.grid, quantizer.learned_offset
    step = checked_size(name, quantizer.learned, quantizer.size) / grid.divisor
    offset = 0.0 if moved is None else float(moved.detach())
    if not math.isfinite(offset):
        raise ConfigError(f"{name}: its learned offset is {offset}: no codes stand for its values.")
    return Codes(grid.q_min, grid.q_max, step, offset)


def table_of(quantizer: ActivationQuantizer, codes: Codes) -> tuple[Integers, Reals]:
    """Return the code that a site makes of each code, and what it has rounded, in steps.

    Computed as in training, by the site itself and in its type, so that nothing is rounded
    otherwise.

    Args:
        quantizer: the site.
        codes: of what it reads.
    """
    values = _values_of(codes, quantizer)
    found = in_steps(quantizer, quantizer(values)[0]).round().long()
    return found.numpy(), reals(in_steps(quantizer, quantizer.activation(values)[0]))


def jump_of(quantizer: ActivationQuantizer, codes: Codes) -> float | None:
    """Return a value that a site reads and at which its function jumps; None where it does not.

    There the last bit of what it reads decides between two levels, and no two programs have the
    same last bit.

    Args:
        quantizer: the site.
        codes: of what it reads.
    """
    values = _values_of(codes, quantizer).double()
    near, grid = NEAR * values.abs().max().clamp(min=codes.step), quantizer.grid
    around = values + near * torch.linspace(-1, 1, 65, dtype=torch.double)[:, None]
    made = in_steps(quantizer, quantizer.activation(around)).clamp(grid.q_min, grid.q_max)
    # However steep a function is, it changes little from place to place; a jump is at one of them.
    largest, whole = made.diff(dim=0).abs().amax(0), (made[-1] - made[0]).abs()
    jumps = ((largest > 0.01) & (largest > whole / 2)).nonzero()
    return float(values[0, jumps[0, 0]]) if len(jumps) else None


def _values_of(codes: Codes, quantizer: ActivationQuantizer) -> Tensor:
    """Return the values of codes as training has them, ``(1, codes)``."""
    parameter = quantizer.parameter
    step, offset = (torch.tensor(number).to(parameter) for number in (codes.step, codes.offset))
    values = torch.arange(codes.low, codes.high + 1).to(parameter)[None] * step
    return values + offset if codes.offset else values


def in_steps(quantizer: ActivationQuantizer, values: Tensor) -> Tensor:
    """Return values of a site in its steps above its offset, float64."""
    kept = quantizer.learned_offset
    offset = 0.0 if kept is None else kept.double()
    return (values.double() - offset) / quantizer.grid.step(quantizer.size.detach().double())


def checked_size(name: str, learned: str, parameter: Tensor) -> float:
    """Return the size of a learned step or clip value.

    Raises:
        ConfigError: if it is not finite, or so small that there are no levels.
    """
    value = float(parameter.detach())
    if not math.isfinite(value) or abs(value) < SMALLEST:
        raise ConfigError(
            f"{name}: its learned {learned} is {value}; it has no levels, so the "
            "network has no integer form. Accepted: a number above 0."
        )
    if value < 0:
        log.warning(
            "%s: its learned %s is %s; its size is used, as in training", name, learned, value
        )
    return abs(value)
