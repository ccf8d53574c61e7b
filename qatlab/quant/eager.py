"""Hand-written backward passes for eager training on a CPU.

Autograd over :mod:`qatlab.quant.functional` makes some thirty passes over memory for a site and
launches some thirty operations for a weight. Here a site costs four cheap passes forward and five
backward, and keeps its input and its output (which the next layer keeps anyway); a weight costs a
third of the operations. Where these do not fit - on a GPU, under the compiler, in half precision -
the readable definition is used. Both give the same levels.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor

from qatlab.quant.functional import cg_pact, sat_weight

_local = threading.local()


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
    """CG-PACT with a closed form for the gradient of alpha."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, n_steps: int, signed: bool) -> Tensor:
        a = alpha.abs().to(x.dtype)
        steps = n_steps // 2 if signed else n_steps
        y = torch.clamp(x, -a.item() if signed else 0.0, a.item())
        y.mul_((steps / a).item()).round_().mul_((a / steps).item())
        ctx.save_for_backward(x, y, a)
        ctx.signed, ctx.alpha_dtype = signed, alpha.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        x, y, a = ctx.saved_tensors
        aten = torch.ops.aten
        clip = a.item()
        # hardtanh's backward blocks x <= low and x >= high, but x = a has to pass.
        high = torch.nextafter(a, a.new_tensor(math.inf)).item()
        grad_x = aten.hardtanh_backward(grad, x, -high if ctx.signed else 0.0, high)
        # dy/dalpha is (y - x) / a inside the clip range, 1 from x = a on, -1 up to a signed -a.
        part = torch.sub(y, x, out=_scratch_like(x))
        total = _dot(grad_x, part) / a
        if ctx.signed:
            aten.hardtanh_backward.grad_input(grad, x, -clip, clip, grad_input=part)
            torch.sub(grad, part, out=part)
            total = total + _dot(part, y) / a
        else:
            below = torch.nextafter(a, a.new_tensor(0.0)).item()
            aten.threshold_backward.grad_input(grad, x, below, grad_input=part)
            total = total + part.sum()
        return grad_x, total.to(ctx.alpha_dtype), None, None


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


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of ``a * b``, by one pass where both lie in memory alike."""
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    if a.ndim == 4:
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
        if a.is_contiguous() and b.is_contiguous():  # channels_last
            return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()


def _scratch_like(x: Tensor) -> Tensor:
    """Return memory in the shape of ``x``, valid until the next call in this thread.

    A new tensor of this size costs more in page faults than the arithmetic done in it.
    """
    key = f"scratch_{x.dtype}"
    buffer: Tensor | None = getattr(_local, key, None)
    if buffer is None or buffer.numel() < x.numel():
        buffer = torch.empty(x.numel(), dtype=x.dtype)
        setattr(_local, key, buffer)
    if x.is_contiguous():
        return buffer[: x.numel()].view(x.shape)
    return buffer[: x.numel()].as_strided(x.shape, torch.empty_like(x, device="meta").stride())
