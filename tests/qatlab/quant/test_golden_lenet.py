"""Layer outputs and SGD steps that N2D2 itself computed with LeNet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def golden_steps(shared: Path, phase: Phase) -> tuple[Any, nn.Module, nn.Module]:
    """What N2D2 computed, the whole network in its state before, and LeNet in it."""
    name = "clamp" if phase is Phase.CLAMP else "w4a4_default"
    golden = np.load(shared / "data/n2d2/golden" / f"golden_train_{name}.npz")
    model = lenet(4, 4, "default").train()
    load(model, parameters(golden, "before", model))
    if phase is Phase.CLAMP:  # N2D2's clamp network has no activation function behind fc1
        model.relu4 = nn.Identity()
        whole = model
    else:  # and its quantized one quantizes the last outputs too
        whole = nn.Sequential(model, SatActivation(nn.ReLU(), bits=8, alpha=10.0))
    set_phase(whole, phase)
    return golden, whole, model


def step(golden: Any, number: int, model: nn.Module) -> Tensor:
    """Backward of the mean loss of a step's batch; returns the outputs."""
    outputs: Tensor = model(torch.from_numpy(golden[f"env.step{number}"]))
    F.cross_entropy(outputs, torch.from_numpy(golden[f"labels.step{number}"]).long()).backward()
    return outputs.detach()


def test_two_sgd_steps_with_clamped_weights_end_at_the_parameters_of_n2d2(shared: Path) -> None:
    golden, whole, model = golden_steps(shared, Phase.CLAMP)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05)
    for number in (1, 2):
        optimizer.zero_grad()
        step(golden, number, whole)
        optimizer.step()
        state = model.state_dict()
        for key, expected in parameters(golden, f"after{number}", model).items():
            torch.testing.assert_close(  # N2D2 printed six digits
                state[key].flatten(), expected.flatten(), rtol=2e-4, atol=2e-4, msg=key
            )


def test_a_quantized_training_step_is_that_of_n2d2(shared: Path) -> None:
    golden, whole, model = golden_steps(shared, Phase.QUANTIZE)
    outputs = step(golden, 1, whole)
    off = (outputs - torch.from_numpy(golden["fc2.out.step1"])).abs().amax(1) > 1e-3
    # In 2 of the 32 images an activation lies so near to a half level that the six digits of the
    # starting values decide; 24 of the 32 are not stored layer by layer. So gradients, which sum
    # over all images, can agree only up to the share of those two.
    assert off.sum() <= 2
    for layer in LAYERS:
        actual = -32 * model.get_submodule(layer).weight.grad.flatten()  # type: ignore[operator,union-attr]
        expected = torch.from_numpy(golden[f"{layer}_weight.diff.step1"]).flatten()
        assert ((actual - expected).norm() / expected.norm()).item() < 0.12, layer


@pytest.mark.parametrize("phase", [Phase.CLAMP, Phase.QUANTIZE])
@pytest.mark.parametrize("layer", LAYERS)
def test_weights_and_their_gradients_are_those_of_n2d2(
    shared: Path, phase: Phase, layer: str
) -> None:
    golden, _, model = golden_steps(shared, phase)
    module: Any = model.get_submodule(layer)
    result = module.weight_quantizer(module.weight)
    expected = torch.from_numpy(golden[f"{layer}_weight.quantized.step1"]).reshape(result.shape)
    torch.testing.assert_close(result.detach(), expected, rtol=1e-5, atol=2e-5)
    result.backward(
        torch.from_numpy(golden[f"{layer}_weight.diff_quantized.step1"]).view_as(result)
    )
    expected = torch.from_numpy(golden[f"{layer}_weight.diff.step1"]).reshape(result.shape)
    torch.testing.assert_close(module.weight.grad, expected, rtol=1e-4, atol=1e-5)


def parameters(golden: Any, moment: str, model: nn.Module) -> dict[str, Tensor]:
    names = {f"{layer}_weight": f"{layer}.weight" for layer in LAYERS}
    for bn in ("bn1", "bn2", "bn3"):
        names |= {
            f"{bn}_scales": f"{bn}.weight",
            f"{bn}_biases": f"{bn}.bias",
            f"{bn}_means": f"{bn}.running_mean",
            f"{bn}_variances": f"{bn}.running_var",
        }
    names |= {f"{cell}_alpha": f"{site}.alpha" for cell, site in SITES.items()}
    return {
        key: torch.from_numpy(golden[f"{name}.{moment}"])
        for name, key in names.items()
        if f"{name}.{moment}" in golden.files and key in model.state_dict()
    }
