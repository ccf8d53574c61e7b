"""QONNX's operators in onnxruntime, against their definition (arXiv:2206.07527, section 3)."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qatlab.deploy.onnx.qonnx import DOMAIN
from qatlab.deploy.verify.qonnx_functions import with_functions

X = np.array([-1e9, -9, -2.01, -0.75, -0.26, -0.25, 0, 0.25, 0.74, 0.75, 1, 30, 1e9], np.float32)


def computed(
    kind: str, constants: dict[str, float], opset: int, **attributes: object
) -> np.ndarray:
    node = helper.make_node(kind, ["x", *constants], ["y"], domain=DOMAIN, **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.float32(v), name) for name, v in constants.items()]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    content = with_functions(model).SerializeToString()
    assert not model.functions  # the file itself stays as it is
    onnx.checker.check_model(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": X})
    return np.asarray(y)


@pytest.mark.parametrize("opset", [13, 21])
def test_quant_has_the_levels_of_its_bits(opset: int) -> None:
    for bits, signed, narrow in itertools.product((1, 2, 4, 8), (0, 1), (0, 1)):
        lowest = -(2 ** (bits - 1)) + narrow if signed else 0
        highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        y = computed(
            "Quant",
            {"scale": 0.5, "zero": 0, "bits": bits},
            opset,
            **{"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"},
        )
        assert np.array_equal(y, np.clip(np.rint(X / 0.5), lowest, highest) * 0.5)


def test_a_zero_point_moves_the_levels() -> None:
    y = computed(
        "Quant",
        {"scale": 0.5, "zero": 3, "bits": 3},
        21,
        **{"signed": 0, "narrow": 0, "rounding_mode": "ROUND"},
    )
    assert (y.min(), y.max()) == (-1.5, 2.0)


def test_bipolar_quant_knows_two_levels() -> None:
    assert np.array_equal(computed("BipolarQuant", {"scale": 0.5}, 13), np.where(X >= 0, 0.5, -0.5))
