"""The average of the weights: what it is, and who sees it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_training import STEPS, Net, loss_of, tensors, train
from torch import Tensor

from qatlab.errors import ConfigError
from qatlab.quant import Phase
from qatlab.training.weight_average import TRAINED, WeightAverage

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
QUANTIZE = ((Phase.QUANTIZE, 2),)


def average(weights: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """The definition, in float64."""
    shares = [decay ** (len(weights) - i) for i in range(1, len(weights) + 1)]
    return {
        key: sum(s * w[key].double() for s, w in zip(shares, weights, strict=True)) / sum(shares)
        for key, value in weights[0].items()
        if value.is_floating_point()
    }


def assert_close(state: dict[str, Any], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        torch.testing.assert_close(state[key].double(), value, rtol=1e-5, atol=1e-6, msg=key)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_a_checkpoint_holds_the_average_over_all_steps_beside_the_weights(decay: float) -> None:
    module, seen = train(WeightAverage(decay), phases=QUANTIZE)
    for epoch, checkpoint in enumerate(seen.checkpoints, 1):
        weights = seen.weights[: epoch * STEPS]
        assert same(checkpoint[TRAINED], weights[-1])
        assert_close(checkpoint["state_dict"], average(weights, decay))
    averaged = seen.checkpoints[-1]["state_dict"]
    for key in ("conv.weight", "conv.weight_quantizer.step_size", "relu.step_size", "bn.bias"):
        assert not torch.equal(averaged[f"model.{key}"], seen.weights[-1][f"model.{key}"]), key
    assert same(module.state_dict(), seen.weights[-1])


def test_what_is_no_weight_is_as_the_training_left_it() -> None:
    _, seen = train(WeightAverage(0.5))
    state = seen.checkpoints[-1]["state_dict"]
    assert state["model.relu._extra_state"].startswith("quantize ")
    assert state["model.relu.initialized"].item() is True
    assert state["model.bn.num_batches_tracked"].item() == 3 * STEPS
    assert seen.checkpoints[0]["state_dict"]["model.relu._extra_state"].startswith("float ")


def test_the_training_of_a_phase_does_not_see_the_average() -> None:
    _, with_it = train(WeightAverage(0.9), phases=QUANTIZE)
    _, without = train(phases=QUANTIZE)
    assert all(same(a, b) for a, b in zip(with_it.weights, without.weights, strict=True))
    assert with_it.losses != without.losses


def test_the_average_is_validated() -> None:
    module, seen = train(WeightAverage(0.8))
    states = [checkpoint["state_dict"] for checkpoint in seen.checkpoints]
    assert seen.losses == pytest.approx([loss_of(module, state) for state in states], rel=1e-5)


def test_a_phase_begins_with_the_average_of_the_one_before_and_averages_anew() -> None:
    _, seen = train(WeightAverage(0.9))
    start, average_before = seen.before[STEPS], tensors(seen.checkpoints[0]["state_dict"])
    started = {"step_size", "initialized"}  # by the new phase
    for key in start:
        if key.rpartition(".")[2] not in started:
            assert torch.equal(start[key], average_before[key]), key
    assert not same(start, seen.weights[STEPS - 1])
    assert_close(seen.checkpoints[1]["state_dict"], average(seen.weights[STEPS : 2 * STEPS], 0.9))
    assert_close(seen.checkpoints[2]["state_dict"], average(seen.weights[STEPS:], 0.9))
    assert same(seen.before[2 * STEPS], seen.weights[2 * STEPS - 1])  # an epoch is not a phase


def test_only_steps_of_the_optimizer_count() -> None:
    _, seen = train(WeightAverage(0.5), phases=QUANTIZE, accumulate_grad_batches=2)
    # Of three batches two share a step, and the last one has one for itself.
    after_steps = [seen.weights[i] for i in (1, 2, 4, 5)]
    assert_close(seen.checkpoints[-1]["state_dict"], average(after_steps, 0.5))
    assert seen.checkpoints[-1]["callbacks"]["WeightAverage"] == {"steps": 4}


def test_without_memory_the_average_is_the_last_weights() -> None:
    _, seen = train(WeightAverage(0.0), phases=QUANTIZE)
    assert same(seen.checkpoints[-1]["state_dict"], seen.weights[-1])


class Tied(Net):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(48, 48)
        self.second = torch.nn.Linear(48, 48)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        x = self.flatten(self.relu(self.bn(self.conv(images))))
        outputs: Tensor = self.fc(self.second(self.first(x)))
        return outputs


def test_weights_that_layers_share_are_averaged_once() -> None:
    module, seen = train(WeightAverage(0.5), phases=((Phase.FLOAT, 2),), net=Tied())
    assert module.model.second.weight is module.model.first.weight
    expected = average(seen.weights, 0.5)
    assert_close(seen.checkpoints[-1]["state_dict"], expected)
    assert same(module.state_dict(), seen.weights[-1])


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, "half", True, None])
def test_a_decay_that_is_none_is_reported(decay: Any) -> None:
    told = r"^callbacks\.ema\.decay=\S+ is wrong\. Accepted: a number in \[0, 1\)\.$"
    with pytest.raises(ConfigError, match=told):
        WeightAverage(decay)
