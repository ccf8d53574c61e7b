"""SAT's weights against float64 references written from the formulas of the paper and of N2D2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.quant.dispatch import sat_weight_fused
from qatlab.quant.functional import GRIDS, Scaling, round_ste, sat_weight, scale_gradient

Array = NDArray[np.float64]
# 1 bit has no symmetric or asymmetric grid: floor(1 / 2) = 0 steps on each side of zero.
GRIDS_AND_STEPS = [
    (grid, n_steps)
    for grid in GRIDS
    for n_steps in (1, 2, 3, 7, 15, 255)
    if n_steps > 1 or grid in ("default", "full_range", "centered")
]
GRID = pytest.mark.parametrize(("grid", "n_steps"), GRIDS_AND_STEPS)
BOTH = pytest.mark.parametrize("function", [sat_weight, sat_weight_fused])
SHAPES = {"conv": (6, 4, 3, 3), "depthwise": (8, 1, 3, 3), "linear": (10, 7), "pointwise": (5, 6)}
FAN_OUT = {"conv": 6 * 9, "depthwise": 8 * 9, "linear": 10, "pointwise": 5}


def unit(w: Array) -> Array:
    return np.tanh(w) / np.abs(np.tanh(w)).max()


def clamped(u: Array, n: int, grid: str) -> Array:
    """The values of the clamp phase."""
    r = n // 2
    return (1 + 1 / (2 * r)) * u - 1 / (2 * r) if grid == "asymmetric" else u


def index(u: Array, n: int, grid: str) -> Array:
    """The real-valued index that is rounded half to even."""
    r = n // 2
    if grid == "symmetric":
        return r * u
    if grid == "asymmetric":
        return r * clamped(u, n, grid)
    if grid == "default":
        return n * (u + 1) / 2
    if grid == "centered":  # the middles of n + 1 bins of equal width
        return np.clip(np.floor((n + 1) * (u + 1) / 2), 0, n)
    return n * ((1 + 0.9998 / n) * (u + 1) / 2 - 0.4999 / n)


def quantized(u: Array, n: int, grid: str) -> Array:
    rounded = np.rint(index(u, n, grid))
    if grid == "centered":
        return (2 * rounded - n) / (n + 1)
    return rounded / (n // 2) if grid in ("symmetric", "asymmetric") else 2 * rounded / n - 1


def factor(n: int, grid: str) -> float:
    """N2D2's f in the gradient of the weights."""
    return {"asymmetric": 1 + 1 / (2 * max(1, n // 2)), "full_range": 1 + 0.9998 / n}.get(grid, 1.0)


def fan(q: Array, scaling: Scaling) -> int:
    return q.shape[scaling == "fan_in"] * math.prod(q.shape[2:])


def scale(q: Array, scaling: Scaling) -> float:
    return math.sqrt(q.var(ddof=1) * fan(q, scaling))


def n2d2_gradient(w: Array, g: Array, n: int, grid: str, s: float) -> Array:
    """Maximum and scale are constants."""
    return g * factor(n, grid) / (np.cosh(w) ** 2 * np.abs(np.tanh(w)).max() * s)


def full_gradient(w: Array, g: Array, n: int, grid: str, q: Array, scaling: Scaling) -> Array:
    """The chain rule through the maximum and the scale too, straight through the rounding."""
    if scaling:
        s, count = scale(q, scaling), q.size
        ds = fan(q, scaling) * (q - q.mean()) / ((count - 1) * s)
        g = g / s - (g * q).sum() / s**2 * ds
    t, g = np.tanh(w), g * factor(n, grid)
    m, at = np.abs(t).max(), np.abs(t).argmax()
    dt = g / m
    dt.flat[at] -= (g * t).sum() / m**2 * np.sign(t.flat[at])
    return dt / np.cosh(w) ** 2


def weights(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.8, shape)


def both_ways(function: Any, w: Tensor, g: Array, *arguments: Any) -> tuple[Tensor, Tensor]:
    w = w.clone().requires_grad_()
    result = function(w, *arguments)
    result.backward(torch.from_numpy(g).to(w.dtype))
    assert w.grad is not None
    return result.detach(), w.grad


@pytest.mark.parametrize("scaling", [False, True, "fan_in"])
@pytest.mark.parametrize("phase", ["clamp", "quantize"])
@GRID
@BOTH
def test_weights_and_their_gradient_are_those_of_the_formulas(
    function: Any, grid: str, n_steps: int, phase: str, scaling: Scaling
) -> None:
    for shape in SHAPES.values():
        w, g = weights(shape), weights(shape, seed=1)
        values = (quantized if phase == "quantize" else clamped)(unit(w), n_steps, grid)
        s = scale(values, scaling) if scaling else 1.0
        result, gradient = both_ways(
            function, torch.from_numpy(w), g, n_steps, grid, phase == "quantize", scaling
        )
        torch.testing.assert_close(result, torch.from_numpy(values / s), rtol=1e-12, atol=1e-13)
        expected = torch.from_numpy(n2d2_gradient(w, g, n_steps, grid, s))
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scaling", [False, True, "fan_in"])
@pytest.mark.parametrize("phase", ["clamp", "quantize"])
@GRID
def test_gradient_through_the_statistics_is_the_chain_rule(
    grid: str, n_steps: int, phase: str, scaling: Scaling
) -> None:
    w, g = weights((6, 4, 3, 3)), weights((6, 4, 3, 3), seed=1)
    values = (quantized if phase == "quantize" else clamped)(unit(w), n_steps, grid)
    _, gradient = both_ways(
        sat_weight, torch.from_numpy(w), g, n_steps, grid, phase == "quantize", scaling, True
    )
    expected = torch.from_numpy(full_gradient(w, g, n_steps, grid, values, scaling))
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scaling", [False, True, "fan_in"])
@pytest.mark.parametrize("grid", ["default", "symmetric", "asymmetric"])
def test_gradient_through_the_statistics_is_that_of_finite_differences(
    grid: str, scaling: Scaling
) -> None:
    w = torch.from_numpy(weights((4, 2, 3, 3))).requires_grad_()
    options = {"quantized": False, "scaling": scaling, "statistics_gradient": True}
    assert torch.autograd.gradcheck(lambda w: sat_weight(w, 7, grid, **options), w)


@GRID
@BOTH
def test_float32_weights_equal_float64_ones(function: Any, grid: str, n_steps: int) -> None:
    # Weights on both sides of each threshold, but not so near that float32 falls on the other.
    u = np.random.default_rng(0).uniform(-1, 1, 4000)
    away = np.abs(index(u, n_steps, grid) % 1 - 0.5) > 1e-4
    u = np.concatenate([[1.0], u[away][: 5 * 24 * 9 - 1]])
    w = np.float32(np.arctanh(u * np.tanh(2.0))).reshape(5, 24, 3, 3)
    g = weights(w.shape, seed=1)
    for phase in (clamped, quantized):
        values = phase(unit(np.float64(w)), n_steps, grid)
        s = scale(values, True)
        result, gradient = both_ways(
            function, torch.from_numpy(w), g, n_steps, grid, phase is quantized, True
        )
        assert result.dtype == torch.float32
        expected = torch.from_numpy(n2d2_gradient(np.float64(w), g, n_steps, grid, s)).float()
        torch.testing.assert_close(
            result, torch.from_numpy(values / s).float(), rtol=2e-6, atol=1e-7
        )
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def levels(grid: str, n: int) -> list[float]:
    r = n // 2
    if grid == "symmetric":
        return [k / r for k in range(-r, r + 1)]
    if grid == "asymmetric":
        return [k / r for k in range(-r - 1, r + 1)]
    if grid == "centered":
        return [(2 * k - n) / (n + 1) for k in range(n + 1)]
    return [(2 * k - n) / n for k in range(n + 1)]


@GRID
@BOTH
def test_quantized_weights_take_all_levels_of_the_grid_and_no_other(
    function: Any, grid: str, n_steps: int
) -> None:
    w = torch.linspace(-1.5, 1.5, 20001).view(1, -1)
    result = function(w, n_steps, grid, True, False).unique()
    expected = levels(grid, n_steps)
    assert len(result) == len(expected)
    torch.testing.assert_close(result, torch.tensor(expected), rtol=0, atol=1e-7)
    assert (0 in result) == (grid in ("symmetric", "asymmetric") or n_steps % 2 == 0)


@pytest.mark.parametrize("bits", range(8, 17))
@BOTH
def test_many_bits_stay_on_the_full_range_grid(function: Any, bits: int) -> None:
    w = torch.linspace(-1, 1, 1001).view(1, -1)
    result = function(w, (1 << bits) - 1, "full_range", True, False)
    assert result.min() == -1
    assert result.max() == 1


@BOTH
def test_one_bit_gives_the_sign_and_zero_counts_as_negative(function: Any) -> None:
    # u = 0 is half way, at index 0.5, which rounds to the even index 0
    w = torch.tensor([[-0.7, -1e-3, 0.0, 1e-3, 0.4]])
    assert function(w, 1, "default", True, False).tolist() == [[-1, -1, -1, 1, 1]]


def test_halves_are_rounded_to_even() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5], requires_grad=True)
    y = round_ste(x)
    assert y.tolist() == [-2, 0, 0, 2, 2]
    y.sum().backward()
    assert x.grad.tolist() == [1] * 5  # type: ignore[union-attr]


def test_scale_gradient_changes_the_gradient_only() -> None:
    x = torch.tensor([0.3, -2.0], requires_grad=True)
    y = scale_gradient(x, 2.5)
    assert y.tolist() == x.tolist()
    y.sum().backward()
    assert x.grad.tolist() == [2.5, 2.5]  # type: ignore[union-attr]


@pytest.mark.parametrize("phase", ["clamp", "quantize"])
@GRID
@BOTH
def test_scaled_weights_have_variance_one_over_fan_out(
    function: Any, grid: str, n_steps: int, phase: str
) -> None:
    for name, shape in SHAPES.items():
        w = torch.from_numpy(weights(shape)).float()
        result = function(w, n_steps, grid, phase == "quantize", True)
        assert result.double().var().item() == pytest.approx(1 / FAN_OUT[name], rel=1e-5), name


@BOTH
def test_clamped_full_range_weights_keep_the_gradient_factor_of_n2d2(function: Any) -> None:
    # The forward has no such factor, so this is no derivative: N2D2 does it all the same.
    w, g = weights((3, 2, 3, 3)), weights((3, 2, 3, 3), seed=1)
    plain, gradient = both_ways(function, torch.from_numpy(w), g, 7, "default", False, False)
    result, multiplied = both_ways(function, torch.from_numpy(w), g, 7, "full_range", False, False)
    assert torch.equal(result, plain)
    torch.testing.assert_close(multiplied, gradient * (1 + 0.9998 / 7))


@BOTH
def test_weights_of_any_size_reach_exactly_the_ends_of_the_range(function: Any) -> None:
    for size in (1e-30, 1e-4, 1.0, 50.0, 1e30):
        w = torch.tensor([[-0.5, 0.25, 1.0]]) * size
        assert function(w, 15, "default", False, False).max() == 1
