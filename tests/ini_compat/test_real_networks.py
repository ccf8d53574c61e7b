"""N2D2's own files: each network computes and trains."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from ini_compat import convert
from ini_compat.build import understand
from ini_compat.network import Network
from qatlab import quant
from qatlab.models import LayerGraph
from qatlab.training.loss import losses_of
from qatlab.training.parameter_solver import ParameterSolver

# With definitions that keep the large ones fast.
FILES: dict[str, dict[str, str]] = {
    "models/LeNet.ini": {},
    "models/MobileNet_v1.ini": {"SIZE": "64"},
    "models/MobileNet_v2.ini": {"SIZE": "64"},
    "models/ResNet-50.ini": {"SIZE": "64", "ALPHA": "0.25"},
    "models/SqueezeNet_v1.0.ini": {},
    "models/VGG16.ini": {"SIZE": "32"},
    "models/cifar-10.ini": {},
    "models/mnist-autoencoder.ini": {},
    "models/mnist24_16c4s2_24c5s2_150_10.ini": {},
    "tests_data/mnist_model/LeNet-bn-SAT.ini": {},
    "tests_data/mnist_model/LeNet_4b.ini": {},
    "tests_data/mnist_model/LeNet_w1_a4.ini": {},
    "tests_data/mnist_model/LeNet_w4_a8.ini": {},
    "tests_data/mnist_multibranch_model/MobileNet_v2_mini.ini": {},
}


def understood(shared: Path, name: str, defines: dict[str, str] | None = None) -> Network:
    return understand(str(shared / "data/n2d2" / name), defines or {})


@pytest.mark.parametrize(("name", "defines"), FILES.items())
def test_the_network_trains_two_steps(shared: Path, name: str, defines: dict[str, str]) -> None:
    network = understood(shared, name, defines)
    assert not network.problems
    content = convert.experiment(network)
    torch.manual_seed(0)
    images = torch.rand(2, *network.data.shape)
    model = LayerGraph(**content["model"], num_classes=network.data.classes)
    for cell in network.cells.values():
        if cell.output in cell.layers and cell.output in model.shapes:
            assert model.shapes[cell.output] == cell.shape, cell.name
    assert sum(cell.parameters for cell in network.cells.values()) == connected(model)
    trained = quantized(model, content, images)
    solver = ParameterSolver(instantiate(content["solver"]["groups"]))
    optimizer = solver.build(trained)
    (loss,) = losses_of(instantiate(content["loss"]))
    before = {key: value.clone() for key, value in trained.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        output = trained(images)
        loss.check(output, images, network.data.classes)
        value = loss(output.float(), images, torch.tensor([0, 1])).mean()
        assert value.isfinite()
        value.backward()
        optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in trained.named_parameters())
    assert all(value.isfinite().all() for value in trained.parameters())


def connected(model: nn.Module) -> int:
    """Number of parameters, without weights of connections that do not exist."""
    masks = {key: mask for key, mask in model.named_buffers() if key.endswith("weight_mask")}
    total = sum(value.numel() for value in model.parameters())
    for key, mask in masks.items():
        weight = model.get_parameter(key.removesuffix("_mask"))
        total -= int((mask.expand_as(weight) == 0).sum())
    return total


def quantized(model: nn.Module, content: dict[str, Any], images: torch.Tensor) -> nn.Module:
    if "quant" not in content:
        return model
    factories = []
    for part in ("weight", "activation"):
        node = content["quant"][part]
        arguments = {} if node is None else {k: v for k, v in node.items() if k != "_target_"}
        kind = None if node is None else getattr(quant, node["_target_"].rpartition(".")[2])
        factories.append(None if kind is None else partial(kind, **arguments))
    rules = [quant.Rule.parse(key, rule) for key, rule in content["quant"]["rules"].items()]
    return quant.quantize(model, *factories, rules, images[:1])[0]
