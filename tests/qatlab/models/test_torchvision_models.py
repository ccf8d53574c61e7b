"""Networks of torchvision by their names, and in quantization."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from quantized_walk import FLOAT, IMAGE, check_training, walk
from torch import Tensor, nn
from torchvision import models

from qatlab.errors import ConfigError
from qatlab.models import torchvision_model
from qatlab.quant import (
    LsqActivation,
    LsqWeight,
    ModelTable,
    Rule,
    SatActivation,
    SatWeight,
    quantize,
)

SAT = (partial(SatWeight, bits=4), partial(SatActivation, bits=4))
LSQ = (partial(LsqWeight, bits=4), partial(LsqActivation, bits=4))
BY_LSQ = ("mobilenet_v3_small", "regnet_x_400mf", "resnet18", "vgg11_bn")
MORE = (  # of families that have a member below
    *("convnext_tiny", "efficientnet_v2_s", "inception_v3", "mnasnet0_5", "shufflenet_v2_x0_5"),
    *("mnasnet1_0", "mobilenet_v3_large", "regnet_y_400mf"),
    *("resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0"),
    *("vgg11", "vgg13", "vgg16_bn"),
)
NAMES: list[Any] = [
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_x_400mf", "resnet18", "squeezenet1_1", "vgg11_bn"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE),
]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def network(name: str, **options: Any) -> nn.Module:
    """The network with random weights; of a hundred million ones in a layer few are left."""
    torch.manual_seed(0)
    if not name.startswith(("alexnet", "vgg")):
        return torchvision_model(name, 10, 3, options=options)
    with torch.device("meta"):
        model: Any = torchvision_model(name, 10, 3)
    linear = [i for i, m in enumerate(model.classifier) if isinstance(m, nn.Linear)]
    for i in linear:
        model.classifier[i] = nn.Linear(32, 10 if i == linear[-1] else 32)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier[linear[0]] = nn.Linear(512 if name.startswith("vgg") else 256, 32)
    model.features.to_empty(device="cpu")
    for module in model.features.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return model  # type: ignore[no-any-return]


def convert(
    images: Tensor, method: tuple[Any, Any], model: nn.Module, *rules: Rule
) -> tuple[nn.Module, ModelTable]:
    return quantize(model, *method, rules, images[:1])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_with_each_layer_and_addition_reading_quantized_tensors(name: str) -> None:
    size = {"inception_v3": 75, "alexnet": 64}.get(name, 32)  # the smallest that they compute
    images = randn(2, 3, size, size)
    method = LSQ if name in BY_LSQ else SAT
    check_training(network(name), partial(convert, images, method), images)


def test_so_does_one_with_attention() -> None:
    torch.manual_seed(0)
    model = models.MaxVit(
        input_size=(64, 64),
        stem_channels=8,
        partition_size=2,
        block_channels=[8, 16, 16, 16],
        block_layers=[1, 1, 1, 1],
        head_dim=4,
        stochastic_depth_prob=0.2,
        num_classes=10,
    )
    images = randn(2, 3, 64, 64)
    check_training(model, partial(convert, images, SAT), images)


def test_what_is_left_in_float_is_seen() -> None:
    images = randn(2, 3, 64, 64)
    for name, reader in (("layer1.0.relu", "layer1_0_conv2"), ("layer1.0.bn2_site", "add")):
        rule = Rule.parse("r", {"name": name, "activation": None})
        model, _ = convert(images, SAT, network("resnet18"), rule)
        layers, additions, _ = walk(model.train(), images)
        assert [n for n, kind in {**layers, **additions}.items() if kind == FLOAT] == [reader]


def test_an_image_that_a_network_shifts_and_scales_is_still_the_image() -> None:
    images = randn(2, 3, 64, 64)
    model, table = convert(images, SAT, network("googlenet"))
    layers, _, _ = walk(model.train(), images)
    assert layers["conv1_conv"] == IMAGE
    assert table.layers[0].name == "conv1.conv"  # no site before it


def test_branches_that_are_dropped_in_training_stay_so() -> None:
    images = randn(8, 3, 32, 32)
    float_model = network("efficientnet_b0", stochastic_depth_prob=0.5, dropout=0.0)
    model, _ = convert(images, SAT, float_model)
    model.train()
    model(images)
    drops = [m for m in model.modules() if type(m).__name__ == "StochasticDepth"]
    assert len(drops) == 9
    assert all(m.training for m in drops)
    torch.manual_seed(0)
    first = model(images)
    assert not torch.equal(first, model(images))
    model.eval()
    assert not any(m.training for m in drops)
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v3_small", "googlenet"])
@pytest.mark.parametrize(("num_classes", "in_channels"), [(10, 3), (7, 1), (1000, 4)])
def test_a_network_has_the_classes_and_channels_of_the_data(
    name: str, num_classes: int, in_channels: int
) -> None:
    model = torchvision_model(name, num_classes, in_channels).eval()
    assert model(torch.zeros(1, in_channels, 64, 64)).shape == (1, num_classes)
    with torch.device("meta"):
        given = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        published = models.get_model(name, **given).state_dict()
    assert model.state_dict().keys() == published.keys()


def test_options_are_those_of_torchvisions_function() -> None:
    model: Any = torchvision_model("mobilenet_v2", 10, 3, options={"dropout": 0.5})
    assert model.classifier[0].p == 0.5
    model = torchvision_model("googlenet", 10, 3, options={"transform_input": False})
    assert model.transform_input is False


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_networks_with_auxiliary_outputs_are_built_without_them(
    name: str, in_channels: int
) -> None:
    with torch.device("meta"):
        model: Any = torchvision_model(name, 10, in_channels)
    assert not [path for path, _ in model.named_modules() if path.lower().startswith("aux")]
    assert model.transform_input is (in_channels == 3)  # as with pretrained weights


class PretrainedState:
    """Stands for the weights that torchvision would fetch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, **arguments: Any) -> None:
        torch.manual_seed(1)
        self.state: dict[str, Tensor] = models.get_model(name, **arguments).state_dict()
        enum = models.get_model_weights(name)
        monkeypatch.setattr(enum, "get_state_dict", lambda *_, **__: self.state)

    def unlike(self, model: nn.Module) -> set[str]:
        """Return the keys of ``model`` that have other values."""
        state = model.state_dict()
        return {key for key, value in state.items() if not torch.equal(value, self.state[key])}


def test_pretrained_weights_are_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = PretrainedState(monkeypatch, "squeezenet1_1")
    model = torchvision_model("squeezenet1_1", 1000, 3, weights="DEFAULT")
    assert not pretrained.unlike(model)
    assert capsys.readouterr().out == "weights IMAGENET1K_V1 of squeezenet1_1\n"


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [
        ("squeezenet1_1", "classifier.1", "features.0"),
        ("mobilenet_v3_small", "classifier.3", "features.0.0"),
    ],
)
def test_of_pretrained_weights_only_layers_of_another_shape_are_new(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    last: str,
    first: str,
) -> None:
    pretrained = PretrainedState(monkeypatch, name)
    model = torchvision_model(name, 10, 1, weights="IMAGENET1K_V1")
    new = {key for key in pretrained.state if key.startswith((f"{last}.", f"{first}."))}
    assert pretrained.unlike(model) == new
    told = f"new: {last} (num_classes=10), {first} (in_channels=1)"
    assert capsys.readouterr().out == f"weights IMAGENET1K_V1 of {name}; {told}\n"
    assert model.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pretrained_networks_lose_their_auxiliary_outputs(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = {"aux_logits": True, "init_weights": False}
    pretrained = PretrainedState(monkeypatch, name, **arguments)
    model: Any = torchvision_model(name, 10, 3, weights="DEFAULT")
    assert pretrained.unlike(model) == {"fc.weight", "fc.bias"}
    assert model.transform_input is True
    assert model.train()(randn(2, 3, 75, 75)).shape == (2, 10)
    keys = torchvision_model(name, 10, 3).state_dict().keys()
    assert model.state_dict().keys() == keys


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which torchvision fetches, which it cannot."""

    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return tmp_path / "checkpoints"


def test_without_a_network_the_error_says_which_file_goes_where(hub: Path) -> None:
    told = (
        rf"^model\.weights=DEFAULT: .*/(squeezenet1_1-\w+\.pth) cannot be downloaded "
        rf"\(no route to host\); put \1 into {hub}, or take .* init_weights= "
    )
    with pytest.raises(ConfigError, match=told):
        torchvision_model("squeezenet1_1", 10, 3, weights="DEFAULT")


def test_a_file_that_lies_there_is_taken_and_a_damaged_one_is_reported(hub: Path) -> None:
    hub.mkdir()
    url: str = models.SqueezeNet1_1_Weights.DEFAULT.url
    file = hub / url.rpartition("/")[2]
    state = models.get_model("squeezenet1_1").state_dict()
    torch.save(state, file)
    model = torchvision_model("squeezenet1_1", 1000, 3, weights="DEFAULT")
    assert torch.equal(model.state_dict()["classifier.1.bias"], state["classifier.1.bias"])
    content = file.read_bytes()
    for damaged in (content[:1000], b"", b"<html>"):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match=rf"{file} is damaged, or .*; delete it\.$") as caught:
            torchvision_model("squeezenet1_1", 1000, 3, weights="DEFAULT")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"name": "efficentnet_b0"},
            r"model\.name=efficentnet_b0 .* Did you mean 'efficientnet_b0'",
        ),
        ({"name": "ResNet18"}, r"model\.name=ResNet18 is unknown"),
        ({"name": "fasterrcnn_resnet50_fpn"}, r"is a network for detection, not for"),
        ({"name": "fcn_resnet50"}, r"is a network for segmentation, not for"),
        ({"name": "r3d_18"}, r"is a network for video, not for"),
        ({"name": "quantized_resnet18"}, r"is a network for quantization, not for"),
        ({"name": "vit_b_16"}, r"^model\.name=vit_b_16 cannot be quantized: its attention"),
        ({"name": "swin_v2_t"}, r"^model\.name=swin_v2_t cannot be quantized: its attention"),
        (
            {"weights": "IMAGENET1K_V3"},
            r"_V3 is wrong\. Did you mean 'IMAGENET1K_V1'",
        ),
        (
            {"weights": "x"},
            r"weights=x .* Accepted: IMAGENET1K_V1, DEFAULT, null\. These are of resnet18\.$",
        ),
        ({"options": {"dropuot": 1}}, r"^model\.options: resnet18 does not accept .*'dropuot'"),
        ({"options": {"num_classes": 1}}, r"^model\.options\.num_classes is set by qatlab"),
        ({"options": {"weights": "x"}}, r"^model\.options\.weights is set by qatlab"),
    ],
)
def test_wrong_arguments_are_reported(arguments: dict[str, Any], told: str) -> None:
    given = {"name": "resnet18", "num_classes": 10, "in_channels": 3, **arguments}
    with pytest.raises(ConfigError, match=told):
        torchvision_model(**given)
