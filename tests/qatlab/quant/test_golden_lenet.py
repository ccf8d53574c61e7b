"""Layer outputs, weights and their gradients that N2D2 itself computed with LeNet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qatlab.models import LeNet
from qatlab.quant import Phase, Rule, SatActivation, SatWeight, quantize, set_phase

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
SITES = {"bn1": "relu1", "bn2": "relu2", "bn3": "relu3", "fc1": "relu4"}
RULES = {
    "first": {"index": 0, "weight": {"bits": 8}},
    "last": {"index": -1, "weight": {"bits": 8}},
    "linear": {"type": "Linear", "weight": {"scaling": True}},
}


def lenet(weight_bits: int, activation_bits: int, grid: str) -> nn.Module:
    model, _ = quantize(
        LeNet(10, 1, dropout=0.0),
        partial(SatWeight, bits=weight_bits, grid=grid),
        partial(SatActivation, bits=activation_bits, alpha=6.0),
        [Rule.parse(key, node) for key, node in RULES.items()],
        torch.zeros(1, 1, 32, 32),
    )
    return model


def record_outputs(model: nn.Module) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output)
        )
    return outputs


def read_weights(folder: Path) -> dict[str, Tensor]:
    """N2D2's text files as a state dict of LeNet."""
    state = {}
    for path in folder.glob("*.syntxt"):
        numbers = torch.tensor([float(word) for word in path.read_text().split()])
        cell, kind = path.stem.split("_", 1)
        key = {
            "weights": f"{cell}.weight",
            "scales": f"{cell}.weight",
            "biases": f"{cell}.bias",
            "means": f"{cell}.running_mean",
            "variances": f"{cell}.running_var",
            "QAct_SAT_Alpha": f"{SITES.get(cell)}.alpha",
        }.get(kind)
        if key is not None:
            state[key] = numbers
    return state


def load(model: nn.Module, values: dict[str, Tensor]) -> None:
    own = model.state_dict()
    for key, value in values.items():
        own[key] = value.reshape(own[key].shape)
        if key.endswith(".alpha"):
            own[key.replace("alpha", "initialized")].fill_(True)
    model.load_state_dict(own)


@pytest.mark.parametrize(
    ("name", "bits", "grid"),
    [
        ("LeNet_4b", (4, 4), "symmetric"),
        ("LeNet_w4_a8", (4, 8), "symmetric"),
        ("LeNet_w1_a4", (1, 4), "default"),
    ],
)
def test_every_layer_computes_what_n2d2_computes(
    shared: Path, name: str, bits: tuple[int, int], grid: str
) -> None:
    golden = np.load(shared / "data/n2d2/golden" / f"golden_test_{name}.npz")
    model = lenet(*bits, grid).eval()
    load(model, read_weights(shared / f"data/n2d2/tests_data/mnist_model/weights_{name}"))
    outputs = record_outputs(model)
    with torch.no_grad():
        model(torch.from_numpy(golden["env"]))
    names = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "fc2": "fc2", **SITES}
    for cell, layer in names.items():
        expected = torch.from_numpy(golden[cell]).flatten()
        actual = outputs[layer].flatten()
        # N2D2 rounds halves away from zero and torch to even; a rare tie moves one level and
        # what it feeds. Everything else agrees to float32 rounding.
        tolerance = 1e-4 * expected.abs().max()
        share_off = ((actual - expected).abs() > tolerance).float().mean().item()
        assert share_off < 0.002, f"{cell}: {share_off:.4f} of the outputs differ"


@pytest.mark.parametrize("phase", [Phase.CLAMP, Phase.QUANTIZE])
@pytest.mark.parametrize("layer", LAYERS)
def test_weights_and_their_gradients_are_those_of_n2d2(
    shared: Path, phase: Phase, layer: str
) -> None:
    name = "clamp" if phase is Phase.CLAMP else "w4a4_default"
    golden = np.load(shared / f"data/n2d2/golden/golden_train_{name}.npz")
    module: Any = lenet(4, 4, "default").get_submodule(layer)
    set_phase(module, phase)
    before, after, grad_after, grad = (
        torch.from_numpy(golden[f"{layer}_weight.{kind}"]).view_as(module.weight)
        for kind in ("before", "quantized.step1", "diff_quantized.step1", "diff.step1")
    )
    weight = before.requires_grad_()
    result = module.weight_quantizer(weight)
    torch.testing.assert_close(result.detach(), after, rtol=1e-5, atol=2e-5)
    result.backward(grad_after)
    torch.testing.assert_close(weight.grad, grad, rtol=1e-4, atol=1e-5)
