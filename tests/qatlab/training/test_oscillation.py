"""Weights that jump to and fro between levels: counted, frozen, dampened (arXiv:2203.11086)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tiny_training import make_module, tensors, train
from torch import Tensor

from qatlab.errors import ConfigError
from qatlab.quant import DorefaWeight, LsqWeight, Phase, SatWeight
from qatlab.quant.functional import GRIDS
from qatlab.quant.quantizer import Quantizer
from qatlab.training.oscillation import Oscillation, Watched

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
QUANTIZE = ((Phase.QUANTIZE, 4),)
WEIGHTS = {
    **{
        f"sat {grid} {n_steps}": partial(SatWeight, grid=grid, n_steps=n_steps)
        for grid in GRIDS
        for n_steps in (2, 3, 15)
    },
    "dorefa": partial(DorefaWeight, bits=3),
    "lsq": partial(LsqWeight, bits=3, step_size=0.11),
}


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
def test_positions_are_rounded_to_the_levels_of_the_quantizer(make: Any) -> None:
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 4
    quantizer: Quantizer = make()
    quantized, positions = quantizer(weight).detach(), quantizer.positions(weight).detach()
    for level in positions.round().unique():
        own = quantized[positions.round() == level]
        assert torch.allclose(own, own[0], atol=1e-6)
    assert len(positions.round().unique()) == len(quantized.mul(1e5).round().unique())
    again = quantizer.weights_at(positions, weight)
    inside = (positions != positions.amin()) & (positions != positions.amax())
    assert torch.allclose(again[inside], weight[inside], atol=1e-5)
    at_levels = quantizer.weights_at(positions.round(), weight)
    moved = torch.where(inside, at_levels, weight)  # the largest sets the range
    assert torch.allclose(quantizer.positions(moved)[inside], positions.round()[inside], atol=1e-4)
    assert torch.allclose(quantizer(moved), quantized, atol=1e-5)


def test_a_jump_back_counts_and_a_jump_on_does_not() -> None:
    watched = Watched.of(torch.zeros(3))
    for levels in ([1.0, 1, 0], [0.0, 2, 0], [0.0, 2, 0], [1.0, 3, 0]):
        watched.step(torch.tensor(levels), 0.5)
    # The first weight jumps back in steps 2 and 4: f = 0, 1/2, 1/4, 5/8.
    assert watched.frequency.tolist() == [0.625, 0, 0]
    assert watched.changed.item() == 2 + 2 + 0 + 2
    assert watched.average.tolist() == [0.5625, 2.3125, 0]


def test_a_frozen_average_stays() -> None:
    watched = Watched.of(torch.zeros(2))
    watched.frozen = torch.tensor([True, False])
    watched.step(torch.ones(2), 0.5)
    assert watched.average.tolist() == [0, 0.5]


def descend(quantizer: Quantizer, best: float, steps: int, callback: Oscillation) -> list[float]:
    """Follow the gradient of ``(q(w) - best)^2 / 2``; return the levels that the weight is at.

    The paper's toy of section 2.2: the best weight lies between two levels.
    """
    layer = torch.nn.Parameter(torch.tensor([[0.9], [0.3]]))  # the first sets the range
    watched = Watched.of(quantizer.positions(layer).round().detach())
    seen = []
    for _ in range(steps):
        loss = (quantizer(layer)[1] - best).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, layer)
        with torch.no_grad():
            layer[1] -= 0.1 * gradient[1]
            watched.step(quantizer.positions(layer).round(), callback.momentum)
            assert callback.freeze is not None
            watched.frozen |= watched.frequency > callback.freeze
            held = quantizer.weights_at(watched.average.round(), layer)
            layer.copy_(torch.where(watched.frozen, held, layer))
            seen.append(float(quantizer.positions(layer)[1].round()))
    return seen


@pytest.mark.parametrize("quantizer", [partial(LsqWeight, bits=3, step_size=0.25), SatWeight])
def test_a_weight_that_oscillates_freezes_where_it_mostly_was(quantizer: Any) -> None:
    made = quantizer() if quantizer is not SatWeight else SatWeight(bits=3)
    levels = made(torch.tensor([[0.9], [0.3]])).detach()
    step = 0.25 if quantizer is not SatWeight else 2 / 7
    best = float(levels[1]) + 0.3 * step  # so that the level below is nearer, and mostly taken
    free = descend(made, best, 400, Oscillation(freeze=1.0))
    assert len(set(free[-100:])) == 2  # it never comes to rest
    frozen = descend(made, best, 400, Oscillation(freeze=0.05))
    most = max(set(free), key=free[100:].count)
    assert set(frozen[-100:]) == {most}


def test_frozen_weights_keep_their_levels_to_the_end_of_the_phase() -> None:
    callback = Oscillation(freeze=0.0, momentum=0.5)
    module, seen = train(callback, phases=QUANTIZE)
    watched = callback._watched["conv"]
    quantizer: Any = module.model.conv.weight_quantizer
    levels = [
        (weights["model.conv.weight"] / weights["model.conv.weight_quantizer.step_size"].abs())
        .clamp(quantizer.grid.q_min, quantizer.grid.q_max)
        .round()
        for weights in seen.weights
    ]
    assert watched.frozen.any()
    assert not watched.frozen.all()
    for i in watched.frozen.flatten().nonzero().ravel().tolist():
        own = torch.stack(levels).flatten(1)[:, i]
        back = [
            t
            for t in range(2, len(own))
            if own[t] != own[t - 1] and (own[t] - own[t - 1]) * (own[t - 1] - own[t - 2]) < 0
        ]
        # The first jump back freezes it, at once, at the level nearest to the mean.
        assert not back or (own[back[0] :] == own[back[0]]).all()
    assert torch.equal(watched.levels, levels[-1])


def test_dampening_adds_the_gradient_of_the_distance_to_the_level() -> None:
    _, plain = train(Oscillation(), phases=((Phase.QUANTIZE, 1),))
    callback = Oscillation(dampening=2.0)
    _, damped = train(callback, phases=((Phase.QUANTIZE, 1),))
    before = plain.before[0]
    step = before["model.conv.weight_quantizer.step_size"]
    weight = before["model.conv.weight"]
    clipped = weight.clamp(-4 * step, 3 * step)
    level = (clipped / step).round() * step
    # After a third of the only epoch the factor is 2 (1 - cos(pi / 3)) / 2, and the rate is 0.1.
    expected = 0.1 * 2 * (2 * 0.25) * (clipped - level)
    found = plain.weights[0]["model.conv.weight"] - damped.weights[0]["model.conv.weight"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_counting_alone_leaves_the_training_as_it_is() -> None:
    _, counted = train(Oscillation(), phases=QUANTIZE)
    _, plain = train(phases=QUANTIZE)
    for one, other in zip(counted.weights, plain.weights, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_nothing_is_watched_before_weights_are_rounded() -> None:
    callback = Oscillation(freeze=0.0, dampening=1.0)
    _, seen = train(callback, phases=((Phase.FLOAT, 2),))
    _, plain = train(phases=((Phase.FLOAT, 2),))
    assert callback.state_dict() == {"steps": 0, "layers": {}}
    last: dict[str, Tensor] = seen.weights[-1]
    assert all(torch.equal(last[key], plain.weights[-1][key]) for key in last)


def test_its_state_comes_back() -> None:
    callback = Oscillation(freeze=0.0, momentum=0.5)
    train(callback, phases=QUANTIZE)
    other = Oscillation()
    other.load_state_dict(callback.state_dict())
    one, again = (tensors(c.state_dict()["layers"]["conv"]) for c in (callback, other))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert make_module(QUANTIZE) is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"freeze": 2},
            "callbacks.oscillation.freeze=2 is wrong. Accepted: a number in [0, 1], null.",
        ),
        ({"freeze": True}, "callbacks.oscillation.freeze=true is wrong"),
        ({"freeze_first": 0.1}, "callbacks.oscillation.freeze_first=0.1 is wrong. Accepted: null"),
        ({"dampening": -1}, "callbacks.oscillation.dampening=-1 is wrong"),
        (
            {"momentum": 0},
            r"callbacks.oscillation.momentum=0 is wrong. Accepted: a number in (0, 1].",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Oscillation(**settings)
    assert words in str(caught.value)


def test_a_quantizer_without_positions_is_refused_by_its_layer() -> None:
    class Own(Quantizer):
        method = "own"

    quantizer = Own(bits=2)
    quantizer.layer = "conv1"
    with pytest.raises(ConfigError, match=r"^conv1: Own defines no positions and weights_at"):
        quantizer.positions(torch.zeros(1))
