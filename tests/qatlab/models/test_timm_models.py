"""Networks of timm by their names, and in quantization."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import torch
from quantized_walk import check_training
from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.models import timm_model
from qatlab.models.timm_models import _padded
from qatlab.quant import ModelTable, SatActivation, SatWeight, quantize

timm = pytest.importorskip("timm")

MORE = (  # some as torchvision has them, and some of families that have a member below
    *("lcnet_050", "mobilenetv3_small_100", "repvgg_a0", "tf_efficientnet_b0"),
    *("convnext_atto", "efficientnet_lite0", "mnasnet_small", "mobilenetv2_100"),
    *("mobilenetv4_conv_small", "regnetx_002", "resnet18", "tinynet_e"),
)
NAMES: list[Any] = [
    *("ese_vovnet19b_dw", "ghostnet_100", "resnetblur18"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE),
]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm_model(name, 10, 3)


def convert(images: Tensor, model: nn.Module) -> tuple[nn.Module, ModelTable]:
    method = (partial(SatWeight, bits=4), partial(SatActivation, bits=4))
    return quantize(model, *method, [], images[:1])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_with_each_layer_and_addition_reading_quantized_tensors(name: str) -> None:
    images = randn(2, 3, 64, 64)
    check_training(network(name), partial(convert, images), images)


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenetv3_small_100", 64), ("tf_mobilenetv3_small_075", 65)]
)
def test_a_network_that_is_taken_apart_computes_what_it_did(name: str, size: int) -> None:
    torch.manual_seed(0)
    expected = timm.create_model(name, num_classes=10)
    model = network(name)
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert not {type(m).__name__ for m in model.modules()} & {"BatchNormAct2d", "Conv2dSame"}
    expected.load_state_dict(model.state_dict())
    images = randn(4, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model.train()(images), expected.train()(images))
        assert torch.equal(model.eval()(images), expected.eval()(images))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key  # statistics of norms among them


def test_taking_apart_moves_no_statistics() -> None:
    state = network("mobilenetv3_small_100").state_dict()
    counts = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert counts
    assert not any(counts)


def test_norms_and_activations_have_names_of_their_own_and_are_found() -> None:
    _, table = convert(randn(1, 3, 64, 64), network("mobilenetv3_small_100"))
    names = [row.name for row in table.layers]
    assert names[:3] == ["conv_stem", "bn1.act", "blocks.0.0.conv_dw"]


@pytest.mark.parametrize("training", [True, False])
def test_dropout_by_a_function_becomes_a_module(training: bool) -> None:
    images = randn(2, 3, 64, 64)
    model, _ = convert(images, network("ghostnet_100"))
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [m.p for m in dropouts] == [0.2]
    model(images)
    model.train(training)
    assert torch.equal(model(images), model(images)) != training


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1), (2, 2, 1)]
)
def test_padding_is_that_of_timm(size: int, kernel: int, stride: int, dilation: int) -> None:
    from timm.layers.padding import pad_same

    x = randn(1, 1, size, size + 1)
    pairs = [(kernel, kernel), (stride, stride), (dilation, dilation)]
    assert torch.equal(_padded(x, *pairs), pad_same(x, *pairs))


def test_no_branch_starts_as_zeros() -> None:
    torch.manual_seed(0)
    zero = [n for n, p in timm.create_model("resnet18").named_parameters() if not p.any()]
    model = network("resnet18")
    assert "layer1.0.bn2.weight" in zero
    assert not [n for n in zero if n.endswith("bn2.weight") and not model.get_parameter(n).all()]


def test_options_are_those_of_timm() -> None:
    images = randn(8, 3, 64, 64)
    float_model = timm_model("resnet18", 10, 3, options={"drop_path_rate": 0.5})
    model, _ = convert(images, float_model)
    drops = [m for m in model.modules() if type(m).__name__ == "DropPath"]
    assert drops
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize(("num_classes", "in_channels"), [(7, 1), (1000, 3)])
def test_a_network_has_the_classes_and_channels_of_the_data(
    num_classes: int, in_channels: int
) -> None:
    model = timm_model("mnasnet_small", num_classes, in_channels).eval()
    assert model(torch.zeros(1, in_channels, 64, 64)).shape == (1, num_classes)


def test_pretrained_weights_are_asked_for_and_what_is_new_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    create = timm.create_model

    def creates(name: str, pretrained: bool, **arguments: Any) -> nn.Module:
        asked.append((name, pretrained, arguments))
        return create(name, **arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", creates)
    timm_model("resnet18", 10, 1, weights="a2_in1k")
    assert asked == [("resnet18.a2_in1k", True, {"num_classes": 10, "in_chans": 1})]
    told = "weights a2_in1k of resnet18; new: fc (num_classes=10); adapted: conv1 (in_channels=1)\n"
    assert capsys.readouterr().out == told
    timm_model("resnet18", 1000, 3, weights="DEFAULT")
    assert asked[1][:2] == ("resnet18", True)
    assert capsys.readouterr().out == "weights a1_in1k of resnet18\n"
    timm_model("resnet18", 10, 3)
    assert asked[2][:2] == ("resnet18", False)
    assert capsys.readouterr().out == ""


def test_without_a_network_the_error_says_which_weights_are_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> nn.Module:
        raise FileNotFoundError("no connection\nand more")

    monkeypatch.setattr(timm, "create_model", fail)
    for name, weights, tag in (
        ("resnet18", "DEFAULT", "a1_in1k"),
        ("resnet18", "tv_in1k", "tv_in1k"),
        (
            "vit_tiny_patch16_224",
            "DEFAULT",
            "augreg_in21k_ft_in1k",
        ),  # not its first in the alphabet
    ):
        told = rf"^model\.weights={weights}: .* timm/{name}\.{tag} cannot .*\(no connection\); take"
        with pytest.raises(ConfigError, match=told):
            timm_model(name, 10, 3, weights=weights)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm: install it with pip install 'qatlab\[timm\]'$"):
        timm_model("resnet18", 10, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "resnet81"}, r"model\.name=resnet81 is unknown\. Did you mean 'resnet18'"),
        ({"name": "resnet18.a1_in1k"}, r"model\.name=resnet18\.a1_in1k .* a tag goes into"),
        ({"weights": "a1_in2k"}, r"a1_in2k is wrong\. Did you mean 'a1_in1k'.* of resnet18\."),
        (
            {"weights": "DEFAULT", "name": "mnasnet_050"},
            r"Accepted: null\. These are of mnasnet_050\.$",
        ),
        ({"options": {"drop_pth_rate": 1}}, r"^model\.options: resnet18 .*'drop_pth_rate'"),
        ({"options": {"in_chans": 1}}, r"^model\.options\.in_chans is set by qatlab"),
        ({"name": "nf_regnet_b0"}, r"cannot be quantized: ScaledStdConv2d\w* computes its weights"),
        ({"name": "bat_resnext26ts"}, r"bat_resnext26ts cannot be traced: symbolically"),
    ],
)
def test_wrong_arguments_are_reported(arguments: dict[str, Any], told: str) -> None:
    given = {"name": "resnet18", "num_classes": 10, "in_channels": 3, **arguments}
    with pytest.raises(ConfigError, match=told):
        timm_model(**given)
