"""Pure tensor mathematics of learned steps: grids, and rounding to them with a gradient.

These are the readable definitions. They are traceable, so they are also what ``torch.compile``
sees; :mod:`qatlab.quant.dispatch` does the same in one pass over memory each way.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALLEST = 2.0**-100  # of steps and clip values: float32 still holds its inverse times any grid
# As a share of the range: values this near to an end lie at that end, for the gradient. Behind a
# layer without bias and norm, sums that are 0 are common (they are whole numbers times a step), and
# float arithmetic makes noise of them, on either side of 0 by the order of summation. It grows with
# the range: of sums of 120 to 25,088 products of codes that are 0, the largest in float32 was 3e-7
# of the range at 2 bits, 2e-7 at 4 and 1e-7 at 8. This is 4e-6: 6e-5 steps at 4 bits.
AT_END = 2.0**-18


class Grid(NamedTuple):
    """The levels of a learned step, and how their gradient treats the ends of the range.

    Attributes:
        q_min: lowest index, 0 or below.
        q_max: highest index, above 0.
        divisor: the step is the learned parameter divided by this.
        closed: at the ends themselves ``x`` passes, too, but not at 0 where that is the low end;
            and the gradient of the parameter does not follow the parameter's sign.
        residual: inside, the gradient of the step is ``round(v) - v``; if not, it is 0.
    """

    q_min: int
    q_max: int
    divisor: float = 1.0
    closed: bool = False
    residual: bool = True

    def size(self, parameter: Tensor) -> Tensor:
        """Return the size of the parameter, at least :data:`SMALLEST`."""
        return parameter.abs().clamp(min=SMALLEST)

    def step(self, parameter: Tensor) -> Tensor:
        """Return the distance of two levels, in the units of the values."""
        return self.size(parameter) / self.divisor

    def ends(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest level, in the units of the values, without offset."""
        size = self.size(parameter)
        # As numbers, the ratios are exact where the end is the parameter itself.
        return size * (self.q_min / self.divisor), size * (self.q_max / self.divisor)

    def near(self, parameter: Tensor) -> Tensor:
        """Return how far from an end a value still lies at it."""
        return self.size(parameter) * ((self.q_max - self.q_min) * AT_END / self.divisor)

    def clipped_share(
        self, values: Tensor, parameter: Tensor, offset: Tensor | None = None
    ) -> Tensor:
        """Return the share of ``values`` beyond the ends, a scalar.

        Args:
            values: any shape.
            parameter: see :func:`fake_quantize`, as all others.
        """
        low, high = self.ends(parameter)
        z = values if offset is None else values - offset
        return ((z < low) | (z > high)).count_nonzero() / z.numel()


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

    At an end itself the second column holds, but a closed grid lets ``x`` pass. A value lies at an
    end if it is within :data:`AT_END` of the range: whether a sum that is 0 comes out a little
    above or a little below is up to the order of summation, and must not decide.

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
        offset: ``b`` in the units of ``x``, of a shape as that of ``parameter``; None is 0.
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
        parameter = parameter.to(dtype)
        z = x.to(dtype) if offset is None else x.to(dtype) - offset.to(dtype)
        size = grid.size(parameter)
        # Not divisor / size, of which torch would make two roundings.
        inverse = torch.full_like(size, grid.divisor) / size
        return cls(z, *grid.ends(parameter), inverse, grid.step(parameter))

    def in_steps(self) -> Tensor:
        """Return ``v``, clipped."""
        return self.z.clamp(self.low, self.high) * self.inverse

    def near(self) -> Tensor:
        """Return how far from an end a value still lies at it."""
        return (self.high - self.low) * AT_END

    def inside(self) -> Tensor:
        """Tell where values lie inside the range, and not at its ends."""
        return (self.z > self.low + self.near()) & (self.z < self.high - self.near())

    def passes(self, grid: Grid) -> Tensor:
        """Tell where the gradient of values passes."""
        if not grid.closed:
            return self.inside()
        near, low = self.near(), self.low
        above = self.z >= low - near if grid.q_min < 0 else self.z > low + near
        return above & (self.z <= self.high + near)


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
        v = within.in_steps()
        index = v.round()
        grad = grads[0].to(v.dtype)
        inside = within.inside()
        grad_x = grad
        if ctx.ewgs:
            grad_x = grad + grad.abs() * ((v - index) * (ctx.ewgs / (q_max - q_min)))
        grad_x = torch.where(within.passes(ctx.grid), grad_x, 0.0).to(x.dtype)
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
        return x.sum((0, 2, 3)).sum().reshape(like.shape)
    return x.sum_to_size(like.shape)


def lsq_gradient_scale(count: int, q_max: int) -> float:
    """Return ``1 / sqrt(N * q_max)`` (LSQ, section 2.2); ``count`` is N, the values of one step."""
    return 1 / math.sqrt(max(count, 1) * q_max)
