"""QONNX: the operators Quant and BipolarQuant on floats, as FINN and hls4ml read them.

Files follow the conventions of Brevitas, which these are tested with: a batch of one image, shapes
of all tensors, attributes written out, biases in their layers, a ReLU in front of unsigned codes.

Source: the specification of the operators in Pappalardo et al. 2022, arXiv:2206.07527.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import NO_SIDES, Integers, Reals
from qatlab.deploy.onnx.biases import BiasWriter
from qatlab.deploy.onnx.graph import window
from qatlab.deploy.onnx.qdq import Floats
from qatlab.deploy.onnx.readers import READERS, Reader

DOMAIN = "qonnx.custom_op.general"
ZERO, ONE = (np.asarray(number, np.float32) for number in (0, 1))
# What these operators do where nothing is said.
WINDOW: Mapping[str, list[int]] = {"strides": [1, 1], "pads": [0, 0, 0, 0]}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Conv": {**WINDOW, "dilations": [1, 1], "group": 1},
    "MaxPool": {**WINDOW, "dilations": [1, 1], "ceil_mode": 0},
    "AveragePool": {**WINDOW, "ceil_mode": 0},
}


class QonnxWriter(BiasWriter):
    """Writes one network; weights are floats on their grid, and a Quant says which.

    Args:
        network: see :class:`~qatlab.deploy.onnx.qdq.QdqWriter`.
        opset: likewise.
        reader: of the file.
    """

    domain, batch = DOMAIN, 1

    def __init__(
        self, network: IntegerNetwork, opset: int, reader: Reader = READERS["qonnx"]
    ) -> None:
        if reader.conventions.norm_behind:
            network = _in_steps(network)
        super().__init__(network, opset, reader)

    def completed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Write out attributes that have a default, and the shapes of all tensors."""
        return _complete(model)

    def _term(self, name: str, factor: Reals) -> str:
        op, channels = self.by_name[name], self.shapes[name][0]
        if not self.conventions.norm_behind or factor.ndim > 1:
            return super()._term(name, factor)
        if name in self.codes:
            x, rest, bias = self.real(name), factor / self.codes[name].step, ZERO
        elif isinstance(op, (ops.Convolve, ops.Multiply)):
            step, bias = self.codes[op.inputs[0]].step, self._biases.pop(name, ZERO)
            x, rest = super()._term(name, np.array(step)), factor / step
        else:
            return super()._term(name, factor)
        scale, offset = (np.broadcast_to(n, channels).astype(np.float32) for n in (rest, bias))
        numbers = (scale, offset, np.zeros_like(scale), np.ones_like(scale))
        constants = [self.graph.constant(own) for own in numbers]
        return self.graph.node("BatchNormalization", [x, *constants], epsilon=0.0)

    def _pooled(self, op: ops.SumPool, x: str) -> str:
        shape = self.shapes[op.inputs[0]]
        if self.conventions.averages_by_layers:
            ones = self.weights(np.ones((shape[0], 1, *op.kernel), np.int64), ONE, op.name)
            sums = self.graph.node("Conv", [x, ones], group=shape[0], **window(op))
            return self._times(sums, np.array(1 / math.prod(op.kernel)), op.name)
        if op.kernel == shape[1:] and op.padding == NO_SIDES:
            return self.graph.node("GlobalAveragePool", [x], op.name)
        return super()._pooled(op, x)

    def _of_channels(self, numbers: Floats, like: str) -> str:
        """Return a constant without an axis for images, which readers take no constant with."""
        if numbers.ndim == 1:
            numbers = numbers.reshape(-1, *(1,) * (len(self.shapes[like]) - 1))
        return self.graph.constant(numbers)

    def weights(self, codes: Integers, scale: Floats, name: str) -> str:
        """Return real weights: ``codes * scale``, one or one for each output channel."""
        shaped = scale.reshape(-1, *(1,) * (codes.ndim - 1)) if scale.ndim else scale
        real = self.graph.constant((codes * shaped).astype(np.float32), f"{name}_weight")
        if self.conventions.bipolar and set(np.unique(codes)) == {-1, 1}:
            scales = self.graph.constant(shaped)
            return self.graph.node("BipolarQuant", [real, scales], domain=DOMAIN)
        low, high = int(codes.min()), int(codes.max())
        bits = max((-low - 1).bit_length(), high.bit_length()) + 1
        narrow = low > -(1 << (bits - 1))
        return self._quant(real, shaped, bits, True, narrow, f"{name}_real")

    def site(self, op: ops.Rescale | ops.Table, x: str) -> None:
        """Write a site; ``x`` are the real numbers above its offset."""
        codes, name, graph = op.codes, op.name, self.graph
        signed = codes.low < 0
        bits = codes.high.bit_length()
        if signed:
            bits = max((-codes.low - 1).bit_length(), bits) + 1
        largest = (1 << (bits - signed)) - 1
        narrow = signed and (codes.low, codes.high) == (-largest, largest)
        lowest = -largest - (not narrow) if signed else 0
        if (codes.low, codes.high) != (lowest, largest):
            low, high = (
                graph.constant(np.float32(end * codes.step)) for end in (codes.low, codes.high)
            )
            x = graph.node("Clip", [x, low if codes.low else "", high])
        if not signed:
            x = graph.node("Relu", [x])  # changes nothing, but is what unsigned codes are read with
        real = self._quant(x, np.float32(codes.step), bits, signed, narrow, name)
        if codes.offset:
            real = graph.node("Add", [real, graph.constant(np.float32(codes.offset))])
        self.tensors[name] = real

    def _quant(
        self,
        x: str,
        scale: Floats | np.float32,
        bits: int,
        signed: bool,
        narrow: bool,
        name: str,
    ) -> str:
        inputs = [
            x,
            self.graph.constant(np.asarray(scale, np.float32)),
            self.graph.constant(np.float32(0)),
            self.graph.constant(np.float32(bits)),
        ]
        settings = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
        return self.graph.node("Quant", inputs, name, domain=DOMAIN, **settings)


def _in_steps(network: IntegerNetwork) -> IntegerNetwork:
    """Return a network whose real numbers behind a site are in steps of this site: its codes.

    hls4ml takes a scale other than a power of two apart, and puts the pieces at the wrong places
    where one tensor is read twice, or is the second of a sum.
    """
    units: dict[str, float] = {}  # of real numbers, by the name of the result
    operations: list[ops.Operation] = []
    codes = network.codes
    for op in network.operations:
        unit = units.get(op.inputs[0], 1.0) if op.inputs else 1.0
        if op.group is ops.Group.SITE:
            unit = codes[op.name].step
        units[op.name] = unit
        changes: dict[str, Any] = {}
        for name in REAL.get(type(op), ()):
            own = getattr(op, name)
            changes[name] = own / unit if name != "codes" else own and own.in_units(unit)
        operations.append(replace(op, **changes))
    return IntegerNetwork(operations, network.sites)


# What of an operation is in real numbers; multipliers and biases of a site are in its steps.
REAL: dict[type[ops.Operation], tuple[str, ...]] = {
    ops.Rescale: ("codes",),
    ops.Table: ("codes",),
    ops.SumPool: ("codes",),
    ops.Reinterpret: ("codes", "shift"),
    ops.Pad: ("value",),
}


def _complete(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write out attributes that have a default, and the shapes of all tensors; return the file."""
    for node in model.graph.node:
        known = {attribute.name for attribute in node.attribute}
        for key, value in DEFAULTS.get(node.op_type, {}).items():
            if key not in known:
                node.attribute.append(helper.make_attribute(key, value))
    standard = onnx.ModelProto()
    standard.CopyFrom(model)
    for node in standard.graph.node:
        if node.domain == DOMAIN:  # shapes are those of what it quantizes
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output))
    found = onnx.shape_inference.infer_shapes(standard, data_prop=True)
    model.graph.value_info.extend(found.graph.value_info)
    return model
