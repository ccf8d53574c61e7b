"""Files for TensorRT and TFLite: what they are documented to fuse, and the same numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from onnx import TensorProto, numpy_helper
from torch import nn

from qatlab.deploy.integer import IntegerNetwork, compute, lower
from qatlab.deploy.onnx.fused import FusedWriter
from qatlab.deploy.onnx.readers import READERS
from qatlab.errors import ConfigError

SYMMETRIC = {"name": "*", "weight": {"grid": "symmetric"}}
SEVEN = {"name": "*", "weight": {"grid": "symmetric"}, "activation": {"bits": 7}}


def lowered(name: str, method: str, bits: int, **rules: Any) -> IntegerNetwork:
    torch.manual_seed(1)
    return lower(convert(NETWORKS[name](), method, bits, **rules), [PIXEL] * 3, EXAMPLE)


def answer(model: onnx.ModelProto) -> Any:
    """Return what onnxruntime computes of a file as written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": (PIXELS / 255).float().numpy()})[0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("reader", "method", "bits", "rule"),
    [
        *(("tflite", "sat", 4, SYMMETRIC), ("tflite", "sat", 8, SYMMETRIC)),
        *(("tensorrt", "sat", 8, SEVEN), ("tensorrt", "lsq", 4, {}), ("tflite", "lsq_plus", 4, {})),
    ],
)
def test_the_numbers_are_those_of_training(
    name: str, reader: str, method: str, bits: int, rule: dict[str, Any]
) -> None:
    network = lowered(name, method, bits, **({"all": rule} if rule else {}))
    found = answer(FusedWriter(network, 13, READERS[reader]).write({}))
    expected = compute(network, PIXELS).outputs.numpy().reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("reader", "rule", "zero"), [("tflite", SYMMETRIC, -128), ("tensorrt", SEVEN, 0)]
)
def test_layers_are_as_engines_of_signed_bytes_fuse_them(
    reader: str, rule: dict[str, Any], zero: int
) -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    network = nn.Sequential(*layers, nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3))
    torch.manual_seed(1)
    model = convert(network, "sat", 8, all=rule)
    file = FusedWriter(lower(model, [PIXEL] * 3, EXAMPLE), 13, READERS[reader]).write({})
    graph = file.graph
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kinds = [node.op_type for node in graph.node]
    assert "Clip" not in kinds
    assert "Min" not in kinds
    assert kinds.count("Conv") == 2
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert len(node.input) == 3  # with its bias, which stays float: engines round it
            assert constants[node.input[2]].data_type == TensorProto.FLOAT
            weight = made[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert constants[weight.input[0]].data_type == TensorProto.INT8
            assert len(weight.input) == 2  # no zero point
            if node is not graph.node[0] and node.input[0] != "image":
                behind = made[node.input[0]].op_type
                assert behind in ("DequantizeLinear", "Flatten")
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].data_type == TensorProto.INT8
            assert numpy_helper.to_array(constants[node.input[2]]) == zero
            behind = made[node.input[0]].op_type
            assert behind in (("Conv", "Gemm") if reader == "tflite" else ("Relu",)) or (
                behind in ("MaxPool", "Flatten")  # quantized again with the same step
            )
    by_channel = made[next(n for n in graph.node if n.op_type == "Conv").input[1]]
    assert numpy_helper.to_array(constants[by_channel.input[1]]).shape == (4,)


@pytest.mark.parametrize(
    ("reader", "rule", "words"),
    [
        (
            "tflite",
            {},
            "takes weights of -127 to 127, and these are from -2\\d\\d to 255: use a grid",
        ),
        ("tensorrt", SYMMETRIC, "signed bytes that have no offset, .* go from 0 to 255: give it 7"),
    ],
)
def test_what_signed_bytes_do_not_hold_is_reported(
    reader: str, rule: dict[str, Any], words: str
) -> None:
    network = lowered("chain", "sat", 8, **({"all": rule} if rule else {}))
    with pytest.raises(ConfigError, match=words) as caught:
        FusedWriter(network, 13, READERS[reader]).write({})
    assert re.match(r"[\w.]+: " + reader, str(caught.value))
