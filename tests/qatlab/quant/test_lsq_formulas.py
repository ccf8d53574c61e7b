"""LSQ, LSQ+ and EWGS, the readable and the fast way, against the formulas of their papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from methods import BOTH, randn
from numpy.typing import NDArray
from torch import Tensor

from qatlab.quant.grid import Grid, cg_pact_grid, lsq_gradient_scale, lsq_grid

Array = NDArray[np.float64]
# bits, signed: all that LSQ has, as one bit has no signed grid of use
GRIDS = [(bits, signed) for bits in (1, 2, 3, 4, 8) for signed in (False, True) if bits > signed]
GRID = pytest.mark.parametrize(("bits", "signed"), GRIDS)


def ends(bits: int, signed: bool) -> tuple[int, int]:
    """-Q_N and Q_P of Esser et al. 2019, section 2."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def esser(x: Array, step: float, q_min: int, q_max: int) -> tuple[Array, Array, Array]:
    """Eq. 1, 2, 5 and 3 of LSQ: values, and their derivatives by x and by the step."""
    v = x / step
    y = np.rint(np.clip(v, q_min, q_max)) * step
    below, above = v <= q_min, v >= q_max
    by_step = np.where(below, q_min, np.where(above, q_max, np.rint(v) - v))
    return y, np.where(below | above, 0.0, 1.0), by_step


def bhalgat(x: Array, step: float, offset: float, q_min: int, q_max: int) -> tuple[Array, ...]:
    """Eq. 5 to 7 of LSQ+: values, and their derivatives by x, by the step and by the offset."""
    y, by_x, by_step = esser(x - offset, step, q_min, q_max)
    return y + offset, by_x, by_step, 1 - by_x


def run(function: Any, x: Tensor, g: Tensor, step: float, *more: Any, **options: Any) -> Any:
    """Values, and the gradients of x, of the step and of the offset, if there is one."""
    leaf, parameter = x.clone().requires_grad_(), torch.tensor(step, dtype=x.dtype)
    learned = [leaf, parameter.requires_grad_()]
    if "offset" in options:
        options["offset"] = options["offset"].clone().requires_grad_()
        learned.append(options["offset"])
    y = function(leaf, parameter, *more, **options)
    return [y.detach(), *torch.autograd.grad(y, learned, g)]


# step = 0.5, 3 bits, signed: -2, -1.5, ... 1.5
@BOTH
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("x", "y", "grad_x", "grad_step"),
    [
        (-100.0, -2.0, 0, -4.0),  # below: the lowest index
        (-2.0, -2.0, 0, -4.0),  # at the end: like below, unlike CG-PACT
        (-1.9, -2.0, 1, -4 + 3.8),
        (0.0, 0.0, 1, 0.0),
        (0.25, 0.0, 1, -0.5),  # half way: to the even index 0
        (0.75, 1.0, 1, 0.5),  # half way: to the even index 2
        (1.4, 1.5, 1, 3 - 2.8),
        (1.5, 1.5, 0, 3.0),  # at the end: like above
        (100.0, 1.5, 0, 3.0),
    ],
)
def test_signed_by_hand(
    function: Any, x: float, y: float, grad_x: float, grad_step: float, sign: int
) -> None:
    # |step| is used and differentiated: a step that has become negative has the other gradient.
    grid = lsq_grid(7, signed=True)
    found = run(function, torch.tensor([x]), torch.ones(1), sign * 0.5, grid)
    assert [t.item() for t in found] == pytest.approx([y, grad_x, sign * grad_step], abs=1e-6)


# step = 0.5, 2 bits: 0, 0.5, 1, 1.5
@BOTH
@pytest.mark.parametrize(
    ("x", "y", "grad_x", "grad_step"),
    [
        (-1.0, 0.0, 0, 0.0),  # below: index 0
        (0.0, 0.0, 0, 0.0),
        (0.1, 0.0, 1, -0.2),
        (0.9, 1.0, 1, 0.2),
        (1.5, 1.5, 0, 3.0),
        (9.0, 1.5, 0, 3.0),
    ],
)
def test_unsigned_by_hand(
    function: Any, x: float, y: float, grad_x: float, grad_step: float
) -> None:
    found = run(function, torch.tensor([x]), torch.ones(1), 0.5, lsq_grid(3, False))
    assert [t.item() for t in found] == pytest.approx([y, grad_x, grad_step], abs=1e-6)


@BOTH
@GRID
@pytest.mark.parametrize("step", [0.07, 0.61, -0.61])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_random_values_follow_the_formulas_of_lsq(
    function: Any, bits: int, signed: bool, step: float, dtype: torch.dtype
) -> None:
    x, g = randn(5, 4, 7), randn(5, 4, 7, seed=1)
    grid = lsq_grid((1 << bits) - 1, signed)
    assert (grid.q_min, grid.q_max) == ends(bits, signed)
    y, grad_x, grad_step = run(function, x.to(dtype), g.to(dtype), step, grid, 0.3)
    x64, g64 = x.double().numpy(), g.double().numpy()
    wanted, by_x, by_step = esser(x64, abs(step), *ends(bits, signed))
    exact = dtype is torch.float64
    np.testing.assert_allclose(y, wanted, rtol=1e-14 if exact else 1e-6, atol=1e-15)
    np.testing.assert_array_equal(grad_x, (g64 * by_x).astype(grad_x.numpy().dtype))
    total = 0.3 * (g64 * by_step).sum() * math.copysign(1, step)
    assert grad_step.item() == pytest.approx(total, rel=1e-12 if exact else 1e-5)


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_gets_the_derivative_of_clipped_values(function: Any, sign: int) -> None:
    # Beyond the ends nothing is straight-through: finite differences have to agree.
    x, g = torch.tensor([-9.0, 4.0, 7.0, -5.0]).double(), torch.tensor([0.3, -2.0, 0.7, 1.1])
    grid, h, g = lsq_grid(15, signed=True), 1e-4, g.double()

    def loss(step: float) -> float:
        return float((function(x, torch.tensor(step, dtype=torch.float64), grid) * g).sum())

    difference = (loss(sign * 0.5 + h) - loss(sign * 0.5 - h)) / (2 * h)
    gradient = run(function, x, g, sign * 0.5, grid)[2]
    assert gradient.item() == pytest.approx(difference, rel=1e-6)


@BOTH
@pytest.mark.parametrize("step", [0.4, -0.4])
@pytest.mark.parametrize("offset", [0.0, -0.7])
def test_gradients_are_those_of_a_rounding_whose_error_is_held(
    function: Any, step: float, offset: float
) -> None:
    # What "straight-through" means: y(x, s, b) = |s| (clip(v) + c) + b, c = round(v0) - v0 held.
    grid, x, g = lsq_grid(15, True), randn(300).double(), randn(300, seed=1).double()
    x0 = x.numpy()

    def clipped(x: Array, s: float, b: float) -> Array:
        return np.clip((x - b) / abs(s), -8, 7)

    held = np.rint(clipped(x0, step, offset)) - clipped(x0, step, offset)

    def loss(dx: float, ds: float, db: float) -> float:
        s, b = step + ds, offset + db
        y = abs(s) * (clipped(x0 + dx, s, b) + held) + b
        return float((y * g.numpy()).sum())

    shift = torch.tensor(offset, dtype=torch.float64)
    _, grad_x, *gradients = run(function, x, g, step, grid, offset=shift)
    h = 1e-7
    for i, gradient in enumerate([grad_x.sum(), *gradients]):
        e = [h * (i == j) for j in range(3)]
        difference = (loss(*e) - loss(*(-d for d in e))) / (2 * h)
        assert gradient.item() == pytest.approx(difference, abs=2e-6)


@BOTH
@pytest.mark.parametrize("offset", [-1.3, 0.4])
@GRID
def test_random_values_follow_the_formulas_of_lsq_plus(
    function: Any, bits: int, signed: bool, offset: float
) -> None:
    x, g = randn(5, 4, 7).double(), randn(5, 4, 7, seed=1).double()
    grid, shift = lsq_grid((1 << bits) - 1, signed), torch.tensor(offset, dtype=torch.float64)
    found = run(function, x, g, 0.23, grid, 0.3, offset=shift)
    wanted, *slopes = bhalgat(x.numpy(), 0.23, offset, *ends(bits, signed))
    np.testing.assert_allclose(found[0], wanted, rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(found[1], g.numpy() * slopes[0])
    for gradient, slope in zip(found[2:], slopes[1:], strict=True):
        assert gradient.item() == pytest.approx(0.3 * (g.numpy() * slope).sum(), rel=1e-11)


@BOTH
def test_a_step_for_each_channel_gets_the_gradient_of_its_channel(function: Any) -> None:
    x, g = randn(4, 3, 2, 2), randn(4, 3, 2, 2, seed=1)
    steps = torch.tensor([0.1, -0.2, 0.4, 0.8]).reshape(4, 1, 1, 1).requires_grad_()
    grid = lsq_grid(7, True)
    y = function(x, steps, grid, 0.5)
    y.backward(g)
    assert steps.grad is not None
    for i, step in enumerate(steps.flatten().tolist()):
        alone = run(function, x[i], g[i], step, grid, 0.5)
        torch.testing.assert_close(y[i].detach(), alone[0])
        assert steps.grad[i].item() == pytest.approx(alone[2].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "q_max", "scale"), [(784, 255, 784 * 255), (9, 7, 63), (0, 3, 3)]
)
def test_the_scale_of_the_gradient_is_that_of_section_2_2(
    count: int, q_max: int, scale: int
) -> None:
    # An empty tensor has no scale, and needs none: its gradient is 0.
    assert lsq_gradient_scale(count, q_max) == pytest.approx(scale**-0.5, rel=1e-15)


# ---- EWGS


@BOTH
@pytest.mark.parametrize("grid", [lsq_grid(7, True), lsq_grid(7, False), cg_pact_grid(7, True)])
def test_ewgs_scales_each_gradient_by_its_rounding_error(function: Any, grid: Grid) -> None:
    delta, x, g = 0.4, randn(400), randn(400, seed=1)
    step = 0.3
    plain = run(function, x, g, step * grid.divisor, grid)
    scaled = run(function, x, g, step * grid.divisor, grid, ewgs=delta)
    # Lee et al. 2021, eq. 4, for values whose range is 1 wide, 7 or 6 steps here.
    unit = x.double().numpy() / step / (grid.q_max - grid.q_min)
    levels = np.rint(unit * (grid.q_max - grid.q_min)) / (grid.q_max - grid.q_min)
    factor = 1 + delta * np.sign(g.numpy()) * (unit - levels)
    np.testing.assert_allclose(scaled[1], plain[1].numpy() * factor, rtol=1e-5, atol=1e-7)
    assert (plain[1] != scaled[1]).sum() > 100
    # neither the values nor the gradient of the step
    assert torch.equal(scaled[0], plain[0])
    torch.testing.assert_close(scaled[2], plain[2])


@BOTH
def test_ewgs_of_0_is_the_plain_estimator(function: Any) -> None:
    x, g, grid = randn(300), randn(300, seed=1), lsq_grid(15, True)
    plain = run(function, x, g, 0.2, grid)
    for with_zero in zip(run(function, x, g, 0.2, grid, ewgs=0.0), plain, strict=True):
        assert torch.equal(*with_zero)


@BOTH
def test_ewgs_leaves_gradients_at_the_points_of_the_grid(function: Any) -> None:
    x = torch.arange(-9.0, 9.0) / 4
    for g in (torch.full_like(x, -3.0), torch.full_like(x, 2.0)):
        grad_x = run(function, x, g, 0.25, lsq_grid(15, True), ewgs=1.0)[1]
        assert torch.equal(grad_x, g * ((x > -2) & (x < 1.75)))


@BOTH
def test_ewgs_pulls_values_to_their_level(function: Any) -> None:
    # 0.3 and 0.7 steps: downhill is up for g < 0 and down for g > 0, and the half that goes away
    # from the level is the larger one.
    x = torch.tensor([0.3, 0.7, 0.3, 0.7])
    g = torch.tensor([1.0, 1.0, -1.0, -1.0])
    grad_x = run(function, x, g, 1.0, lsq_grid(3, False), ewgs=0.3)[1]
    torch.testing.assert_close(grad_x, torch.tensor([1.03, 0.97, -0.97, -1.03]))
