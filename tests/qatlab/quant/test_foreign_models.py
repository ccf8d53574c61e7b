"""Networks of torchvision, which were not written with quantization in mind."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from qatlab.errors import ConfigError
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
    "convnext_tiny": "features.0.0",
    "mobilenet_v3_small": "features.0.0",
    "shufflenet_v2_x0_5": "conv1.0",
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


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenet_v3_small", "shufflenet_v2_x0_5"),
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
    ],
)
def test_networks_of_torchvision_train_and_their_checkpoints_come_back(
    name: str, assert_inputs_are_quantized: Any
) -> None:
    float_model = network(name, seed=0)
    expected = float_model(IMAGES)
    model, table = convert(float_model)
    set_phase(model, Phase.FLOAT)
    assert torch.equal(model(IMAGES), expected)

    floats = [row.name for row in table.layers if row.bits is None]
    assert all(name.endswith("layer_scale") for name in floats)  # one number for each channel
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


class ScaledByABuffer(nn.Module):
    """It also makes a tensor of its own at each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale.view(1, 4, 1, 1) + torch.arange(4.0).view(1, 4, 1, 1)


def test_a_buffer_is_read_at_each_pass_and_a_tensor_made_in_it_is_no_state() -> None:
    float_model = ScaledByABuffer().eval()
    names = set(vars(float_model))
    model, _ = convert(float_model)
    assert set(vars(float_model)) == names
    set_phase(model, Phase.FLOAT)
    quantizers = {key for key in model.state_dict() if "quantizer" in key or "_site" in key}
    state = {key: value for key, value in model.state_dict().items() if key not in quantizers}
    assert state.keys() == float_model.state_dict().keys()
    model.load_state_dict({**state, "scale": torch.full((4,), 2.0)}, strict=False)
    assert torch.equal(model.get_buffer("scale"), torch.full((4,), 2.0))
    expected = 2 * float_model.conv(IMAGES) + torch.arange(4.0).view(1, 4, 1, 1)
    torch.testing.assert_close(model(IMAGES), expected)


class FailsInManyWords(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no\n\nbecause of many things")


def test_why_a_network_cannot_be_traced_is_reported_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^FailsInManyWords cannot be traced, .*: no$"):
        convert(FailsInManyWords())


@pytest.mark.parametrize(
    ("name", "told"),
    [("StochasticDepth", None), ("DropPath", None), ("Noise", "computes differently in training")],
)
def test_modules_that_drop_branches_are_known_by_their_names(name: str, told: str | None) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x[:, :1, :1, :1]) > 0.5) if self.training else x

    kind = type(name, (nn.Module,), {"forward": forward})
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), kind(), nn.Conv2d(4, 4, 3))
    if told is not None:
        with pytest.raises(ConfigError, match=f"^Sequential .*{told}"):
            convert(network)
        return
    model, table = convert(network)
    assert [row.name for row in table.layers] == ["0", "1", "3"]  # no site behind the third
    start_quantizers(model, [IMAGES])
    model.eval()
    assert torch.equal(model(IMAGES), model(IMAGES))
    model.train()
    torch.manual_seed(0)  # unseeded, both calls may drop the same of the two images
    assert not torch.equal(model(IMAGES), model(IMAGES))
