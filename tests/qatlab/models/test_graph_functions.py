"""Layers without weights against their formulas."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import pytest
import reference
import torch
from graphs import SHAPE, array, check, one, randn
from torch import fx, nn

from qatlab.models import LayerGraph


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training: bool) -> None:
    x = randn(3, *SHAPE) * 2 + 1
    model: Any = one({"type": "batch_norm", "eps": 0.1, "momentum": 0.3}).train(training)
    norm = model.layer
    assert type(norm) is nn.BatchNorm2d
    start = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    assert [t.unique().tolist() for t in start] == [[1.0], [0.0], [0.0], [1.0]]
    y = model(x)
    mean, variance = array(x).mean((0, 2, 3)), array(x).var((0, 2, 3))
    if training:
        expected = (array(x) - mean[:, None, None]) / np.sqrt(variance + 0.1)[:, None, None]
        unbiased = variance * 126 / 125  # of 3 x 7 x 6 numbers
        np.testing.assert_allclose(norm.running_mean, 0.3 * mean, rtol=1e-5)
        np.testing.assert_allclose(norm.running_var, 0.7 + 0.3 * unbiased, rtol=1e-5)
    else:
        expected = array(x) / np.sqrt(1.1)
    np.testing.assert_allclose(array(y), expected, atol=1e-5)


def test_batch_norm_without_momentum_always_takes_the_running_statistics() -> None:
    model: Any = one({"type": "batch_norm", "eps": 0.0, "momentum": 0.0}).train()
    keys = {f"layer.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(model.state_dict()) == set(fx.symbolic_trace(model).state_dict()) == keys
    state = {"weight": 2.0, "bias": 1.0, "running_mean": 3.0, "running_var": 4.0}
    model.load_state_dict({f"layer.{k}": torch.full((4,), v) for k, v in state.items()})
    x = randn(3, *SHAPE).requires_grad_()
    y = fx.symbolic_trace(model)(x)
    torch.testing.assert_close(y, 2 * (x - 3) / 2 + 1)
    y.sum().backward()
    assert torch.equal(model.layer.running_mean, torch.full((4,), 3.0))
    torch.testing.assert_close(x.grad, torch.ones_like(x))  # statistics are constants


def test_lrn() -> None:
    x = randn(2, 7, 3, 2)
    node = {"type": "lrn", "size": 5, "alpha": 0.5, "beta": 0.7, "k": 1.5}
    check(node, lambda _: reference.lrn(array(x), 5, 0.5, 0.7, 1.5), x)
    default = reference.lrn(array(x), 5, 1e-4, 0.75, 2.0)
    check({"type": "lrn"}, lambda _: default, x, tolerance=1e-6)


ACTIVATIONS = [
    ({"type": "relu"}, lambda x: np.maximum(x, 0), nn.ReLU),
    ({"type": "relu", "clip": 6}, lambda x: np.clip(x, 0, 6), nn.ReLU6),
    ({"type": "relu", "clip": 0.5}, lambda x: np.clip(x, 0, 0.5), nn.Hardtanh),
    ({"type": "relu", "slope": 0.1}, lambda x: np.where(x < 0, 0.1 * x, x), nn.LeakyReLU),
    (
        {"type": "relu", "slope": 0.1, "clip": 0.5},
        lambda x: np.where(x < 0, 0.1 * x, np.minimum(x, 0.5)),
        nn.LeakyReLU,
    ),
    ({"type": "saturation"}, lambda x: np.clip(x, -1, 1), nn.Hardtanh),
    ({"type": "saturation", "threshold": 0.3}, lambda x: np.clip(x, -0.3, 0.3), nn.Hardtanh),
    ({"type": "sigmoid"}, lambda x: 1 / (1 + np.exp(-x)), nn.Sigmoid),
    ({"type": "tanh"}, np.tanh, nn.Tanh),
    ({"type": "tanh", "alpha": 0.5}, lambda x: np.tanh(0.5 * x), nn.Tanh),
    ({"type": "tanh_lecun"}, lambda x: 1.7159 * np.tanh(2 * x / 3), nn.Tanh),
    ({"type": "softplus"}, lambda x: np.log(1 + np.exp(x)), nn.Softplus),
    ({"type": "silu"}, lambda x: x / (1 + np.exp(-x)), nn.SiLU),
]


@pytest.mark.parametrize(("node", "function", "kind"), ACTIVATIONS)
def test_activations(node: Any, function: Any, kind: type[nn.Module]) -> None:
    x = 3 * randn(2, *SHAPE)
    model = check(node, lambda _: function(array(x)), x)
    assert type(model.layer) is kind


@pytest.mark.parametrize("shape", [(6, 2, 3), (6, 1, 1)])
@pytest.mark.parametrize("group_size", [0, 2, 6])
def test_softmax(shape: tuple[int, int, int], group_size: int) -> None:
    x = randn(2, *shape)
    exp = np.exp(array(x))
    size = group_size or 6
    sums = [exp[:, i : i + size].sum(1, keepdims=True).repeat(size, 1) for i in range(0, 6, size)]
    expected = exp / np.concatenate(sums, axis=1)
    check({"type": "softmax", "group_size": group_size}, lambda _: expected, x)
    layers = {
        "fc": {"type": "linear", "channels": 6},
        "layer": {"type": "softmax", "group_size": group_size},
    }
    model = LayerGraph(shape, layers)
    sums = model(x).view(2, -1, size).sum(2)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("rescale", [True, False])
def test_dropout(rescale: bool) -> None:
    x = torch.ones(10, *SHAPE)
    model = one({"type": "dropout", "p": 0.2, "rescale": rescale})
    assert torch.equal(model(x), x)
    traced = fx.symbolic_trace(model)
    for network in (model.train(), copy.deepcopy(model), traced.train()):
        y = network(x)
        assert y.unique().tolist() == pytest.approx([0.0, 1.25 if rescale else 1.0])
        assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.04)  # of 1680
    assert torch.equal(traced.eval()(x), x)
    assert one({"type": "dropout"}).layer.p == 0.5


X, Y = randn(3, *SHAPE)[:2], randn(5, *SHAPE)[3:]
BY_CHANNEL = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, -1.0, 1.0]]
BROADCAST = [np.array(values)[:, None, None] for values in BY_CHANNEL]
OPERATIONS = [
    ({"operation": "sum"}, lambda x, y: x + y),
    ({"operation": "sum", "weights": [1, -2.5]}, lambda x, y: x - 2.5 * y),
    ({"operation": "sum", "weights": [2, 1], "shifts": [0, 3]}, lambda x, y: 2 * x + y + 3),
    (
        {"operation": "sum", "weights": BY_CHANNEL, "shifts": [1, BY_CHANNEL[1]]},
        lambda x, y: BROADCAST[0] * x + 1 + BROADCAST[1] * y + BROADCAST[1],
    ),
    ({"operation": "abs_sum"}, lambda x, y: abs(x) + abs(y)),
    ({"operation": "abs_sum", "weights": [2, -1]}, lambda x, y: 2 * abs(x) - abs(y)),
    ({"operation": "euclidean_sum"}, lambda x, y: np.sqrt(x**2 + y**2)),
    ({"operation": "euclidean_sum", "weights": [2, 3]}, lambda x, y: np.sqrt(4 * x**2 + 9 * y**2)),
    ({"operation": "prod"}, lambda x, y: x * y),
    ({"operation": "max"}, lambda x, y: np.maximum(x, y)),
]


@pytest.mark.parametrize(("keys", "function"), OPERATIONS)
def test_elementwise(keys: Any, function: Any) -> None:
    def layers(shape: Any) -> Any:
        names = ["top", "bottom"]
        halves = {
            "top": {"type": "padding", "bottom": -7, "input": "image"},
            "bottom": {"type": "padding", "top": -7, "input": "image"},
        }
        return {**halves, "layer": {"type": "elementwise", "input": names, **keys}}

    model = LayerGraph((4, 14, 6), layers(SHAPE))
    x = torch.cat([X, Y], dim=2)
    expected = torch.as_tensor(function(array(X), array(Y))).float()
    torch.testing.assert_close(model(x), expected)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))
    assert not model.state_dict()


@pytest.mark.parametrize(("keys", "function"), OPERATIONS)
def test_elementwise_of_fully_connected_layers(keys: Any, function: Any) -> None:
    fc = {"type": "linear", "channels": 4, "input": "image"}
    layers = {"a": fc, "b": fc, "layer": {"type": "elementwise", "input": ["a", "b"], **keys}}
    model: Any = LayerGraph(SHAPE, layers)
    x = randn(2, *SHAPE)
    flat = x.flatten(1)
    a, b = (array(layer(flat))[:, :, None, None] for layer in (model.a, model.b))
    expected = torch.as_tensor(function(a, b)).float().flatten(1)
    torch.testing.assert_close(model(x), expected)


def test_a_euclidean_sum_of_zeros_has_no_gradient() -> None:
    node = {"type": "elementwise", "operation": "euclidean_sum", "input": ["image", "image"]}
    x = torch.zeros(1, *SHAPE, requires_grad=True)
    one(node)(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))  # type: ignore[arg-type]


def test_sums_are_seen_as_additions() -> None:
    node = {"type": "elementwise", "operation": "sum", "input": ["image", "image", "image"]}
    graph = fx.symbolic_trace(one(node)).graph
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [operator.add] * 2


@pytest.mark.parametrize("factor", [2.5, [1.0, -2.0, 3.0, 0.0]])
def test_scale(factor: Any) -> None:
    x = randn(2, *SHAPE)
    check(
        {"type": "scale", "factor": factor}, lambda _: array(x) * np.reshape(factor, (-1, 1, 1)), x
    )
    layers = {"fc": {"type": "linear", "channels": 4}, "layer": {"type": "scale", "factor": factor}}
    model: Any = LayerGraph(SHAPE, layers)
    torch.testing.assert_close(model(x), model.fc(x.flatten(1)) * torch.tensor(factor))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_normalize(norm: str) -> None:
    x = randn(2, *SHAPE)
    size = np.abs(array(x)).sum(1) if norm == "l1" else np.sqrt((array(x) ** 2).sum(1))
    check({"type": "normalize", "norm": norm}, lambda _: array(x) / size[:, None], x)


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("binary", lambda x: np.where(x > 0.2, 3.0, 0.0)),
        ("binary_inverted", lambda x: np.where(x > 0.2, 0.0, 3.0)),
        ("truncate", lambda x: np.where(x > 0.2, 0.2, x)),
        ("to_zero", lambda x: np.where(x > 0.2, x, 0.0)),
        ("to_zero_inverted", lambda x: np.where(x > 0.2, 0.0, x)),
    ],
)
def test_threshold(operation: str, function: Any) -> None:
    x = randn(2, *SHAPE)
    keys = {"max_value": 3.0} if operation.startswith("binary") else {}
    node = {"type": "threshold", "threshold": 0.2, "operation": operation, **keys}
    check(node, lambda _: function(array(x)), x)
    check({"type": "threshold"}, lambda _: array(x) > 0, x)


@pytest.mark.parametrize("sides", [(1, 2, 3, 4), (-2, 0, 1, -3)])
def test_padding(sides: tuple[int, int, int, int]) -> None:
    x = randn(2, *SHAPE)
    node = dict(zip(("top", "bottom", "left", "right"), sides, strict=True))
    around = reference.padded(array(x), 9, 9, 9, 9, 0.0)
    top, bottom, left, right = sides
    expected = around[:, :, 9 - top : 16 + bottom, 9 - left : 15 + right]
    check({"type": "padding", **node}, lambda _: expected, x)


@pytest.mark.parametrize("size", [(10, 13), (2, 4), (1, 6)])
def test_resize(size: tuple[int, int]) -> None:
    x = randn(2, *SHAPE)

    def corners(i: int, n: int, out: int) -> float:
        return i * (n - 1) / (out - 1) if out > 1 else 0.0

    def centres(i: int, n: int, out: int) -> float:
        return (i + 0.5) * n / out - 0.5

    def starts(i: int, n: int, out: int) -> float:
        return i * n / out

    def nearest(i: int, n: int, out: int) -> float:
        return float(i * n // out)

    node = {"type": "resize", "height": size[0], "width": size[1]}
    for keys, place in (
        ({}, corners),
        ({"mode": "bilinear", "align_corners": False}, centres),
        ({"mode": "bilinear_tf"}, corners),
        ({"mode": "bilinear_tf", "align_corners": False}, starts),
        ({"mode": "nearest"}, nearest),
    ):
        expected = reference.bilinear(array(x), size, place)
        check({**node, **keys}, lambda _, expected=expected: expected, x)  # type: ignore[misc]


@pytest.mark.parametrize("dims", [[2, 14, 6], [-1, 2, 3], [0, 6, -1], [0, 0, 0], [168, 1, 1]])
def test_reshape(dims: list[int]) -> None:
    x = randn(2, *SHAPE)
    new = [old if size == 0 else size for size, old in zip(dims, SHAPE, strict=True)]
    check({"type": "reshape", "dims": dims}, lambda _: array(x).reshape(2, *new), x)


@pytest.mark.parametrize("perm", [[0, 2, 1], [2, 0, 1], [1, 2, 0]])
def test_transpose(perm: list[int]) -> None:
    x = randn(2, *SHAPE)
    expected = array(x).transpose(0, *(1 + axis for axis in perm))
    check({"type": "transpose", "perm": perm}, lambda _: expected, x)
