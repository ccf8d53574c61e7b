"""Activation functions with a corner, whose derivative is not up to the noise of sums."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from qatlab.quant.ops import clip_range


def rectify(x: Tensor, activation: nn.Module, near: Tensor) -> Tensor:
    """Return ``activation(x)``; the derivative of a rectifier is not up to the noise of sums.

    Values within ``near`` of a corner of LeakyReLU, or of what clips its input, such as ReLU, ReLU6
    and Hardtanh, have the derivative at the corner itself: that of the side where the function is
    flat or less steep.

    Args:
        x: any shape.
        activation: any activation function; others than these are called as they are.
        near: a scalar in the units of ``x``, see :meth:`~qatlab.quant.grid.Grid.near`.
    """
    slope, ends = 0.0, clip_range(activation)
    if isinstance(activation, nn.LeakyReLU):
        slope, ends = activation.negative_slope, (0.0, math.inf)
    # With another slope the output does not tell on which side the input was.
    if ends in (None, (-math.inf, math.inf)) or not 0 <= slope < 1:
        return cast(Tensor, activation(x))
    result: Tensor = _Rectifier.apply(x, near, slope, ends)
    return result


class _Rectifier(torch.autograd.Function):
    """Keeps its output, as the quantizer behind it does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, near: Tensor, slope: float, ends: tuple[float, float]
    ) -> Tensor:
        low, high = (end if math.isfinite(end) else None for end in ends)
        y = nn.functional.leaky_relu(x, slope) if slope else x.clamp(low, high)
        ctx.save_for_backward(y, near)
        ctx.slope, ctx.low, ctx.high = slope, low, high
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        y, near = ctx.saved_tensors
        (grad,) = grads
        passes = torch.ones_like(y, dtype=torch.bool) if ctx.low is None else y > ctx.low + near
        if ctx.high is not None:
            passes = passes & (y < ctx.high - near)
        beyond = ctx.slope * grad if ctx.slope else 0.0
        return torch.where(passes, grad, beyond), None, None, None
