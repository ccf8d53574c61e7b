"""The fused way to compute: one kernel each way, which keeps its input only.

The operations of :mod:`qatlab.quant.functional` make some twenty passes over memory for a site or a
weight. The functions here give the same results from the kernels of ``kernels.cpp`` for float32 on
a CPU (:func:`fake_quantize_fused` for bfloat16, too), and from those of ``gpu.py``. Where these do
not fit, and inside of a compiled model, the definition is used.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qatlab.quant import kernels
from qatlab.quant.functional import GRIDS, Scaling, dorefa_weight, sat_fan, sat_weight
from qatlab.quant.grid import Grid, fake_quantize
from qatlab.quant.memory import Memory

LARGE = 1 << 23  # weights, 32 MB, from where memory is mapped for each tensor anew
ON_CPU = {torch.float32: "", torch.bfloat16: "_bf16"}  # endings of the kernels for a type
ON_GPU = (torch.float32, torch.bfloat16, torch.float16)  # types that the kernels of a GPU read


def fake_quantize_fused(
    x: Tensor,
    parameter: Tensor,
    grid: Grid,
    gradient_scale: float = 1.0,
    offset: Tensor | None = None,
    ewgs: float = 0.0,
) -> Tensor:
    """Same as :func:`~qatlab.quant.grid.fake_quantize`, in the cheapest way that fits."""
    # A parameter for each row of x, or one for all; but one offset.
    rows_fit = parameter.numel() == 1 or parameter.shape == (x.shape[0], *(1,) * (x.ndim - 1))
    rows_fit = rows_fit and (offset is None or offset.numel() == 1)
    if not (rows_fit and fits(x, ON_CPU) and readable(x, parameter, offset)):
        return fake_quantize(x, parameter, grid, gradient_scale, offset, ewgs)
    call = Call(grid, gradient_scale, ewgs)
    result: Tensor = _FakeQuantize.apply(x, parameter, offset, call)
    if Memory.active is not None and Memory.active.makes_again(x) and result.requires_grad:
        made_of, size, shift = held_by(x, parameter, offset)
        again = partial(_quantized, made_of, size, shift, call)
        Memory.active.quantized(result, x, again, partial(encoded, size, shift, grid))
    return result


def block_zero_gradient(x: Tensor, parameter: Tensor, grid: Grid) -> Tensor:
    """Return ``x``, but no gradient reaches it where its quantized value is 0.

    In front of a quantizer it leaves the gradients of that one's parameters as they are. So N2D2
    computes a ``Rectifier`` with a quantizer: the derivative of the rectifier is taken at the
    quantized value, and is 0 for what was rounded to 0. The backward pass rounds once more.

    Args:
        x: see :func:`~qatlab.quant.grid.fake_quantize`, as all others.
    """
    result: Tensor = _BlockZeroGradient.apply(x, parameter, grid)
    return result


def sat_weight_fused(
    weight: Tensor,
    n_steps: int,
    grid: str,
    quantized: bool,
    scaling: Scaling,
    statistics_gradient: bool = False,
) -> Tensor:
    """Same as :func:`~qatlab.quant.functional.sat_weight`; fused if statistics are held constant.

    Its tanh is another one: a weight less than 1e-6 from the middle of two levels may fall to the
    other side.
    """
    arguments = (n_steps, grid, quantized, scaling)
    if statistics_gradient:
        return weight_by_definition(lambda w: sat_weight(w, *arguments, True), weight)
    if not fits(weight) or weight.numel() == 0:
        return sat_weight(weight, *arguments)
    found = weight.new_empty(3)
    result: Tensor = _SatWeight.apply(weight, found, *arguments)
    if Memory.active is not None and result.requires_grad:
        held = weight.detach()
        again = lambda: _sat_quantized(held, found, True, *arguments)[1]  # noqa: E731
        Memory.active.quantized(result, weight, again, _not_encoded)
    return result


def dorefa_weight_fused(weight: Tensor, n_steps: int) -> Tensor:
    """Same as :func:`~qatlab.quant.functional.dorefa_weight`.

    Its values are those of SAT's kernel, with the tanh of :func:`sat_weight_fused`.
    """
    if n_steps == 1 or not fits(weight) or weight.numel() == 0:
        return weight_by_definition(partial(dorefa_weight, n_steps=n_steps), weight)
    found = weight.new_empty(3)
    result: Tensor = _DorefaWeight.apply(weight, found, n_steps)
    if Memory.active is not None and result.requires_grad:
        held = weight.detach()
        arguments = (n_steps, "default", True, False)
        again = lambda: _sat_quantized(held, found, True, *arguments)[1]  # noqa: E731
        Memory.active.quantized(result, weight, again, _not_encoded)
    return result


def weight_by_definition(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """Return ``function(weight)``, a quantized weight for which there is no kernel.

    In a :class:`~qatlab.quant.memory.Memory` it keeps its input only, as kernels do: the function
    runs once more to be differentiated, and once more where its result is needed.

    Args:
        function: differentiable operations.
        weight: any shape.
    """
    if Memory.active is None or not (weight.requires_grad and torch.is_grad_enabled()):
        return function(weight)
    result: Tensor = _ByDefinition.apply(weight, function)
    held = weight.detach()
    Memory.active.quantized(result, weight, lambda: function(held), _not_encoded)
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Same as :func:`torch.nn.functional.linear`, with the same gradients to the last bit.

    Autograd's gradient of large weights is new memory in small pages, which takes longer to get
    than to fill; here it comes in large ones.

    Args:
        x: ``(N, ..., C_in)``.
        weight: quantized, ``(C_out, C_in)``.
        bias: ``(C_out,)``.
    """
    plain = x.ndim == 2 and all(t is None or t.dtype is torch.float32 for t in (x, bias))
    plain = plain and not torch.is_autocast_enabled("cpu") and not on_gpu(x)
    if weight.numel() < LARGE or not (plain and weight.requires_grad and fits(weight)):
        return torch.nn.functional.linear(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias)
    return result


def fits(x: Tensor, on_cpu: Container[torch.dtype] = (torch.float32,)) -> bool:
    """Tell whether there are kernels for ``x``.

    Args:
        x: any shape.
        on_cpu: the types for which there are some on a CPU.
    """
    if torch.compiler.is_compiling():
        return False
    if on_gpu(x):
        return x.dtype in ON_GPU and _gpu() is not None and bool(_gpu().available(x.device))
    return x.dtype in on_cpu and x.device.type == "cpu" and kernels.available()


def readable(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether kernels for ``x`` read what is given beside it as it is."""
    types = ON_GPU if on_gpu(x) else (torch.float32,)
    return all(
        other.dtype in types and other.device == x.device and other.is_contiguous()
        for other in others
        if other is not None
    )


class Call(NamedTuple):
    """What a quantizer is told beside tensors."""

    grid: Grid
    gradient_scale: float
    ewgs: float


def on_gpu(x: Tensor) -> bool:
    """Tell whether ``x`` is one for the kernels of a GPU."""
    return x.is_cuda


@cache
def _gpu() -> Any:
    """Return the kernels of a GPU, None without Triton."""
    try:
        return import_module("qatlab.quant.gpu")
    except ImportError:
        return None


def dense(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x``, copied if its memory has gaps, and an empty tensor of the same layout."""
    like = torch.empty_like(x)
    if like.stride() != x.stride():
        x = x.contiguous()
        like = torch.empty_like(x)
    return x, like


def as_laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """Return ``grad`` in the memory layout of ``x``."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)


def _rows(x: Tensor, parameter: Tensor) -> tuple[int, int]:
    rows = parameter.numel()
    return rows, x.numel() // rows


def held_by(*tensors: Tensor | None) -> Any:
    """Return the tensors as what is made again holds them: without their history."""
    return [None if tensor is None else tensor.detach() for tensor in tensors]


def _quantized(x: Tensor, parameter: Tensor, offset: Tensor | None, call: Call) -> Tensor:
    if parameter.numel() > 1:
        x = x.contiguous()  # a row has to be one piece
    x, y = dense(x)
    if on_gpu(x):
        _gpu().fake_quantize_forward(x, parameter, offset, call.grid, y)
    else:
        settings = kernels.settings(*call)
        rows = _rows(x, parameter)
        name = "fake_quantize_forward" + ON_CPU[x.dtype]
        kernels.call(name, settings, parameter, offset, x, y, *rows)
    return y


def encoded(
    parameter: Tensor, offset: Tensor | None, grid: Grid, y: Tensor
) -> Callable[[], Tensor] | None:
    """Turn values on a grid of one step into codes, and return what decodes them."""
    bits = (grid.q_max - grid.q_min).bit_length()
    width = next((w for w in (1, 2, 4, 8) if w >= bits), None)
    like = torch.empty_like(y, device="meta")
    fits_codes = y.dtype is torch.float32 and like.stride() == y.stride()
    if width is None or not fits_codes or parameter.numel() > 1:
        return None
    count, settings = y.numel(), kernels.settings(grid, 1.0, 0.0)
    codes = torch.empty(-(-count * width // 8), dtype=torch.uint8)
    kernels.call("encode", settings, parameter, offset, y, codes, count, width)

    def decoded() -> Tensor:
        values = torch.empty_like(like, device="cpu")
        kernels.call("decode", settings, parameter, offset, codes, values, count, width)
        return values

    return decoded


def _not_encoded(y: Tensor) -> None:
    """Weights are made again; none is ever kept as codes."""


def _sat_quantized(
    weight: Tensor,
    found: Tensor,
    known: bool,
    n_steps: int,
    grid: str,
    quantized: bool,
    scaling: Scaling,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight, laid out densely, what SAT makes of it, and the slope.

    Args:
        weight: float weights, any shape.
        found: where a kernel of the CPU keeps what it finds, ``(3,)``.
        known: whether it has found it earlier.
        n_steps: see :func:`~qatlab.quant.functional.sat_weight`, as all others.
    """
    weight, q = dense(weight)
    fan = sat_fan(weight, scaling)
    if on_gpu(weight):
        slope: Tensor = _gpu().sat_weight_forward(weight, n_steps, grid, quantized, fan, q)
        return weight, q, slope
    kernels.call(
        *("sat_weight_forward", weight, q, found, weight.numel(), known),
        *(n_steps, GRIDS.index(grid), quantized, float(fan)),
    )
    return weight, q, found[0]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        parameter: Tensor,
        offset: Tensor | None,
        call: Call,
    ) -> Tensor:
        ctx.save_for_backward(x, parameter, offset)
        ctx.call = call
        return _quantized(x, parameter, offset, call)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, parameter, offset = ctx.saved_tensors
        x = x.contiguous() if parameter.numel() > 1 else dense(x)[0]
        grad = as_laid_out(grads[0], x)
        grad_x = torch.empty_like(x)
        if on_gpu(x):
            backward = _gpu().fake_quantize_backward
            return (
                grad_x,
                *backward(x, grad, parameter, offset, *ctx.call, grad_x),
                None,
            )
        grad_parameter = torch.empty_like(parameter)
        grad_offset = None if offset is None else torch.empty_like(offset)
        name = "fake_quantize_backward" + ON_CPU[x.dtype]
        kernels.call(
            *(name, kernels.settings(*ctx.call), parameter, offset, x, grad),
            *(grad_x, grad_parameter, grad_offset, *_rows(x, parameter)),
        )
        return grad_x, grad_parameter, grad_offset, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.again = None if Memory.active is None else Memory.active.rebuild(weight)
        ctx.save_for_backward(x, weight if ctx.again is None else None)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (grad,), (x, kept) = grads, ctx.saved_tensors
        weight = kept if ctx.again is None else ctx.again()
        of_input, _, of_bias = ctx.needs_input_grad
        grad_x = grad @ weight if of_input else None
        grad_weight = weight  # what was made for this pass alone can be written over
        if ctx.again is None:
            grad_weight = torch.empty_like(weight)
            kernels.call("large_pages", grad_weight, grad_weight.numel())
        torch.mm(grad.t(), x, out=grad_weight)
        return grad_x, grad_weight, grad.sum(0) if of_bias else None


class _BlockZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(x, parameter)
        ctx.grid = grid
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, parameter = ctx.saved_tensors
        y = fake_quantize_fused(x, parameter, ctx.grid)
        # The derivative of a ReLU, in one pass: grad where |y| > 0 or not a number.
        grad_x: Tensor = torch.ops.aten.threshold_backward(grads[0], y.abs(), 0)
        return grad_x, None, None


class _SatWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, found: Tensor, *arguments: Any) -> Tensor:
        weight, q, slope = _sat_quantized(weight, found, False, *arguments)
        ctx.save_for_backward(weight, slope)
        return q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _through_tanh(ctx, grads[0])[0], None, None, None, None, None


class _DorefaWeight(torch.autograd.Function):
    """SAT's values; the gradient flows through the maximum, too."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, found: Tensor, n_steps: int) -> Tensor:
        weight, q, slope = _sat_quantized(weight, found, False, n_steps, "default", True, False)
        ctx.save_for_backward(weight, slope)
        return q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad_weight, weight, grad, slope = _through_tanh(ctx, grads[0])
        # u = t / m, m = tanh(max|w|): du/dm = -t / m^2, dm/dw = (1 - m^2) sign(w) at the maximum.
        size = weight.abs()
        largest = size == size.amax()
        of_maximum = -(grad * weight.tanh()).sum() * (slope * slope - 1) / largest.sum()
        return grad_weight + torch.where(largest, of_maximum * weight.sign(), 0.0), None, None


def _through_tanh(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``grad * (1 - tanh(w)^2) * slope``, and ``w``, ``grad`` laid out alike, and slope."""
    weight, slope = ctx.saved_tensors
    grad = as_laid_out(grad, weight)
    grad_weight = torch.empty_like(weight)
    if on_gpu(weight):
        _gpu().sat_weight_backward(weight, grad, slope, grad_weight)
    else:
        kernels.call("sat_weight_backward", weight, grad, grad_weight, slope, weight.numel())
    return grad_weight, weight, grad, slope


class _ByDefinition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.function = function
        return function(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = weight.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(ctx.function(leaf), leaf, grads[0])
        return gradient, None
