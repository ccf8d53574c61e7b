"""Hand-written backward passes for eager training on a CPU.

Autograd over :mod:`qatlab.quant.functional` makes some thirty passes over memory for a site and
launches some thirty operations for a weight. Here a site costs one pass forward and one backward,
and keeps its input only; a weight costs a third of the operations. Where these do not fit - on a
GPU, inside of a compiled model, in half precision - the readable definition is used. Both give the
same levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qatlab.quant.functional import (
    cg_pact,
    cg_pact_passes,
    cg_pact_slope,
    clip_and_round,
    clip_value,
    sat_weight,
)
from qatlab.quant.kernels import Kernel


def cg_pact_eager(x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False) -> Tensor:
    """Same as :func:`~qatlab.quant.functional.cg_pact`, in the cheapest way that fits ``x``."""
    if not _fits(x):
        return cg_pact(x, alpha, n_steps, signed)
    result: Tensor = _CgPact.apply(x, alpha, n_steps, signed)
    return result


def sat_weight_eager(
    weight: Tensor, n_steps: int, grid: str, quantized: bool, scaling: bool
) -> Tensor:
    """Same as :func:`~qatlab.quant.functional.sat_weight`, whose statistics are held constant."""
    if not _fits(weight):
        return sat_weight(weight, n_steps, grid, quantized, scaling)
    result: Tensor = _SatWeight.apply(weight, n_steps, grid, quantized, scaling)
    return result


def _fits(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return plain and not torch.compiler.is_compiling()


class _CgPact(torch.autograd.Function):
    """CG-PACT with a closed form for the gradient of alpha; keeps its input only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, n_steps: int, signed: bool) -> Tensor:
        a = clip_value(alpha, x.dtype)
        steps = a.new_tensor(n_steps // 2 if signed else n_steps)
        ctx.save_for_backward(x, a, steps)
        ctx.signed, ctx.alpha_dtype = signed, alpha.dtype
        return _like(x, _cg_pact(_flat(x), a, steps, signed))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, a, steps = ctx.saved_tensors
        (grad,) = grads
        if grad.stride() != x.stride():
            grad = torch.empty_like(x).copy_(grad)
        grad_x, grad_alpha = _cg_pact_backward(_flat(x), _flat(grad), a, steps, ctx.signed)
        return _like(x, grad_x), grad_alpha.to(ctx.alpha_dtype), None, None


@Kernel
def _cg_pact(x: Tensor, a: Tensor, steps: Tensor, signed: bool) -> Tensor:
    return clip_and_round(x, a, steps, signed)[1]


@Kernel
def _cg_pact_backward(
    x: Tensor, grad: Tensor, a: Tensor, steps: Tensor, signed: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and of alpha."""
    clipped, y = clip_and_round(x, a, steps, signed)
    grad_x = torch.where(cg_pact_passes(x, a, signed), grad, 0.0)
    return grad_x, (grad * cg_pact_slope(clipped, y, a)).sum()


def _flat(x: Tensor) -> Tensor:
    """Return the elements in the order of memory; a copy only of what lies there with gaps."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.contiguous().view(-1)


def _like(x: Tensor, flat: Tensor) -> Tensor:
    """Return what ``_flat`` made of ``x`` in the shape of ``x``."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        shaped = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        shaped = flat.view(x.shape)
    # The same memory, but no view of it: a view could not be changed in place.
    whole: Tensor = torch.empty(0, dtype=flat.dtype).set_(
        flat.untyped_storage(), flat.storage_offset(), shaped.size(), shaped.stride()
    )
    return whole


class _SatWeight(torch.autograd.Function):
    """SAT's transform, grid and scaling, whose derivative is that of tanh times a constant."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, n_steps: int, grid: str, quantized: bool, scaling: bool
    ) -> Tensor:
        tanh = weight.tanh()
        largest = weight.abs().amax().tanh()
        q = tanh / largest
        half = n_steps // 2
        factor = 1.0
        if grid == "asymmetric":
            factor = 1 + 1 / (2 * half)
            q.mul_(factor).sub_(1 / (2 * half))
        elif grid == "full_range":
            factor = 1 + 0.9998 / n_steps  # in the clamp phase of the gradient only, as in N2D2
        if quantized and grid in ("symmetric", "asymmetric"):
            q.mul_(half).round_().div_(half)
        elif quantized:
            q.add_(1).div_(2)
            if grid == "full_range":
                q.mul_(factor).sub_(0.4999 / n_steps)
            q.mul_(n_steps).round_().clamp_(max=n_steps).mul_(2).sub_(n_steps).div_(n_steps)
        slope = factor / largest
        if scaling:
            scale = (q.var() * (weight.shape[0] * weight[0, 0].numel())).sqrt()
            q.div_(scale)
            slope = slope / scale
        ctx.save_for_backward(tanh, slope)
        return q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        tanh, slope = ctx.saved_tensors
        grad = torch.ops.aten.tanh_backward(grads[0], tanh)  # 1 / cosh(w)^2 = 1 - tanh(w)^2
        return grad.mul_(slope), None, None, None, None
