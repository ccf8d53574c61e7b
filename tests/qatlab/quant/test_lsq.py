"""LsqWeight and LsqActivation: levels, phases, steps per channel, checkpoints and faults."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from methods import randn, saved_and_loaded
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import QuantRuleError
from qatlab.quant import LsqActivation, LsqWeight, Phase, Quantizer, Rule, quantize
from qatlab.quant.grid import fake_quantize, lsq_grid
from qatlab.quant.layers import QuantConv2d


def relu_site(**options: Any) -> LsqActivation:
    return LsqActivation(nn.ReLU(), **{"bits": 4, **options})


def gradient_of_step(quantizer: Any, x: Tensor) -> float:
    quantizer(x).sum().backward()
    return float(quantizer.step_size.grad)


# ---- levels


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_take_all_levels_around_zero(bits: int) -> None:
    half = 2 ** (bits - 1)
    weight = torch.linspace(-2 * half, 2 * half, 64 * half + 1)
    indices = LsqWeight(bits=bits, step_size=0.5)(weight / 2).unique() / 0.5
    assert indices.tolist() == list(range(-half, half))


@pytest.mark.parametrize(
    ("bits", "signed"), [(b, False) for b in range(1, 9)] + [(b, True) for b in range(2, 9)]
)
def test_activations_take_all_levels(bits: int, signed: bool) -> None:
    activation = nn.Identity() if signed else nn.ReLU()
    site = LsqActivation(activation, bits=bits, step_size=0.5, signed=signed)
    indices = site(torch.linspace(-(2**bits), 2**bits, 64 * 2**bits + 1)).unique() / 0.5
    lowest = -(2 ** (bits - 1)) if signed else 0
    assert indices.tolist() == list(range(lowest, lowest + 2**bits))


def test_two_steps_are_ternary() -> None:
    quantizer = LsqWeight(n_steps=2, step_size=0.5)
    assert quantizer(torch.tensor([-9.0, -0.3, -0.2, 0.0, 0.2, 0.3, 9.0])).tolist() == [
        *(-0.5, -0.5, 0, 0, 0, 0.5, 0.5)
    ]
    assert quantizer.bits == 2


def test_one_bit_weights_are_refused_with_what_to_use_instead() -> None:
    for options in ({"bits": 1}, {"n_steps": 1}):
        with pytest.raises(QuantRuleError, match="use 2 bits, or SAT, whose 1-bit weights are -1"):
            LsqWeight(**options)


def test_a_rule_that_asks_for_one_bit_is_named() -> None:
    rules = [Rule.parse("last", {"index": -1, "weight": {"bits": 1}})]
    with pytest.raises(QuantRuleError, match=r"^quant\.rules\.last\.weight \(0\): bits=1 .*2 bits"):
        quantize(
            nn.Sequential(nn.Linear(3, 2)), partial(LsqWeight, bits=4), None, rules, randn(1, 3)
        )


@pytest.mark.parametrize("step", [0.3, -0.3])
def test_a_negative_step_counts_by_its_size_and_can_be_learned(step: float) -> None:
    weight = randn(6, 5)
    positive, quantizer = LsqWeight(bits=3, step_size=0.3), LsqWeight(bits=3, step_size=0.3)
    positive(weight)
    quantizer(weight)
    quantizer.step_size.data.fill_(step)
    assert torch.equal(quantizer(weight), positive(weight))
    # Going down by the gradient makes the step grow or shrink in size as a positive one does.
    up = gradient_of_step(positive, weight)
    assert gradient_of_step(quantizer, weight) == pytest.approx(math.copysign(1, step) * up)


# ---- arguments


# All values lie above the range: each gives q_max = 7 or 15 times the scale.
@pytest.mark.parametrize(
    ("scale", "expected"), [("paper", 7 * 60 / math.sqrt(60 * 7)), ("none", 7 * 60)]
)
def test_the_gradient_of_a_weights_step_is_scaled(scale: str, expected: float) -> None:
    quantizer = LsqWeight(bits=4, step_size=1.0, gradient_scale=scale)
    assert gradient_of_step(quantizer, torch.full((4, 15), 100.0)) == pytest.approx(expected)


def test_n2d2_and_the_paper_scale_weights_alike() -> None:
    weight = randn(4, 15)
    one, other = (LsqWeight(bits=4, gradient_scale=scale) for scale in ("paper", "n2d2"))
    assert gradient_of_step(one, weight) == gradient_of_step(other, weight)


@pytest.mark.parametrize(
    ("scale", "factor"),
    [("paper", 1 / math.sqrt(20 * 15)), ("n2d2", 1 / math.sqrt(60 * 15)), ("none", 1)],
)
def test_the_gradient_of_an_activations_step_is_scaled(scale: str, factor: float) -> None:
    site = relu_site(step_size=1.0, gradient_scale=scale)
    x = torch.full((3, 4, 5), 100.0)  # three images of 20 activations
    assert gradient_of_step(site, x) == pytest.approx(60 * 15 * factor)


def test_every_argument_reaches_the_formula() -> None:
    x = randn(3, 40) * 3
    for signed, activation in ((False, nn.ReLU()), (True, nn.Identity())):
        site = LsqActivation(activation, n_steps=6, step_size=0.4, signed=signed, ewgs=0.3)
        quantizer = LsqWeight(n_steps=6, step_size=0.4, ewgs=0.3)
        leaf, weight, reference = (x.clone().requires_grad_() for _ in range(3))
        wanted = fake_quantize(reference, torch.tensor(0.4), lsq_grid(6, signed), ewgs=0.3)
        wanted.backward(x)
        made = [(site, leaf), (quantizer, weight)] if signed else [(site, leaf)]
        for module, given in made:
            y = module(given)
            y.backward(x)
            torch.testing.assert_close(y, wanted)
            torch.testing.assert_close(given.grad, reference.grad)


BOTH = pytest.mark.parametrize("make", [LsqWeight, lambda **options: relu_site(**options)])


@BOTH
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"start": "means"},
            "start=means is wrong. Did you mean 'mean'\\? Accepted: mean, mean_std, min_max",
        ),
        ({"start": None}, "start=null is wrong. Accepted: mean, mean_std"),
        (
            {"gradient_scale": "Paper"},
            "gradient_scale=Paper is wrong. Did you mean 'paper'\\? Accepted: paper, n2d2, none",
        ),
        ({"gradient_scale": 1}, "gradient_scale=1 is wrong"),
        *[
            ({"step_size": value}, "step_size=.* is wrong. Accepted: auto, a number above 0")
            for value in (0, -0.1, math.inf, math.nan, "0.1", "Auto", True, None)
        ],
        *[
            ({"ewgs": value}, "ewgs=.* is wrong. Accepted: a number of at least 0")
            for value in (-0.1, math.inf, math.nan, "0.1", True, None)
        ],
        *[
            ({"percentile": value}, "percentile=.* is wrong. Accepted: a number in")
            for value in (0, -1, 100.5, math.nan, "99", None, True)
        ],
        ({"bits": 17}, "bits=17 is wrong. Accepted: a whole number from 1 to 16"),
        ({"n_steps": 4}, "set exactly one of bits and n_steps"),
    ],
)
def test_bad_arguments_are_refused(make: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        make(**{"bits": 4, **options})


def test_bad_arguments_of_one_of_the_two_are_refused() -> None:
    with pytest.raises(QuantRuleError, match=r"per_channel=1 is wrong. Accepted: true or false"):
        LsqWeight(bits=4, per_channel=1)  # type: ignore[arg-type]
    with pytest.raises(QuantRuleError, match="2 bits or more, or n_steps=2"):
        relu_site(bits=1, signed=True)


# ---- phases and sites


def test_weights_stay_float_before_the_quantize_phase() -> None:
    weight = randn(4, 3, 3, 3)
    quantizer = LsqWeight(bits=3, step_size=0.5)
    for phase in (Phase.FLOAT, Phase.CLAMP):
        quantizer.phase = phase
        assert torch.equal(quantizer(weight), weight)
    quantizer.phase = Phase.QUANTIZE
    assert len(quantizer(weight).unique()) == 8


def test_activations_stay_float_before_the_quantize_phase() -> None:
    x = randn(400) * 5
    site = relu_site(bits=2, step_size=2.0)
    for phase in (Phase.FLOAT, Phase.CLAMP):
        site.phase = phase
        assert torch.equal(site(x), x.relu())
    site.phase = Phase.QUANTIZE
    assert site(x).unique().tolist() == [0, 2, 4, 6]


def test_a_site_takes_the_place_of_relu_and_follows_silu() -> None:
    assert relu_site(step_size=1.0)(torch.tensor([-3.0, 4.2, 90.0])).tolist() == [0, 4, 15]
    site = LsqActivation(nn.SiLU(), bits=4, step_size=0.1, signed=True)
    # x / (1 + exp(-x)) = -0.238, -0.269, 0, 0.731, 9.0; the grid ends at 0.7
    result = site(torch.tensor([-2.0, -1.0, 0.0, 1.0, 9.0]))
    torch.testing.assert_close(result, torch.tensor([-0.2, -0.3, 0.0, 0.7, 0.7]))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("make", [partial(LsqWeight, bits=3), relu_site])
def test_a_checkpoint_brings_the_phase(make: Any, phase: Phase) -> None:
    quantizer, other, x = make(), make(), randn(4, 3, 3, 3)
    quantizer(x)
    quantizer.phase = phase
    other.load_state_dict(saved_and_loaded(quantizer))
    assert other.phase is phase
    assert torch.equal(other(x), quantizer(x))


# ---- steps per channel


def converted(**options: Any) -> tuple[nn.Module, list[LsqWeight]]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9, 3))
    weight = partial(LsqWeight, bits=3, per_channel=True, **options)
    model, table = quantize(model, weight, None, (), randn(1, 2, 7, 7))
    found = [module for module in model.modules() if isinstance(module, LsqWeight)]
    assert all(row.quantizer["per_channel"] for row in table.layers if row.part == "weight")
    return model, found


@pytest.mark.parametrize("start", [{}, {"step_size": 0.1}, {"start": "mse"}])
def test_steps_per_channel_have_one_element_for_each_output(start: dict[str, Any]) -> None:
    model, found = converted(**start)
    shapes = [(4, 1, 1, 1), (4, 1, 1, 1), (1, 1, 1, 1), (3, 1)]
    assert [tuple(q.step_size.shape) for q in found] == shapes
    model(randn(2, 2, 7, 7)).square().sum().backward()
    assert [tuple(q.step_size.shape) for q in found] == shapes
    for quantizer in found:
        assert quantizer.step_size.grad is not None
        assert quantizer.step_size.grad.shape == quantizer.step_size.shape
    layer = model.get_submodule("0")
    for row, step in zip(found[0](layer.weight), found[0].step_size.flatten(), strict=True):
        index = row / step
        torch.testing.assert_close(index, index.round())
        assert index.unique().numel() <= 8


def test_each_channel_starts_from_its_own_weights() -> None:
    weight = randn(4, 15) * torch.tensor([[0.1], [1.0], [3.0], [9.0]])
    quantizer = LsqWeight(bits=4, per_channel=True)
    quantizer.fit(weight)
    quantizer(weight)
    expected = 2 * weight.abs().mean(1, keepdim=True) / math.sqrt(7)
    torch.testing.assert_close(quantizer.step_size.detach(), expected)


def test_the_step_of_a_channel_counts_the_weights_of_that_channel() -> None:
    quantizer = LsqWeight(bits=4, per_channel=True, step_size=1.0)
    weight = torch.full((4, 15), 100.0)
    quantizer.fit(weight)
    quantizer(weight).sum().backward()
    assert quantizer.step_size.grad is not None
    expected = 15 * 7 / math.sqrt(15 * 7)
    assert quantizer.step_size.grad.flatten().tolist() == pytest.approx([expected] * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_of_one_channel_has_a_step_per_channel_too(
    compiled: bool, dtype: torch.dtype
) -> None:
    layer = QuantConv2d.of(nn.Conv2d(3, 1, 3), LsqWeight(bits=4, per_channel=True)).to(dtype)
    layer.weight_quantizer.fit(layer.weight)
    layer.to(dtype)
    x = randn(2, 3, 8, 8).to(dtype)
    layer(x)  # starts
    run = torch.compile(layer, backend="aot_eager") if compiled else layer
    run(x).sum().backward()
    step = layer.weight_quantizer.step_size
    assert step.shape == step.grad.shape == (1, 1, 1, 1)
    # As one step for all weights has, of which there are as many.
    scalar = LsqWeight(bits=4, step_size=step.item()).to(dtype)
    weight = layer.weight.detach().requires_grad_()
    F.conv2d(x, scalar(weight), layer.bias).sum().backward()
    torch.testing.assert_close(step.grad.squeeze(), scalar.step_size.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.weight.grad, weight.grad)


def test_a_channel_of_zeros_stays_zero_and_makes_no_nan() -> None:
    weight = randn(4, 2, 3, 3)
    weight[1] = 0
    quantizer = LsqWeight(bits=4, per_channel=True)
    quantizer.fit(weight)
    leaf = weight.requires_grad_()
    result = quantizer(leaf)
    result.square().sum().backward()
    assert not result[1].any()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert quantizer.step_size.isfinite().all()


def test_checkpoints_hold_the_steps_of_all_channels() -> None:
    model, _ = converted()
    model(randn(2, 2, 7, 7))
    other, found = converted()
    other.load_state_dict(saved_and_loaded(model))
    assert all(q.initialized for q in found)
    x = randn(2, 2, 7, 7, seed=1)
    assert torch.equal(other(x), model(x))


def test_the_facts_of_a_quantizer_are_reported() -> None:
    quantizers: list[tuple[Quantizer, dict[str, Any]]] = [
        (LsqWeight(bits=3), {"method": "LsqWeight", "bits": 3, "n_steps": 7, "per_channel": False}),
        (relu_site(), {"method": "LsqActivation", "bits": 4, "n_steps": 15, "signed": False}),
    ]
    for quantizer, facts in quantizers:
        assert quantizer.describe() == facts
        assert "n_steps=" in repr(quantizer)
