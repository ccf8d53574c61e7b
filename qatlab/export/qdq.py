"""ONNX of quantized tensors: QuantizeLinear and DequantizeLinear around operators on floats.

Each weight is a constant of whole numbers and a DequantizeLinear, whose scales hold the batch norm;
each site is a QuantizeLinear and a DequantizeLinear. Whatever lies between is float32 arithmetic.
Biases are an Add of their own: as the third input of a Conv, onnxruntime would round them to whole
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qatlab.errors import ConfigError
from qatlab.export.graph import Graph, container, window
from qatlab.export.stored import stored
from qatlab.integer.network import (
    Channels,
    Codes,
    Concatenate,
    Convolve,
    Flatten,
    Input,
    IntegerNetwork,
    Integers,
    MaxPool,
    Multiply,
    Operation,
    PadChannels,
    Reals,
    Rescale,
    Subsample,
    SumPool,
    Weighted,
)
from qatlab.integer.vectorised import shapes

Floats = NDArray[np.float32]
INSIDE = 0.25  # steps
END = np.iinfo(np.int64).max


class QdqWriter:
    """Writes one network.

    Args:
        network: with float rescaling; its codes say what tensors are, in real numbers.
        opset: of the file.
    """

    domain = ""

    def __init__(self, network: IntegerNetwork, opset: int) -> None:
        self.network, self.codes, self.shapes = network, network.codes, shapes(network)
        self.by_name = {op.name: op for op in network.operations}
        self.graph = Graph(opset, self.by_name, self.domain)
        self.tensors: dict[str, str] = {}  # the real numbers that a result stands for

    def write(self, facts: Mapping[str, str]) -> onnx.ModelProto:
        """Return the file.

        Args:
            facts: become its metadata.

        Raises:
            ConfigError: for what its opset cannot say, naming layer or site.
        """
        image = self.graph.input("image", TensorProto.FLOAT, self.network.input.shape)
        for op in self.network.operations:
            if isinstance(op, Input):
                self.tensors[op.name] = "image"
            elif isinstance(op, Weighted):
                self.tensors[op.name] = self._weighted(op)
            elif not isinstance(op, (Convolve, Multiply)):  # written where they are read
                inputs = [self.tensors[name] for name in op.inputs]
                if isinstance(op, SumPool):
                    self.tensors[op.name] = self._averaged(op)
                else:
                    self.tensors[op.name] = handed_on(self.graph, op, inputs)
        last = self.network.operations[-1].name
        answer, shape = self.tensors[last], self.shapes[last]
        return self.graph.model(image, answer, TensorProto.FLOAT, shape, facts)

    def _averaged(self, op: SumPool) -> str:
        """Return averages of real numbers; torch's divisor may be another one."""
        x, name = self.tensors[op.inputs[0]], op.name
        result = self.graph.node(
            "AveragePool",
            [x],
            name,
            count_include_pad=1,
            **window(op.kernel, op.stride, op.padding),
        )
        area = np.prod(op.kernel)
        factor = np.float32(op.codes.step / self.codes[op.inputs[0]].step * area)
        if factor != 1:
            constant = self.graph.constant(factor)
            result = self.graph.node("Mul", [result, constant], name)
        return result

    def _weighted(self, op: Weighted) -> str:
        unit = op.codes.step if isinstance(op, Rescale) else 1.0
        bias = np.asarray(op.bias * unit, dtype=np.float32)
        total: str | None = None
        for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
            layer, factor = self.by_name[name], np.asarray(multiplier * unit)
            if isinstance(layer, (Convolve, Multiply)):
                term = self._layer(layer, factor)
            else:
                term = self._scaled(name, factor)
            total = term if total is None else self.graph.node("Add", [total, term])
        assert total is not None
        if bias.any():
            constant = self._of_channels(bias, op.inputs[0])
            total = self.graph.node("Add", [total, constant])
        if not isinstance(op, Rescale):
            return total
        real = self.quantized(total, op.codes, op.name)
        if op.codes.offset:
            constant = self.graph.constant(np.float32(op.codes.offset))
            real = self.graph.node("Add", [real, constant])
        return real

    def _scaled(self, name: str, factor: Reals) -> str:
        """Return the real numbers of a result that is codes, times what its step leaves over."""
        rest = factor / self.codes[name].step
        if np.allclose(rest, 1, rtol=1e-12, atol=0):
            return self.tensors[name]
        constant = self._of_channels(rest.astype(np.float32), name)
        return self.graph.node("Mul", [self.tensors[name], constant])

    def _of_channels(self, numbers: Floats, like: str) -> str:
        if numbers.ndim:
            numbers = numbers.reshape(1, -1, *(1,) * (len(self.shapes[like]) - 1))
        return self.graph.constant(numbers)

    def _layer(self, layer: Convolve | Multiply, factor: Reals) -> str:
        """Return ``factor`` times the accumulators of a layer."""
        graph, name = self.graph, layer.name
        x, weight = self.tensors[layer.inputs[0]], layer.weight
        scale = factor / self.codes[layer.inputs[0]].step
        shape = (-1, *(1,) * (weight.ndim - 1))
        codes = weight * np.sign(scale).astype(np.int64).reshape(shape)  # scales are positive
        size = np.where(scale == 0, 1.0, abs(scale))
        if size.ndim and np.all(size == size[0]):
            size = size[0]
        inputs = [x, self.weights(codes, np.asarray(size, np.float32), name)]
        if isinstance(layer, Multiply):
            return graph.node("Gemm", inputs, transB=1)
        return graph.node(
            "Conv",
            inputs,
            group=layer.groups if layer.groups > 1 else None,
            **window(weight.shape[2:], layer.stride, layer.padding, layer.dilation),
        )

    def weights(self, codes: Integers, scale: Floats, name: str) -> str:
        """Return real weights: ``codes * scale``, one or one for each output channel."""
        graph = self.graph
        numbers, kind, gap, base = stored(codes, graph.opset, name)
        constant = graph.constant(numbers, f"{name}_weight", kind)
        if not base:
            scales = graph.constant(np.asarray(gap * scale, np.float32))
            axis = 0 if scale.ndim else None
            return graph.node("DequantizeLinear", [constant, scales], axis=axis)
        # Odd codes, exactly: 2 * numbers + 1.
        two, one = (graph.constant(np.float32(number)) for number in (gap, base))
        even = graph.node("DequantizeLinear", [constant, two])
        odd = graph.node("Add", [even, one])
        shaped = scale.reshape(-1, *(1,) * (codes.ndim - 1)) if scale.ndim else scale
        return graph.node("Mul", [odd, graph.constant(shaped)])

    def quantized(self, x: str, codes: Codes, name: str) -> str:
        """Return real numbers on the grid of a site; ``x`` are those above its offset."""
        graph = self.graph
        kind = container(min(codes.low, 0), codes.high, graph.opset, of_bytes=True)
        if kind is None:
            raise ConfigError(
                f"{name}: activations of {codes.bits} bits need --opset 21 or higher; opset "
                f"{graph.opset} has integers of 8 bits at most."
            )
        # A quarter of a step inside of what rounds to the ends: onnxruntime would take a Clip that
        # changes nothing away, and then round biases to whole numbers. Below 0 the type ends.
        low, high = (
            np.float32(end * codes.step) for end in (codes.low + INSIDE, codes.high - INSIDE)
        )
        lowest = graph.constant(low) if codes.low else ""
        x = graph.node("Clip", [x, lowest, graph.constant(high)])
        scale = graph.constant(np.float32(codes.step))
        zero = graph.constant(np.array(0), kind=kind)
        stored_codes = graph.node("QuantizeLinear", [x, scale, zero], f"{name}_codes")
        return graph.node("DequantizeLinear", [stored_codes, scale, zero])


def handed_on(graph: Graph, op: Operation, inputs: list[str]) -> str:
    """Write an operation that hands on what it reads, be it codes or real numbers."""
    name = op.name
    if isinstance(op, MaxPool):
        return graph.node(
            "MaxPool",
            inputs,
            name,
            ceil_mode=1 if op.ceil_mode else None,
            **window(op.kernel, op.stride, op.padding, op.dilation),
        )
    if isinstance(op, Flatten):
        return graph.node("Flatten", inputs, name, axis=1)
    if isinstance(op, Concatenate):
        return graph.node("Concat", inputs, name, axis=1)
    if isinstance(op, PadChannels):
        sides = graph.constant(np.array([0, 0, 0, 0, 0, op.channels, 0, 0]))
        return graph.node("Pad", [*inputs, sides], name)
    if isinstance(op, (Subsample, Channels)):
        starts, ends, axes, steps = (
            ([0, 0], [END, END], [2, 3], list(op.stride))
            if isinstance(op, Subsample)
            else ([op.start], [op.stop], [1], [1])
        )
        parts = [graph.constant(np.array(part, np.int64)) for part in (starts, ends, axes, steps)]
        return graph.node("Slice", [*inputs, *parts], name)
    raise TypeError(f"{type(op).__name__} is no operation that hands on what it reads")
