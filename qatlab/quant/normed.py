"""A batch norm and the quantizer behind it in one kernel each way, which keeps its input only."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.quant import kernels
from qatlab.quant.dispatch import (
    Call,
    as_laid_out,
    encoded,
    fake_quantize_fused,
    fits,
    held_by,
    on_gpu,
    readable,
)
from qatlab.quant.grid import Grid
from qatlab.quant.memory import Memory


def norm_and_quantize(
    x: Tensor,
    norm: nn.BatchNorm2d,
    parameter: Tensor,
    grid: Grid,
    gradient_scale: float,
    offset: Tensor | None,
    ewgs: float,
) -> Tensor:
    """Return ``fake_quantize(norm(x), ...)``; where it fits, without keeping ``norm(x)``.

    Args:
        x: ``(N, C, H, W)``.
        norm: in training its running statistics move, as by a call.
        parameter: see :func:`~qatlab.quant.grid.fake_quantize`, as all others.
    """
    tracks = norm.track_running_stats and norm.momentum is not None and norm.affine
    moves = norm.training and tracks
    constant = not norm.training and tracks and not torch.is_grad_enabled()
    if norm._forward_hooks or norm._forward_pre_hooks:  # somebody looks at the norm alone
        return fake_quantize_fused(norm(x), parameter, grid, gradient_scale, offset, ewgs)
    enough = not on_gpu(x) and x.ndim == 4 and x.is_contiguous() and x.numel() > x.shape[1]
    learned = (parameter, offset, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if not (fits(x) and enough and (moves or constant) and readable(x, *learned)):
        return fake_quantize_fused(norm(x), parameter, grid, gradient_scale, offset, ewgs)
    call = Call(grid, gradient_scale, ewgs)
    if moves and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    statistics = (torch.empty_like(norm.weight), torch.empty_like(norm.weight))
    result: Tensor = _NormQuantize.apply(
        x, norm.weight, norm.bias, parameter, offset, statistics, norm, moves, call
    )
    if Memory.active is not None and result.requires_grad:
        made_of, weight, bias, size, shift = held_by(x, norm.weight, norm.bias, parameter, offset)
        eps = float(norm.eps)

        def again() -> Tensor:
            return _normed_again(made_of, weight, bias, size, shift, statistics, eps, call)

        Memory.active.quantized(result, x, again, partial(encoded, size, shift, grid))
    return result


def _normed_again(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    parameter: Tensor,
    offset: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    eps: float,
    call: Call,
) -> Tensor:
    """Return what :class:`_NormQuantize` has made of ``x``, from the statistics it found."""
    n, c, h, w = x.shape
    y, settings = torch.empty_like(x), kernels.settings(*call)
    kernels.call(
        *("norm_quantize_forward", settings, parameter, offset, x, y, n, c, h * w),
        *(weight, bias, eps, -2.0, None, None, *statistics),
    )
    return y


class _NormQuantize(torch.autograd.Function):
    """Batch norm and quantizer; ``x`` is all that is kept, and the statistics of its channels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        parameter: Tensor,
        offset: Tensor | None,
        statistics: tuple[Tensor, Tensor],
        norm: nn.BatchNorm2d,
        moves: bool,
        call: Call,
    ) -> Tensor:
        n, c, h, w = x.shape
        y = torch.empty_like(x)
        ctx.settings = settings = kernels.settings(*call)
        momentum = float(norm.momentum or 0.0) if moves else -1.0
        kernels.call(
            *("norm_quantize_forward", settings, parameter, offset, x, y, n, c, h * w),
            *(weight, bias, float(norm.eps), momentum, norm.running_mean, norm.running_var),
            *statistics,
        )
        ctx.save_for_backward(x, weight, bias, parameter, offset, *statistics)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, bias, parameter, offset, mean, inverse = ctx.saved_tensors
        n, c, h, w = x.shape
        grad = as_laid_out(grads[0], x)
        grad_x, grad_weight, grad_bias = (torch.empty_like(t) for t in (x, weight, bias))
        grad_parameter = torch.empty_like(parameter)
        grad_offset = None if offset is None else torch.empty_like(offset)
        kernels.call(
            *("norm_quantize_backward", ctx.settings, parameter, offset, x, grad, grad_x),
            *(n, c, h * w, weight, bias, mean, inverse),
            *(grad_weight, grad_bias, grad_parameter, grad_offset),
        )
        return grad_x, grad_weight, grad_bias, grad_parameter, grad_offset, None, None, None, None
