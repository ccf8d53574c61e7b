from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.quant import MODES, Memory, Phase, SatWeight, dispatch
from qatlab.quant.layers import QuantConv2d, QuantLinear, hold_weights, release_weights


@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"stride": (2, 1), "padding": (1, 2)},
        {"dilation": 2, "groups": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": (2, 1), "padding_mode": "circular", "bias": False},
    ],
)
def test_convolutions_keep_their_settings(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, **options)
    quantizer = SatWeight(bits=3)
    layer = QuantConv2d.of(conv, quantizer)
    x = torch.randn(2, 4, 9, 8)
    quantizer.phase = Phase.FLOAT
    assert torch.equal(layer(x), conv(x))
    quantizer.phase = Phase.QUANTIZE
    expected = nn.Conv2d(4, 6, 3, **options)
    expected.weight = nn.Parameter(quantizer(conv.weight).detach())
    expected.bias = conv.bias
    assert torch.equal(layer(x), expected(x))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_compute_with_quantized_weights_and_a_float_bias(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3, bias=bias)
    quantizer = SatWeight(bits=2, scaling=True)
    layer = QuantLinear.of(linear, quantizer)
    x = torch.randn(2, 7, 5)
    assert torch.equal(layer(x), F.linear(x, quantizer(linear.weight), linear.bias))
    layer(x).square().sum().backward()
    assert linear.weight.grad is not None
    assert not bias or linear.bias.grad is not None


@pytest.mark.parametrize(
    ("make", "floats"),
    [(QuantConv2d, nn.Conv2d(2, 3, 3)), (QuantLinear, nn.Linear(4, 3))],
)
@pytest.mark.parametrize("training", [True, False])
def test_parameters_are_shared_and_none_is_drawn(
    make: Any, floats: nn.Module, training: bool
) -> None:
    before = torch.get_rng_state()
    layer = make.of(floats.train(training), SatWeight(bits=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.training is training
    assert dict(layer.named_parameters()).keys() == {"weight", "bias"}
    assert layer.weight is floats.weight
    assert layer.bias is floats.bias
    assert set(layer.state_dict()) == {"weight", "bias", "weight_quantizer._extra_state"}


def test_held_weights_are_quantized_once_until_they_are_released() -> None:
    calls = []

    class Counting(SatWeight):
        def forward(self, weight: Tensor) -> Tensor:
            calls.append(weight)
            return super().forward(weight)

    layer = QuantConv2d.of(nn.Conv2d(3, 4, 3), Counting(bits=2))
    images = torch.randn(2, 3, 5, 5)
    expected = layer(images)
    calls.clear()
    hold_weights(layer)
    with torch.no_grad():
        assert torch.equal(layer(images), expected)
        layer(images)
    assert len(calls) == 1
    layer(images).sum().backward()  # a step in between trains the float weights
    assert len(calls) == 2
    assert layer.weight.grad is not None
    release_weights(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 3, 3, 3))
        assert not torch.equal(layer(images), expected)
    assert len(calls) == 3
    assert "held" not in layer.state_dict()


def masked(layer: Any) -> Tensor:
    """Give a float layer the mask that another program would, and return it."""
    mask = (torch.rand_like(layer.weight) < 0.5).float()
    layer.register_buffer("weight_mask", mask, persistent=False)
    return mask


@pytest.mark.parametrize(
    ("make", "floats"),
    [(QuantConv2d, nn.Conv2d(3, 4, 3)), (QuantLinear, nn.Linear(5, 30))],
)
def test_masked_weights_are_zero_behind_the_quantizer(make: Any, floats: nn.Module) -> None:
    torch.manual_seed(0)
    mask = masked(floats)
    layer = make.of(floats, SatWeight(bits=2))
    expected = layer.weight_quantizer(layer.weight) * mask
    assert expected.unique().numel() == 5  # the four levels have no zero
    x = torch.randn(2, 3, 5, 5)
    function = F.conv2d if make is QuantConv2d else F.linear
    result = layer(x)
    assert torch.equal(result, function(x, expected, layer.bias))
    result.square().sum().backward()
    assert torch.equal(layer.weight.grad != 0, mask == 1)
    layer.weight.grad = None
    hold_weights(layer)
    with torch.no_grad():
        assert torch.equal(layer(x), result)
    assert "weight_mask" not in layer.state_dict()
    assert layer.to("meta").weight_mask.is_meta


@pytest.mark.parametrize("held", [True, False])
def test_weights_are_dropped_in_training_only(held: bool) -> None:
    linear: Any = nn.Linear(100, 50, bias=False)
    linear.weight_dropout = 0.2
    layer = QuantLinear.of(linear, SatWeight(bits=2))
    if held:
        hold_weights(layer)
    x = torch.eye(100)
    with torch.no_grad():
        whole, dropped = layer.eval()(x), layer.train()(x)
    torch.testing.assert_close(whole, layer.weight_quantizer(linear.weight).T)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.03)  # of 5000: sigma 0.006
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.8)


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_large_weights_are_those_of_small_ones(
    bias: bool, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    linear, x, upstream = nn.Linear(70, 30, bias), torch.randn(5, 70), torch.randn(5, 30)
    quantizer = SatWeight(bits=4)
    quantizer.phase = Phase.QUANTIZE
    found = []
    for large in (dispatch.LARGE, 1):
        monkeypatch.setattr(dispatch, "LARGE", large)
        layer = QuantLinear.of(copy.deepcopy(linear), quantizer)
        read = x.clone().requires_grad_()
        with Memory(mode) if mode else nullcontext():
            y = layer(read)
        y.backward(upstream, retain_graph=True)
        y.backward(upstream)
        found.append([y, *(leaf.grad for leaf in (read, *layer.parameters()))])
    for plain, in_large_pages in zip(*found, strict=True):
        assert torch.equal(plain, in_large_pages)
