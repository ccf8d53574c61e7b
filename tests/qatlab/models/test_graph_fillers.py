"""Initial values by N2D2's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qatlab.models import LayerGraph

# Fans by the formulas: C_in / groups * kH * kW and C_out * kH * kW, whatever the groups.
LAYERS = [
    ({"type": "conv", "channels": 64, "kernel": [5, 3]}, 32 * 15, 64 * 15),
    ({"type": "conv", "channels": 512, "kernel": 5, "groups": 32}, 25, 512 * 25),
    ({"type": "deconv", "channels": 64, "kernel": [5, 3]}, 32 * 15, 64 * 15),
    ({"type": "deconv", "channels": 512, "kernel": 5, "groups": 32}, 25, 512 * 25),
    ({"type": "linear", "channels": 50}, 32 * 25, 50),
]
FANS = pytest.mark.parametrize(("node", "fan_in", "fan_out"), LAYERS)


def weight_of(node: dict[str, Any], **graph: Any) -> torch.Tensor:
    torch.manual_seed(0)
    model: Any = LayerGraph([32, 5, 5], {"layer": node}, **graph)
    return model.layer.weight.detach()  # type: ignore[no-any-return]


def assert_normal(x: torch.Tensor, mean: float, std: float) -> None:
    """At least 12800 numbers: the tolerances are five standard errors."""
    assert x.std().item() == pytest.approx(std, rel=0.035)
    assert x.mean().item() == pytest.approx(mean, abs=5 * std / len(x.flatten()) ** 0.5)
    assert x.abs().max() > 3 * std


def assert_uniform(x: torch.Tensor, low: float, high: float) -> None:
    """Of 12800 numbers the outermost come within a thousandth of the ends."""
    assert low <= x.min() < low + (high - low) / 1000
    assert high >= x.max() > high - (high - low) / 1000
    assert x.mean().item() == pytest.approx((low + high) / 2, abs=(high - low) / 50)


@FANS
@pytest.mark.parametrize("norm", ["fan_in", "fan_out", "average"])
def test_fans(node: dict[str, Any], fan_in: int, fan_out: int, norm: str) -> None:
    n = {"fan_in": fan_in, "fan_out": fan_out, "average": (fan_in + fan_out) / 2}[norm]
    init = {"type": "xavier", "norm": norm, "scaling": 0.5}
    bound = (3 / n) ** 0.5
    assert_uniform(weight_of({**node, "weight_init": init}), -0.5 * bound, 0.5 * bound)
    init = {**init, "distribution": "normal"}
    assert_normal(weight_of({**node, "weight_init": init}), 0.0, 0.5 / n**0.5)
    init = {"type": "he", "norm": norm, "mean": 3.0, "scaling": 2.0}
    weight = weight_of({**node, "weight_init": init})
    assert_normal(weight - 6 / n, 0.0, 2 * (2 / n) ** 0.5)


@FANS
def test_defaults(node: dict[str, Any], fan_in: int, fan_out: int) -> None:
    assert_normal(weight_of(node), 0.0, 0.05)
    assert_normal(weight_of({**node, "weight_init": {"type": "normal"}}), 0.0, 1.0)
    assert_uniform(weight_of({**node, "weight_init": {"type": "uniform"}}), 0.0, 1.0)
    bound = (3 / fan_in) ** 0.5
    assert_uniform(weight_of({**node, "weight_init": {"type": "xavier"}}), -bound, bound)
    assert_normal(weight_of({**node, "weight_init": {"type": "he"}}), 0.0, (2 / fan_in) ** 0.5)


@FANS
def test_a_layer_wins_over_its_graph(node: dict[str, Any], fan_in: int, fan_out: int) -> None:
    graph = {"weight_init": {"type": "constant", "value": 2.0}}
    assert weight_of(node, **graph).unique().tolist() == [2.0]
    node = {**node, "weight_init": {"type": "uniform", "low": -3.0, "high": -1.0}}
    assert_uniform(weight_of(node, **graph), -3.0, -1.0)


def test_biases() -> None:
    node = {"type": "linear", "channels": 20_000}
    torch.manual_seed(0)
    model: Any = LayerGraph([1, 1, 1], {"layer": node})
    assert_normal(model.layer.bias.detach(), 0.0, 0.05)
    assert not torch.equal(model.layer.bias, model.layer.weight[:, 0])
    init = {"type": "normal", "mean": 2.0, "std": 0.1}
    model = LayerGraph([1, 1, 1], {"layer": node}, bias_init=init)
    assert_normal(model.layer.bias.detach() - 2, 0.0, 0.1)
    own = {**node, "bias_init": {"type": "constant", "value": -1.0}}
    model = LayerGraph([1, 1, 1], {"layer": own}, bias_init=init)
    assert model.layer.bias.unique().tolist() == [-1.0]


def test_a_mapped_conv_draws_all_weights() -> None:
    node = {"type": "conv", "channels": 64, "kernel": 5, "weight_init": {"type": "he"}}
    mapping = ["10" * 32, "11" * 32] * 16
    whole, mapped = weight_of(node), weight_of({**node, "mapping": mapping})
    connected = torch.tensor([[int(c) for c in row] for row in mapping]).T[:, :, None, None]
    assert torch.equal(mapped, whole * connected)


def test_the_seed_decides() -> None:
    node = {"type": "conv", "channels": 3, "kernel": 2}
    assert torch.equal(weight_of(node), weight_of(node))
    torch.manual_seed(0)
    expected = torch.empty(3, 32, 2, 2).normal_(0.0, 0.05)  # no other number was drawn before
    assert torch.equal(weight_of(node), expected)
