"""How layers are joined to a network, and what it hands out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graphs import randn
from torch import fx, nn

from qatlab.models import LayerGraph, LeNet

FC: dict[str, Any] = {"type": "linear", "channels": 10}


def lenet_layers(bias: bool = False) -> dict[str, Any]:
    """LeNet of qatlab, written down."""
    layers: dict[str, Any] = {}
    for i, channels in ((1, 6), (2, 16), (3, 120)):
        layers[f"conv{i}"] = {"type": "conv", "channels": channels, "kernel": 5, "bias": False}
        layers[f"bn{i}"] = {"type": "batch_norm"}
        layers[f"relu{i}"] = {"type": "relu"}
        layers[f"pool{i}"] = {"type": "max_pool", "kernel": [2, 2], "stride": [2, 2]}
    del layers["pool3"]
    layers["fc1"] = {"type": "linear", "channels": 84, "bias": bias}
    layers["relu4"] = {"type": "relu"}
    layers["dropout"] = {"type": "dropout", "p": 0.5}
    layers["fc2"] = {"type": "linear", "channels": 10, "bias": bias}
    return layers


def test_lenet_written_down_is_lenet() -> None:
    model, expected = LayerGraph([1, 32, 32], lenet_layers(), num_classes=10), LeNet(10, 1)
    assert list(model.state_dict()) == list(expected.state_dict())
    model.load_state_dict(expected.state_dict())
    x = randn(4, 1, 32, 32)
    for training in (True, False):
        torch.manual_seed(1)
        y = model.train(training)(x)
        torch.manual_seed(1)
        assert torch.equal(y, expected.train(training)(x))
    assert model.shapes["conv2"] == (16, 10, 10)
    assert model.shapes["pool2"] == (16, 5, 5)
    assert model.shapes["fc1"] == model.shapes["relu4"] == (84, 1, 1)
    assert list(model.shapes) == list(lenet_layers())


def test_the_trace_calls_each_layer_by_its_name() -> None:
    graph = fx.symbolic_trace(LayerGraph([1, 32, 32], lenet_layers())).graph
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert called == list(lenet_layers())


def test_inputs_are_concatenated_along_channels() -> None:
    layers = {
        "a": {"type": "conv", "channels": 2, "kernel": 1},
        "b": {"type": "conv", "channels": 3, "kernel": 1, "input": "image"},
        "both": {"type": "conv", "channels": 4, "kernel": 1, "input": ["b", "image", "a"]},
        "pool": {"type": "max_pool", "kernel": 5, "input": ["both", "a"]},
    }
    model: Any = LayerGraph([3, 5, 5], layers)
    x = randn(2, 3, 5, 5)
    a, b = model.a(x), model.b(x)
    both = model.both(torch.cat([b, x, a], dim=1))
    expected = torch.cat([both, a], dim=1).amax((2, 3))
    assert torch.equal(model(x), expected)
    assert model.shapes == {"a": (2, 5, 5), "b": (3, 5, 5), "both": (4, 5, 5), "pool": (6, 1, 1)}


def test_a_fully_connected_layer_flattens_each_input_first() -> None:
    layers = {
        "fc1": {"type": "linear", "channels": 4},
        "pool": {"type": "avg_pool", "kernel": 2, "input": "image"},
        "fc2": {"type": "linear", "channels": 2, "input": ["pool", "fc1", "image"]},
    }
    model: Any = LayerGraph([3, 4, 5], layers)
    x = randn(2, 3, 4, 5)
    parts = [model.pool(x).flatten(1), model.fc1(x.flatten(1)), x.flatten(1)]
    torch.testing.assert_close(model(x), model.fc2(torch.cat(parts, dim=1)))


def test_spatial_layers_behind_a_fully_connected_one_see_a_plane_of_one_pixel() -> None:
    layers = {
        "fc": FC,
        "bn": {"type": "batch_norm"},
        "relu": {"type": "relu"},
        "up": {"type": "deconv", "channels": 3, "kernel": 4},
        "down": {"type": "avg_pool", "kernel": 4},
        "norm": {"type": "lrn", "input": "fc"},
        "joined": {"type": "concat", "input": ["fc", "down", "norm"]},
        "sum": {"type": "elementwise", "operation": "sum", "input": ["fc", "relu"]},
        "last": {"type": "linear", "channels": 2, "input": ["joined", "sum"]},
    }
    model: Any = LayerGraph([1, 6, 6], layers).eval()
    x = randn(3, 1, 6, 6)
    fc = model.fc(x.flatten(1))
    relu = (fc / (1 + 1e-5) ** 0.5).relu()
    down = model.up(relu[:, :, None, None]).mean((2, 3))
    norm = model.norm(fc[:, :, None, None]).flatten(1)
    expected = model.last(torch.cat([fc, down, norm, fc + relu], dim=1))
    torch.testing.assert_close(model(x), expected)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))
    assert model.shapes["up"] == (3, 4, 4)
    assert model.shapes["joined"] == (23, 1, 1)


def test_outputs_come_in_the_order_given() -> None:
    layers = {
        "conv": {"type": "conv", "channels": 2, "kernel": 3},
        "fc": FC,
        "pool": {"type": "avg_pool", "kernel": 4, "input": "conv"},
    }
    model: Any = LayerGraph([1, 6, 6], layers, outputs=["fc", "conv", "pool"])
    x = randn(3, 1, 6, 6)
    conv = model.conv(x)
    for network in (model, fx.symbolic_trace(model)):
        fc, middle, pool = network(x)
        torch.testing.assert_close(fc, model.fc(conv.flatten(1)))
        assert torch.equal(middle, conv)
        torch.testing.assert_close(pool, conv.mean((2, 3)))  # (N, C)
    assert isinstance(LayerGraph([1, 6, 6], {"fc": FC}, outputs=["fc"])(x), torch.Tensor)


@pytest.mark.parametrize(
    ("channels", "num_classes"), [(10, 10), (2, 2), (1, 2), (10, None), (None, 7)]
)
def test_classes_fit_or_the_output_is_an_image(channels: Any, num_classes: Any) -> None:
    last = {"type": "linear", "channels": channels} if channels else {"type": "sigmoid"}
    model = LayerGraph([3, 4, 4], {"last": last}, num_classes=num_classes, in_channels=3)
    assert model(randn(2, 3, 4, 4)).shape == ((2, channels) if channels else (2, 3, 4, 4))


def test_a_copy_computes_by_itself() -> None:
    model: Any = LayerGraph([1, 32, 32], lenet_layers()).eval()
    other = copy.deepcopy(model)
    x = randn(1, 1, 32, 32)
    expected = model(x)
    nn.init.zeros_(model.fc2.weight)
    assert torch.equal(other(x), expected)
    assert not model(x).any()


def test_a_layer_can_be_exchanged() -> None:
    model: Any = LayerGraph([1, 32, 32], lenet_layers()).eval()
    model.fc2 = nn.Identity()
    assert model(randn(1, 1, 32, 32)).shape == (1, 84)
