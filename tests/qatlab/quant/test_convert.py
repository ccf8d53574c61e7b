"""The conversion of a network, on LeNet, whose table is known by hand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from qatlab.errors import ConfigError, QuantRuleError, TrainingError
from qatlab.models import LeNet
from qatlab.quant import (
    LayerRecord,
    ModelTable,
    Phase,
    Rule,
    SatActivation,
    SatWeight,
    float_table,
    quantize,
    set_phase,
    start_quantizers,
)
from qatlab.quant.layers import quantized_weight

WEIGHT = partial(SatWeight, bits=4)
ACTIVATION = partial(SatActivation, bits=4, alpha=6.0)
IMAGE = torch.zeros(1, 1, 32, 32)
Converted = tuple[nn.Module, ModelTable]


def convert(
    model: nn.Module, rules: Mapping[str, Any] | None = None, image: Tensor = IMAGE
) -> Converted:
    parsed = [Rule.parse(key, node) for key, node in (rules or {}).items()]
    return quantize(model, WEIGHT, ACTIVATION, parsed, image)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def backward_reaches_all(model: nn.Module, x: Tensor) -> None:
    model.train()
    model(x).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())  # type: ignore[union-attr]


# (name, type, shape, parameters, bits, rules): first and last layer at 8 bits, Linear scaled
LENET = [
    ("conv1", "Conv2d", (6, 1, 5, 5), 6 * 25, 8, ("first",)),
    ("relu1", "ReLU", (1, 6, 28, 28), 0, 4, ()),
    ("conv2", "Conv2d", (16, 6, 5, 5), 16 * 6 * 25, 4, ()),
    ("relu2", "ReLU", (1, 16, 10, 10), 0, 4, ()),
    ("conv3", "Conv2d", (120, 16, 5, 5), 120 * 16 * 25, 4, ()),
    ("relu3", "ReLU", (1, 120, 1, 1), 0, 4, ()),
    ("fc1", "Linear", (84, 120), 84 * 120, 4, ("linear",)),
    ("relu4", "ReLU", (1, 84), 0, 4, ()),
    ("fc2", "Linear", (10, 84), 840, 8, ("last", "linear")),
]
RULES = {
    "first": {"index": 0, "weight": {"bits": 8}},
    "last": {"index": -1, "weight": {"bits": 8}},
    "linear": {"type": "Linear", "weight": {"scaling": True}},
}


def test_the_table_of_lenet() -> None:
    _, table = convert(LeNet(10, 1), RULES)
    rows = [(r.name, r.type, r.shape, r.parameters, r.bits, r.rules) for r in table.layers]
    assert rows == LENET
    # 150 + 2,400 + 48,000 + 10,080 + 840 weights, scale and shift of 6 + 16 + 120 channels
    assert table.parameters == 61_470 + 2 * 142 == 61_754
    # the shifts of the norms in float32, 990 weights of a byte and 60,480 of half a byte
    assert table.bias_bytes == 4 * 142
    assert table.size_bytes == 568 + 990 + 30_240
    assert table.float_bytes == 568 + 4 * 61_470


def test_the_facts_of_the_quantizers_stand_in_the_table() -> None:
    _, table = convert(LeNet(10, 1), RULES)
    rows = {row.name: row.quantizer for row in table.layers}
    assert rows["conv1"] == {
        "method": "SatWeight",
        "n_steps": 255,
        "grid": "default",
        "scaling": False,
    }
    assert rows["fc2"]["scaling"]
    assert rows["relu1"] == {"method": "SatActivation", "n_steps": 15, "signed": False}
    json = table.to_json()
    assert [layer["name"] for layer in json["layers"]] == [row[0] for row in LENET]
    assert (json["parameters"], json["size_bytes"]) == (61_754, 31_798)


@pytest.mark.parametrize(("bits", "size"), [(1, 1), (3, 2), (8, 5), (None, 20)])
def test_weights_are_packed_without_gaps_into_whole_bytes(bits: int | None, size: int) -> None:
    assert LayerRecord("fc", "Linear", "weight", (5, 1), 5, bits, {}, ()).size_bytes == size


def test_the_table_of_a_float_network_has_the_same_rows_without_bits() -> None:
    model = LeNet(10, 1, bias=True)
    table = float_table(model, IMAGE)
    assert [(r.name, r.type, r.shape, r.parameters) for r in table.layers] == [
        row[:4] for row in LENET
    ]
    assert {row.bits for row in table.layers} == {None}
    assert table.size_bytes == table.float_bytes == 4 * (61_470 + 142 + 84 + 10)
    assert type(model.conv1) is nn.Conv2d


def test_float_checkpoints_keep_their_keys_and_parameters_are_shared() -> None:
    model = LeNet(10, 1, bias=True)
    keys = set(model.state_dict())
    converted, _ = convert(model)
    state = converted.state_dict()
    assert keys <= set(state)
    own = dict(converted.named_parameters())
    assert all(own[name] is parameter for name, parameter in model.named_parameters())
    added = {key.rpartition(".")[2] for key in set(state) - keys}
    assert added == {"alpha", "initialized", "_extra_state"}


def test_conversion_draws_no_random_number_and_leaves_the_float_network() -> None:
    model = LeNet(10, 1).eval()
    model.bn1.train()  # a mode of its own
    x = images(2, 1, 32, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    convert(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.eval()(x).shape == (2, 10)


@pytest.mark.parametrize("training", [True, False])
def test_the_converted_network_keeps_the_mode(training: bool) -> None:
    converted, _ = convert(LeNet(10, 1).train(training))
    assert converted.training is training
    assert converted.get_submodule("conv1").training is training
    assert converted.get_submodule("dropout").training is training


def test_in_the_float_phase_the_converted_network_computes_the_float_one() -> None:
    model = LeNet(10, 1).eval()
    x = images(2, 1, 32, 32)
    expected = model(x)
    converted, _ = convert(model)
    set_phase(converted, Phase.FLOAT)
    assert torch.equal(converted(x), expected)
    set_phase(converted, Phase.QUANTIZE)
    assert not torch.equal(converted(x), expected)


def test_weight_null_and_activation_null() -> None:
    no_weights, table = quantize(LeNet(10, 1), None, ACTIVATION, [], IMAGE)
    assert type(no_weights.get_submodule("conv1")) is nn.Conv2d
    assert [r.bits for r in table.layers] == [None, 4, None, 4, None, 4, None, 4, None]
    no_sites, table = quantize(LeNet(10, 1), WEIGHT, None, [], IMAGE)
    assert type(no_sites.get_submodule("relu1")) is nn.ReLU
    assert [r.bits for r in table.layers] == [4, None, 4, None, 4, None, 4, None, 4]
    for model in (no_weights, no_sites):
        backward_reaches_all(model, images(4, 1, 32, 32))


def test_a_rule_with_null_leaves_one_layer_and_one_site_in_float() -> None:
    rules = {"a": {"name": "conv2", "weight": None}, "b": {"name": "relu3", "activation": None}}
    model, table = convert(LeNet(10, 1), rules)
    rows = {row.name: row for row in table.layers}
    assert (rows["conv2"].bits, rows["conv2"].rules) == (None, ("a",))
    assert (rows["relu3"].bits, rows["relu3"].rules) == (None, ("b",))
    assert type(model.get_submodule("conv2")) is nn.Conv2d
    assert type(model.get_submodule("relu3")) is nn.ReLU


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"r": {"index": 0, "weight": {"bit": 8}}}, r"^quant\.rules\.r\.weight.*\bbits\b"),
        (
            {"r": {"weight": {"bits": 40}}},
            r"^quant\.rules\.r\.weight .*\(conv1\): bits=40 is wrong",
        ),
        ({"r": {"activation": {"grid": "x"}}}, r"^quant\.rules\.r\.activation.*\bpercentile\b"),
        ({"r": {"name": "relu1", "weight": {}}}, r"matches no layer: name='relu1'.*conv1 \(Conv2d"),
        ({"r": {"name": "conv1", "activation": {}}}, r"matches no site.*relu1 \(ReLU\)"),
    ],
)
def test_errors_name_the_rule_the_layer_and_what_is_accepted(
    rules: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        convert(LeNet(10, 1), rules)


def test_a_rule_for_a_quantizer_that_is_not_there_is_an_error() -> None:
    rule = Rule.parse("r", {"weight": {"bits": 2}})
    with pytest.raises(QuantRuleError, match=r"quant\.rules\.r\.weight .* quant\.weight is null"):
        quantize(LeNet(10, 1), None, ACTIVATION, [rule], IMAGE)
    null = Rule.parse("r", {"weight": None})
    quantize(LeNet(10, 1), None, ACTIVATION, [null], IMAGE)


def test_faults_of_a_layer_name_it() -> None:
    model, _ = convert(LeNet(10, 1))
    nn.init.zeros_(model.get_parameter("conv2.weight"))
    with pytest.raises(TrainingError, match=r"^conv2: all its weights are 0"):
        model(images(2, 1, 32, 32))


class CountsItsImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + len(x)


class LooksAtItsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class LeavesTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sqrt(x.numpy()))


@pytest.mark.parametrize("network", [CountsItsImages, LooksAtItsValues, LeavesTorch])
def test_a_network_that_cannot_be_traced_is_refused_by_name(network: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{network.__name__} cannot be traced"):
        convert(network())


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(self.conv(x), training=self.training)
        return nn.functional.dropout2d(x, 0.25, self.training)


@pytest.mark.parametrize("training", [True, False])
def test_a_functional_dropout_in_training_becomes_a_module(training: bool) -> None:
    network = FunctionalDropout().train(training)
    model, _ = convert(network, image=torch.zeros(1, 3, 8, 8))
    drops = [m for m in model.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]
    assert [(type(m).__name__, m.p) for m in drops] == [("Dropout", 0.5), ("Dropout2d", 0.25)]
    assert model.training is training
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(model.eval()(images), model(images))
    assert not torch.equal(model.train()(images), model(images))


class AnotherPassInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


@pytest.mark.parametrize("training", [True, False])
def test_a_trace_that_would_freeze_the_mode_is_refused(training: bool) -> None:
    with pytest.raises(ConfigError, match=r"^AnotherPassInTraining computes differently"):
        convert(AnotherPassInTraining().train(training))


class PadsItself(nn.Conv2d):
    """A subclass with a forward of its own, which uses its weights as they are."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 1, 0, 1))
        return nn.functional.conv2d(x, self.weight, self.bias, stride=self.stride)


class OnlyAName(nn.Conv2d):
    pass


class CentresItsWeights(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class OfLayers(nn.Module):
    first: Any

    def __init__(self, kind: type[nn.Conv2d]) -> None:
        super().__init__()
        self.first = kind(3, 4, 3, stride=2)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.first(x).relu().mean((2, 3)))


@pytest.mark.parametrize("kind", [PadsItself, OnlyAName])
def test_a_subclass_of_a_layer_is_quantized(kind: type[nn.Conv2d]) -> None:
    network = OfLayers(kind)
    images = torch.rand(2, 3, 8, 8)
    expected = network(images)
    model, table = convert(network, image=torch.zeros(1, 3, 8, 8))
    assert {row.name: row.bits for row in table.layers if row.part == "weight"} == {
        "first": 4,
        "fc": 4,
    }
    set_phase(model, Phase.FLOAT)
    assert torch.equal(model(images), expected)
    assert dict(model.named_parameters())["first.weight"] is network.first.weight


def weight_normed(layer: nn.Conv2d) -> nn.Module:
    return parametrizations.weight_norm(layer)


def old_weight_normed(layer: nn.Conv2d) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def bias_pruned(layer: nn.Conv2d) -> nn.Module:
    return prune.random_unstructured(layer, "bias", 1)


@pytest.mark.parametrize("change", [weight_normed, old_weight_normed, bias_pruned, None])
def test_weights_that_are_computed_are_refused_or_stay_float_by_a_rule(change: Any) -> None:
    network = OfLayers(CentresItsWeights if change is None else nn.Conv2d)
    if change is not None:
        change(network.first)
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"^first \(.*Conv2d|CentresItsWeights.* weight: null"):
        convert(network, image=image)
    _, table = convert(network, {"f": {"name": "first", "weight": None}}, image=image)
    assert next(row.bits for row in table.layers if row.name == "first") is None


def test_a_pruned_layer_keeps_its_mask() -> None:
    network = OfLayers(nn.Conv2d)
    prune.l1_unstructured(network.first, "weight", 50)
    images = torch.rand(2, 3, 8, 8)
    expected = network(images)
    model: Any
    model, table = convert(network, image=torch.zeros(1, 3, 8, 8))
    set_phase(model, Phase.FLOAT)
    assert torch.equal(model(images), expected)
    start_quantizers(model, [images])
    zeros = network.first.weight_mask == 0
    assert int(zeros.sum()) == 50
    assert not quantized_weight(model.first)[zeros].any()
    assert "first.weight_mask" in model.state_dict()  # a checkpoint brings it back
    assert table.layers[0].parameters == network.first.weight.numel()


def test_images_of_the_wrong_shape_are_reported_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"images of shape \(1, 3, 32, 32\): .*channels"
    ) as caught:
        convert(LeNet(10, 1), image=torch.zeros(1, 3, 32, 32))
    assert "\n" not in str(caught.value)


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.position = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.conv(x)) + self.position


def test_weights_without_a_quant_layer_are_in_the_table_as_float() -> None:
    _, table = convert(Upsampling())
    rows = {row.name: (row.type, row.bits, row.parameters) for row in table.layers}
    assert rows["up"] == ("ConvTranspose2d", None, 4 * 2 * 2 * 2)
    assert rows["position"][1:] == (None, 2)
    weights = (4 * 9 * 4) // 8 + 4 * (32 + 2)
    assert table.size_bytes == weights + 4 * (4 + 2)


class OneReluThrice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu, self.fc = nn.ReLU(), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.fc(self.relu(self.conv2(x)).mean((2, 3)))


@pytest.mark.parametrize("kept", ["relu", "relu_1", "relu_2"])
def test_one_call_of_a_module_may_stay_float(kept: str) -> None:
    image = torch.zeros(1, 3, 9, 9)
    model, table = convert(OneReluThrice(), {"f": {"name": kept, "activation": None}}, image)
    calls = [str(n.target) for n in model.graph.nodes if str(n.target).startswith("relu")]  # type: ignore[union-attr]
    assert calls == ["relu", "relu_1", "relu_2"]
    for name in calls:
        assert isinstance(model.get_submodule(name), nn.ReLU if name == kept else SatActivation)
    assert [row.name for row in table.layers if row.part == "activation" and row.bits is None] == [
        kept
    ]
