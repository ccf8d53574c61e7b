"""ONNX of quantized tensors: QuantizeLinear and DequantizeLinear around operators on floats.

Each weight is a constant of whole numbers and a DequantizeLinear, whose scales hold the batch norm;
each site is a QuantizeLinear and a DequantizeLinear. Whatever lies between is float32 arithmetic.
Biases are an Add of their own: as the third input of a Conv, onnxruntime would round them to whole
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qatlab.errors import ConfigError
from qatlab.export.graph import Graph, container, window
from qatlab.export.stored import stored
from qatlab.integer.network import (
    Codes,
    Concatenate,
    Convolve,
    Input,
    IntegerNetwork,
    Integers,
    MaxPool,
    Multiply,
    Operation,
    Pad,
    Permute,
    Pick,
    Reals,
    Reinterpret,
    Rescale,
    Reshape,
    Slice,
    SumPool,
    Weighted,
)
from qatlab.integer.vectorised import shapes

Floats = NDArray[np.float32]
INSIDE = 0.25  # steps
LAST = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
PADDINGS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
WRAPS = 19  # the opset from which Pad has the mode wrap


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
            elif op.name in self.codes:  # accumulators are written where they are read
                self.tensors[op.name] = self._handed_on(op)
        output = self.network.output
        answer, shape = self.tensors[output.name], self.shapes[output.name]
        if output.function:
            answer = self.graph.node(LAST[output.function], [answer], axis=1)
        answer, shape = self.graph.in_shape(answer, shape, output.shape, output.places)
        return self.graph.model(image, answer, TensorProto.FLOAT, shape, facts)

    def _handed_on(self, op: Operation) -> str:
        inputs = [self.tensors[name] for name in op.inputs]
        if isinstance(op, SumPool):
            return self._averaged(op)
        if isinstance(op, Pad):
            return padded(self.graph, op, inputs[0], np.float32(op.value))
        if not isinstance(op, Reinterpret):
            return handed_on(self.graph, op, inputs)
        (x,) = inputs
        if op.factor != 1:
            x = self.graph.node("Mul", [x, self.graph.constant(np.float32(op.factor))], op.name)
        if op.shift != 0:
            x = self.graph.node("Add", [x, self.graph.constant(np.float32(op.shift))], op.name)
        return x

    def _averaged(self, op: SumPool) -> str:
        """Return averages of real numbers; torch's divisor may be another one."""
        assert op.codes is not None
        area = math.prod(op.kernel)
        factor = op.codes.step / self.codes[op.inputs[0]].step * area
        return self._times(self._pooled(op, self.tensors[op.inputs[0]]), np.array(factor), op.name)

    def _pooled(self, op: SumPool, x: str) -> str:
        places = window(op.kernel, op.stride, op.padding)
        return self.graph.node("AveragePool", [x], op.name, count_include_pad=1, **places)

    def _weighted(self, op: Weighted) -> str:
        unit = op.codes.step if isinstance(op, Rescale) else 1.0
        bias = np.asarray(op.bias * unit, dtype=np.float32)
        total: str | None = None
        for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
            term = self._term(name, np.asarray(multiplier * unit))
            total = term if total is None else self.graph.node("Add", [total, term])
        assert total is not None
        if bias.any():
            constant = self._of_channels(bias, op.inputs[0])
            total = self.graph.node("Add", [total, constant])
        if not isinstance(op, Rescale):
            return total
        offset = self.graph.constant(np.float32(op.codes.offset)) if op.codes.offset else ""
        if op.slope is not None:
            total = self._bent(op, total, offset)
        real = self.quantized(total, op.codes, op.name)
        return self.graph.node("Add", [real, offset]) if offset else real

    def _bent(self, op: Rescale, x: str, offset: str) -> str:
        """Return real numbers, of which those below 0 are multiplied by a slope."""
        assert op.slope is not None
        if offset:  # what is quantized is what lies above the offset
            x = self.graph.node("Add", [x, offset])
        slope = self._of_channels(op.slope.astype(np.float32), op.inputs[0])
        x = self.graph.node("PRelu", [x, slope])
        return self.graph.node("Sub", [x, offset]) if offset else x

    def _term(self, name: str, factor: Reals) -> str:
        """Return ``factor`` times a result: accumulators, their sums, or codes."""
        op = self.by_name[name]
        if name in self.codes:
            rest = factor / self.codes[name].step
            return self._times(self.tensors[name], rest, name)
        if isinstance(op, (Convolve, Multiply)):
            return self._layer(op, factor)
        assert isinstance(op, SumPool)
        area = math.prod(op.kernel)
        of_channels = factor if factor.ndim < 2 else abs(factor).reshape(len(factor), -1).max(1)
        pooled = self._pooled(op, self._term(op.inputs[0], of_channels * area))
        if factor.ndim < 2:
            return pooled
        some = np.where(of_channels == 0, 1, of_channels)
        return self._times(pooled, factor / some[:, None, None], name)

    def _times(self, x: str, factor: Reals, like: str) -> str:
        if np.allclose(factor, 1, rtol=1e-12, atol=0):
            return x
        return self.graph.node("Mul", [x, self._of_channels(factor.astype(np.float32), like)])

    def _of_channels(self, numbers: Floats, like: str) -> str:
        if numbers.ndim == 1:
            numbers = numbers.reshape(1, -1, *(1,) * (len(self.shapes[like]) - 1))
        elif numbers.ndim > 1:
            numbers = numbers[None]
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
    return HANDED_ON[type(op)](graph, op, inputs)


def padded(graph: Graph, op: Pad, x: str, value: np.generic) -> str:
    """Write what adds rows, columns or channels.

    Args:
        graph: it is added to.
        op: the operation.
        x: what it reads.
        value: what is put there in the mode ``constant``, of the type of x.

    Raises:
        ConfigError: for a mode that the opset has not.
    """
    mode = PADDINGS[op.mode]
    if mode == "wrap" and graph.opset < WRAPS:
        raise ConfigError(
            f"{op.name}: circular padding needs --opset {WRAPS} or higher, not {graph.opset}."
        )
    amounts = [n for side in zip(*((0, 0), *op.amounts), strict=True) for n in side]
    inputs = [x, graph.constant(np.array(amounts, np.int64))]
    if op.mode == "constant" and value:
        inputs.append(graph.constant(value))
    return graph.node("Pad", inputs, op.name, mode=None if mode == "constant" else mode)


def _max_pool(graph: Graph, op: MaxPool, inputs: list[str]) -> str:
    where = window(op.kernel, op.stride, op.padding, op.dilation)
    return graph.node("MaxPool", inputs, op.name, **where)


def _reshape(graph: Graph, op: Reshape, inputs: list[str]) -> str:
    if len(op.shape) == 1:
        return graph.node("Flatten", inputs, op.name, axis=1)
    return graph.node("Reshape", [*inputs, graph.constant(np.array([-1, *op.shape]))], op.name)


def _permute(graph: Graph, op: Permute, inputs: list[str]) -> str:
    split, shape = (graph.constant(np.array([-1, *sizes])) for sizes in (op.split, op.shape))
    apart = graph.node("Reshape", [*inputs, split])
    moved = graph.node("Transpose", [apart], perm=[0, *(axis + 1 for axis in op.axes)])
    return graph.node("Reshape", [moved, shape], op.name)


def _slice(graph: Graph, op: Slice, inputs: list[str]) -> str:
    starts, ends, steps = (list(part) for part in zip(*op.slices, strict=True))
    axes = list(range(1, len(starts) + 1))
    parts = [graph.constant(np.array(part, np.int64)) for part in (starts, ends, axes, steps)]
    return graph.node("Slice", [*inputs, *parts], op.name)


def _gathered(graph: Graph, x: str, channels: Sequence[int], name: str) -> str:
    numbers = graph.constant(np.array(channels, np.int64))
    return graph.node("Gather", [x, numbers], name, axis=1)


def _concatenate(graph: Graph, op: Concatenate, inputs: list[str]) -> str:
    name = op.name if op.order is None else ""
    joined = graph.node("Concat", inputs, name, axis=1)
    return joined if op.order is None else _gathered(graph, joined, op.order, op.name)


HANDED_ON: dict[type[Operation], Callable[[Graph, Any, list[str]], str]] = {
    MaxPool: _max_pool,
    Reshape: _reshape,
    Permute: _permute,
    Slice: _slice,
    Pick: lambda graph, op, inputs: _gathered(graph, inputs[0], op.channels, op.name),
    Concatenate: _concatenate,
}
