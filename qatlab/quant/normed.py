"""A batch norm and the quantizer behind it in one kernel each way, which keeps its input only.

So is an activation function in front of the quantizer, if it is one of :data:`FUNCTIONS`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qatlab.quant import kernels
from qatlab.quant.dispatch import (
    ON_CPU,
    Call,
    as_laid_out,
    dense,
    encoded,
    fake_quantize_fused,
    fits,
    held_by,
    on_gpu,
    readable,
)
from qatlab.quant.grid import Grid
from qatlab.quant.memory import Memory

# Activation functions that the kernels compute; the numbers are those of ``enum class Function``.
FUNCTIONS: dict[type[nn.Module], int] = {
    nn.Identity: 0,
    nn.SiLU: 1,
    nn.Hardswish: 2,
    nn.GELU: 3,
    nn.Sigmoid: 4,
    nn.Hardsigmoid: 5,
}
NOTHING = nn.Identity()


def in_kernel(activation: nn.Module) -> bool:
    """Tell whether the kernels compute an activation function."""
    return type(activation) in FUNCTIONS and getattr(activation, "approximate", "none") == "none"


class _Way(NamedTuple):
    """How a norm and what stands behind it are computed."""

    call: Call
    function: int
    eps: float


def norm_and_quantize(
    x: Tensor,
    norm: nn.BatchNorm2d,
    parameter: Tensor,
    grid: Grid,
    gradient_scale: float,
    offset: Tensor | None,
    ewgs: float,
    activation: nn.Module = NOTHING,
) -> Tensor:
    """Return ``fake_quantize(activation(norm(x)), ...)``; where it fits, only ``x`` is kept.

    The kernels' functions are within 1e-6 of torch's, so that a value that is as near to the middle
    of two levels may fall to the other side; an evaluation computes with torch's.

    Args:
        x: ``(N, C, H, W)``.
        norm: in training its running statistics move, as by a call.
        parameter: see :func:`~qatlab.quant.grid.fake_quantize`, as all others.
        activation: one that is :func:`in_kernel`.
    """

    def one_by_one() -> Tensor:
        values = activation(norm(x))
        return fake_quantize_fused(values, parameter, grid, gradient_scale, offset, ewgs)

    function = FUNCTIONS[type(activation)]
    tracks = norm.track_running_stats and norm.momentum is not None and norm.affine
    moves = norm.training and tracks
    constant = not (norm.training or function or torch.is_grad_enabled()) and tracks
    if norm._forward_hooks or norm._forward_pre_hooks:  # somebody looks at the norm alone
        return one_by_one()
    enough = not on_gpu(x) and x.ndim == 4 and x.numel() > x.shape[1]
    learned = (parameter, offset, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if not (enough and _layout_fits(x) and (moves or constant) and readable(x, *learned)):
        return one_by_one()
    way = _Way(Call(grid, gradient_scale, ewgs), function, float(norm.eps))
    if moves and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    statistics = (torch.empty_like(norm.weight), torch.empty_like(norm.weight))
    result: Tensor = _NormQuantize.apply(
        x, norm.weight, norm.bias, parameter, offset, statistics, norm, moves, way
    )
    if Memory.active is not None and Memory.active.makes_again(x) and result.requires_grad:
        made_of, weight, bias, size, shift = held_by(x, norm.weight, norm.bias, parameter, offset)

        def again() -> Tensor:
            return _normed_again(made_of, weight, bias, size, shift, statistics, way)

        Memory.active.quantized(result, x, again, partial(encoded, size, shift, grid))
    return result


def activate_and_quantize(
    x: Tensor,
    activation: nn.Module,
    parameter: Tensor,
    grid: Grid,
    gradient_scale: float,
    offset: Tensor | None,
    ewgs: float,
) -> Tensor:
    """Return ``fake_quantize(activation(x), ...)``; where it fits, only ``x`` is kept.

    As in :func:`norm_and_quantize`, what needs no gradient is computed with torch's functions.

    Args:
        x: any shape.
        activation: one that is :func:`in_kernel`.
        parameter: see :func:`~qatlab.quant.grid.fake_quantize`, as all others.
    """
    trains = torch.is_grad_enabled() and x.requires_grad
    one_step = parameter.numel() == 1 and (offset is None or offset.numel() == 1)
    if not (trains and one_step and not on_gpu(x) and fits(x) and readable(x, parameter, offset)):
        return fake_quantize_fused(activation(x), parameter, grid, gradient_scale, offset, ewgs)
    call, function = Call(grid, gradient_scale, ewgs), FUNCTIONS[type(activation)]
    result: Tensor = _FunctionQuantize.apply(x, parameter, offset, call, function)
    if Memory.active is not None and Memory.active.makes_again(x):
        held, size, shift = held_by(x, parameter, offset)
        again = partial(_activated, held, size, shift, call, function)
        Memory.active.quantized(result, x, again, partial(encoded, size, shift, grid))
    return result


def _activated(
    x: Tensor, parameter: Tensor, offset: Tensor | None, call: Call, function: int
) -> Tensor:
    x, y = dense(x)
    given = (kernels.settings(*call), parameter, offset)
    kernels.call("function_quantize_forward", *given, x, y, x.numel(), function)
    return y


class _FunctionQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, parameter: Tensor, offset: Tensor | None, call: Call, function: int
    ) -> Tensor:
        ctx.save_for_backward(x, parameter, offset)
        ctx.call, ctx.function = call, function
        return _activated(x, parameter, offset, call, function)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, parameter, offset = ctx.saved_tensors
        x, grad_x = dense(x)
        grad = as_laid_out(grads[0], x)
        grad_parameter = torch.empty_like(parameter)
        grad_offset = None if offset is None else torch.empty_like(offset)
        kernels.call(
            *("function_quantize_backward", kernels.settings(*ctx.call), parameter, offset, x),
            *(grad, grad_x, x.numel(), ctx.function, grad_parameter, grad_offset),
        )
        return grad_x, grad_parameter, grad_offset, None, None


def _layout_fits(x: Tensor) -> bool:
    """Tell whether there is a kernel for the type and the layout of ``x``."""
    if x.is_contiguous():
        return fits(x)
    return x.is_contiguous(memory_format=torch.channels_last) and fits(x, ON_CPU)


def _kernel(direction: str, x: Tensor) -> tuple[str, tuple[int, ...]]:
    """Return the kernel for the layout of ``x``, and the sizes that it is told.

    Args:
        direction: ``forward`` or ``backward``.
        x: ``(N, C, H, W)``, contiguous or channels_last.
    """
    n, c, h, w = x.shape
    if x.is_contiguous():
        return f"norm_quantize_{direction}", (n, c, h * w)
    return f"norm_quantize_rows_{direction}{ON_CPU[x.dtype]}", (n * h * w, c)


def _normed_again(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    parameter: Tensor,
    offset: Tensor | None,
    statistics: tuple[Tensor, Tensor],
    way: _Way,
) -> Tensor:
    """Return what :class:`_NormQuantize` has made of ``x``, from the statistics it found."""
    name, sizes = _kernel("forward", x)
    y, settings = torch.empty_like(x), kernels.settings(*way.call)
    kernels.call(
        name,
        *(settings, parameter, offset, x, y, *sizes, way.function),
        *(weight, bias, way.eps, -2.0, None, None, *statistics),
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
        way: _Way,
    ) -> Tensor:
        name, sizes = _kernel("forward", x)
        y = torch.empty_like(x)
        settings = kernels.settings(*way.call)
        ctx.settings, ctx.function = settings, way.function
        momentum = float(norm.momentum or 0.0) if moves else -1.0
        kernels.call(
            name,
            *(settings, parameter, offset, x, y, *sizes, way.function),
            *(weight, bias, way.eps, momentum, norm.running_mean, norm.running_var),
            *statistics,
        )
        ctx.save_for_backward(x, weight, bias, parameter, offset, *statistics)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, bias, parameter, offset, mean, inverse = ctx.saved_tensors
        name, sizes = _kernel("backward", x)
        grad = as_laid_out(grads[0], x)
        grad_x, grad_weight, grad_bias = (torch.empty_like(t) for t in (x, weight, bias))
        grad_parameter = torch.empty_like(parameter)
        grad_offset = None if offset is None else torch.empty_like(offset)
        kernels.call(
            name,
            *(ctx.settings, parameter, offset, x, grad, grad_x),
            *(*sizes, ctx.function, weight, bias, mean, inverse),
            *(grad_weight, grad_bias, grad_parameter, grad_offset),
        )
        return grad_x, grad_weight, grad_bias, grad_parameter, grad_offset, None, None, None, None
