"""Pure tensor mathematics of SAT's and DoReFa's weights: formulas and sources in the docstrings.

These are the readable definitions. They are traceable, so they are also what ``torch.compile``
sees; :mod:`qatlab.quant.dispatch` does the same in one pass over memory each way.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

GRIDS = ("default", "symmetric", "asymmetric", "full_range", "centered")
Scaling = bool | Literal["fan_in"]
VANISHED = 2.0**-100  # weights that are all smaller: float32 may not hold the inverse of their size


def round_ste(x: Tensor) -> Tensor:
    """Round half to even with the straight-through gradient 1 (Bengio et al. 2013)."""
    return x + (x.round() - x).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` itself, with its gradient multiplied by ``factor``."""
    return x if factor == 1.0 else x.detach() + factor * (x - x.detach())


def with_power_of_two(parameter: Tensor, divisor: float) -> Tensor:
    """Return a positive parameter ``y`` near this one whose step is a power of two.

        y = divisor 2^round(log2(|p| / divisor)),   dy/dp = y / p

    The gradient is that of TQT, Jain et al. 2019, arXiv:1903.08066, section 3.2, straight through
    the rounding: it learns log2 of its threshold, this the step itself. TQT rounds up.

    Args:
        parameter: step or clip value, any shape; 0 stays 0.
        divisor: of the grid: the step is ``parameter / divisor``.
    """
    size = parameter.detach().abs()
    rounded = torch.where(size > 0, (size / divisor).log2().round().exp2() * divisor, size)
    slope = torch.where(size > 0, rounded / parameter.detach(), 0.0)
    # The rounded value to the last bit, and in front of it what has the gradient but no value.
    return rounded + slope * (parameter - parameter.detach())


def sat_unit_weight(weight: Tensor, statistics_gradient: bool = False) -> Tensor:
    """Map weights of any size to [-1, 1]: ``u = tanh(w) / max|tanh(w)|``.

    Source: Jin et al. 2019 (SAT), arXiv:1912.10207, eq. 1; the transform is that of DoReFa,
    Zhou et al. 2016, arXiv:1606.06160, eq. 9.

    Args:
        weight: float weights, any shape.
        statistics_gradient: let gradient flow through the maximum; N2D2 holds it constant.

    Returns:
        Weights in [-1, 1], shape and dtype of ``weight``.
    """
    largest = sat_largest(weight)
    return weight.tanh() / (largest if statistics_gradient else largest.detach())


def sat_largest(weight: Tensor) -> Tensor:
    """Return ``max|tanh(w)|``; NaN below :data:`VANISHED`, as gradients would be infinite.

    Quantizers refuse the weights that it makes NaN of.
    """
    # tanh is monotone: tanh(max|w|) is the maximum without a second pass over a tanh tensor.
    largest = weight.abs().amax().tanh()
    return torch.where(largest < VANISHED, torch.nan, largest)


def sat_grid(unit: Tensor, n_steps: int, grid: str) -> Tensor:
    """Round weights of [-1, 1] onto one of the grids of SAT (straight-through gradient).

    With ``n = n_steps`` and ``r = floor(n / 2)``:

    ============  =====================================================  ==================
    grid          formula                                                levels
    ============  =====================================================  ==================
    default       ``(2 round(n (u + 1) / 2) - n) / n`` (DoReFa)          n + 1, no zero for odd n
    symmetric     ``round(r u) / r``                                     2 r + 1, with zero
    asymmetric    ``round(r v) / r``, ``v = (1 + 1/2r) u - 1/2r``        2 r + 2, from -1 - 1/r
    full_range    ``default`` of ``p = (1 + 0.9998/n) (u+1)/2 - 0.4999/n``  n + 1
    centered      ``(2 floor((n + 1) (u + 1) / 2) - n) / (n + 1)``       n + 1, no zero for odd n
    ============  =====================================================  ==================

    ``centered`` cuts [-1, 1] into bins of equal width and takes their middles: at few bits the
    weights' mean stays 0 and the outer levels are not used less than the inner ones.

    Source: ``default`` is SAT's and DoReFa's; ``symmetric``, ``asymmetric`` and ``full_range`` are
    N2D2's ``QWeight.QuantMode``.
    """
    half = n_steps // 2
    if grid == "centered":
        position = (n_steps + 1) * ((unit + 1) / 2)
        index = position + (position.floor().clamp(max=n_steps) - position).detach()
        return (2 * index - n_steps) / (n_steps + 1)
    if grid == "symmetric":
        return round_ste(half * unit) / half
    if grid == "asymmetric":
        return round_ste(half * _moved(unit, n_steps, grid)) / half
    position = (unit + 1) / 2
    if grid == "full_range":
        position = _moved(position, n_steps, grid)
    index = round_ste(n_steps * position)
    if grid == "full_range":  # from 12 bits on float32 rounds the highest n + 0.4999 up
        index = index - (index - n_steps).relu().detach()
    return (2 * index - n_steps) / n_steps


def sat_divisor(n_steps: int, grid: str) -> int:
    """Return the whole number that makes whole numbers of all levels of :func:`sat_grid`."""
    if grid in ("symmetric", "asymmetric"):
        return n_steps // 2
    return n_steps + 1 if grid == "centered" else n_steps


class SatLine(NamedTuple):
    """Where weights in [-1, 1] lie between the levels of a grid: at ``factor * u + shift``.

    Attributes:
        factor: steps of the grid in 1.
        shift: position of 0.
        low: of the lowest level, a whole number as all levels have.
        high: of the highest one.
    """

    factor: float
    shift: float
    low: int
    high: int


def sat_line(n_steps: int, grid: str) -> SatLine:
    """Return the line on which rounding does what :func:`sat_grid` does, but for ties."""
    half = n_steps // 2
    slope, moved = sat_slope(n_steps, grid), sat_shift(n_steps, grid)
    if grid in ("symmetric", "asymmetric"):
        low = -half if grid == "symmetric" else -half - 1
        return SatLine(half * slope, -half * moved, low, half)
    if grid == "centered":
        return SatLine((n_steps + 1) / 2, n_steps / 2, 0, n_steps)
    return SatLine(n_steps / 2 * slope, n_steps * (slope / 2 - moved), 0, n_steps)


def sat_position(weight: Tensor, line: SatLine) -> Tensor:
    """Return where weights of any size lie on a line, clipped to its levels."""
    return (line.factor * sat_unit_weight(weight) + line.shift).clamp(line.low, line.high)


def sat_inverse(position: Tensor, weight: Tensor, line: SatLine) -> Tensor:
    """Return the weights that lie at some positions, where the largest is that of ``weight``.

    Args:
        position: see :func:`sat_position`; shape of ``weight``.
        weight: float weights, for the size of the largest.
        line: of the grid.
    """
    unit = (position - line.shift) / line.factor
    largest = weight.abs().amax()
    # At the ends not by atanh: the largest weight would lose a bit each time.
    inside = (unit * largest.tanh()).atanh()
    return torch.where(unit.abs() < 1 - 1e-6, inside, unit.sign() * largest)


def sat_clamp(unit: Tensor, n_steps: int, grid: str) -> Tensor:
    """Return what the clamp phase trains with: the grid's range, without rounding.

    N2D2 multiplies the gradient of a ``full_range`` weight by ``1 + 0.9998/n`` here as well,
    although its forward has no such factor; kept, so that its trainings can be repeated.
    """
    if grid == "asymmetric":
        return _moved(unit, n_steps, grid)
    return scale_gradient(unit, sat_slope(n_steps, grid))


def _moved(x: Tensor, n_steps: int, grid: str) -> Tensor:
    return sat_slope(n_steps, grid) * x - sat_shift(n_steps, grid)


def sat_fan(weight: Tensor, scaling: Scaling) -> int:
    """Return ``1 / variance`` of weights that are scaled in this way; 0 for none."""
    if scaling == "fan_in":
        return weight[0].numel()
    return weight.shape[0] * weight[0, 0].numel() if scaling else 0


def sat_scaling(
    weight: Tensor, statistics_gradient: bool = False, scaling: Scaling = True
) -> Tensor:
    """Return SAT's constant ``s = sqrt(Var(q) * n_out)``; the layer computes with ``q / s``.

    ``n_out = C_out * kH * kW`` is the fan-out, also for grouped convolutions, and the variance
    has Bessel's correction, as in N2D2. Afterwards ``Var(q / s) = 1 / n_out``.

    Source: Jin et al. 2019 (SAT), eq. 7, for layers that no batch norm follows.

    Args:
        weight: clamped or quantized weights, ``(C_out, C_in, ...)``, at least two elements.
        statistics_gradient: let gradient flow through the variance; N2D2 holds it constant.
        scaling: ``fan_in`` takes ``n_in = C_in * kH * kW`` in place of ``n_out``.

    Returns:
        Scalar tensor.
    """
    scale = (weight.var() * sat_fan(weight, scaling)).sqrt()
    return scale if statistics_gradient else scale.detach()


def sat_weight(
    weight: Tensor,
    n_steps: int,
    grid: str = "default",
    quantized: bool = True,
    scaling: Scaling = False,
    statistics_gradient: bool = False,
) -> Tensor:
    """Clamp, or clamp and quantize, weights by Scale-Adjusted Training.

        w -> u = tanh(w) / max|tanh(w)| -> q = grid(u), or u in the clamp phase -> q / s

    Source: Jin et al. 2019 (SAT), arXiv:1912.10207, section 3.

    Args:
        weight: float weights ``(C_out, C_in, ...)``; not all zero.
        n_steps: steps of the grid, ``2**bits - 1`` for a bit width.
        grid: one of :data:`GRIDS`, see :func:`sat_grid`.
        quantized: False in the clamp phase.
        scaling: divide by :func:`sat_scaling`; True or ``fan_in``.
        statistics_gradient: differentiate the maximum and the scale too.

    Returns:
        Weights for the layer to compute with: shape and dtype of ``weight``.
    """
    if not statistics_gradient:
        result: Tensor = _SatWeight.apply(weight, n_steps, grid, quantized, scaling)
        return result
    unit = sat_unit_weight(weight, statistics_gradient)
    clamped = (sat_grid if quantized else sat_clamp)(unit, n_steps, grid)
    return clamped / sat_scaling(clamped, statistics_gradient, scaling) if scaling else clamped


class _SatWeight(torch.autograd.Function):
    """With constant statistics the derivative is that of tanh times a number; ``w`` is kept."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, n_steps: int, grid: str, quantized: bool, scaling: Scaling
    ) -> Tensor:
        clamped = (sat_grid if quantized else sat_clamp)(sat_unit_weight(weight), n_steps, grid)
        one = clamped[(0,) * clamped.ndim]
        scale = sat_scaling(clamped, scaling=scaling) if scaling else torch.ones_like(one)
        slope = sat_slope(n_steps, grid) / (sat_largest(weight) * scale)
        ctx.save_for_backward(weight, slope)
        return clamped / scale if scaling else clamped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, slope = ctx.saved_tensors
        tanh = weight.tanh()
        return grads[0] * (1 - tanh * tanh) * slope, None, None, None, None


def sat_slope(n_steps: int, grid: str) -> float:
    """Return the factor of :func:`sat_grid`: N2D2's on the gradient, in the clamp phase too."""
    if grid == "asymmetric":
        return 1 + 1 / (2 * (n_steps // 2))
    return 1 + 0.9998 / n_steps if grid == "full_range" else 1.0


def sat_shift(n_steps: int, grid: str) -> float:
    """Return what :func:`sat_grid` subtracts before it rounds."""
    if grid == "asymmetric":
        return 1 / (2 * (n_steps // 2))
    return 0.4999 / n_steps if grid == "full_range" else 0.0


def dorefa_weight(weight: Tensor, n_steps: int) -> Tensor:
    """Quantize weights as DoReFa-Net does.

        2**b levels over [-1, 1]:  2 q(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1
        1 bit:                     mean|w| * sign(w), whose gradient is that of its result

    Source: Zhou et al. 2016, arXiv:1606.06160, eq. 9; eq. 8 for one bit.

    Args:
        weight: float weights, any shape; not all zero.
        n_steps: steps of the grid, ``2**bits - 1`` for a bit width.

    Returns:
        Weights for the layer to compute with: shape and dtype of ``weight``.
    """
    if n_steps > 1:
        return sat_grid(sat_unit_weight(weight, statistics_gradient=True), n_steps, "default")
    binary = torch.where(weight < 0, -1.0, 1.0).to(weight.dtype) * weight.abs().mean()
    return weight + (binary - weight).detach()
