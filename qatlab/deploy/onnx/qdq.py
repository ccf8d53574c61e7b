"""ONNX of quantized tensors: QuantizeLinear and DequantizeLinear around operators on floats.

Each weight is a constant of whole numbers and a DequantizeLinear, whose scales hold the batch norm;
each site is a QuantizeLinear and a DequantizeLinear. Whatever lies between is float32 arithmetic.
Biases are an Add of their own: as the third input of a Conv, onnxruntime would round them to whole
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qatlab.deploy.integer.network import (
    NO_SIDES,
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
    Sides,
    Slice,
    SumPool,
    Weighted,
)
from qatlab.deploy.integer.vectorised import shapes
from qatlab.deploy.onnx.graph import NARROW, Graph, container, window
from qatlab.deploy.onnx.stored import stored
from qatlab.errors import ConfigError

Floats = NDArray[np.float32]
INSIDE = 0.25  # steps
BYTES = (TensorProto.INT8, TensorProto.UINT8)  # types that all nodes which move values take
LAST = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
PADDINGS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
WRAPS = 19  # the opset from which Pad has the mode wrap


class Stored(NamedTuple):
    """Codes in the file, and what they stand for: ``scale * (codes - zero) + offset``.

    Attributes:
        codes: name of their tensor.
        scale: name of a constant.
        zero: likewise.
        kind: type of the codes.
        offset: in real numbers.
    """

    codes: str
    scale: str
    zero: str
    kind: int
    offset: float


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
        self.stored: dict[str, Stored] = {}  # results that are codes in the file

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
            elif isinstance(op, Rescale):
                self.site(op, self._total(op))
            elif isinstance(op, Weighted):
                self.tensors[op.name] = self._total(op)
            elif op.name in self.codes:  # accumulators are written where they are read
                self._hand_on(op)
        output = self.network.output
        answer, shape = self.tensors[output.name], self.shapes[output.name]
        if output.function:
            answer = self.graph.node(LAST[output.function], [answer], axis=1)
        answer, sizes = self.graph.in_shape(answer, shape, output.shape, output.places)
        return self.graph.model(image, answer, TensorProto.FLOAT, sizes, facts)

    def real(self, name: str) -> str:
        """Return the real numbers that a result stands for."""
        if name not in self.tensors:
            stored = self.stored[name]
            x = self.graph.node("DequantizeLinear", [stored.codes, stored.scale, stored.zero], name)
            if stored.offset:
                x = self.graph.node("Add", [x, self.graph.constant(np.float32(stored.offset))])
            self.tensors[name] = x
        return self.tensors[name]

    def _hand_on(self, op: Operation) -> None:
        """Write what moves values: of codes where it can be, as these are what is quantized.

        onnxruntime moves a DequantizeLinear behind such a node itself, and loses its type then.
        """
        stored = [self.stored.get(name) for name in op.inputs]
        alike = {None if one is None else one[1:] for one in stored}
        (first, *others), keeps = stored, isinstance(op, (MaxPool, *HANDED_ON))
        if isinstance(op, Pad) and first is not None:
            keeps = op.mode != "constant" or op.value == first.offset
        if keeps and len(alike) == 1 and first is not None and first.kind in BYTES:
            of_codes = replace(op, name=f"{op.name}_codes")
            codes = [one.codes for one in (first, *others) if one is not None]
            low = self.codes[op.name].low
            lowest = np.int8(-128) if first.kind == TensorProto.INT8 else np.uint8(max(low, 0))
            moved = handed_on(self.graph, of_codes, codes, lowest)
            self.stored[op.name] = first._replace(codes=moved)
            return
        inputs = [self.real(name) for name in op.inputs]
        if isinstance(op, SumPool):
            self.tensors[op.name] = self._averaged(op, inputs[0])
        elif isinstance(op, Reinterpret):
            self.tensors[op.name] = self._moved(op, inputs[0])
        else:
            self.tensors[op.name] = handed_on(self.graph, op, inputs, np.float32(-np.inf))

    def _moved(self, op: Reinterpret, x: str) -> str:
        if op.factor != 1:
            x = self.graph.node("Mul", [x, self.graph.constant(np.float32(op.factor))], op.name)
        if op.shift != 0:
            x = self.graph.node("Add", [x, self.graph.constant(np.float32(op.shift))], op.name)
        return x

    def _averaged(self, op: SumPool, x: str) -> str:
        """Return averages of real numbers; torch's divisor may be another one."""
        assert op.codes is not None
        factor = op.codes.step / self.codes[op.inputs[0]].step * math.prod(op.kernel)
        return self._times(self._pooled(op, x), np.array(factor), op.name)

    def _pooled(self, op: SumPool, x: str) -> str:
        x, padding = inside_kernel(self.graph, op, x, np.float32(0))
        places = window(op.kernel, op.stride, padding)
        return self.graph.node("AveragePool", [x], op.name, count_include_pad=1, **places)

    def _total(self, op: Weighted) -> str:
        """Return real numbers; of a site, those above its offset."""
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
        if isinstance(op, Rescale) and op.slope is not None:
            offset = self.graph.constant(np.float32(op.codes.offset)) if op.codes.offset else ""
            total = self._bent(op, total, offset)
        return total

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
            return self._times(self.real(name), rest, name)
        if isinstance(op, (Convolve, Multiply)):
            return self._layer(op, factor)
        if isinstance(op, Reshape):  # of one number for each channel
            return handed_on(self.graph, op, [self._term(op.inputs[0], factor)], np.float32(0))
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
        x, weight = self.real(layer.inputs[0]), layer.weight
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

    def site(self, op: Rescale, x: str) -> None:
        """Write the codes of a site; ``x`` are the real numbers above its offset."""
        graph, codes, name = self.graph, op.codes, op.name
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
        if _is_bare(op) and (codes.low, codes.high) == NARROW[kind][1:]:
            # Where the type itself clips, it takes a Clip away all the same, and what is left of a
            # layer without bias becomes one of 8 bits: see integer_onnx about its sums.
            x = graph.node("Min", [x, graph.constant(high)])
        else:
            lowest = graph.constant(low) if codes.low else ""
            x = graph.node("Clip", [x, lowest, graph.constant(high)])
        scale = graph.constant(np.float32(codes.step))
        zero = graph.constant(np.array(0), kind=kind)
        made = graph.node("QuantizeLinear", [x, scale, zero], f"{name}_codes")
        self.stored[name] = Stored(made, scale, zero, kind, codes.offset)


def _is_bare(op: Rescale) -> bool:
    """Tell whether a site reads a single layer, to which nothing is added."""
    return len(op.inputs) == 1 and not op.bias.any() and op.slope is None


def handed_on(graph: Graph, op: Operation, inputs: list[str], lowest: np.generic) -> str:
    """Write an operation that hands on what it reads, be it codes or real numbers.

    Args:
        graph: it is added to.
        op: the operation.
        inputs: names of what it reads.
        lowest: a number of their type than which none of theirs is smaller.
    """
    if isinstance(op, MaxPool):
        return _max_pool(graph, op, inputs[0], lowest)
    if isinstance(op, Pad):
        value = op.value if np.issubdtype(lowest.dtype, np.floating) else 0
        return padded(graph, op, inputs[0], lowest.dtype.type(value))
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


def inside_kernel(
    graph: Graph, op: MaxPool | SumPool, x: str, value: np.generic
) -> tuple[str, Sides]:
    """Return what a pooling reads and how it is padded: onnxruntime pads less than a kernel."""
    pairs = zip(op.padding, op.kernel, strict=True)
    if all(max(side) < taps for side, taps in pairs):
        return x, op.padding
    wider = Pad(f"{op.name}_padded", (), ((0, 0), *op.padding))
    return padded(graph, wider, x, value), NO_SIDES


def _max_pool(graph: Graph, op: MaxPool, x: str, lowest: np.generic) -> str:
    x, padding = inside_kernel(graph, op, x, lowest)
    where = window(op.kernel, op.stride, padding, op.dilation)
    return graph.node("MaxPool", [x], op.name, **where)


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
    Reshape: _reshape,
    Permute: _permute,
    Slice: _slice,
    Pick: lambda graph, op, inputs: _gathered(graph, inputs[0], op.channels, op.name),
    Concatenate: _concatenate,
}
