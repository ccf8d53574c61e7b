"""PACT and DoReFa against the formulas of their papers, and their modules."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from methods import BOTH, randn, saved_and_loaded
from numpy.typing import NDArray
from torch import Tensor, nn

from qatlab.errors import ConfigError, QuantRuleError, TrainingError
from qatlab.quant import (
    DorefaActivation,
    DorefaWeight,
    PactActivation,
    Phase,
    Rule,
    quantize,
    start_quantizers,
)
from qatlab.quant.functional import dorefa_weight, sat_unit_weight
from qatlab.quant.grid import cg_pact_grid, fake_quantize, pact_grid

Array = NDArray[np.float64]


def double(x: Tensor | float) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


# ---- PACT


def choi(x: Array, g: Array, alpha: float, n: int, signed: bool) -> tuple[Array, Array, float]:
    """Eq. 1 to 3 of Choi et al. 2018: values, and the gradients of x and of alpha."""
    low, n = (-alpha, n // 2) if signed else (0.0, n)
    y = np.rint(np.clip(x, low, alpha) * n / alpha) * alpha / n
    by_alpha = (x >= alpha).astype(float) - (x <= -alpha if signed else 0)
    return y, g * ((x > low) & (x < alpha)), float((g * by_alpha).sum())


@BOTH
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n_steps", [2, 3, 15, 255])
@pytest.mark.parametrize("alpha", [0.6, -0.6])
def test_pact_follows_the_formulas(function: Any, n_steps: int, signed: bool, alpha: float) -> None:
    x, g = double(randn(5, 4, 7)), double(randn(5, 4, 7, seed=1))
    leaf, clip = x.clone().requires_grad_(), double(alpha).requires_grad_()
    y = function(leaf, clip, pact_grid(n_steps, signed))
    grad_x, grad_alpha = torch.autograd.grad(y, [leaf, clip], g)
    wanted = choi(x.numpy(), g.numpy(), abs(alpha), n_steps, signed)
    np.testing.assert_allclose(y.detach(), wanted[0], rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(grad_x, wanted[1])
    assert grad_alpha.item() == pytest.approx(math.copysign(wanted[2], wanted[2] * alpha))


# alpha = 3, three steps of 1
@BOTH
@pytest.mark.parametrize(
    ("x", "y", "grad_x", "grad_alpha"),
    [
        (-1.0, 0.0, 0, 0),
        (0.0, 0.0, 0, 0),
        (1.4, 1.0, 1, 0),  # inside alpha gets nothing: CG-PACT would give it -0.4 / 3
        (2.9, 3.0, 1, 0),
        (3.0, 3.0, 0, 1),  # from alpha on, unlike in N2D2's CG-PACT x does not pass
        (100.0, 3.0, 0, 1),
    ],
)
def test_pact_by_hand(function: Any, x: float, y: float, grad_x: float, grad_alpha: float) -> None:
    leaf, alpha = torch.tensor(x, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    result = function(leaf, alpha, pact_grid(3, False))
    found = [result, *torch.autograd.grad(result, [leaf, alpha])]
    assert [t.item() for t in found] == [y, grad_x, grad_alpha]


@BOTH
@pytest.mark.parametrize("signed", [False, True])
def test_pact_and_cg_pact_differ_in_the_gradient_of_alpha_only(function: Any, signed: bool) -> None:
    x, g = randn(500) * 2, randn(500, seed=1)
    found = []
    for make in (pact_grid, cg_pact_grid):
        leaf, alpha = x.clone().requires_grad_(), torch.tensor(1.3, requires_grad=True)
        y = function(leaf, alpha, make(3, signed))
        found.append((y.detach(), *torch.autograd.grad(y, [leaf, alpha], g)))
    (y, grad_x, grad_alpha), (y2, grad_x2, grad_alpha2) = found
    assert torch.equal(y, y2)
    assert torch.equal(grad_x, grad_x2)
    # CG-PACT, Jin et al. 2019, eq. 10: what it adds is the rounding error of the values inside
    inside = (x.abs() < 1.3) & (signed | (x > 0))
    added = (grad_alpha2 - grad_alpha).item()
    assert added == pytest.approx((g * (y - x) / 1.3)[inside].sum().item(), abs=1e-4)
    assert abs(added) > 0.05


@BOTH
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_gradient_of_alpha_is_the_derivative_where_values_are_clipped(
    function: Any, sign: float
) -> None:
    x = double([-5.0, 2.5, 1.7, -2.0])
    for signed in (False, True):
        core = partial(function, x, grid=pact_grid(15, signed))
        assert torch.autograd.gradcheck(core, double(sign * 1.5).requires_grad_())


def relu_site(**options: Any) -> PactActivation:
    return PactActivation(nn.ReLU(), **{"bits": 4, "alpha": 6.0, **options})


def test_the_arguments_of_a_pact_site_reach_the_formula() -> None:
    x = randn(300) * 3
    for signed, activation in ((False, nn.ReLU()), (True, nn.Identity())):
        site = PactActivation(activation, n_steps=6, alpha=2.5, signed=signed, ewgs=0.2)
        leaf, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
        alpha = torch.tensor(2.5, requires_grad=True)
        y, wanted = site(leaf), fake_quantize(reference, alpha, pact_grid(6, signed), ewgs=0.2)
        y.backward(x)
        wanted.backward(x)
        torch.testing.assert_close(y, wanted)
        torch.testing.assert_close(leaf.grad, reference.grad)
        torch.testing.assert_close(site.alpha.grad, alpha.grad)


def test_alpha_learns_from_clipped_values_only() -> None:
    site = relu_site(alpha=1.0)
    site(torch.tensor([-3.0, 0.52, 0.9, 2.0, 3.0])).sum().backward()
    assert site.alpha.grad is not None
    assert site.alpha.grad.item() == 2


# ---- DoReFa activations


@pytest.mark.parametrize(("bits", "n"), [(1, 1), (2, 3), (4, 15), (8, 255)])
def test_dorefa_activations_are_cut_to_one_and_rounded(bits: int, n: int) -> None:
    # Zhou et al. 2016, section 2.3 and eq. 5: round(n h(x)) / n, h(x) = clip(x, 0, 1)
    x, site = randn(500), DorefaActivation(nn.ReLU(), bits=bits)
    leaf = x.clone().requires_grad_()
    y = site(leaf)
    y.backward(torch.full_like(x, 2.0))
    h = np.clip(x.double().numpy(), 0, 1)
    np.testing.assert_allclose(y.detach(), np.rint(n * h) / n, rtol=1e-6)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 2.0 * ((x > 0) & (x < 1)))


def test_signed_dorefa_activations_are_cut_to_one_on_both_sides() -> None:
    site = DorefaActivation(nn.Identity(), bits=2, signed=True)
    assert site(torch.tensor([-3.0, -0.4, 0.4, 0.6, 3.0])).tolist() == [-1, 0, 0, 1, 1]


def test_the_clip_value_of_dorefa_is_1_and_is_not_trained() -> None:
    site = DorefaActivation(nn.ReLU(), bits=4)
    assert not site.alpha.requires_grad
    site(torch.tensor([0.3, 5.0], requires_grad=True)).sum().backward()
    assert site.alpha.grad is None
    start_quantizers(site, [torch.tensor([100.0])])
    assert site.alpha.item() == 1


def test_dorefa_has_no_argument_for_its_clip_value() -> None:
    rules = [Rule.parse("wide", {"name": "1", "activation": {"alpha": 2.0}})]
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    told = r"quant\.rules\.wide\.activation\.alpha is unknown.* bits, n_steps, ewgs"
    with pytest.raises(ConfigError, match=told):
        quantize(model, None, partial(DorefaActivation, bits=4), rules, randn(1, 3))


# ---- DoReFa weights


def zhou(w: Array, g: Array, n: int) -> tuple[Array, Array]:
    """Eq. 9 of Zhou et al. 2016, and its gradient, straight through the rounding only."""
    t = np.tanh(w)
    m, at = np.abs(t).max(), np.abs(t).argmax()
    q = np.rint(n * (t / (2 * m) + 0.5)) / n
    by_t = g / m
    by_t.flat[at] -= (g * t).sum() / m**2 * np.sign(t.flat[at])
    return 2 * q - 1, by_t * (1 - t**2)


@pytest.mark.parametrize("n_steps", [2, 3, 7, 15, 255])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (10, 7)])
def test_dorefa_weights_follow_the_formula(shape: tuple[int, ...], n_steps: int) -> None:
    w, g = double(randn(*shape)), double(randn(*shape, seed=1))
    leaf = w.clone().requires_grad_()
    result = dorefa_weight(leaf, n_steps)
    (gradient,) = torch.autograd.grad(result, leaf, g)
    values, wanted = zhou(w.numpy(), g.numpy(), n_steps)
    np.testing.assert_allclose(result.detach(), values, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-11, atol=1e-12)


def test_the_tanh_transform_is_differentiated_through_its_maximum() -> None:
    w = double(randn(3, 5)).requires_grad_()
    assert torch.autograd.gradcheck(partial(sat_unit_weight, statistics_gradient=True), w)


def test_one_bit_is_the_sign_times_the_mean_size() -> None:
    # Zhou et al. 2016, eq. 8: sign(w) E(|w|), and the gradient of the result is that of w
    w = torch.tensor([[-3.0, 1.0], [0.0, 2.0]], requires_grad=True)
    g = torch.tensor([[0.5, -2.0], [3.0, 7.0]])
    result = DorefaWeight(bits=1)(w)
    assert result.tolist() == [[-1.5, 1.5], [1.5, 1.5]]  # zero counts as positive
    result.backward(g)
    assert w.grad is not None
    assert torch.equal(w.grad, g)


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_weights_take_all_levels(bits: int) -> None:
    w = torch.linspace(-1, 1, 1 << (bits + 5))[None]
    result = DorefaWeight(bits=bits)(w)
    assert len(result.unique()) == 1 << bits
    assert torch.equal(result, -result.flip(1))  # around zero


@pytest.mark.parametrize("bits", [1, 4])
def test_dorefa_weights_stay_float_before_the_quantize_phase(bits: int) -> None:
    w, quantizer = randn(4, 3, 3, 3), DorefaWeight(bits=bits)
    for phase in (Phase.FLOAT, Phase.CLAMP):
        quantizer.phase = phase
        assert torch.equal(quantizer(w), w)
    other = DorefaWeight(bits=bits)
    other.load_state_dict(saved_and_loaded(quantizer))
    assert other.phase is Phase.CLAMP


@pytest.mark.parametrize("make", [relu_site, partial(DorefaActivation, nn.ReLU(), bits=4)])
def test_activations_stay_float_before_the_quantize_phase(make: Any) -> None:
    x, site, other = randn(100) * 5, make(), make()
    for phase in (Phase.FLOAT, Phase.CLAMP):
        site.phase = phase
        assert torch.equal(site(x), x.relu())
    other.load_state_dict(saved_and_loaded(site))
    assert other.phase is Phase.CLAMP


# ---- faults


@pytest.mark.parametrize(
    ("bits", "weight", "told"),
    [
        (4, torch.zeros(2, 3), "all its weights are 0, which DoReFa cannot scale"),
        (4, torch.full((2, 3), 2e-39), "all its weights are at most 2e-39, which DoReFa cannot"),
        (4, torch.tensor([[1.0, math.nan]]), "its weights are not finite; lower the learning rate"),
        (1, torch.tensor([[1.0, math.nan]]), "its weights are not finite"),
        (1, torch.tensor([[math.inf, 1.0]]), "its weights are not finite"),
    ],
)
def test_degenerate_weights_are_refused_by_the_name_of_their_layer(
    bits: int, weight: Tensor, told: str
) -> None:
    quantizer = DorefaWeight(bits=bits)
    quantizer.layer = "blocks.3.conv"
    with pytest.raises(TrainingError, match=f"^blocks.3.conv: {told}"):
        quantizer(weight)


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (relu_site, {"alpha": 0.0}, "alpha=0.0 is wrong. Accepted: auto, a number above 0"),
        (
            relu_site,
            {"start": "max"},
            "start=max is wrong.*Accepted: mean, mean_std, min_max, perc",
        ),
        (relu_site, {"ewgs": -1}, "ewgs=-1 is wrong. Accepted: a number of at least 0"),
        (relu_site, {"percentile": 101}, "percentile=101 is wrong. Accepted: a number in"),
        (relu_site, {"bits": 1, "signed": True}, "2 bits or more, or n_steps=2"),
        (partial(DorefaActivation, nn.ReLU()), {"bits": 4, "ewgs": True}, "ewgs=true is wrong"),
        (partial(DorefaActivation, nn.ReLU()), {"bits": 1, "signed": True}, "2 bits or more"),
        (DorefaWeight, {"bits": 0}, "bits=0 is wrong. Accepted: a whole number from 1 to 16"),
        (DorefaWeight, {}, "set exactly one of bits and n_steps"),
    ],
)
def test_bad_arguments_are_refused(make: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        make(**options)
