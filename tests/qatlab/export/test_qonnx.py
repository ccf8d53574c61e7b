"""QONNX files, computed by the operators' definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qatlab.export.qonnx import DOMAIN, QonnxWriter
from qatlab.integer import compute, lower


class Quant(OpRun):
    """Pappalardo et al. 2022, arXiv:2206.07527, section 3.

    clip(round(x / scale + zero), low, high) of so many bits, back to real numbers.
    """

    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any, zero: Any, bits: Any, **given: Any) -> tuple[Any]:
        assert given == {"signed": given["signed"], "narrow": 0, "rounding_mode": "ROUND"}
        signed = given["signed"]
        low = -(2 ** (bits - 1)) if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        index = np.clip(np.round(x / scale + zero), low, high)
        return (((index - zero) * scale).astype(np.float32),)


class BipolarQuant(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any) -> tuple[Any]:
        return ((np.where(x >= 0, 1, -1) * scale).astype(np.float32),)


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
