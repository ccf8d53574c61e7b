"""Files in other programs than onnxruntime, and behind those that simplify graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from onnx import TensorProto, numpy_helper

from qatlab.deploy.integer import IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.readers import READERS

OPSETS = (13, 21)


def some(*axes: Iterable[Any]) -> list[Any]:
    """Return all combinations, of which each first value has one that is quick."""
    first, *others = axes
    quick = {(name, *(next(iter(axis)) for axis in others)) for name in first}
    return [
        pytest.param(*values, marks=() if values in quick else pytest.mark.slow)
        for values in product(*axes)
    ]


def network_of(name: str, method: str) -> IntegerNetwork:
    torch.manual_seed(1)
    return lower(convert(NETWORKS[name](), method, 4), [PIXEL] * 3, EXAMPLE)


def written(network: IntegerNetwork, opset: int, kind: str, reader: str) -> onnx.ModelProto:
    if kind == "integer":
        narrow = with_rescale(network, READERS[reader].rescale)
        return IntegerWriter(narrow, opset).write({})
    return QdqWriter(network, opset, READERS[reader]).write({})


def in_openvino(file: onnx.ModelProto, images: np.ndarray, **settings: str) -> np.ndarray:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    model = core.read_model(file.SerializeToString())
    return np.asarray(core.compile_model(model, "CPU", settings)(images)[0])


@pytest.mark.parametrize(
    ("name", "method", "opset"), some(NETWORKS, ["sat", "lsq", "lsq_plus"], OPSETS)
)
def test_openvino_computes_whole_numbers_of_24_bits_at_its_defaults(
    name: str, method: str, opset: int
) -> None:
    network = network_of(name, method)
    file = written(network, opset, "integer", "openvino")
    outputs = in_openvino(file, PIXELS.to(torch.uint8).numpy())
    expected = compute(with_rescale(network, "fixed32"), PIXELS).outputs.numpy()
    np.testing.assert_allclose(outputs.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "method", "opset"), some(["residual", "chain"], ["sat", "lsq", "lsq_plus"], OPSETS)
)
def test_openvino_computes_sites_in_floats(name: str, method: str, opset: int) -> None:
    network = network_of(name, method)
    file = written(network, opset, "qdq", "openvino")
    outputs = in_openvino(file, (PIXELS / 255).numpy(), INFERENCE_PRECISION_HINT="f32")
    expected = compute(network, PIXELS).outputs.numpy()
    np.testing.assert_allclose(outputs.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5)


def _slimmed(file: Any) -> Any:
    onnxslim = pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    return onnxslim.slim(onnx.ModelProto.FromString(file.SerializeToString()))


def _simplified(file: Any) -> Any:
    onnxsim = pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    return onnxsim.simplify(onnx.ModelProto.FromString(file.SerializeToString()))[0]


@pytest.mark.parametrize("simplified", [_slimmed, _simplified])
@pytest.mark.parametrize("kind", ["qdq", "integer"])
@pytest.mark.parametrize(
    ("name", "method", "opset"), some(["residual", "bottleneck"], ["sat", "lsq"], OPSETS)
)
def test_a_simplified_file_computes_the_same_in_onnxruntime(
    name: str, method: str, opset: int, kind: str, simplified: Callable[[Any], Any]
) -> None:
    network = network_of(name, method)
    file = simplified(written(network, opset, kind, "onnxruntime"))
    images = PIXELS.to(torch.uint8) if kind == "integer" else (PIXELS / 255)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    (outputs,) = session.run(None, {"image": images.numpy()})
    expected = compute(network, PIXELS).outputs.numpy()
    np.testing.assert_allclose(outputs.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_24_bits_hold_no_number_that_float32_does_not(name: str) -> None:
    file = written(network_of(name, "lsq_plus"), 13, "integer", "openvino")
    shapes_and_places = {"Slice", "Pad", "Gather", "Reshape", "ReduceSum"}
    used = {n for node in file.graph.node if node.op_type in shapes_and_places for n in node.input}
    kinds = set()
    for constant in file.graph.initializer:
        values = numpy_helper.to_array(constant)
        if constant.name not in used:
            kinds.add(constant.data_type)
        if values.dtype == np.int32:
            assert abs(values).max(initial=0) < 1 << 24
    assert TensorProto.INT64 not in kinds
    casts = [node.attribute[0].i for node in file.graph.node if node.op_type == "Cast"]
    assert TensorProto.INT64 not in casts


@pytest.mark.parametrize("name", NETWORKS)
def test_biases_are_no_second_operand_behind_a_convolution(name: str) -> None:
    # onnxsim would move them into the convolution, and onnxruntime round them to whole numbers.
    file = written(network_of(name, "sat"), 21, "qdq", "onnxruntime")
    made = {node.output[0]: node for node in file.graph.node}
    constants = {constant.name for constant in file.graph.initializer}
    layers = [n for n in file.graph.node if n.op_type in ("Conv", "Gemm")]
    assert layers
    assert all(len(layer.input) == 2 for layer in layers)
    for node in file.graph.node:
        if node.op_type == "Add" and {made[x].op_type for x in node.input if x in made} & {"Conv"}:
            assert node.input[1] not in constants
