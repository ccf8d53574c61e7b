"""Tensors stored as NHWC are quantized like others."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from qatlab import quant
from qatlab.models import SmallResNet
from qatlab.quant.quantizer import Quantizer

NHWC = torch.channels_last


def same_in_both_layouts(make: partial[Quantizer], values: Tensor) -> None:
    torch.manual_seed(1)
    grad = torch.randn_like(values)
    found = []
    for layout in (torch.contiguous_format, NHWC):
        quantizer = make()
        quantizer.fit(values)
        x = values.clone(memory_format=layout).requires_grad_()
        y = quantizer(x)
        y.backward(grad.clone(memory_format=layout))
        assert y.is_contiguous(memory_format=layout)
        learned = [p.grad for p in quantizer.parameters() if p.grad is not None]
        found.append([y, x.grad, *learned])
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [quant.SatWeight, quant.LsqWeight, quant.DorefaWeight])
def test_weights(method: type[Quantizer]) -> None:
    torch.manual_seed(0)
    same_in_both_layouts(partial(method, bits=3), torch.randn(8, 6, 3, 5))


@pytest.mark.parametrize(
    "method",
    [quant.SatActivation, quant.PactActivation, quant.LsqActivation, quant.LsqPlusActivation],
)
@pytest.mark.parametrize("signed", [False, True])
def test_activations(method: type[Quantizer], signed: bool) -> None:
    torch.manual_seed(0)
    activation = nn.Identity() if signed else nn.ReLU()
    make = partial(method, bits=3, activation=activation, signed=signed)
    same_in_both_layouts(make, torch.randn(4, 8, 6, 5))


def test_a_network_computes_the_same_and_hands_the_layout_on() -> None:
    torch.manual_seed(0)
    base, images = SmallResNet(10, 3, 8), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    weight, activation = partial(quant.SatWeight, bits=4), partial(quant.SatActivation, bits=4)
    found = []
    for layout in (torch.contiguous_format, NHWC):
        example = images[:1].float()
        model, _ = quant.quantize(copy.deepcopy(base), weight, activation, (), example)
        model.double().to(memory_format=layout)  # in float32 the last bit may choose the level
        quant.start_quantizers(model, [images])
        model.train()
        inside = []
        model.get_submodule("stages.2.0.conv2").register_forward_hook(
            lambda module, args, output, inside=inside: inside.append(output)
        )
        outputs = model(images)
        outputs.square().mean().backward()
        assert inside[0].is_contiguous(memory_format=layout)
        found.append([outputs, *(p.grad for p in model.parameters())])
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other, rtol=1e-9, atol=1e-12)
