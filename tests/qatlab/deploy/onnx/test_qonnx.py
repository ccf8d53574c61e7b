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

from qatlab.deploy.integer import compute, lower
from qatlab.deploy.onnx.qonnx import QonnxWriter


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
    torch.manual_seed(1)
    network = lower(convert(NETWORKS[name](), method, bits, **rules), [PIXEL] * 3, EXAMPLE)
    file = QonnxWriter(network, 21).write({})
    kinds = {node.op_type for node in file.graph.node}
    assert "Quant" in kinds
    assert ("BipolarQuant" in kinds) == bool(rules)
    images = (PIXELS / 255).numpy()
    session = ReferenceEvaluator(file, new_ops=[Quant, BipolarQuant])
    (outputs,) = session.run(None, {"image": images})
    computed = compute(network, PIXELS)
    np.testing.assert_allclose(outputs, computed.outputs.numpy(), rtol=2e-5, atol=2e-5)


def test_weights_are_on_the_grid_that_their_quant_says() -> None:
    torch.manual_seed(1)
    network = lower(convert(NETWORKS["chain"](), "sat", 4), [PIXEL] * 3, EXAMPLE)
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
