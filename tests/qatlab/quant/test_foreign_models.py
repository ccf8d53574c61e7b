"""Networks of torchvision, which were not written with quantization in mind."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from qatlab.quant import ModelTable, Rule, SatActivation, SatWeight, quantize, start_activations

FIRST = {
    "mobilenet_v2": "features.0.0",
    "resnet18": "conv1",
    "shufflenet_v2_x0_5": "conv1.0",
    "squeezenet1_1": "features.0",
}
MODELS = pytest.mark.parametrize("name", FIRST)
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def convert(name: str, seed: int = 0) -> tuple[nn.Module, ModelTable]:
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(num_classes=10)
    rules = [Rule.parse("last", {"index": -1, "weight": {"scaling": True}})]
    activation = partial(SatActivation, bits=4, percentile=100)
    return quantize(model, partial(SatWeight, bits=4), activation, rules, IMAGES[:1])


@MODELS
def test_networks_of_torchvision_train_and_their_checkpoints_come_back(name: str) -> None:
    model, table = convert(name)
    start_activations(model, [IMAGES])
    model.train()
    model(IMAGES).square().sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert {row.bits for row in table.layers} == {4}
    own: Any = [p for key, p in model.named_parameters() if not key.endswith("alpha")]
    assert table.parameters == sum(p.numel() for p in own)

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other, _ = convert(name, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))


@MODELS
def test_every_layer_of_them_reads_quantized_tensors(
    name: str, assert_inputs_are_quantized: Any
) -> None:
    model, _ = convert(name)
    start_activations(model, [IMAGES])
    assert_inputs_are_quantized(model.eval(), IMAGES, n_levels=16, first=FIRST[name])
