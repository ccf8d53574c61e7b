"""What holds for all inputs, bit widths, steps and clip values."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qatlab.quant.dispatch import fake_quantize_fused
from qatlab.quant.functional import GRIDS, sat_grid, sat_weight
from qatlab.quant.grid import Grid, cg_pact_grid, fake_quantize, lsq_grid, pact_grid

HUGE = 2.0**100  # about 1e30
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)  # zeros and denormals too
NEAR = st.floats(-10, 10, width=32)
ACTIVATIONS = st.lists(ANY | NEAR, min_size=1, max_size=12).map(torch.tensor)
SIZES = st.floats(2.0**-100, HUGE, width=32) | st.floats(0.5, 8, width=32) | st.sampled_from([-6.0])
BITS = st.integers(1, 8)
checked = settings(deadline=None, max_examples=60, derandomize=True)


class Method(NamedTuple):
    """A learned quantizer with its parameters."""

    function: Any
    grid: Grid
    parameter: float  # step or clip value
    offset: float | None = None
    ewgs: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x, *self.learned())

    def learned(self) -> list[Tensor]:
        numbers = [self.parameter, *([] if self.offset is None else [self.offset])]
        return [torch.tensor(number) for number in numbers]

    def run(self, x: Tensor, parameter: Tensor, offset: Tensor | None = None) -> Tensor:
        y: Tensor = self.function(x, parameter, self.grid, 1.0, offset, self.ewgs)
        return y

    @property
    def step(self) -> float:
        return abs(self.parameter) / self.grid.divisor

    @property
    def start(self) -> float:
        return self.offset or 0.0


@st.composite
def methods(draw: Any) -> Method:
    """CG-PACT, PACT, LSQ and LSQ+ at 1 to 8 bits; signed from 2 bits on."""
    bits, make = draw(BITS), draw(st.sampled_from([cg_pact_grid, pact_grid, lsq_grid, lsq_grid]))
    grid = make((1 << bits) - 1, draw(st.booleans()) and bits > 1)
    function = draw(st.sampled_from([fake_quantize, fake_quantize_fused]))
    method = Method(function, grid, draw(SIZES), ewgs=draw(st.sampled_from([0.0, 0.3])))
    if make is lsq_grid and draw(st.booleans()):
        # not so far from zero that float32 cannot tell the levels
        return method._replace(offset=method.step * draw(st.floats(-50, 50, width=32)))
    return method


METHODS = methods()


@checked
@given(METHODS, ACTIVATIONS)
def test_values_lie_on_the_grid(method: Method, x: Tensor) -> None:
    index = (method(x).double() - method.start) / method.step
    assert (index - index.round()).abs().max() < 1e-4  # float32, up to 255 steps
    assert index.round().max() <= method.grid.q_max
    assert index.round().min() >= method.grid.q_min


@checked
@given(METHODS)
def test_values_take_each_level_of_the_grid(method: Method) -> None:
    low, high = method.grid.q_min, method.grid.q_max
    x = torch.linspace(1.5 * low - 1, 1.5 * high + 1, 4001) * method.step + method.start
    assert len(method(x).unique()) == high - low + 1


@checked
@given(METHODS, ACTIVATIONS)
def test_quantizing_twice_changes_nothing(method: Method, x: Tensor) -> None:
    once = method(x)
    assert torch.equal(method(once), once)


@checked
@given(METHODS, ACTIVATIONS)
def test_values_keep_their_order(method: Method, x: Tensor) -> None:
    assert (method(x.sort().values).diff() >= 0).all()


@checked
@given(METHODS, ACTIVATIONS)
def test_gradients_are_finite(method: Method, x: Tensor) -> None:
    learned = [x, *method.learned()]
    y = method.run(*(leaf.requires_grad_() for leaf in learned))
    of_x, of_parameter, *of_offset = torch.autograd.grad(y.sum(), learned)
    assert y.isfinite().all()
    # each element gives at most the index of an end, in steps of the parameter
    largest = max(method.grid.q_max, -method.grid.q_min) / method.grid.divisor
    assert of_parameter.abs() <= 1.001 * largest * x.numel()
    if method.ewgs:  # a rounding error is at most half a step of the range
        half = 0.5 * method.ewgs / (method.grid.q_max - method.grid.q_min)
        assert ((of_x == 0) | ((of_x - 1).abs() <= half + 1e-6)).all()
    else:
        assert set(of_x.tolist()) <= {0, 1}
    for gradient in of_offset:  # what is outside
        assert gradient == (of_x == 0).sum()


@checked
@given(METHODS, ACTIVATIONS)
def test_fast_and_readable_function_agree(method: Method, x: Tensor) -> None:
    results = []
    for function in (fake_quantize_fused, fake_quantize):
        learned = [leaf.clone().requires_grad_() for leaf in (x, *method.learned())]
        y = method._replace(function=function).run(*learned)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), learned)))
    (y, *fast), (y2, *slow) = results
    assert torch.equal(y, y2)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)  # sums in another order


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
    if w.abs().max() < 1e-35:  # which the quantizer refuses
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


@checked
@given(BITS)
def test_the_centered_grid_uses_all_levels_alike_around_zero(bits: int) -> None:
    count = 1 << bits
    unit = (torch.arange(20 * count) + 0.5) / (10 * count) - 1  # evenly spread, none at an edge
    levels, uses = sat_grid(unit, count - 1, "centered").unique(return_counts=True)
    assert uses.tolist() == [20] * count  # default: 10 at both ends
    torch.testing.assert_close(levels, -levels.flip(0), rtol=0, atol=1e-6)


@checked
@given(st.lists(st.floats(0.125, 8, width=32), min_size=1, max_size=12), st.integers(1, 3))
def test_weights_around_zero_stay_around_zero_on_the_centered_grid(
    sizes: list[float], bits: int
) -> None:
    half = torch.tensor(sizes)
    w = torch.cat([half, -half])[None]
    edge = sat_weight(w, (1 << bits) - 1, quantized=False) * (1 << (bits - 1))
    q = sat_weight(w, (1 << bits) - 1, "centered")[(edge - edge.round()).abs() > 1e-6]
    assert q.sum().item() == pytest.approx(0, abs=1e-5)
