"""Networks of torchvision, through both exporters of torch."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision.models as zoo
from onnx_files import compute, layers, read
from torch import Tensor, nn

Exporter = Callable[[nn.Module, Tensor], onnx.ModelProto]


def by_script(model: nn.Module, images: Tensor, **options: Any) -> onnx.ModelProto:
    """Export with the older exporter."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), file, dynamo=False, input_names=["x"], **options)
    return onnx.load_from_string(file.getvalue())


def by_script_for_any_batch(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    return by_script(model, images, dynamic_axes={"x": {0: "N"}})


def by_script_in_training(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    """Export with batch norms and dropouts, which are folded or left out otherwise."""
    training = torch.onnx.TrainingMode.TRAINING
    made = by_script(model, images, training=training, do_constant_folding=False)
    model.eval()
    return made


def by_dynamo(model: nn.Module, images: Tensor) -> onnx.ModelProto:
    """Export with the newer exporter."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def resnet18() -> nn.Module:
    model = zoo.resnet18(num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean = torch.randn_like(module.bias) / 10
            module.running_var = torch.rand_like(module.bias) + 0.5
    return model


def vgg11() -> nn.Module:
    """A VGG whose fully-connected layers read one pixel and not 7 x 7."""
    model = zoo.vgg11(num_classes=10)
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(nn.Linear(512, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    return model


class Views(nn.Module):
    """Ways of writing what a network ends in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.hidden = nn.Linear(8 * 8 * 8, 16, bias=False)
        self.last = nn.Linear(16 + 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(nn.functional.hardtanh(self.norm(self.conv(x)), 0, 4))
        x = torch.cat([x, nn.functional.max_pool2d(x, 3, 1, 1, ceil_mode=True)], 1)
        y = nn.functional.leaky_relu(self.hidden(x.view(x.size(0), -1)), 0.1)
        y = nn.functional.dropout(y, 0.3, self.training)
        return self.last(torch.cat([y, x.mean((2, 3))], 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (resnet18, 64),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(num_classes=10, width_mult=0.25), 32),
    "squeezenet1_1": (lambda: zoo.squeezenet1_1(num_classes=10), 64),
    "vgg11": (vgg11, 32),
    "views": (Views, 8),
}


def check(folder: Path, name: str, export: Exporter) -> Any:
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = build().eval()
    exported = export(model, torch.randn(1, 3, size, size))
    network = read(folder, exported, "", (3, size, size))
    images = torch.randn(2, 3, size, size)
    made = compute(network, exported.graph.output[0].name, images)
    with torch.no_grad():
        wanted = model(images)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    trained = sum(p.numel() for p in model.parameters())
    return network, trained


@pytest.mark.parametrize("name", [name for name in MODELS if name != "resnet18"])
def test_the_older_exporter(tmp_path: Path, name: str) -> None:
    network, _ = check(tmp_path, name, by_script_for_any_batch)
    assert network.cells


def test_the_older_exporter_for_one_image(tmp_path: Path) -> None:
    check(tmp_path, "views", by_script)


def test_the_older_exporter_in_training(tmp_path: Path) -> None:
    network, _ = check(tmp_path, "views", by_script_in_training)
    dropouts = [layer for layer in layers(network).values() if layer["type"] == "dropout"]
    assert [layer["p"] for layer in dropouts] == [0.3]
    network, trained = check(tmp_path, "resnet18", by_script_in_training)
    tail = network.cells["tail"].parameters
    assert sum(cell.parameters for cell in network.cells.values()) - tail == trained
    types = [layer["type"] for layer in layers(network).values()]
    assert [types.count(t) for t in ("conv", "batch_norm", "relu", "elementwise")] == [
        20,
        20,
        17,
        8,
    ]


def test_the_newer_exporter(tmp_path: Path) -> None:
    check(tmp_path, "views", by_dynamo)
