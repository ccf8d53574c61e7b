"""What holds for all inputs, bit widths and clip values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import cg_pact, cg_pact_eager
from torch import Tensor

from qatlab.quant.functional import GRIDS, sat_weight

HUGE = 2.0**100  # about 1e30
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)  # zeros and denormals too
NEAR = st.floats(-10, 10, width=32)
ACTIVATIONS = st.lists(ANY | NEAR, min_size=1, max_size=12).map(torch.tensor)
ALPHAS = (
    st.floats(2.0**-100, HUGE, width=32) | st.floats(0.5, 8, width=32) | st.sampled_from([-6.0])
)
BITS = st.integers(1, 8)
FUNCTIONS = st.sampled_from([cg_pact, cg_pact_eager])
checked = settings(deadline=None, max_examples=60, derandomize=True)


def level_count(bits: int, signed: bool) -> int:
    """n_steps + 1; a signed grid has floor(n_steps / 2) steps on each side of zero."""
    n_steps = (1 << bits) - 1
    return 2 * (n_steps // 2) + 1 if signed else n_steps + 1


@checked
@given(FUNCTIONS, ACTIVATIONS, ALPHAS, BITS, st.booleans())
def test_activations_lie_on_the_grid(
    function: Any, x: Tensor, alpha: float, bits: int, signed: bool
) -> None:
    signed = signed and bits > 1
    y = function(x, torch.tensor(alpha), (1 << bits) - 1, signed)
    step = abs(alpha) / (((1 << bits) - 1) // (2 if signed else 1))
    index = y.double() / step
    assert (index - index.round()).abs().max() < 1e-4  # float32, up to 255 steps
    assert index.round().max() <= level_count(bits, False) - 1
    assert index.round().min() >= (-(level_count(bits, True) // 2) if signed else 0)


@checked
@given(FUNCTIONS, ALPHAS, BITS, st.booleans())
def test_activations_take_at_most_as_many_values_as_the_grid_has_levels(
    function: Any, alpha: float, bits: int, signed: bool
) -> None:
    signed = signed and bits > 1
    x = torch.linspace(-1.5, 1.5, 4001) * abs(alpha)
    y = function(x, torch.tensor(alpha), (1 << bits) - 1, signed)
    assert len(y.unique()) == level_count(bits, signed)


@checked
@given(FUNCTIONS, ACTIVATIONS, ALPHAS, BITS, st.booleans())
def test_quantizing_activations_twice_changes_nothing(
    function: Any, x: Tensor, alpha: float, bits: int, signed: bool
) -> None:
    signed = signed and bits > 1
    once = function(x, torch.tensor(alpha), (1 << bits) - 1, signed)
    assert torch.equal(function(once, torch.tensor(alpha), (1 << bits) - 1, signed), once)


@checked
@given(FUNCTIONS, ACTIVATIONS, ALPHAS, BITS, st.booleans())
def test_activations_keep_their_order(
    function: Any, x: Tensor, alpha: float, bits: int, signed: bool
) -> None:
    y = function(x.sort().values, torch.tensor(alpha), (1 << bits) - 1, signed and bits > 1)
    assert (y.diff() >= 0).all()


@checked
@given(FUNCTIONS, ACTIVATIONS, ALPHAS, BITS, st.booleans())
def test_gradients_of_activations_and_alpha_are_finite(
    function: Any, x: Tensor, alpha: float, bits: int, signed: bool
) -> None:
    x.requires_grad_()
    clip = torch.tensor(alpha, requires_grad=True)
    y = function(x, clip, (1 << bits) - 1, signed and bits > 1)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert clip.grad is not None
    assert set(x.grad.tolist()) <= {0, 1}
    assert clip.grad.abs() <= 1.001 * x.numel()  # each element gives at most 1


@checked
@given(ACTIVATIONS, ALPHAS, BITS, st.booleans())
def test_fast_and_readable_function_agree_for_all_inputs(
    x: Tensor, alpha: float, bits: int, signed: bool
) -> None:
    results = []
    for function in (cg_pact_eager, cg_pact):
        leaf, clip = x.clone().requires_grad_(), torch.tensor(alpha, requires_grad=True)
        y = function(leaf, clip, (1 << bits) - 1, signed and bits > 1)
        y.sum().backward()
        results.append((y.detach(), leaf.grad, clip.grad))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


WEIGHTS = st.lists(ANY | NEAR, min_size=2, max_size=12).map(lambda w: torch.tensor([w]))


@checked
@given(WEIGHTS, BITS, st.sampled_from(GRIDS), st.booleans())
def test_weights_lie_on_the_grid_and_have_finite_gradients(
    w: Tensor, bits: int, grid: str, quantized: bool
) -> None:
    if not w.abs().max() > 1e-30:  # 1 / max, a factor of the gradient, has to be a float32
        w = w + 1e-30
    bits = max(bits, 2) if grid in ("symmetric", "asymmetric") else bits
    n_steps = (1 << bits) - 1
    w.requires_grad_()
    q = sat_weight(w, n_steps, grid, quantized)
    q.sum().backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()
    lowest = (
        {"asymmetric": -1 - 1 / max(n_steps // 2, 1), "centered": -1 + 1 / (n_steps + 1)}.get(
            grid, -1.0
        )
        if quantized or grid == "asymmetric"
        else -1.0
    )
    assert q.max() <= 1
    assert q.min() >= lowest - 1e-6
    if quantized:
        step = 1 / (n_steps // 2) if grid in ("symmetric", "asymmetric") else 2 / n_steps
        step = 2 / (n_steps + 1) if grid == "centered" else step
        index = (q.detach().double() - lowest) / step
        assert (index - index.round()).abs().max() < 1e-4


@checked
@given(WEIGHTS, BITS, st.sampled_from(GRIDS), st.booleans())
def test_weights_keep_their_order(w: Tensor, bits: int, grid: str, quantized: bool) -> None:
    if not w.any():
        w = w + 1.0
    bits = max(bits, 2) if grid in ("symmetric", "asymmetric") else bits
    q = sat_weight(w.sort().values, (1 << bits) - 1, grid, quantized)
    assert (q.diff() >= 0).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_no_bit_width_gives_nan(bits: int, grid: str) -> None:
    if bits == 1 and grid in ("symmetric", "asymmetric"):
        pytest.skip("refused by SatWeight")
    w = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(bits)).requires_grad_()
    for quantized in (False, True):
        for statistics in (False, True):
            q = sat_weight(w, (1 << bits) - 1, grid, quantized, True, statistics)
            (gradient,) = torch.autograd.grad(q.pow(3).sum(), w)
            assert q.isfinite().all()
            assert gradient.isfinite().all()
