"""Pure tensor mathematics of the quantizers: no state, formulas and sources in the docstrings.

These are the readable definitions. They are traceable, so they are also what ``torch.compile``
sees; :mod:`qatlab.quant.eager` does the same in one pass over memory each way.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

GRIDS = ("default", "symmetric", "asymmetric", "full_range", "centered")
SMALLEST = 2.0**-100  # of steps and clip values: float32 still holds its inverse times any grid


def round_ste(x: Tensor) -> Tensor:
    """Round half to even with the straight-through gradient 1 (Bengio et al. 2013)."""
    return x + (x.round() - x).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` itself, with its gradient multiplied by ``factor``."""
    return x if factor == 1.0 else x.detach() + factor * (x - x.detach())


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
    # tanh is monotone: tanh(max|w|) is the maximum without a second pass over a tanh tensor.
    largest = weight.abs().amax().tanh()
    return weight.tanh() / (largest if statistics_gradient else largest.detach())


def sat_grid(unit: Tensor, n_steps: int, grid: str) -> Tensor:
    """Round weights of [-1, 1] onto one of the four grids of SAT (straight-through gradient).

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
        return round_ste(half * _asymmetric_shift(unit, half)) / half
    position = (unit + 1) / 2
    if grid == "full_range":
        position = (1 + 0.9998 / n_steps) * position - 0.4999 / n_steps
    index = round_ste(n_steps * position)
    if grid == "full_range":  # from 12 bits on float32 rounds the highest n + 0.4999 up
        index = index - (index - n_steps).relu().detach()
    return (2 * index - n_steps) / n_steps


def sat_clamp(unit: Tensor, n_steps: int, grid: str) -> Tensor:
    """Return what the clamp phase trains with: the grid's range, without rounding.

    N2D2 multiplies the gradient of a ``full_range`` weight by ``1 + 0.9998/n`` here as well,
    although its forward has no such factor; kept, so that its trainings can be repeated.
    """
    if grid == "asymmetric":
        return _asymmetric_shift(unit, n_steps // 2)
    return scale_gradient(unit, 1 + 0.9998 / n_steps) if grid == "full_range" else unit


def _asymmetric_shift(unit: Tensor, half: int) -> Tensor:
    return (1 + 1 / (2 * half)) * unit - 1 / (2 * half)


def sat_scaling(weight: Tensor, statistics_gradient: bool = False) -> Tensor:
    """Return SAT's constant ``s = sqrt(Var(q) * n_out)``; the layer computes with ``q / s``.

    ``n_out = C_out * kH * kW`` is the fan-out, also for grouped convolutions, and the variance
    has Bessel's correction, as in N2D2. Afterwards ``Var(q / s) = 1 / n_out``.

    Source: Jin et al. 2019 (SAT), eq. 7, for layers that no batch norm follows.

    Args:
        weight: clamped or quantized weights, ``(C_out, C_in, ...)``, at least two elements.
        statistics_gradient: let gradient flow through the variance; N2D2 holds it constant.

    Returns:
        Scalar tensor.
    """
    fan_out = weight.shape[0] * weight[0, 0].numel()
    scale = (weight.var() * fan_out).sqrt()
    return scale if statistics_gradient else scale.detach()


def sat_weight(
    weight: Tensor,
    n_steps: int,
    grid: str = "default",
    quantized: bool = True,
    scaling: bool = False,
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
        scaling: divide by :func:`sat_scaling`.
        statistics_gradient: differentiate the maximum and the scale too.

    Returns:
        Weights for the layer to compute with: shape and dtype of ``weight``.
    """
    if not statistics_gradient:
        result: Tensor = _SatWeight.apply(weight, n_steps, grid, quantized, scaling)
        return result
    unit = sat_unit_weight(weight, statistics_gradient)
    clamped = (sat_grid if quantized else sat_clamp)(unit, n_steps, grid)
    return clamped / sat_scaling(clamped, statistics_gradient) if scaling else clamped


class _SatWeight(torch.autograd.Function):
    """With constant statistics the derivative is that of tanh times a number; ``w`` is kept."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, n_steps: int, grid: str, quantized: bool, scaling: bool
    ) -> Tensor:
        clamped = (sat_grid if quantized else sat_clamp)(sat_unit_weight(weight), n_steps, grid)
        scale = sat_scaling(clamped) if scaling else torch.ones_like(clamped[(0,) * clamped.ndim])
        slope = sat_slope(n_steps, grid) / (weight.abs().amax().tanh() * scale)
        ctx.save_for_backward(weight, slope)
        return clamped / scale if scaling else clamped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, slope = ctx.saved_tensors
        tanh = weight.tanh()
        return grads[0] * (1 - tanh * tanh) * slope, None, None, None, None


def sat_slope(n_steps: int, grid: str) -> float:
    """Return N2D2's factor on the gradient of SAT's weights, in the clamp phase too."""
    if grid == "asymmetric":
        return 1 + 1 / (2 * (n_steps // 2))
    return 1 + 0.9998 / n_steps if grid == "full_range" else 1.0


class Grid(NamedTuple):
    """The levels of a learned step, and how their gradient treats the ends of the range.

    Attributes:
        q_min: lowest index, 0 or below.
        q_max: highest index, above 0.
        divisor: the step is the learned parameter divided by this.
        closed: at the ends themselves ``x`` passes, too, and the gradient of the parameter does
            not follow the parameter's sign.
        residual: inside, the gradient of the step is ``round(v) - v``; if not, it is 0.
    """

    q_min: int
    q_max: int
    divisor: float = 1.0
    closed: bool = False
    residual: bool = True


def cg_pact_grid(n_steps: int, signed: bool) -> Grid:
    """Return the grid of CG-PACT, whose parameter is the clip value alpha.

        y = s * round(clip(x, 0, a) / s),   a = |alpha|,   s = a / n_steps

    ``dy/dx`` is 1 for ``0 < x <= a`` and 0 elsewhere; ``dy/dalpha`` is ``(y - x) / a`` inside the
    clip range, 1 from ``x = a`` on, 0 below. As in N2D2, both pass at ``x = a``, and the gradient
    of alpha is not multiplied by its sign.

    With ``signed`` the range is [-a, a] and ``s = a / floor(n_steps / 2)``, so that zero is a
    level; it is for tensors that no activation function made non-negative. Then ``dy/dx`` is 1
    for ``-a <= x <= a``, and ``dy/dalpha`` is -1 up to ``x = -a``.

    Source: Jin et al. 2019 (SAT), arXiv:1912.10207, eq. 10 (calibrated gradient).
    """
    n = n_steps // 2 if signed else n_steps
    return Grid(-n if signed else 0, n, divisor=float(n), closed=True)


def pact_grid(n_steps: int, signed: bool) -> Grid:
    """Return the grid of PACT: the values of CG-PACT, but ``dy/dalpha`` is 0 inside.

    Source: Choi et al. 2018 (PACT), arXiv:1805.06085, eq. 1 to 3.
    """
    return cg_pact_grid(n_steps, signed)._replace(closed=False, residual=False)


def lsq_grid(n_steps: int, signed: bool) -> Grid:
    """Return the grid of LSQ and LSQ+, whose parameter is the step itself.

    4 bits are 0..15, or -8..7 if signed; an even number of steps is symmetric. ``|step|`` is used,
    and differentiated, so that a step that an update made negative is still one.

    Source: Esser et al. 2019 (LSQ), arXiv:1902.08153, eq. 1 to 3.
    """
    return Grid(-((n_steps + 1) // 2), n_steps // 2) if signed else Grid(0, n_steps)


def fake_quantize(
    x: Tensor,
    parameter: Tensor,
    grid: Grid,
    gradient_scale: float = 1.0,
    offset: Tensor | None = None,
    ewgs: float = 0.0,
) -> Tensor:
    """Round to the multiples of a learned step; the methods differ in their :class:`Grid` only.

        y = s * round(clip(v, q_min, q_max)) + b,   v = (x - b) / s,   s = |parameter| / divisor

    The step is at least ``2**-100 / divisor``, so that a parameter of 0 makes no NaN. Gradients
    (``g`` is that of ``y``; those of ``s`` and ``b`` are sums):

    =============  ===========================  ==========================================
    of             inside the range             beyond its ends
    =============  ===========================  ==========================================
    ``x``          ``g``                        0
    ``s``          ``g * (round(v) - v)``       ``g * q_min`` below, ``g * q_max`` above
    ``b``          0                            ``g``
    =============  ===========================  ==========================================

    Source: Esser et al. 2019 (LSQ), arXiv:1902.08153, eq. 1 to 3; with a divisor they are those
    of CG-PACT. The offset: Bhalgat et al. 2020 (LSQ+), arXiv:2004.09576, eq. 5 to 7. The factor
    ``ewgs``: delta of Lee et al. 2021 (EWGS), arXiv:2104.00903, eq. 4, in which the range is 1
    wide: ``x`` gets ``g * (1 + delta * sign(g) * (v - round(v)) / (q_max - q_min))``.

    Args:
        x: any shape.
        parameter: step or clip value; a scalar, or of a shape that broadcasts to ``x``, such as
            ``(C_out, 1, 1, 1)``.
        grid: levels, and gradient at the ends.
        gradient_scale: factor on the gradients of parameter and offset.
        offset: ``b``, a scalar in the units of ``x``; None is 0.
        ewgs: delta; 0 is the plain straight-through estimator.

    Returns:
        Fake-quantized values: shape, dtype and units of ``x``.
    """
    result: Tensor = _FakeQuantize.apply(x, parameter, offset, grid, gradient_scale, ewgs)
    return result


class _Range(NamedTuple):
    """Values above their offset, the ends of the range, and how many steps a unit is."""

    z: Tensor
    low: Tensor
    high: Tensor
    inverse: Tensor
    step: Tensor

    @classmethod
    def of(cls, x: Tensor, parameter: Tensor, offset: Tensor | None, grid: Grid) -> _Range:
        dtype = torch.promote_types(x.dtype, torch.float32)
        size = parameter.abs().clamp(min=SMALLEST).to(dtype)
        z = x.to(dtype) if offset is None else x.to(dtype) - offset.to(dtype)
        # As numbers, the ratios are exact where the end is the parameter itself; and
        # divisor / size is not written so, as torch would make two roundings of it.
        low, high = size * (grid.q_min / grid.divisor), size * (grid.q_max / grid.divisor)
        inverse = torch.full_like(size, grid.divisor) / size
        return cls(z, low, high, inverse, size / grid.divisor)

    def in_steps(self) -> Tensor:
        """Return ``v``, clipped."""
        return self.z.clamp(self.low, self.high) * self.inverse


class _FakeQuantize(torch.autograd.Function):
    """Autograd through the rounding would need tricks, and keep more than ``x``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        parameter: Tensor,
        offset: Tensor | None,
        grid: Grid,
        gradient_scale: float,
        ewgs: float,
    ) -> Tensor:
        ctx.save_for_backward(x, parameter, offset)
        ctx.grid, ctx.gradient_scale, ctx.ewgs = grid, gradient_scale, ewgs
        within = _Range.of(x, parameter, offset, grid)
        y = within.in_steps().round() * within.step
        if offset is not None:
            y = y + offset.to(y.dtype)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, parameter, offset = ctx.saved_tensors
        q_min, q_max, divisor, closed, residual = ctx.grid
        within = _Range.of(x, parameter, offset, ctx.grid)
        z, low, high = within.z, within.low, within.high
        v = within.in_steps()
        index = v.round()
        grad = grads[0].to(z.dtype)
        inside = (z > low) & (z < high)
        passes = inside
        if closed:
            passes = (z <= high) & ((z >= low) if q_min < 0 else (z > low))
        grad_x = grad
        if ctx.ewgs:
            grad_x = grad + grad.abs() * ((v - index) * (ctx.ewgs / (q_max - q_min)))
        grad_x = torch.where(passes, grad_x, 0.0).to(x.dtype)
        slope = torch.where(inside, index - v if residual else 0.0, index)
        factor = ctx.gradient_scale / divisor
        grad_parameter = _sum_to(grad * slope, parameter) * factor
        if not closed:
            grad_parameter = torch.where(parameter < 0, -grad_parameter, grad_parameter)
        grad_offset = None
        if offset is not None:
            grad_offset = _sum_to(torch.where(inside, 0.0, grad), offset) * ctx.gradient_scale
            grad_offset = grad_offset.to(offset.dtype)
        return grad_x, grad_parameter.to(parameter.dtype), grad_offset, None, None, None


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sum ``x`` to the shape of ``like``, from which it was broadcast."""
    if x.ndim == 4 and like.numel() == 1:
        # By channels first, as a batch norm sums: a compiler makes one loop of the two.
        x = x.sum((0, 2, 3))
    return x.sum_to_size(like.shape)


def lsq_gradient_scale(count: int, q_max: int) -> float:
    """Return ``1 / sqrt(N * q_max)`` (LSQ, section 2.2); ``count`` is N, the values of one step."""
    return 1 / math.sqrt(max(count, 1) * q_max)


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
