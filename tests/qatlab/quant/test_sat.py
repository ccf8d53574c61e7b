"""SatWeight and SatActivation: phases, checkpoints and faults."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods import cg_pact, randn, saved_and_loaded
from torch import Tensor, nn

from qatlab.errors import QatlabError, QuantRuleError, TrainingError
from qatlab.quant import (
    Phase,
    Quantizer,
    SatActivation,
    SatWeight,
    quantizers,
    set_phase,
    start_quantizers,
)
from qatlab.quant.functional import GRIDS, Scaling, sat_weight


def relu_site(**options: Any) -> SatActivation:
    return SatActivation(nn.ReLU(), **{"bits": 4, "alpha": 6.0, **options})


# ---- phases


def test_weights_in_each_phase() -> None:
    w = randn(4, 3, 3, 3)
    quantizer = SatWeight(bits=3)
    quantizer.phase = Phase.FLOAT
    assert torch.equal(quantizer(w), w)
    quantizer.phase = Phase.CLAMP
    torch.testing.assert_close(quantizer(w), w.tanh() / w.tanh().abs().max())
    quantizer.phase = Phase.QUANTIZE
    assert len(quantizer(w).unique()) == 8


def test_activations_in_each_phase() -> None:
    x = randn(400) * 5
    site = relu_site(bits=2)
    for phase in (Phase.FLOAT, Phase.CLAMP):
        site.phase = phase
        assert torch.equal(site(x), x.relu())
    site.phase = Phase.QUANTIZE
    assert site(x).unique().tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(("scaling", "deviation"), [(True, 128**0.5), ("fan_in", 1.0)])
def test_outputs_of_a_last_layer_are_as_large_as_its_scaling_says(
    scaling: Scaling, deviation: float
) -> None:
    quantizer = SatWeight(bits=2, scaling=scaling)
    outputs = randn(5000, 1280) @ quantizer(randn(10, 1280, seed=1)).T
    assert outputs.std().item() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("phase", [Phase.FLOAT, Phase.CLAMP])
def test_weights_of_the_same_clamp_facts_are_the_same_before_quantization(
    grid: str, phase: Phase
) -> None:
    found: dict[tuple[Any, ...], set[tuple[bytes, bytes]]] = {}
    for bits in (2, 3, 8):
        quantizer = SatWeight(bits=bits, grid=grid, scaling=True)
        quantizer.phase = phase
        w = randn(4, 3, 3, 3).requires_grad_()
        result = quantizer(w)
        result.square().sum().backward()
        assert w.grad is not None
        both = (result.detach().numpy().tobytes(), w.grad.numpy().tobytes())
        found.setdefault(quantizer.clamp_facts(), set()).add(both)
    assert all(len(results) == 1 for results in found.values())
    assert len(found) == (3 if grid in ("asymmetric", "full_range") else 1)
    assert SatWeight(bits=2).clamp_facts() != SatWeight(bits=2, scaling=True).clamp_facts()
    assert relu_site(bits=2).clamp_facts() == relu_site(bits=4).clamp_facts()


def test_set_phase_reaches_every_quantizer() -> None:
    model = nn.Sequential(SatWeight(bits=4), nn.Sequential(relu_site(), SatWeight(bits=2)))
    assert len(quantizers(model)) == 3
    set_phase(model, Phase.CLAMP)
    assert {q.phase for q in quantizers(model)} == {Phase.CLAMP}


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("statistics_gradient", [False, True])
def test_every_argument_of_weights_reaches_the_formula(
    grid: str, scaling: bool, statistics_gradient: bool
) -> None:
    w = randn(4, 3, 3, 3)
    quantizer = SatWeight(
        n_steps=6, grid=grid, scaling=scaling, statistics_gradient=statistics_gradient
    )
    for phase in (Phase.CLAMP, Phase.QUANTIZE):
        quantizer.phase = phase
        leaf, wanted_leaf = w.clone().requires_grad_(), w.clone().requires_grad_()
        result = quantizer(leaf)
        wanted = sat_weight(
            wanted_leaf, 6, grid, phase is Phase.QUANTIZE, scaling, statistics_gradient
        )
        torch.testing.assert_close(result, wanted)
        result.pow(3).sum().backward()
        wanted.pow(3).sum().backward()
        torch.testing.assert_close(leaf.grad, wanted_leaf.grad)


@pytest.mark.parametrize("signed", [False, True])
def test_every_argument_of_activations_reaches_the_formula(signed: bool) -> None:
    x = randn(200) * 3
    function = nn.Identity() if signed else nn.ReLU()
    site = SatActivation(function, n_steps=6, alpha=2.5, signed=signed)
    torch.testing.assert_close(site(x), cg_pact(x, torch.tensor(2.5), 6, signed))


def test_alpha_is_trained() -> None:
    site = relu_site(alpha=1.0)
    site(torch.tensor([0.5, 2.0, 3.0])).sum().backward()
    # two above: 1 each; 0.5 is index 7.5 of 15 and rounds to 8
    assert site.alpha.grad is not None
    assert site.alpha.grad.item() == pytest.approx(2 + 8 / 15 - 0.5, abs=1e-6)


def test_a_site_behind_silu_follows_it_and_is_signed() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 9.0])
    site = SatActivation(nn.SiLU(), bits=4, alpha=7.0, signed=True)
    # x / (1 + exp(-x)) = -0.238, -0.269, 0, 0.731, 8.999; the grid is -7 ... 7 in steps of 1
    assert site(x).tolist() == [0, 0, 0, 1, 7]
    site = SatActivation(nn.SiLU(), n_steps=14, alpha=0.7, signed=True)  # steps of 0.1
    torch.testing.assert_close(site(x), torch.tensor([-0.2, -0.3, 0.0, 0.7, 0.7]))


def test_relu6_is_replaced_so_its_own_limit_is_gone() -> None:
    site = SatActivation(nn.ReLU6(), bits=8, alpha=10.0)
    assert site(torch.tensor([-1.0, 8.0, 12.0])).tolist() == pytest.approx([0, 8, 10], abs=0.02)
    site.phase = Phase.CLAMP
    assert site(torch.tensor([-1.0, 8.0, 12.0])).tolist() == [0, 6, 6]


# ---- checkpoints


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("make", [lambda: SatWeight(bits=3, scaling=True), relu_site])
def test_a_checkpoint_brings_the_phase_as_plain_text(make: Any, phase: Phase) -> None:
    quantizer = make()
    quantizer.phase = phase
    state = saved_and_loaded(quantizer)
    name, steps = type(quantizer).__name__, quantizer.n_steps
    assert state["_extra_state"] == f"{phase.value} {name} {steps}"
    other = make()
    other.load_state_dict(state)
    x = randn(4, 3, 3, 3)
    assert other.phase is phase
    assert torch.equal(other(x), quantizer(x))


def test_a_checkpoint_brings_alpha_and_that_it_has_started() -> None:
    site = relu_site(alpha="auto")
    start_quantizers(site, [torch.tensor([3.0])])
    site.alpha.data.fill_(2.5)
    other = relu_site(alpha="auto")
    other.load_state_dict(saved_and_loaded(site))
    assert other.alpha.item() == 2.5
    assert other.initialized


# ---- faults


@pytest.mark.parametrize(
    ("options", "weight", "told"),
    [
        ({}, torch.zeros(2, 3, 1, 1), "all its weights are 0"),
        # Their inverse is beyond float32, and so is their gradient.
        ({}, torch.full((2, 3), 2e-39), "all its weights are at most 2e-39, which SAT cannot"),
        ({"grid": "centered"}, torch.tensor([[-2e-39, 1e-40]]), "are at most 2e-39"),
        ({"grid": "full_range"}, torch.full((2, 3), 1e-38), "are at most 1e-38"),
        ({}, torch.tensor([[1.0, math.nan]]), "not finite"),
        ({"scaling": True}, torch.ones(1, 1), "set scaling: false"),
        ({"scaling": True}, torch.full((2, 3), 0.7), "set scaling: false"),
        ({"scaling": True}, torch.full((2, 3, 2, 2), -0.7), "set scaling: false"),
        # 1 bit makes the same level of these two
        ({"scaling": True, "bits": 1}, torch.tensor([[0.3, 0.7]]), "set scaling: false"),
    ],
)
@pytest.mark.parametrize("statistics_gradient", [False, True])
@pytest.mark.filterwarnings("ignore:var:UserWarning")
def test_degenerate_weights_are_refused_by_the_name_of_their_layer(
    options: dict[str, Any], weight: Tensor, told: str, statistics_gradient: bool
) -> None:
    quantizer = SatWeight(**{"bits": 4, "statistics_gradient": statistics_gradient, **options})
    quantizer.layer = "blocks.3.conv"
    with pytest.raises(TrainingError, match=f"^blocks.3.conv: .*{told}"):
        quantizer(weight)


def test_constant_weights_are_fine_without_scaling() -> None:
    assert SatWeight(bits=4)(torch.full((2, 3), 0.7)).tolist() == [[1.0] * 3] * 2
    assert SatWeight(bits=4)(torch.tensor([[-2.0]])).tolist() == [[-1.0]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "set exactly one of bits and n_steps"),
        ({"bits": 4, "n_steps": 15}, "set exactly one of bits and n_steps"),
        ({"bits": 0}, "bits=0 is wrong. Accepted: a whole number from 1 to 16"),
        ({"bits": 17}, "bits=17 is wrong. Accepted: a whole number from 1 to 16"),
        ({"bits": 4.0}, "bits=4.0 is wrong. Accepted: a whole number"),
        ({"bits": "4"}, "bits='4' is wrong. Accepted: a whole number"),
        ({"bits": True}, "bits=true is wrong. Accepted: a whole number"),
        ({"n_steps": 0}, "n_steps=0 is wrong. Accepted: a whole number from 1 to 65535"),
        ({"n_steps": 65536}, "n_steps=65536 is wrong. Accepted: a whole number"),
    ],
)
@pytest.mark.parametrize("make", [SatWeight, lambda **o: SatActivation(nn.ReLU(), **o)])
def test_bits_and_steps_out_of_range_are_refused(
    make: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(QuantRuleError, match=told):
        make(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"grid": "symetric"},
            "'symmetric'.*Accepted: default, symmetric, asymmetric, full_range, centered",
        ),
        ({"grid": 3}, "default, symmetric, asymmetric, full_range, centered"),
        ({"bits": 1, "grid": "symmetric"}, "grid=symmetric has no levels at 1 bit.*n_steps=2"),
        ({"bits": 1, "grid": "asymmetric"}, "grid=asymmetric has no levels at 1 bit"),
        ({"scaling": "no"}, "scaling=no is wrong. Accepted: true, false, fan_in"),
        ({"statistics_gradient": 1}, "statistics_gradient=1 is wrong. Accepted: true or false"),
    ],
)
def test_bad_arguments_of_weights_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        SatWeight(**{"bits": 4, **options})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        *[
            ({"alpha": alpha}, "is wrong. Accepted: auto, a number above 0")
            for alpha in (0, -1.0, math.inf, math.nan, "6", "Auto", True, None, [6.0])
        ],
        *[
            ({"percentile": percentile}, "is wrong. Accepted: a number in")
            for percentile in (0, -3, 100.1, math.nan, "99", None, True)
        ],
        ({"bits": 1, "signed": True}, "2 bits or more"),
    ],
)
def test_bad_arguments_of_activations_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        relu_site(**options)


@pytest.mark.parametrize(
    ("n_steps", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (14, 4), (15, 4), (16, 5), (255, 8)]
)
def test_bits_are_those_that_hold_all_levels(n_steps: int, bits: int) -> None:
    assert SatWeight(n_steps=n_steps).bits == bits
    assert relu_site(bits=None, n_steps=n_steps).bits == bits


def test_all_faults_are_errors_of_qatlab() -> None:
    assert issubclass(QuantRuleError, QatlabError)
    assert issubclass(TrainingError, QatlabError)
    with pytest.raises(QuantRuleError, match=r"Quantizer defines no forward\."):
        Quantizer(bits=4)(torch.zeros(1))
    with pytest.raises(QuantRuleError, match="Quantizer defines no weight_step, which"):
        Quantizer(bits=4).weight_step(torch.zeros(1))
