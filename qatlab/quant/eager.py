"""The hand-written backward of CG-PACT that eager training on a CPU uses.

Autograd over :func:`qatlab.quant.functional.cg_pact` keeps five tensors and makes some thirty
passes over memory. This one keeps the input and the output (which the next layer keeps anyway)
and makes four cheap passes forward and five backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qatlab.quant.functional import cg_pact


def cg_pact_eager(x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False) -> Tensor:
    """Same as :func:`~qatlab.quant.functional.cg_pact`, in the cheapest way that fits ``x``."""
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if torch.compiler.is_compiling() or not plain:
        return cg_pact(x, alpha, n_steps, signed)
    result: Tensor = _CgPact.apply(x, alpha, n_steps, signed)
    return result


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
        # hardtanh's backward blocks x <= low and x >= high, but x = a has to pass.
        high = torch.nextafter(a, a.new_tensor(math.inf)).item()
        grad_x = torch.ops.aten.hardtanh_backward(grad, x, -high if ctx.signed else 0.0, high)
        # sum(grad * dy/dalpha) = [sum_inside grad (y - x) + sum_outside grad y] / a,
        # because y is 0 below the clip range, a above it and -a below a signed one.
        part = torch.sub(y, x)
        total = _dot(grad_x, part)
        torch.sub(grad, grad_x, out=part)
        total = (total + _dot(part, y)) / a
        return grad_x, total.to(ctx.alpha_dtype), None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of ``a * b``, by one pass where both lie in memory alike."""
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    if a.ndim == 4:
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
        if a.is_contiguous() and b.is_contiguous():  # channels_last
            return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()
