"""QONNX files, computed by the operators' definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from onnx.reference import ReferenceEvaluator
from qonnx_operators import BipolarQuant, Quant
from torch import Tensor, nn

from qatlab.deploy.integer import IntegerNetwork, compute, lower
from qatlab.deploy.onnx.qonnx import QonnxWriter
from qatlab.deploy.onnx.readers import READERS
from qatlab.errors import ConfigError
from qatlab.models.resnet import PaddedShortcut


def lowered(model: nn.Module, method: str = "sat", bits: int = 4, **rules: Any) -> IntegerNetwork:
    torch.manual_seed(1)
    return lower(convert(model, method, bits, **rules), [PIXEL] * 3, EXAMPLE)


def assert_computes(file: onnx.ModelProto, network: IntegerNetwork) -> None:
    session = ReferenceEvaluator(file, new_ops=[Quant, BipolarQuant])
    (outputs,) = session.run(None, {"image": (PIXELS / 255).numpy()})
    computed = compute(network, PIXELS)
    expected = computed.outputs.numpy().reshape(outputs.shape)
    np.testing.assert_allclose(outputs, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "bits", "rules"),
    [
        ("sat", 4, {}),
        ("sat", 4, {"one": {"name": "*", "weight": {"bits": 1}}}),
        ("lsq", 3, {}),
        ("lsq_plus", 4, {}),
    ],
)
def test_quant_operators_say_what_the_integer_network_computes(
    name: str, method: str, bits: int, rules: dict[str, Any]
) -> None:
    network = lowered(NETWORKS[name](), method, bits, **rules)
    file = QonnxWriter(network, 21).write({})
    kinds = {node.op_type for node in file.graph.node}
    assert "Quant" in kinds
    assert ("BipolarQuant" in kinds) == bool(rules)
    assert_computes(file, network)


def test_weights_are_on_the_grid_that_their_quant_says() -> None:
    network = lowered(NETWORKS["chain"]())
    graph = QonnxWriter(network, 21).write({}).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quants = [n for n in graph.node if n.op_type == "Quant" and n.input[0] in constants]
    assert len(quants) == 3
    for quant in quants:
        weight, scale, zero, bits = (constants[name] for name in quant.input)
        levels = weight / scale
        assert abs(levels - levels.round()).max() < 1e-5
        assert zero == 0
        assert (bits, abs(levels).max().round()) == (5, 15)  # odd numbers, with half the step


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_shapes_and_attributes_are_written(name: str) -> None:
    graph = QonnxWriter(lowered(NETWORKS[name]()), 13).write({}).graph
    known = {info.name: info.type.tensor_type.shape.dim for info in graph.value_info}
    known |= {graph.output[0].name: graph.output[0].type.tensor_type.shape.dim}
    constants = {tensor.name for tensor in graph.initializer}
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]
    for node in graph.node:
        if node.op_type == "Conv":
            assert attributes(node).keys() == {
                *("kernel_shape", "strides", "pads", "dilations", "group")
            }
        if node.op_type in ("MaxPool", "AveragePool"):
            assert attributes(node).keys() >= {"kernel_shape", "strides", "pads", "ceil_mode"}
        if node.op_type == "Gemm":
            assert len(node.input) == 3
        for output in node.output:
            assert all(dim.dim_value > 0 for dim in known[output])
            assert known[output][0].dim_value == 1 or node.input[0] in constants


def test_biases_are_in_their_layers_and_unsigned_codes_behind_a_relu() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Hardtanh())
    network = lowered(nn.Sequential(*layers, nn.Conv2d(5, 2, 1)))
    file = QonnxWriter(network, 13).write({})
    made = {output: node for node in file.graph.node for output in node.output}
    weights = {tensor.name for tensor in file.graph.initializer}
    sites = [n for n in file.graph.node if n.op_type == "Quant" and n.input[0] not in weights]
    relu, tanh = sites
    assert (attributes(relu)["signed"], made[relu.input[0]].op_type) == (0, "Relu")
    # Codes from -7 to 7 are all that 4 narrow bits have: no Clip.
    assert (attributes(tanh)["signed"], attributes(tanh)["narrow"]) == (1, 1)
    assert made[tanh.input[0]].op_type == "Conv"
    assert {node.op_type for node in file.graph.node} == {"Conv", "Quant", "Relu"}
    assert [len(node.input) for node in file.graph.node if node.op_type == "Conv"] == [3, 3, 3]
    assert_computes(file, network)


@pytest.mark.parametrize("bits", [4, 1])
def test_hls4ml_is_given_codes_as_weights_and_a_norm_behind_them(bits: int) -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    narrow = {"name": "*", "weight": {"bits": bits}}
    network = lowered(nn.Sequential(*layers), narrow=narrow)
    # From opset 14 on onnx's evaluator computes a norm with its statistics.
    graph = (file := QonnxWriter(network, 14, READERS["hls4ml"]).write({})).graph
    kinds = [node.op_type for node in graph.node if node.op_type != "Quant"]
    norm = "BatchNormalization"
    assert kinds == ["Conv", norm, "Relu", "Flatten", "Gemm", norm]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Quant" and node.input[0] in constants:
            weight, scale = constants[node.input[0]], constants[node.input[1]]
            assert scale == 1
            assert np.array_equal(weight, weight.round())
    assert_computes(file, network)


class OptionA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.shortcut, self.relu = PaddedShortcut(2, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.more(x) + self.shortcut(x)


BETWEEN: dict[str, tuple[list[nn.Module], int]] = {  # and the channels behind them
    "option A": ([nn.ReLU(), OptionA(), nn.ReLU()], 8),
    "bound": ([nn.ReLU6()], 3),
    "average": ([nn.ReLU(), nn.AvgPool2d(2)], 3),
}


@pytest.mark.parametrize(
    ("name", "reader", "words"),
    [
        ("option A", "finn", "^2.shortcut.* with Slice, which finn does not take: use shortcuts"),
        ("bound", "hls4ml", "^1 is written with Clip, which hls4ml does not take: give the site"),
        ("average", "finn", "^2 is written with AveragePool, .* take: average the whole map.$"),
    ],
)
def test_what_a_reader_does_not_take_is_reported_by_layer_and_operator(
    name: str, reader: str, words: str
) -> None:
    between, channels = BETWEEN[name]
    ends = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(channels, 2, 1)
    bound = {"name": "*", "activation": {"n_steps": 12, "bits": None}}
    more = {"all": bound} if name == "bound" else {}
    network = lowered(nn.Sequential(ends[0], *between, ends[1]), **more)
    assert QonnxWriter(network, 13).write({})
    with pytest.raises(ConfigError, match=words):
        QonnxWriter(network, 13, READERS[reader]).write({})


def test_hls4ml_is_given_codes_between_layers_and_averages_as_layers() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
            self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu1(self.stem(x))
            x = self.pool(self.relu2(self.more(x) + x))
            return self.fc(x.flatten(1))

    network = lowered(Residual())
    graph = (file := QonnxWriter(network, 14, READERS["hls4ml"]).write({})).graph
    quants = [node for node in graph.node if node.op_type == "Quant"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {float(constants[node.input[1]]) for node in quants} == {1.0}
    kinds = [node.op_type for node in graph.node]
    assert not {kind for kind in kinds if "Pool" in kind}
    groups = [attributes(node)["group"] for node in graph.node if node.op_type == "Conv"]
    assert groups == [1, 1, 4]
    assert_computes(file, network)
