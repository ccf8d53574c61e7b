"""Pure tensor mathematics of the quantizers: no state, formulas and sources in the docstrings.

These are the readable definitions. They are traceable, so they are also what ``torch.compile``
sees; :mod:`qatlab.quant.eager` holds the hand-written backward that eager CPU training uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRIDS = ("default", "symmetric", "asymmetric", "full_range")


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
    ============  =====================================================  ==================

    Source: ``default`` is SAT's and DoReFa's; the others are N2D2's ``QWeight.QuantMode``.
    """
    half = n_steps // 2
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
    unit = sat_unit_weight(weight, statistics_gradient)
    clamped = (sat_grid if quantized else sat_clamp)(unit, n_steps, grid)
    return clamped / sat_scaling(clamped, statistics_gradient) if scaling else clamped


def cg_pact(x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False) -> Tensor:
    """Clip activations to [0, alpha] and round them to a grid (CG-PACT).

        y = s * round(clip(x, 0, a) / s),   a = max(|alpha|, 2**-100),   s = a / n_steps

    Gradient: ``dy/dx`` is 1 for ``0 < x <= a`` and 0 elsewhere, ``dy/dalpha`` is ``(y - x) / a``
    inside the clip range, 1 from ``x = a`` on, 0 below. As in N2D2, both pass at ``x = a``, and
    the gradient of alpha is not multiplied by its sign.

    With ``signed`` the range is [-a, a] and ``s = a / floor(n_steps / 2)``, so that zero is a
    level; it is for tensors that no activation function made non-negative. Then ``dy/dx`` is 1
    for ``-a <= x <= a``, and ``dy/dalpha`` is -1 up to ``x = -a``.

    Source: Jin et al. 2019 (SAT), arXiv:1912.10207, eq. 10 (calibrated gradient).

    Args:
        x: activations, any shape.
        alpha: clip value, scalar, in the units of ``x``.
        n_steps: steps of the grid, ``2**bits - 1`` for a bit width.
        signed: see above.

    Returns:
        Fake-quantized activations: shape, dtype and units of ``x``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    a = clip_value(alpha.detach(), dtype)
    steps = a.new_tensor(n_steps // 2 if signed else n_steps)
    wide = x.to(dtype)
    clipped, y = clip_and_round(wide.detach(), a, steps, signed)
    y = y + torch.where(cg_pact_passes(wide, a, signed), wide - wide.detach(), 0.0)
    y = y + cg_pact_slope(clipped, y.detach(), a) * (alpha - alpha.detach())
    return y.to(x.dtype)


def clip_value(alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``a`` of :func:`cg_pact`; the bound keeps its formulas finite, should alpha be 0."""
    return alpha.abs().clamp(min=2.0**-100).to(dtype)


def clip_and_round(x: Tensor, a: Tensor, steps: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Return ``x`` clipped to [0, a] or [-a, a], and that rounded to multiples of ``a / steps``."""
    clipped = x.clamp(-a if signed else torch.zeros_like(a), a)
    return clipped, (clipped * (steps / a)).round() * (a / steps)


def cg_pact_passes(x: Tensor, a: Tensor, signed: bool) -> Tensor:
    """Return where CG-PACT passes the gradient of ``x``."""
    return (x <= a) & (x >= -a if signed else x > 0)


def cg_pact_slope(clipped: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Return CG-PACT's ``dy/dalpha`` from the two results of :func:`clip_and_round`."""
    # Autograd over the formula would divide by a * a, and share the gradient out at x = a.
    return torch.where(clipped.abs() < a, (y - clipped) / a, clipped.sign())
