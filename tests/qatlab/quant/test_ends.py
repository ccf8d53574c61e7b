"""Values that lie at an end of the range but for the noise of sums: mathematics decides."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from methods import BOTH, randn
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from qatlab.quant import LsqActivation, LsqPlusActivation, PactActivation, SatActivation
from qatlab.quant.dispatch import fake_quantize_fused
from qatlab.quant.grid import Grid, cg_pact_grid, fake_quantize, lsq_grid, pact_grid
from qatlab.quant.normed import norm_and_quantize

# In steps. From a sum that is 0 float64 makes the first ones, and float32 the last.
NOISE = (0.0, 1e-17, -1e-17, 1e-9, -1e-9, 3e-6, -3e-6)
GRIDS = pytest.mark.parametrize(
    ("make", "passes"), [(cg_pact_grid, 1.0), (pact_grid, 0.0), (lsq_grid, 0.0)]
)


def step_of(grid: Grid) -> float:
    """The step of a grid whose parameter is 1."""
    return 1 / grid.divisor


@GRIDS
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("end", ["q_min", "q_max"])
def test_noise_at_an_end_does_not_choose_the_gradient(
    function: Any, make: Any, passes: float, signed: bool, end: str, dtype: torch.dtype
) -> None:
    grid, g = make(15, signed), randn(len(NOISE)).to(dtype)
    index = getattr(grid, end)
    x = ((index + torch.tensor(NOISE, dtype=torch.float64)) * step_of(grid)).to(dtype)
    leaf, parameter = x.requires_grad_(), torch.ones((), dtype=dtype, requires_grad=True)
    y = function(leaf, parameter, grid)
    grad_x, grad_parameter = torch.autograd.grad(y, (leaf, parameter), g)
    # Behind a closed end x passes, but not at 0, from which on a rectifier does.
    through = passes if index else 0.0
    assert torch.equal(grad_x, through * g)
    # The definition at the end itself: dy/ds is the index, and s = parameter / divisor.
    torch.testing.assert_close(grad_parameter, g.sum() * index / grid.divisor, rtol=1e-6, atol=0)


@BOTH
@pytest.mark.parametrize("end", ["q_min", "q_max"])
def test_an_offset_learns_at_the_ends_whatever_the_noise(function: Any, end: str) -> None:
    grid, step, offset = lsq_grid(15, False), 0.25, torch.tensor(-0.5, requires_grad=True)
    x = getattr(grid, end) * step - 0.5 + step * torch.tensor(NOISE)
    leaf = x.requires_grad_()
    y = function(leaf, torch.tensor(step), grid, 1.0, offset)
    grad_x, grad_offset = torch.autograd.grad(y.sum(), (leaf, offset))
    assert torch.equal(grad_x, torch.zeros_like(x))
    assert grad_offset.item() == len(NOISE)


@GRIDS
@BOTH
@pytest.mark.parametrize("signed", [False, True])
def test_a_thousandth_of_a_step_from_an_end_is_inside_or_beyond(
    function: Any, make: Any, passes: float, signed: bool
) -> None:
    grid = make(15, signed)
    for end, inwards in ((grid.q_min, 1), (grid.q_max, -1)):
        found = []
        for distance in (inwards * 1e-3, -inwards * 1e-3):
            x = torch.tensor((end + distance) * step_of(grid), requires_grad=True)
            function(x, torch.tensor(1.0), grid).backward()
            found.append(x.grad.item())
        assert found == [1, 0]


def test_values_are_rounded_and_clipped_as_before() -> None:
    x = torch.tensor([*NOISE, *(1 + 1e-7 * n for n in NOISE)])
    for function in (fake_quantize, fake_quantize_fused):
        y = function(x, torch.tensor(1.0), cg_pact_grid(15, False))
        assert y.tolist() == [*(0.0 for _ in NOISE), *(1.0 for _ in NOISE)]


@pytest.mark.parametrize(
    ("make", "signed", "of_bias", "of_parameter"),
    [
        # 1 and -1 lie at the ends, two each, and five values at 0.
        (cg_pact_grid, False, 2, 2),
        (cg_pact_grid, True, 9, 0),
        (pact_grid, False, 0, 2),
        (pact_grid, True, 5, 0),
    ],
)
@pytest.mark.parametrize("noise", [-1e-7, 0.0, 1e-7])
def test_noise_behind_a_batch_norm_does_not_choose_the_gradient(
    make: Any, signed: bool, of_bias: float, of_parameter: float, noise: float
) -> None:
    grid = make(15, signed)
    for together in (True, False):
        norm = nn.BatchNorm2d(1).train()
        x = torch.tensor([1.0, -1.0, 1.0, -1.0, *NOISE[:5]]).view(1, 1, 3, 3).requires_grad_()
        with torch.no_grad():
            highest = nn.BatchNorm2d(1).train()(x).max()
        alpha = (highest * (1 + noise)).requires_grad_()
        if together:
            y = norm_and_quantize(x, norm, alpha, grid, 1.0, None, 0.0)
        else:
            y = fake_quantize(norm(x), alpha, grid)
        y.sum().backward()
        # The gradient of the norm's bias counts what passes.
        assert norm.bias.grad.item() == of_bias
        assert alpha.grad.item() == pytest.approx(of_parameter, abs=1e-6)


# ---- rectifiers that stay in front of a quantizer

SITES: dict[str, Any] = {
    "LSQ+": partial(LsqPlusActivation, bits=4, step_size=1.0),
    "signed SAT": partial(SatActivation, bits=4, alpha=7.0, signed=True),
    "signed LSQ": partial(LsqActivation, bits=4, step_size=1.0, signed=True),
    "signed PACT": partial(PactActivation, bits=4, alpha=7.0, signed=True),
}


def started(site: str, activation: nn.Module) -> nn.Module:
    """A site with its values; the range of LSQ+ begins below 0, so that 0 is inside."""
    quantizer = SITES[site](activation)
    quantizer.begin(torch.tensor([1.0, -1.5]) if site == "LSQ+" else quantizer.parameter.detach())
    return quantizer


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("activation", "slope"), [(nn.ReLU(), 0.0), (nn.LeakyReLU(0.25), 0.25)])
def test_the_derivative_of_a_rectifier_is_not_up_to_noise(
    site: str, activation: nn.Module, slope: float
) -> None:
    quantizer = started(site, activation)
    x = torch.tensor([*NOISE, -1.0, 0.01, 2.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [*(slope for _ in NOISE), slope, 1, 1]


@pytest.mark.parametrize("site", SITES)
def test_a_relu6_has_two_corners(site: str) -> None:
    quantizer = started(site, nn.ReLU6())
    noise = torch.tensor(NOISE)
    x = torch.cat([noise, 6 + noise, torch.tensor([-1.0, 3.0, 7.0])]).requires_grad_()
    y = quantizer(x)
    y.sum().backward()
    assert x.grad.tolist() == [*(0.0 for _ in (*NOISE, *NOISE)), 0, 1, 0]
    assert torch.equal(y, quantizer.eval()(x.clamp(0, 6)))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU()])
def test_a_rectifier_and_its_quantizer_keep_one_tensor(activation: nn.Module) -> None:
    quantizer, x, kept = started("LSQ+", activation), randn(50_000).requires_grad_(), {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() > 1:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        quantizer(2 * x)
    assert len(kept) == 1


@pytest.mark.parametrize("site", ["SAT", "LSQ", *SITES])
def test_the_order_of_a_sum_does_not_choose_the_gradient(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole numbers times a step, as behind a quantizer: many of their sums are exactly 0.
    codes = torch.randint(0, 16, (256, 120), generator=torch.Generator().manual_seed(1))
    odd = torch.randint(-8, 8, (512, 120), generator=torch.Generator().manual_seed(2)) * 2 + 1
    assert (codes @ odd.T == 0).sum() > 50
    monkeypatch.setitem(SITES, "SAT", partial(SatActivation, bits=4, alpha=15.0))
    monkeypatch.setitem(SITES, "LSQ", partial(LsqActivation, bits=4, step_size=1.0))
    found = []
    for seed in range(3):
        order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
        quantizer = started(site, nn.ReLU())
        x = (codes[:, order] * 0.123).requires_grad_()
        sums = F.linear(x, odd[:, order] / 15)
        quantizer(sums).backward(randn(256, 512))
        back = torch.empty_like(x)
        back[:, order] = x.grad
        found.append(back)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)
