"""Convolutions, deconvolutions and fully-connected layers against their formulas."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import reference
import torch
from graphs import SHAPE, array, check, one, randn
from torch import nn


@pytest.mark.parametrize(
    "keys",
    [
        {"kernel": 3},
        {"kernel": [2, 3], "stride": [2, 1], "padding": [1, 2]},
        {"kernel": 3, "padding": [0, 1, 2, 0]},
        {"kernel": 3, "padding": 1, "stride": 2},
        {"kernel": [3, 2], "dilation": [2, 3]},
        {"kernel": 3, "groups": 2},
        {"kernel": 2, "groups": 4, "channels": 8},
        {"kernel": 1, "subsample": [2, 3]},
        {"kernel": 2, "stride": 2, "subsample": 2, "padding": [0, 1, 0, 0]},
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(keys: dict[str, Any], bias: bool) -> None:
    x = randn(2, *SHAPE)

    def expected(model: Any) -> reference.Array:
        return reference.conv(array(x), *parameters(model), **reference.spelled_out(keys))

    model = check({"type": "conv", "channels": 6, "bias": bias, **keys}, expected, x)
    assert type(model.layer) is nn.Conv2d
    assert set(model.state_dict()) == ({"layer.weight", "layer.bias"} if bias else {"layer.weight"})


@pytest.mark.parametrize(
    "keys",
    [
        {"kernel": 3},
        {"kernel": [2, 3], "stride": [3, 2], "padding": [1, 2]},
        {"kernel": 3, "stride": 2, "padding": [0, 1, 2, 0]},
        {"kernel": 2, "dilation": 2, "groups": 2},
    ],
)
def test_deconv(keys: dict[str, Any]) -> None:
    x = randn(2, 4, 3, 4)

    def expected(model: Any) -> reference.Array:
        return reference.deconv(array(x), *parameters(model), **reference.spelled_out(keys))

    model = check({"type": "deconv", "channels": 6, **keys}, expected, x)
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    assert type(model.layer) is nn.ConvTranspose2d


def parameters(model: Any) -> tuple[reference.Array, ...]:
    return tuple(array(p) for p in model.layer.parameters())


MAPPING = ["110010", "011000", "000111", "000000"]


def test_unconnected_weights_of_a_conv_are_zero() -> None:
    x = randn(2, *SHAPE)
    connected = np.array([[int(digit) for digit in row] for row in MAPPING]).T

    def expected(model: Any) -> reference.Array:
        weight = array(model.layer.weight)
        assert not weight[connected == 0].any()
        assert weight[connected == 1].all()
        return reference.conv(array(x), weight, array(model.layer.bias))

    node = {"type": "conv", "channels": 6, "kernel": 3, "mapping": MAPPING}
    model = check(node, expected, x)
    assert set(model.state_dict()) == {"layer.weight", "layer.bias"}
    assert model.layer.weight.shape == (6, 4, 3, 3)


def test_unconnected_weights_of_a_deconv_are_zero() -> None:
    x = randn(2, *SHAPE)
    connected = np.array([[int(digit) for digit in row] for row in MAPPING])

    def expected(model: Any) -> reference.Array:
        weight = array(model.layer.weight)
        assert not weight[connected == 0].any()
        return reference.deconv(array(x), weight, array(model.layer.bias), stride=(2, 2))

    keys = {"channels": 6, "kernel": 3, "stride": 2, "mapping": MAPPING}
    check({"type": "deconv", **keys}, expected, x)


@pytest.mark.parametrize("kind", ["conv", "deconv"])
@pytest.mark.parametrize("copied", [False, True])
def test_unconnected_weights_stay_zero_in_training(kind: str, copied: bool) -> None:
    node = {"type": kind, "channels": 6, "kernel": 3, "mapping": MAPPING}
    model: Any = one(node).train()
    model = copy.deepcopy(model) if copied else model
    mask = model.layer.weight_mask.expand_as(model.layer.weight).bool()
    before = model.layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(randn(2, *SHAPE)).square().sum().backward()
        assert not model.layer.weight.grad[~mask].any()
        optimizer.step()
    assert not model.layer.weight[~mask].any()
    assert (model.layer.weight != before)[mask].all()


@pytest.mark.parametrize("kind", ["conv", "deconv"])
def test_what_a_file_says_of_unconnected_weights_has_no_effect(kind: str) -> None:
    model: Any = one({"type": kind, "channels": 6, "kernel": 3, "mapping": MAPPING})
    x = randn(2, *SHAPE)
    expected = model(x)
    mask = model.layer.weight_mask
    state = model.state_dict()
    state["layer.weight"] = state["layer.weight"] + (1 - mask)
    model.load_state_dict(state)
    assert torch.equal(model(x), expected)


def test_linear() -> None:
    x = randn(2, *SHAPE)

    def expected(model: Any) -> reference.Array:
        flat = array(x).reshape(2, -1)
        y = flat @ array(model.layer.weight).T + array(model.layer.bias)
        return y[:, :, None, None]

    model = check({"type": "linear", "channels": 5}, expected, x)
    assert type(model.layer) is nn.Linear
    assert model(x).shape == (2, 5)
    assert one({"type": "linear", "channels": 5, "bias": False}).layer.bias is None


def test_drop_connect_keeps_a_share_of_the_weights_in_training() -> None:
    node = {"type": "linear", "channels": 50, "drop_connect": 0.8, "bias": False}
    model: Any = one(node, (100, 1, 1))
    x = torch.eye(100)[:, :, None, None]  # each image reads the weights of one input
    assert torch.equal(model(x), model.layer.weight.T)
    y = model.train()(x)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.03)  # of 5000: sigma 0.006
    torch.testing.assert_close(y[kept], model.layer.weight.T[kept] / 0.8)
    assert not torch.equal(model(x), y)
    y.sum().backward()
    assert torch.equal(model.layer.weight.grad.T != 0, kept)
