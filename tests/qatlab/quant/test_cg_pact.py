"""CG-PACT, the readable and the fast one, against N2D2's formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from methods import cg_pact, cg_pact_fused
from numpy.typing import NDArray
from torch import Tensor

from qatlab.quant.grid import AT_END

Array = NDArray[np.float64]
BOTH = pytest.mark.parametrize("function", [cg_pact, cg_pact_fused])
SIGNED = pytest.mark.parametrize("signed", [False, True])


def expected(
    x: Array, g: Array, alpha: float, n_steps: int, signed: bool
) -> tuple[Array, Array, float]:
    """Outputs and both gradients, from the formulas; what is near to an end lies there."""
    a, low = abs(alpha), -abs(alpha) if signed else 0.0
    for end in (low, a):
        x = np.where(np.abs(x - end) <= (a - low) * AT_END, end, x)
    steps = n_steps // 2 if signed else n_steps
    c = np.clip(x, low, a) / a
    q = np.rint(steps * c) / steps
    passes = (x <= a) & (x >= low if signed else x > 0)
    h = np.where(x >= a, 1.0, q - c)
    if signed:
        h = np.where(x <= low, -1.0, h)
    return a * q, g * passes, float((g * h).sum())


def run(
    function: Any, x: Tensor, g: Tensor, alpha: float | Tensor, n_steps: int, signed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    alpha = torch.as_tensor(alpha).clone().requires_grad_()
    y = function(x, alpha, n_steps, signed)
    y.backward(g)
    assert x.grad is not None
    assert alpha.grad is not None
    return y.detach(), x.grad, alpha.grad


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# alpha = 3, three steps of 1: the grid is 0, 1, 2, 3
@BOTH
@pytest.mark.parametrize(
    ("x", "y", "grad_x", "grad_alpha"),
    [
        (-1.0, 0.0, 0.0, 0.0),  # below
        (0.0, 0.0, 0.0, 0.0),  # N2D2 blocks 0
        (1e-6, 0.0, 0.0, 0.0),  # 0, but for the noise of a sum
        (1e-3, 0.0, 1.0, -1e-3 / 3),
        (0.5, 0.0, 1.0, -0.5 / 3),  # half way: to the even index 0
        (1.4, 1.0, 1.0, -0.4 / 3),
        (1.5, 2.0, 1.0, 0.5 / 3),  # half way: to the even index 2
        (2.75, 3.0, 1.0, 0.25 / 3),
        (3.0001, 3.0, 0.0, 1.0),  # above
        (100.0, 3.0, 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("alpha", [3.0, -3.0])
def test_unsigned_by_hand(
    function: Any, x: float, y: float, grad_x: float, grad_alpha: float, alpha: float
) -> None:
    # A negative alpha counts by its absolute value, and its gradient keeps its sign.
    result = run(function, torch.tensor([x]), torch.tensor([1.0]), alpha, 3)
    assert [t.item() for t in result] == pytest.approx([y, grad_x, grad_alpha], abs=1e-6)


# alpha = 3, floor(7 / 2) = 3 steps of 1 on each side: the grid is -3 ... 3
@BOTH
@pytest.mark.parametrize(
    ("x", "y", "grad_x", "grad_alpha"),
    [
        (-100.0, -3.0, 0.0, -1.0),
        (-2.75, -3.0, 1.0, -0.25 / 3),
        (-1.4, -1.0, 1.0, 0.4 / 3),
        (0.0, 0.0, 1.0, 0.0),  # zero is inside
        (0.25, 0.0, 1.0, -0.25 / 3),
        (2.5, 2.0, 1.0, -0.5 / 3),  # half way: to the even index 2
        (3.5, 3.0, 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("alpha", [3.0, -3.0])
def test_signed_by_hand(
    function: Any, x: float, y: float, grad_x: float, grad_alpha: float, alpha: float
) -> None:
    result = run(function, torch.tensor([x]), torch.tensor([1.0]), alpha, 7, signed=True)
    assert [t.item() for t in result] == pytest.approx([y, grad_x, grad_alpha], abs=1e-6)


@BOTH
@pytest.mark.parametrize(("x", "signed"), [(2.0, False), (2.0, True), (-2.0, True)])
def test_the_end_of_the_clip_range_passes_as_in_n2d2(function: Any, x: float, signed: bool) -> None:
    y, grad_x, _ = run(function, torch.tensor([x]), torch.tensor([1.0]), 2.0, 15, signed)
    assert (y.item(), grad_x.item()) == (x, 1)


@pytest.mark.parametrize(("x", "signed"), [(2.0, False), (2.0, True), (-2.0, True)])
@BOTH
def test_alpha_gets_the_whole_gradient_at_the_end_of_the_clip_range(
    function: Any, x: float, signed: bool
) -> None:
    _, _, grad_alpha = run(function, torch.tensor([x]), torch.tensor([1.0]), 2.0, 15, signed)
    assert grad_alpha.item() == math.copysign(1, x)


@BOTH
@SIGNED
@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 15, 255])
@pytest.mark.parametrize("alpha", [0.37, 1.9, -1.9])
def test_random_activations_follow_the_formulas(
    function: Any, n_steps: int, alpha: float, signed: bool
) -> None:
    if signed and n_steps == 1:
        pytest.skip("has no levels")
    x, g = randn(2, 3, 5, 4).double() * 2, randn(2, 3, 5, 4, seed=1).double()
    y, grad_x, grad_alpha = run(
        function, x, g, torch.tensor(alpha, dtype=torch.float64), n_steps, signed
    )
    wanted = expected(x.numpy(), g.numpy(), alpha, n_steps, signed)
    torch.testing.assert_close(y, torch.from_numpy(wanted[0]), rtol=1e-14, atol=1e-15)
    assert torch.equal(grad_x, torch.from_numpy(wanted[1]))
    assert grad_alpha.item() == pytest.approx(wanted[2], rel=1e-11)


def layouts() -> dict[str, Tensor]:
    x = randn(4, 6, 5, 7) * 2
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3),
        "every second": (randn(8, 6, 5, 7) * 2)[::2],
        "expanded": (randn(4, 6, 1, 1) * 2).expand(4, 6, 5, 7),
        "matrix": randn(32, 10) * 2,
        "vector": randn(50) * 2,
        "one number": torch.tensor(0.7),
        "empty": torch.zeros(0, 6, 5, 7),
        "empty channels_last": torch.zeros(0, 6, 5, 7).to(memory_format=torch.channels_last),
    }


@SIGNED
@pytest.mark.parametrize("layout", layouts())
def test_the_fast_function_equals_the_readable_one(layout: str, signed: bool) -> None:
    x = layouts()[layout]
    for g in (torch.randn_like(x), torch.ones(()).expand_as(x), torch.ones(x.shape).contiguous()):
        fast, slow = (run(f, x, g, 2.3, 15, signed) for f in (cg_pact_fused, cg_pact))
        torch.testing.assert_close(fast[0], slow[0], rtol=1e-6, atol=0)
        assert torch.equal(fast[1], slow[1])
        # the sums run in another order: exact to rounding of their largest terms
        torch.testing.assert_close(fast[2], slow[2], rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_outputs_and_gradients_keep_the_layout_of_the_activations(
    function: Any, layout: str
) -> None:
    x = layouts()[layout]
    y, grad_x, _ = run(function, x, torch.randn_like(x), 2.3, 15)
    assert y.stride() == grad_x.stride() == x.stride()


@BOTH
@SIGNED
def test_large_tensors_sum_the_gradient_of_alpha_exactly_enough(
    function: Any, signed: bool
) -> None:
    x = randn(1 << 21) * 2
    for g in (torch.ones(1 << 21), randn(1 << 21, seed=1)):
        _, _, grad_alpha = run(function, x, g, 3.0, 15, signed)
        x64, g64 = x.double().numpy(), g.double().numpy()
        wanted = expected(x64, g64, 3.0, 15, signed)[2]
        size = float(np.sqrt((g64**2).sum()))  # of a sum of that many numbers of either sign
        assert grad_alpha.item() == pytest.approx(wanted, rel=1e-5, abs=2e-4 * size)


@BOTH
@SIGNED
def test_bf16_activations_are_computed_in_float32(function: Any, signed: bool) -> None:
    x, g = (randn(2000) * 2).bfloat16(), randn(2000, seed=1).bfloat16()
    y, grad_x, grad_alpha = run(function, x, g, 2.3, 255, signed)
    assert (y.dtype, grad_x.dtype, grad_alpha.dtype) == (x.dtype, x.dtype, torch.float32)
    wanted, wanted_x, wanted_alpha = run(function, x.float(), g.float(), 2.3, 255, signed)
    assert torch.equal(y, wanted.bfloat16())
    assert torch.equal(grad_x, wanted_x.bfloat16())
    torch.testing.assert_close(grad_alpha, wanted_alpha, rtol=1e-4, atol=1e-4)


@BOTH
def test_float64_activations_with_a_float32_alpha_stay_float64(function: Any) -> None:
    x, g = randn(100).double(), randn(100, seed=1).double()
    y, grad_x, grad_alpha = run(function, x, g, 2.5, 15)
    assert (y.dtype, grad_x.dtype, grad_alpha.dtype) == (x.dtype, x.dtype, torch.float32)
    wanted = expected(x.numpy(), g.numpy(), 2.5, 15, False)
    torch.testing.assert_close(y, torch.from_numpy(wanted[0]), rtol=1e-14, atol=1e-15)
    assert grad_alpha.item() == pytest.approx(wanted[2], rel=1e-6)


@BOTH
def test_only_one_of_activations_and_alpha_may_need_a_gradient(function: Any) -> None:
    x, alpha = randn(50), torch.tensor(1.5, requires_grad=True)
    function(x, alpha, 15).sum().backward()
    assert alpha.grad is not None
    leaf = x.clone().requires_grad_()
    function(leaf, alpha.detach(), 15).sum().backward()
    assert leaf.grad is not None
    assert not function(x, alpha.detach(), 15).requires_grad
    with torch.no_grad():
        assert not function(leaf, alpha, 15).requires_grad


@BOTH
def test_the_input_is_not_changed(function: Any) -> None:
    x = randn(50)
    before = x.clone()
    function(x, torch.tensor(0.5), 3)
    assert torch.equal(x, before)


@BOTH
def test_gradients_add_up_over_two_uses_of_one_alpha(function: Any) -> None:
    alpha = torch.tensor(1.0, requires_grad=True)
    (function(torch.tensor([5.0]), alpha, 15) + function(torch.tensor([7.0]), alpha, 3)).backward()
    assert alpha.grad is not None
    assert alpha.grad.item() == 2  # both lie above alpha


@BOTH
@pytest.mark.parametrize("signed", [False, True])
def test_an_alpha_that_has_become_0_makes_no_nan(function: Any, signed: bool) -> None:
    y, grad_x, grad_alpha = run(
        function, torch.tensor([-1.0, 0.0, 2.0]), torch.ones(3), 0.0, 15, signed
    )
    assert y.abs().max() <= 1e-30
    assert grad_x[0] == grad_x[2] == 0
    assert grad_alpha == (0 if signed else 1)  # it can grow again
