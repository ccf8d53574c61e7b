"""Networks that are described layer by layer, in quantization."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from graphs import randn
from test_layer_graph import lenet_layers
from torch import Tensor, nn

from qatlab.models import LayerGraph, LeNet
from qatlab.quant import (
    ModelTable,
    Phase,
    Rule,
    SatActivation,
    SatWeight,
    float_table,
    quantize,
    set_phase,
)
from qatlab.quant.layers import QuantConv2d, hold_weights

RULES = {
    "first": {"index": 0, "weight": {"bits": 8}},
    "last": {"index": -1, "weight": {"bits": 8}},
}
MAPPING = ["110010", "011000", "000111"]
CONV = {"type": "conv", "channels": 4, "kernel": 3, "padding": 1}


def quantized(model: nn.Module, shape: Any, rules: Any = None) -> tuple[Any, ModelTable]:
    return quantize(
        model,
        partial(SatWeight, bits=4),
        partial(SatActivation, bits=4, alpha=3.0),
        [Rule.parse(key, node) for key, node in (rules or {}).items()],
        torch.zeros(1, *shape),
    )


def sites(table: ModelTable) -> list[tuple[str, str, bool]]:
    rows = [row for row in table.layers if row.part == "activation"]
    return [(row.name, row.type, row.quantizer["signed"]) for row in rows]


@pytest.mark.parametrize("phase", [Phase.CLAMP, Phase.QUANTIZE])
def test_lenet_written_down_is_quantized_as_lenet(phase: Phase) -> None:
    shape = (1, 32, 32)
    torch.manual_seed(0)
    model, table = quantized(LayerGraph(shape, lenet_layers()), shape, RULES)
    expected, expected_table = quantized(LeNet(10, 1), shape, RULES)
    assert table == expected_table
    assert list(model.state_dict()) == list(expected.state_dict())
    model.load_state_dict(expected.state_dict())
    x = randn(4, *shape)
    for network in (model, expected):
        set_phase(network, phase)
        torch.manual_seed(1)
        network.train()(x).square().sum().backward()
    for (name, p), (_, q) in zip(
        model.named_parameters(), expected.named_parameters(), strict=True
    ):
        if q.grad is not None:  # alphas have none in the clamp phase
            assert torch.equal(p.grad, q.grad), name
    assert torch.equal(model.eval()(x), expected.eval()(x))


def test_residual_and_depthwise_layers_have_the_sites_of_such_networks() -> None:
    layers = {
        "conv1": CONV,
        "relu1": {"type": "relu"},
        "depthwise": {**CONV, "groups": 4, "bias": False},
        "bn2": {"type": "batch_norm"},
        "sum": {"type": "elementwise", "operation": "sum", "input": ["bn2", "relu1"]},
        "relu2": {"type": "relu", "clip": 2.5},
        "halved": {"type": "scale", "factor": 0.5},
        "pool": {"type": "avg_pool", "kernel": 6},
        "tanh1": {"type": "tanh_lecun"},
        "fc": {"type": "linear", "channels": 10},
    }
    model, table = quantized(LayerGraph([2, 6, 6], layers), (2, 6, 6))
    assert sites(table) == [
        ("relu1", "ReLU", False),
        ("bn2_site", "BatchNorm2d", True),
        ("relu2", "Hardtanh", False),
        ("tanh1", "Tanh", True),
    ]
    weights = [(row.name, row.shape) for row in table.layers if row.part == "weight"]
    assert weights == [("conv1", (4, 2, 3, 3)), ("depthwise", (4, 1, 3, 3)), ("fc", (10, 4))]
    x = randn(2, 2, 6, 6)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("rules", [{}, {"all": {"name": "*", "weight": None}}])
def test_unconnected_weights_stay_zero_in_quantized_training(rules: Any) -> None:
    layers = {
        "conv": {"type": "conv", "channels": 6, "kernel": 3, "mapping": MAPPING},
        "relu": {"type": "relu"},
        "fc": {"type": "linear", "channels": 10},
    }
    shape = (3, 6, 6)
    torch.manual_seed(0)
    model, _ = quantized(LayerGraph(shape, layers), shape, rules)
    keys = {"conv.weight", "conv.bias", "fc.weight", "fc.bias", "relu.alpha"}
    assert {key for key in model.state_dict() if "quantizer" not in key} >= keys
    assert not any("mask" in key for key in model.state_dict())
    connected = torch.tensor([[c == "1" for c in row] for row in MAPPING]).T[:, :, None, None]
    connected = connected.expand(6, 3, 3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for phase in (Phase.CLAMP, Phase.QUANTIZE, Phase.QUANTIZE):
        set_phase(model, phase)
        optimizer.zero_grad()
        model.train()(randn(4, *shape)).square().mean().backward()
        assert not model.conv.weight.grad[~connected].any()
        assert model.conv.weight.grad[connected].any()
        optimizer.step()
        assert not model.conv.weight[~connected].any()
    if rules:
        return
    assert isinstance(model.conv, QuantConv2d)
    levels = model.conv.weight_quantizer(model.conv.weight)
    assert levels.all()  # the grid of SAT has no zero, so the mask is needed
    used: list[Tensor] = []
    convolve = model.conv._conv_forward
    model.conv._conv_forward = lambda x, w, b: used.append(w) or convolve(x, w, b)
    model(randn(1, *shape))
    hold_weights(model)
    with torch.no_grad():
        model.eval()(randn(1, *shape))
    assert torch.equal(used[0], levels * connected)
    assert torch.equal(used[1], used[0])


def test_dropped_weights_of_a_quantized_layer() -> None:
    fc = {"type": "linear", "channels": 50, "drop_connect": 0.8, "bias": False}
    shape = (100, 1, 1)
    model, _ = quantized(LayerGraph(shape, {"fc": fc}), shape)
    x = torch.eye(100)[:, :, None, None]
    whole = model.eval()(x)
    assert 8 < whole.unique().numel() <= 16
    y = model.train()(x)
    assert (y != 0).float().mean().item() == pytest.approx(0.8, abs=0.03)
    torch.testing.assert_close(y[y != 0], whole[y != 0] / 0.8)


KINDS: list[dict[str, Any]] = [
    {"type": "deconv", "channels": 3, "kernel": 2, "mapping": ["101", "011", "110", "111"]},
    {"type": "linear", "channels": 4, "drop_connect": 0.5},
    {"type": "max_pool", "kernel": 3, "padding": 2, "mapping": ["11", "01", "10", "01"]},
    {"type": "avg_pool", "kernel": 2, "mapping": ["11", "01", "10", "01"]},
    {"type": "fractional_max_pool", "ratio": 1.5},
    {"type": "batch_norm", "momentum": 0.0},
    {"type": "lrn"},
    {"type": "relu", "slope": 0.1, "clip": 2.0},
    {"type": "saturation"},
    {"type": "tanh", "alpha": 2.0},
    {"type": "softmax", "group_size": 2},
    {"type": "dropout", "rescale": False},
    *({"type": "elementwise", "operation": operation, "input": ["image", "conv"]}
      for operation in ("sum", "abs_sum", "euclidean_sum", "prod", "max")),
    {"type": "scale", "factor": [1.0, 2.0, 3.0, 4.0]},
    {"type": "normalize", "norm": "l2"},
    {"type": "threshold", "operation": "to_zero_inverted"},
    {"type": "concat", "input": ["image", "conv"]},
    {"type": "padding", "top": 1, "left": -1},
    {"type": "resize", "height": 3, "width": 9, "mode": "bilinear_tf", "align_corners": False},
    {"type": "reshape", "dims": [8, 3, -1]},
    {"type": "transpose", "perm": [1, 0, 2]},
]  # fmt: skip


@pytest.mark.parametrize("node", KINDS)
def test_every_type_can_be_quantized_and_computes_the_same_in_the_float_phase(node: Any) -> None:
    shape = (4, 6, 6)
    layers = {"conv": CONV, "layer": node, "fc": {"type": "linear", "channels": 3}}
    torch.manual_seed(0)
    graph = LayerGraph(shape, layers)
    model, table = quantized(graph, shape)
    names = [row.name for row in float_table(graph, torch.zeros(1, *shape)).layers]
    assert names == [row.name for row in table.layers]
    set_phase(model, Phase.FLOAT)
    x = randn(2, *shape)
    for training in (True, False):
        torch.manual_seed(1)
        expected = graph.train(training)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(model.train(training)(x), expected)
    float_keys = set(graph.state_dict())
    assert {key for key in model.state_dict() if key in float_keys} == float_keys
    set_phase(model, Phase.QUANTIZE)
    model.train()(x).square().sum().backward()
    assert model.conv.weight.grad is not None


def test_a_pool_that_is_undone_can_be_quantized() -> None:
    layers = {
        "conv": CONV,
        "relu": {"type": "relu"},
        "pool": {"type": "max_pool", "kernel": 2, "stride": 2},
        "middle": CONV,
        "back": {"type": "max_unpool", "pool": "pool"},
        "last": {**CONV, "channels": 2},
    }
    graph = LayerGraph([2, 6, 6], layers, num_classes=10)
    model, table = quantized(graph, (2, 6, 6))
    assert sites(table)[0] == ("relu", "ReLU", False)
    x = randn(2, 2, 6, 6)
    set_phase(model, Phase.FLOAT)
    torch.testing.assert_close(model(x), graph(x))
    set_phase(model, Phase.QUANTIZE)
    model(x).square().sum().backward()
    assert model.conv.weight.grad is not None
