"""Networks of torchvision, which were not written with quantization in mind."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from qatlab.quant import (
    ModelTable,
    Phase,
    Rule,
    SatActivation,
    SatWeight,
    quantize,
    set_phase,
    start_quantizers,
)

FIRST = {
    "mobilenet_v2": "features.0.0",
    "resnet18": "conv1",
    "shufflenet_v2_x0_5": "conv1.0",
    "squeezenet1_1": "features.0",
}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=10)
    return model.eval()


def convert(model: nn.Module) -> tuple[nn.Module, ModelTable]:
    rules = [Rule.parse("last", {"index": -1, "weight": {"scaling": True}})]
    activation = partial(SatActivation, bits=4, percentile=100)
    return quantize(model, partial(SatWeight, bits=4), activation, rules, IMAGES[:1])


@pytest.mark.parametrize("name", FIRST)
def test_networks_of_torchvision_train_and_their_checkpoints_come_back(
    name: str, assert_inputs_are_quantized: Any
) -> None:
    float_model = network(name, seed=0)
    expected = float_model(IMAGES)
    model, table = convert(float_model)
    set_phase(model, Phase.FLOAT)
    assert torch.equal(model(IMAGES), expected)

    assert {row.bits for row in table.layers} == {4}
    own: Any = [p for key, p in model.named_parameters() if not key.endswith("alpha")]
    assert table.parameters == sum(p.numel() for p in own)
    start_quantizers(model, [IMAGES])
    model.train()
    model(IMAGES).square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other, _ = convert(network(name, seed=1))
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))
    assert_inputs_are_quantized(model, IMAGES, n_levels=16, first=FIRST[name])
