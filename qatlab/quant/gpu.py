"""The kernels of a GPU, in Triton: one launch each way for a site, one or two for a weight.

The formulas are those of ``functional.py``, in float32 whatever the tensors hold; the gradient of a
step is summed inside of the launch, block by block, and nothing is read back by the host. With
``TRITON_INTERPRET=1`` they run on CPU tensors, which is how they are tested where no GPU is.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from qatlab.quant.functional import sat_largest, sat_shift, sat_slope
from qatlab.quant.grid import AT_END, SMALLEST, Grid, fake_quantize, lsq_grid

log = logging.getLogger(__name__)
BLOCK = 1024
MIDDLE = 12582912.0  # 1.5 * 2**23: float32 has no fractions there, so adding it rounds half to even
# Products and sums are rounded one by one, as torch does it, so that levels are the same.
EXACT = {"enable_fp_fusion": False}


@triton.jit
def _ends(parameter, q_min, q_max, divisor, smallest: tl.constexpr):
    """Low and high end, steps in a unit, and step."""
    size = tl.abs(parameter).to(tl.float32)
    size = tl.where(size < smallest, smallest, size)
    low = size * tl.div_rn(q_min, divisor)
    high = size * tl.div_rn(q_max, divisor)
    return low, high, tl.div_rn(divisor, size), tl.div_rn(size, divisor)


@triton.jit
def _rounded(v, middle: tl.constexpr):
    return (v + middle) - middle


@triton.jit
def _clipped(z, low, high):
    raised = tl.where(z < low, low, z)  # a NaN stays one
    return tl.where(raised > high, high, raised)


@triton.jit
def _forward_kernel(
    x_ptr, y_ptr, parameter_ptr, offset_ptr, columns, q_min, q_max, divisor,
    HAS_OFFSET: tl.constexpr, smallest: tl.constexpr, middle: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    x = tl.load(x_ptr + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(offset_ptr).to(tl.float32) if HAS_OFFSET else 0.0
    low, high, inverse, step = _ends(tl.load(parameter_ptr + row), q_min, q_max, divisor, smallest)
    y = _rounded(_clipped(x - offset, low, high) * inverse, middle) * step + offset
    tl.store(y_ptr + row * columns + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    x_ptr, grad_ptr, grad_x_ptr, sums_ptr, offset_sums_ptr, parameter_ptr, offset_ptr, columns,
    blocks, q_min, q_max, divisor, ewgs, HAS_OFFSET: tl.constexpr, CLOSED: tl.constexpr,
    CLOSED_BELOW: tl.constexpr, RESIDUAL: tl.constexpr, smallest: tl.constexpr,
    at_end: tl.constexpr, middle: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < columns
    x = tl.load(x_ptr + row * columns + at, mask=there, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * columns + at, mask=there, other=0.0).to(tl.float32)
    z = x - (tl.load(offset_ptr).to(tl.float32) if HAS_OFFSET else 0.0)
    low, high, inverse, _ = _ends(tl.load(parameter_ptr + row), q_min, q_max, divisor, smallest)
    v = _clipped(z, low, high) * inverse
    index = _rounded(v, middle)
    near = (high - low) * at_end
    above, below = z > low + near, z < high - near
    inside = above & below
    if CLOSED:
        below = z <= high + near
    if CLOSED_BELOW:
        above = z >= low - near
    through = grad + tl.abs(grad) * ((v - index) * ewgs)
    grad_x = tl.where(above & below, through, 0.0).to(grad_x_ptr.dtype.element_ty)
    tl.store(grad_x_ptr + row * columns + at, grad_x, mask=there)
    slope = tl.where(inside, index - v if RESIDUAL else 0.0, index)
    tl.store(sums_ptr + row * blocks + block, tl.sum(grad * slope))
    if HAS_OFFSET:
        tl.store(offset_sums_ptr + row * blocks + block, tl.sum(tl.where(inside, 0.0, grad)))


def fake_quantize_forward(
    x: Tensor, parameter: Tensor, offset: Tensor | None, grid: Grid, y: Tensor
) -> None:
    """Write ``fake_quantize(x)`` to ``y``; both are dense, with a parameter for each row."""
    rows = parameter.numel()
    columns = x.numel() // rows
    if x.numel() == 0:
        return
    _forward_kernel[(rows, triton.cdiv(columns, BLOCK))](
        *(x, y, parameter, parameter if offset is None else offset, columns),
        *(float(grid.q_min), float(grid.q_max), float(grid.divisor)),
        HAS_OFFSET=offset is not None,
        smallest=SMALLEST,
        middle=MIDDLE,
        BLOCK=BLOCK,
        **EXACT,
    )


def fake_quantize_backward(
    x: Tensor,
    grad: Tensor,
    parameter: Tensor,
    offset: Tensor | None,
    grid: Grid,
    gradient_scale: float,
    ewgs: float,
    grad_x: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of ``x``; return those of parameter and offset."""
    rows = parameter.numel()
    columns = x.numel() // rows
    blocks = triton.cdiv(columns, BLOCK)
    sums = torch.zeros(2, rows, blocks, device=x.device)
    if x.numel():
        _backward_kernel[(rows, blocks)](
            *(x, grad, grad_x, sums[0], sums[1], parameter),
            *(parameter if offset is None else offset, columns, blocks),
            *(float(grid.q_min), float(grid.q_max), float(grid.divisor)),
            ewgs / (grid.q_max - grid.q_min),
            HAS_OFFSET=offset is not None,
            CLOSED=grid.closed,
            CLOSED_BELOW=grid.closed and grid.q_min < 0,
            RESIDUAL=grid.residual,
            smallest=SMALLEST,
            at_end=AT_END,
            middle=MIDDLE,
            BLOCK=BLOCK,
            **EXACT,
        )
    grad_parameter = sums[0].sum(1).view(parameter.shape) * (gradient_scale / grid.divisor)
    if not grid.closed:
        grad_parameter = torch.where(parameter < 0, -grad_parameter, grad_parameter)
    grad_offset = None if offset is None else (sums[1].sum() * gradient_scale).to(offset.dtype)
    return grad_parameter.to(parameter.dtype), grad_offset


@triton.jit
def _tanh(x):
    """As in ``kernels.cpp``."""
    a = tl.minimum(tl.abs(x), 10.0)
    z = a * a
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    near = p * z * a + a
    far = 1.0 - tl.div_rn(2.0, tl.exp(2.0 * a) + 1.0)
    t = tl.where(a < 0.625, near, far)
    return tl.where(x < 0, -t, t)


@triton.jit
def _sat_forward_kernel(
    w_ptr, q_ptr, largest_ptr, count, n, half, moved, shift, QUANTIZED: tl.constexpr,
    KIND: tl.constexpr, middle: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    w = tl.load(w_ptr + at, mask=there, other=0.0).to(tl.float32)
    q = tl.div_rn(_tanh(w), tl.load(largest_ptr))
    if KIND == "asymmetric":
        q = moved * q - shift
    if QUANTIZED:
        if KIND == "symmetric" or KIND == "asymmetric":  # Triton has no `in`
            q = tl.div_rn(_rounded(half * q, middle), half)
        else:
            position = (q + 1.0) * 0.5
            if KIND == "centered":
                index = tl.minimum(tl.floor((n + 1.0) * position), n)
                q = tl.div_rn(2.0 * index - n, n + 1.0)
            else:
                if KIND == "full_range":
                    position = moved * position - shift
                index = tl.minimum(_rounded(n * position, middle), n)
                q = tl.div_rn(2.0 * index - n, n)
    tl.store(q_ptr + at, q.to(q_ptr.dtype.element_ty), mask=there)


@triton.jit
def _sat_backward_kernel(w_ptr, grad_ptr, grad_w_ptr, slope_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    t = _tanh(tl.load(w_ptr + at, mask=there, other=0.0).to(tl.float32))
    grad = tl.load(grad_ptr + at, mask=there, other=0.0).to(tl.float32)
    grad_w = grad * (1.0 - t * t) * tl.load(slope_ptr)
    tl.store(grad_w_ptr + at, grad_w.to(grad_w_ptr.dtype.element_ty), mask=there)


def sat_weight_forward(
    weight: Tensor, n_steps: int, grid: str, quantized: bool, fan: float, q: Tensor
) -> Tensor:
    """Write what SAT makes of dense weights to ``q``; return the slope, a scalar."""
    factor, shift = sat_slope(n_steps, grid), sat_shift(n_steps, grid)
    largest = sat_largest(weight.abs().amax().float())
    _sat_forward_kernel[(triton.cdiv(weight.numel(), BLOCK),)](
        *(weight, q, largest, weight.numel(), float(n_steps), float(n_steps // 2), factor, shift),
        QUANTIZED=quantized,
        KIND=grid,
        middle=MIDDLE,
        BLOCK=BLOCK,
        **EXACT,
    )
    slope = factor / largest
    if fan > 0:
        scale = (q.var() * fan).sqrt()
        q.div_(scale)
        slope = slope / scale
    return slope


def sat_weight_backward(weight: Tensor, grad: Tensor, slope: Tensor, grad_weight: Tensor) -> None:
    """Write the gradient of dense weights."""
    _sat_backward_kernel[(triton.cdiv(weight.numel(), BLOCK),)](
        weight, grad, grad_weight, slope, weight.numel(), BLOCK=BLOCK, **EXACT
    )


@cache
def available(device: torch.device) -> bool:
    """Tell whether the kernels run on a device; they are tried once, and compared."""
    x, step = torch.linspace(-2, 2, 100, device=device), torch.tensor(0.2, device=device)
    # NaN: memory that nobody writes may still hold the right answer of an earlier call.
    y, grad_x, grid = torch.full_like(x, torch.nan), torch.empty_like(x), lsq_grid(15, True)
    try:
        fake_quantize_forward(x, step, None, grid, y)
        fake_quantize_backward(x, x, step, None, grid, 1.0, 0.0, grad_x)
        right = torch.equal(y, fake_quantize(x, step, grid))
        reason = "" if right else "its kernels give wrong values"
    except Exception as error:  # of Triton, its compiler or the driver: it only costs time
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if reason:
        log.warning(
            "quantizers run as torch operations, which is slower, as Triton cannot be used: %s",
            reason,
        )
    return not reason
