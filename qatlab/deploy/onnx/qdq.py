"""ONNX of quantized tensors: QuantizeLinear and DequantizeLinear around operators on floats.

Each weight is a constant of whole numbers and a DequantizeLinear, whose scales hold the batch norm;
each site is a QuantizeLinear and a DequantizeLinear. Whatever lies between is float32 arithmetic.
Biases are an Add of their own: as the third input of a Conv, onnxruntime would round them to whole
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Integers, Reals, of_kind
from qatlab.deploy.onnx.functions import FUNCTIONS
from qatlab.deploy.onnx.graph import NARROW, Graph, container, window
from qatlab.deploy.onnx.moves import MOVES, inside_kernel
from qatlab.deploy.onnx.readers import READERS, Reader, check_operators
from qatlab.deploy.onnx.stored import stored
from qatlab.errors import ConfigError

Floats = NDArray[np.float32]
INSIDE = 0.25  # steps
BYTES = (TensorProto.INT8, TensorProto.UINT8)  # types that all nodes which move values take
LAST = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}


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
        reader: of the file.
    """

    domain = ""
    batch: int | str = "N"

    def __init__(
        self, network: IntegerNetwork, opset: int, reader: Reader = READERS["onnxruntime"]
    ) -> None:
        self.reader, self.conventions = reader, reader.conventions
        self.network, self.codes, self.shapes = network, network.codes, network.shapes
        self.by_name = {op.name: op for op in network.operations}
        self.graph = Graph(opset, self.by_name, self.domain, self.batch)
        self.tensors: dict[str, str] = {}  # the real numbers that a result stands for
        self.stored: dict[str, Stored] = {}  # results that are codes in the file

    def write(self, facts: Mapping[str, str]) -> onnx.ModelProto:
        """Return the file.

        Args:
            facts: become its metadata.

        Raises:
            ConfigError: for what its opset or its reader has not, naming layer or site.
        """
        before = 0
        image = self.graph.input("image", TensorProto.FLOAT, self.network.input.shape)
        for op in self.network.operations:
            if op.name in self.codes or op.group is ops.Group.ANSWER:
                # Accumulators are written where they are read.
                before = len(self.graph.nodes)
                of_kind(WRITERS, op, "ONNX")(self, op)
                self._check(op.name, before)
        output = self.network.output
        answer, shape = self.tensors[output.name], self.shapes[output.name]
        if output.function:
            answer = self.graph.node(LAST[output.function], [answer], axis=1)
        answer, sizes = self.graph.in_shape(answer, shape, output.shape, output.places)
        self._check("output", before)
        return self.completed(self.graph.model(image, answer, TensorProto.FLOAT, sizes, facts))

    def completed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a file with all that its readers want written out."""
        return model

    def _check(self, name: str, first: int) -> None:
        """Raise a ConfigError for operators that the reader does not take."""
        check_operators(self.reader, name, (node.op_type for node in self.graph.nodes[first:]))

    def real(self, name: str) -> str:
        """Return the real numbers that a result stands for."""
        if name not in self.tensors:
            stored = self.stored[name]
            x = self.graph.node("DequantizeLinear", [stored.codes, stored.scale, stored.zero], name)
            if stored.offset:
                x = self.graph.node("Add", [x, self.graph.constant(np.float32(stored.offset))])
            self.tensors[name] = x
        return self.tensors[name]

    def _image(self, op: ops.Input) -> None:
        self.tensors[op.name] = "image"

    def _answer(self, op: ops.Output) -> None:
        self.tensors[op.name] = self._total(op, 1.0)

    def _site(self, op: ops.Rescale) -> None:
        graph, x = self.graph, self._total(op, op.codes.step)
        if op.slope is not None:  # of values below 0; what is quantized is above the offset
            offset = graph.constant(np.float32(op.codes.offset)) if op.codes.offset else ""
            x = self._plus(x, offset) if offset else x
            slope = self._of_channels(op.slope.astype(np.float32), op.inputs[0])
            x = graph.node("PRelu", [x, slope])
            x = graph.node("Sub", [x, offset]) if offset else x
        self.site(op, x)

    def _table(self, op: ops.Table) -> None:
        """Write the activation function itself, between quantizers."""
        x = FUNCTIONS[op.function](self.graph, self.real(op.inputs[0]), **op.settings)
        if op.codes.offset:  # what is quantized is above the offset
            x = self.graph.node("Sub", [x, self.graph.constant(np.float32(op.codes.offset))])
        self.site(op, x)

    def _move(self, op: ops.Move) -> None:
        """Write what moves values: of codes where it can be, as these are what is quantized.

        onnxruntime moves a DequantizeLinear behind such a node itself, and loses its type then.
        """
        stored = [self.stored.get(name) for name in op.inputs]
        alike = {None if one is None else one[1:] for one in stored}
        (first, *others), write = stored, MOVES[type(op)]
        keeps = first is not None and first.kind in BYTES and op.fill in (None, first.offset)
        if keeps and len(alike) == 1 and first is not None:
            of_codes = replace(op, name=f"{op.name}_codes")
            codes = [one.codes for one in (first, *others) if one is not None]
            low = self.codes[op.name].low
            lowest = np.int8(-128) if first.kind == TensorProto.INT8 else np.uint8(max(low, 0))
            moved = write(self.graph, of_codes, codes, lowest)
            self.stored[op.name] = first._replace(codes=moved)
        else:
            inputs = [self.real(name) for name in op.inputs]
            self.tensors[op.name] = write(self.graph, op, inputs, np.float32(-np.inf))

    def _reinterpret(self, op: ops.Reinterpret) -> None:
        x = self.real(op.inputs[0])
        if op.factor != 1:
            x = self.graph.node("Mul", [x, self.graph.constant(np.float32(op.factor))], op.name)
        if op.shift != 0:
            x = self.graph.node("Add", [x, self.graph.constant(np.float32(op.shift))], op.name)
        self.tensors[op.name] = x

    def _average(self, op: ops.SumPool) -> None:
        """Write averages of real numbers; torch's divisor may be another one."""
        assert op.codes is not None
        factor = op.codes.step / self.codes[op.inputs[0]].step * math.prod(op.kernel)
        pooled = self._pooled(op, self.real(op.inputs[0]))
        self.tensors[op.name] = self._times(pooled, np.array(factor), op.name)

    def _pooled(self, op: ops.SumPool, x: str) -> str:
        x, padding = inside_kernel(self.graph, op, x, np.float32(0))
        where = window(op, padding)
        return self.graph.node("AveragePool", [x], op.name, count_include_pad=1, **where)

    def _total(self, op: ops.Weighted, unit: float) -> str:
        """Return the sum of all terms and the bias, in real numbers: that many times the sum."""
        terms = (
            self._term(name, np.asarray(multiplier * unit))
            for name, multiplier in zip(op.inputs, op.multipliers, strict=True)
        )
        total = next(terms)
        for term in terms:
            total = self.graph.node("Add", [total, term])
        bias = np.asarray(op.bias * unit, dtype=np.float32)
        if bias.any():
            total = self._plus(total, self._of_channels(bias, op.inputs[0]))
        return total

    def _plus(self, x: str, constant: str) -> str:
        """Return a sum with a constant, which stands in front.

        Behind a convolution onnxsim would make it the bias, which onnxruntime rounds to whole
        numbers.
        """
        return self.graph.node("Add", [constant, x])

    def _term(self, name: str, factor: Reals) -> str:
        """Return ``factor`` times a result: accumulators, their sums, or codes."""
        if name in self.codes:
            rest = factor / self.codes[name].step
            return self._times(self.real(name), rest, name)
        op = self.by_name[name]
        return TERMS[type(op)](self, op, factor)

    def _reshaped(self, op: ops.Reshape, factor: Reals) -> str:
        """Return ``factor`` times one number for each channel."""
        return MOVES[ops.Reshape](self.graph, op, [self._term(op.inputs[0], factor)], np.float32(0))

    def _sums(self, op: ops.SumPool, factor: Reals) -> str:
        area = math.prod(op.kernel)
        of_channels = factor if factor.ndim < 2 else abs(factor).reshape(len(factor), -1).max(1)
        pooled = self._pooled(op, self._term(op.inputs[0], of_channels * area))
        if factor.ndim < 2:
            return pooled
        some = np.where(of_channels == 0, 1, of_channels)
        return self._times(pooled, factor / some[:, None, None], op.name)

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

    def _convolution(self, op: ops.Convolve, factor: Reals) -> str:
        group = op.groups if op.groups > 1 else None
        return self.graph.node("Conv", self._layer(op, factor), group=group, **window(op))

    def _product(self, op: ops.Multiply, factor: Reals) -> str:
        return self.graph.node("Gemm", self._layer(op, factor), transB=1)

    def _of_two(self, op: ops.Product, factor: Reals) -> str:
        """Return ``factor`` times products of codes: real numbers above their offsets."""
        steps, factors = 1.0, []
        for name in op.inputs:
            x, codes = self.real(name), self.codes[name]
            steps *= codes.step
            if codes.offset:
                x = self.graph.node("Sub", [x, self.graph.constant(np.float32(codes.offset))])
            factors.append(x)
        return self._times(self.graph.node("Mul", factors), factor / steps, op.name)

    def _layer(self, op: ops.Convolve | ops.Multiply, factor: Reals) -> list[str]:
        """Return what a layer reads: real numbers, and ``factor`` times its weights."""
        x, weight = self.real(op.inputs[0]), op.weight
        scale = factor / self.codes[op.inputs[0]].step
        shape = (-1, *(1,) * (weight.ndim - 1))
        codes = weight * np.sign(scale).astype(np.int64).reshape(shape)  # scales are positive
        size = np.where(scale == 0, 1.0, abs(scale))
        if size.ndim and np.all(size == size[0]):
            size = size[0]
        return [x, self.weights(codes, np.asarray(size, np.float32), op.name)]

    def weights(self, codes: Integers, scale: Floats, name: str) -> str:
        """Return real weights: ``codes * scale``, one or one for each output channel.

        A scale of as many axes as the codes is a Mul of its own.
        """
        graph = self.graph
        numbers, kind, gap, base = stored(codes, graph.opset, name)
        constant = graph.constant(numbers, f"{name}_weight", kind)
        if not base and scale.ndim < codes.ndim:
            scales = graph.constant(np.asarray(gap * scale, np.float32))
            axis = 0 if scale.ndim else None
            return graph.node("DequantizeLinear", [constant, scales], axis=axis)
        # Exactly, gap * numbers + base; odd codes are 2 * numbers + 1.
        factors = [graph.constant(np.float32(number)) for number in (gap, base) if number]
        whole = graph.node("DequantizeLinear", [constant, factors[0]])
        if base:
            whole = graph.node("Add", [whole, factors[1]])
        shaped = scale.reshape(-1, *(1,) * (codes.ndim - 1)) if scale.ndim == 1 else scale
        return graph.node("Mul", [whole, graph.constant(shaped)])

    def site(self, op: ops.Rescale | ops.Table, x: str) -> None:
        """Write the codes of a site; ``x`` are the real numbers above its offset."""
        graph, codes, name = self.graph, op.codes, op.name
        if self.conventions.rounds:
            self._rounded(op, x)
            return
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

    def _rounded(self, op: ops.Rescale | ops.Table, x: str) -> None:
        """Write a site in floats: OpenVINO moves what it takes for quantizers."""
        graph, codes, name = self.graph, op.codes, op.name
        ends = [graph.constant(np.float32(end * codes.step)) for end in (codes.low, codes.high)]
        scale = graph.constant(np.float32(codes.step))
        steps = graph.node("Div", [graph.node("Clip", [x, *ends]), scale])
        real = graph.node("Mul", [graph.node("Round", [steps], f"{name}_codes"), scale])
        if codes.offset:
            real = self._plus(real, graph.constant(np.float32(codes.offset)))
        self.tensors[name] = real


def _is_bare(op: ops.Rescale | ops.Table) -> bool:
    """Tell whether a site reads a single layer, to which nothing is added."""
    if isinstance(op, ops.Table):
        return False
    return len(op.inputs) == 1 and not op.bias.any() and op.slope is None


WRITERS: dict[type[ops.Operation], Callable[[Any, Any], None]] = {
    ops.Input: QdqWriter._image,
    ops.Rescale: QdqWriter._site,
    ops.Output: QdqWriter._answer,
    ops.Table: QdqWriter._table,
    ops.SumPool: QdqWriter._average,
    ops.Reinterpret: QdqWriter._reinterpret,
    **dict.fromkeys(MOVES, lambda writer, op: writer._move(op)),
}
# What accumulators, or their sums, come to when they are multiplied by a number.
TERMS: dict[type[ops.Operation], Callable[[Any, Any, Reals], str]] = {
    ops.Convolve: QdqWriter._convolution,
    ops.Multiply: QdqWriter._product,
    ops.Product: QdqWriter._of_two,
    ops.Reshape: QdqWriter._reshaped,
    ops.SumPool: QdqWriter._sums,
}
