"""ONNX of whole numbers alone: ConvInteger, MatMulInteger, and what rescales between them.

The file computes what :mod:`qatlab.deploy.integer` does, to the last bit: bytes in, sums of
32 bits, codes. Rescaling is done in int64, with ``rescale=float`` in float64. With ``sums24``
it is done in int32, and no number takes more than 24 bits: OpenVINO computes int64 in 32 bits, and
int32 in float32 where it fuses operators.

Both factors of a product are unsigned bytes with a zero point: on processors without VNNI,
onnxruntime adds pairs of products of signed weights in 16 bits, which overflow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import Part, beside, parts, ranges
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import (
    NO_SIDES,
    Codes,
    Integers,
    along_channels,
    of_kind,
)
from qatlab.deploy.integer.vectorised import EXACT
from qatlab.deploy.onnx import OPSETS
from qatlab.deploy.onnx.graph import Graph, container, window
from qatlab.deploy.onnx.moves import MOVES, padded
from qatlab.deploy.onnx.stored import stored, width
from qatlab.errors import ConfigError

# Types of signed weights: the unsigned type of the same width, and the number that stands for 0.
UNSIGNED: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (TensorProto.UINT8, 128),
    TensorProto.INT4: (TensorProto.UINT4, 8),
    TensorProto.INT2: (TensorProto.UINT2, 2),
}


class IntegerWriter:
    """Writes one network.

    Args:
        network: the operations.
        opset: of the file.
    """

    def __init__(self, network: IntegerNetwork, opset: int) -> None:
        self.network, self.codes, self.shapes = network, network.codes, network.shapes
        self.ranges, self.is_narrow = ranges(network), network.is_narrow
        self.graph = Graph(opset, [op.name for op in network.operations])
        self.kinds: dict[str, int] = {}  # type of each result that is codes
        for op in network.operations:
            if op.group in (ops.Group.IMAGE, ops.Group.SITE):
                self.kinds[op.name] = _kind(op.name, self.codes[op.name])
            elif op.group is ops.Group.SUMS:
                self.kinds[op.name] = TensorProto.INT32
            elif op.group is ops.Group.MOVED:
                self.kinds[op.name] = self.kinds[op.inputs[0]]
        self.tensors: dict[str, str] = {}
        self._moved: dict[str, str] = {}  # signed codes as unsigned bytes

    def write(self, facts: Mapping[str, str]) -> onnx.ModelProto:
        """Return the file.

        Args:
            facts: become its metadata.

        Raises:
            ConfigError: for what its operators cannot compute, naming layer or site.
        """
        image = self.graph.input("image", TensorProto.UINT8, self.network.input.shape)
        for op in self.network.operations:
            inputs = [self.tensors[name] for name in op.inputs]
            self.tensors[op.name] = of_kind(WRITERS, op, "ONNX of integers")(self, op, inputs)
        output = self.network.output
        answer, shape = self.tensors[output.name], self.shapes[output.name]
        answer, sizes = self.graph.in_shape(answer, shape, output.shape, output.places)
        return self.graph.model(image, answer, TensorProto.DOUBLE, sizes, facts)

    def _move(self, op: ops.Move, inputs: list[str]) -> str:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.kinds[op.inputs[0]])
        lowest = np.iinfo(dtype).min * np.ones(1, dtype)[0]
        return MOVES[type(op)](self.graph, op, inputs, lowest)

    def _largest(self, op: ops.MaxPool, inputs: list[str]) -> str:
        """Return the largest codes of windows; onnxruntime finds them in no sums of 32 bits."""
        if self.kinds[op.name] != TensorProto.INT32:
            return self._move(op, inputs)
        wide = self.graph.node("Cast", inputs, to=TensorProto.DOUBLE)
        pooled = MOVES[ops.MaxPool](self.graph, op, [wide], np.float64(-np.inf))
        return self.graph.node("Cast", [pooled], op.name, to=TensorProto.INT32)

    def _convolution(self, op: ops.Convolve, inputs: list[str]) -> str:
        where = {"group": op.groups if op.groups > 1 else None, **window(op)}
        if self.kinds[op.inputs[0]] == TensorProto.INT32:
            return self._in_floats(op, inputs[0], where)
        return self._layer(op, inputs[0], "ConvInteger", where)

    def _product(self, op: ops.Multiply, inputs: list[str]) -> str:
        if self.kinds[op.inputs[0]] == TensorProto.INT32:
            return self._of_sums(op, inputs[0])
        return self._layer(op, inputs[0], "MatMulInteger", {})

    def _layer(
        self, op: ops.Convolve | ops.Multiply, x: str, operator: str, where: dict[str, Any]
    ) -> str:
        graph, name = self.graph, op.name
        numbers, kind, gap, base = stored(op.weight, graph.opset, name)
        if kind not in UNSIGNED:
            raise ConfigError(
                f"{name}: weights of {width(op.weight)} bits are more than the 8 that ConvInteger "
                "and MatMulInteger take; use --format qdq."
            )

        def products(numbers: Integers, kind: int, name: str) -> str:
            unsigned, zero = UNSIGNED[kind]
            numbers = (numbers.T if numbers.ndim == 2 else numbers) + zero
            weight = graph.constant(numbers.copy(), f"{name}_weight", unsigned)
            if unsigned != TensorProto.UINT8:
                weight = graph.node("Cast", [weight], to=TensorProto.UINT8)
            codes, code_0 = self._unsigned(op.inputs[0], x)
            inputs = [codes, weight, code_0, graph.constant(np.uint8(zero))]
            return graph.node(operator, inputs, name, **where)

        total = products(numbers, kind, name)
        if gap != 1:  # codes = gap * numbers + base: so are the sums
            factor = graph.constant(np.int32(gap))
            total = graph.node("Mul", [total, factor])
        if base:
            same = op.groups == 1  # all output channels read the same input channels
            ones = np.ones_like(op.weight[:1] if same else op.weight)
            sums = products(ones, TensorProto.INT8, f"{name}_ones" if same else name)
            total = graph.node("Add", [total, sums])
        return total

    def _unsigned(self, name: str, x: str) -> tuple[str, str]:
        """Return codes as unsigned bytes, and the byte that stands for 0."""
        graph = self.graph
        if self.kinds[name] == TensorProto.UINT8:
            return x, graph.constant(np.uint8(0))
        if name not in self._moved:
            wide = graph.node("Cast", [x], to=TensorProto.INT32)
            moved = graph.node("Add", [wide, graph.constant(np.int32(128))])
            self._moved[name] = graph.node("Cast", [moved], to=TensorProto.UINT8)
        return self._moved[name], graph.constant(np.uint8(128))

    def _in_floats(self, op: ops.Convolve, x: str, where: dict[str, Any]) -> str:
        """Return a convolution of sums of an average, which are wider than a byte."""
        if op.largest >= EXACT:
            raise ConfigError(
                f"{op.name} reads sums of an average, which ConvInteger does not take, and floats "
                "do not hold what it adds up; use --format qdq or c."
            )
        graph = self.graph
        numbers, kind, gap, base = stored(op.weight, graph.opset, op.name)
        constant = graph.constant(numbers, f"{op.name}_weight", kind)
        weight = graph.node("Cast", [constant], to=TensorProto.FLOAT)
        if gap != 1:
            weight = graph.node("Mul", [weight, graph.constant(np.float32(gap))])
        if base:
            weight = graph.node("Add", [weight, graph.constant(np.float32(base))])
        wide = graph.node("Cast", [x], to=TensorProto.FLOAT)
        sums = graph.node("Conv", [wide, weight], **where)
        return graph.node("Cast", [sums], op.name, to=TensorProto.INT32)

    def _of_sums(self, op: ops.Multiply, x: str) -> str:
        """Return products with sums of an average, which are wider than a byte."""
        numbers, kind, gap, base = stored(op.weight, self.graph.opset, op.name)
        constant = self.graph.constant(numbers.T.copy(), f"{op.name}_weight", kind)
        weight = self.graph.node("Cast", [constant], to=TensorProto.INT32)
        if gap != 1:
            factor = self.graph.constant(np.int32(gap))
            weight = self.graph.node("Mul", [weight, factor])
        if base:
            one = self.graph.constant(np.int32(base))
            weight = self.graph.node("Add", [weight, one])
        return self.graph.node("MatMul", [x, weight], op.name)

    def _of_two(self, op: ops.Product, inputs: list[str]) -> str:
        wide = [self.graph.node("Cast", [x], to=TensorProto.INT32) for x in inputs]
        return self.graph.node("Mul", wide, op.name)

    def _sums(self, op: ops.SumPool, inputs: list[str]) -> str:
        (x,), graph, name, shape = inputs, self.graph, op.name, self.shapes[op.inputs[0]]
        is_wide = self.kinds[op.inputs[0]] == TensorProto.INT32
        if op.kernel == shape[1:] and op.padding == NO_SIDES:
            wide = x if is_wide else graph.node("Cast", [x], to=TensorProto.INT32)
            axes = graph.constant(np.array([2, 3]))
            return graph.node("ReduceSum", [wide, axes], name, keepdims=1)
        if is_wide:
            return self._sums_of_sums(op, x)
        ones = graph.constant(np.ones((shape[0], 1, *op.kernel), np.uint8))
        x, zero = self._unsigned(op.inputs[0], x)
        return graph.node("ConvInteger", [x, ones, zero], name, group=shape[0], **window(op))

    def _sums_of_sums(self, op: ops.SumPool, x: str) -> str:
        """Return sums over windows of numbers wider than a byte: each tap is a slice."""
        graph, (height, width) = self.graph, self.shapes[op.name][1:]
        if op.padding != NO_SIDES:
            wider = ops.Pad(f"{op.name}_padded", (), ((0, 0), *op.padding))
            x = padded(graph, wider, x, np.int32(0))
        total = ""
        for tap in itertools.product(*map(range, op.kernel)):
            ends = (
                (first, first + (count - 1) * step + 1, step)
                for first, count, step in zip(tap, (height, width), op.stride, strict=True)
            )
            cut = ops.Slice("", (), ((0, self.shapes[op.name][0], 1), *ends))
            taken = MOVES[ops.Slice](graph, cut, [x], np.int32(0))
            total = taken if not total else graph.node("Add", [total, taken])
        return total

    def _total(
        self,
        op: ops.Weighted | ops.FixedPoint | Part,
        inputs: list[str],
        dtype: type[np.float64] | type[np.int64] | type[np.int32],
        ndim: int,
    ) -> str:
        """Return ``offset + sum_i multipliers[i] * input_i``, in this order."""
        graph, kind = self.graph, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        total = self._numbers(op.offset.astype(dtype), ndim)
        for x, multiplier in zip(inputs, op.multipliers, strict=True):
            wide = graph.node("Cast", [x], to=kind)
            factor = self._numbers(multiplier.astype(dtype), ndim)
            term = graph.node("Mul", [factor, wide])
            total = graph.node("Add", [total, term])
        return total

    def _narrow_total(
        self, op: ops.FixedPoint, inputs: list[str]
    ) -> tuple[str, Integers, list[str]]:
        """Return the last of the sums in parts, its shift, and what the others have left."""
        ndim, carry, rests = self._ndim(op), "", []
        *lower, last = parts(op, [self.ranges[name] for name in op.inputs])
        for part in lower:
            total = self._carried(part, inputs, carry, ndim)
            carry, rest = self._floor(total, part.shift, ndim)
            rests.append(rest)
        return self._carried(last, inputs, carry, ndim), last.shift, rests

    def _carried(self, part: Part, inputs: list[str], carry: str, ndim: int) -> str:
        total = self._total(part, inputs, np.int32, ndim)
        return self.graph.node("Add", [total, carry]) if carry else total

    def _floor(self, total: str, shift: Integers, ndim: int) -> tuple[str, str]:
        """Return numbers without their last bits, those below 0 as well, and these bits.

        The division leaves no remainder, so that it is the same in float32: OpenVINO fuses it with
        convolutions and sums, and rounds to the nearest.
        """
        unit = self._numbers((1 << shift).astype(np.int32), ndim)
        rest = self.graph.node("Mod", [total, unit])  # 0 or more
        return self.graph.node("Div", [self.graph.node("Sub", [total, rest]), unit]), rest

    def _ndim(self, op: ops.Operation) -> int:
        return len(self.shapes[op.inputs[0]]) + 1

    def _numbers(self, numbers: NDArray[Any], ndim: int) -> str:
        return self.graph.constant(along_channels(numbers, ndim))

    def _output(self, op: ops.Output, inputs: list[str]) -> str:
        return self._total(op, inputs, np.float64, self._ndim(op))

    def _rescale(self, op: ops.Rescale, inputs: list[str]) -> str:
        graph = self.graph
        total = self._total(op, inputs, np.float64, self._ndim(op))
        if (below := op.below) is not None:
            other = self._total(below, inputs, np.float64, self._ndim(op))
            is_below = graph.node("Less", [total, graph.constant(np.float64(op.zero))])
            total = graph.node("Where", [is_below, other, total])
        rounded = graph.node("Round", [total])
        ends = [graph.constant(np.float64(end)) for end in (op.codes.low, op.codes.high)]
        clipped = graph.node("Clip", [rounded, *ends])
        return graph.node("Cast", [clipped], op.name, to=self.kinds[op.name])

    def _table(self, op: ops.Table, inputs: list[str]) -> str:
        graph = self.graph
        at = graph.node("Cast", inputs, to=TensorProto.INT32)
        if op.lowest:
            at = graph.node("Sub", [at, graph.constant(np.int32(op.lowest))])
        entries = graph.constant(op.entries, f"{op.name}_table", self.kinds[op.name])
        return graph.node("Gather", [entries, at], op.name, axis=0)

    def _fixed_output(self, op: ops.FixedOutput, inputs: list[str]) -> str:
        graph, ndim = self.graph, self._ndim(op)
        if self.is_narrow:  # float64 holds each product and each sum
            *multipliers, bias = (
                np.ldexp(numbers.astype(np.float64), -beside(op.shift, numbers))
                for numbers in (*op.multipliers, op.offset)
            )
            nothing = np.zeros_like(bias)
            real_op = ops.Output(op.name, op.inputs, tuple(multipliers), bias, nothing)
            return self._output(real_op, inputs)
        total = self._total(op, inputs, np.int64, ndim)
        real = graph.node("Cast", [total], to=TensorProto.DOUBLE)
        unit = self._numbers(np.ldexp(1.0, -op.shift), ndim)
        return graph.node("Mul", [real, unit], op.name)

    def _fixed_rescale(self, op: ops.FixedRescale, inputs: list[str]) -> str:
        if self.is_narrow:
            return self._narrow_rescale(op, inputs)
        graph, ndim = self.graph, self._ndim(op)
        total = self._total(op, inputs, np.int64, ndim)
        codes = self._shifted(op, total, ndim)
        if op.below is not None:
            assert op.zero is not None
            instead = self._total(op.below, inputs, np.int64, ndim)
            other = self._shifted(op.below, instead, ndim)
            is_below = graph.node("Less", [total, self._numbers(op.zero, ndim)])
            codes = graph.node("Where", [is_below, other, codes])
        return graph.node("Cast", [codes], op.name, to=self.kinds[op.name])

    def _narrow_rescale(self, op: ops.FixedRescale, inputs: list[str]) -> str:
        graph = self.graph
        codes = self._narrow_codes(op, inputs)
        if op.below is not None:
            assert op.zero is not None
            other = self._narrow_codes(op.below, inputs)
            above = replace(op, offset=op.offset - beside(op.zero, op.offset))
            total, *_ = self._narrow_total(above, inputs)
            is_below = graph.node("Less", [total, graph.constant(np.int32(0))])
            codes = graph.node("Where", [is_below, other, codes])
        ends = [graph.constant(np.int32(end)) for end in (op.codes.low, op.codes.high)]
        clipped = graph.node("Clip", [codes, *ends])
        return graph.node("Cast", [clipped], op.name, to=self.kinds[op.name])

    def _narrow_codes(self, op: ops.FixedRescale, inputs: list[str]) -> str:
        """Return codes that are not clipped."""
        graph = self.graph
        total, shift, rests = self._narrow_total(op, inputs)
        codes, rest = self._floor(total, shift, self._ndim(op))
        if not op.to_even:
            return codes
        for other in rests:
            rest = graph.node("Add", [rest, other])
        is_tie = graph.node("Equal", [rest, graph.constant(np.int32(0))])
        odd = graph.node("Mod", [codes, graph.constant(np.int32(2))])
        less = graph.node("Mul", [odd, graph.node("Cast", [is_tie], to=TensorProto.INT32)])
        return graph.node("Sub", [codes, less])

    def _shifted(self, op: ops.FixedRescale, total: str, ndim: int) -> str:
        """Return codes as int64: BitShift takes no negative numbers, and Div rounds them up.

        So: clip, move to 0, divide.
        """
        graph = self.graph
        low, high = op.codes.low << op.shift, op.codes.high << op.shift
        if op.to_even:
            high = high + 1  # is no tie
        ends = [self._numbers(end, ndim) for end in (low, high)]
        clipped = graph.node("Max", [total, ends[0]])
        clipped = graph.node("Min", [clipped, ends[1]])
        if op.codes.low:
            clipped = graph.node("Sub", [clipped, ends[0]])
        unit = self._numbers(np.int64(1) << op.shift, ndim)
        codes = graph.node("Div", [clipped, unit])
        if op.to_even:
            two, low_bit = (graph.constant(np.int64(n)) for n in (2, op.codes.low % 2))
            moved = graph.node("Add", [codes, low_bit]) if op.codes.low % 2 else codes
            odd = graph.node("Mod", [moved, two])
            codes = graph.node("Div", [graph.node("Sub", [clipped, odd]), unit])
        if op.codes.low:
            lowest = graph.constant(np.int64(op.codes.low))
            codes = graph.node("Add", [codes, lowest])
        return codes


def _kind(name: str, codes: Codes) -> int:
    kind = container(min(codes.low, 0), codes.high, OPSETS[0])
    if kind is None:
        raise ConfigError(
            f"{name}: activations of {codes.bits} bits are more than the 8 that ConvInteger "
            "and MatMulInteger take; use --format qdq."
        )
    return kind


WRITERS: dict[type[ops.Operation], Callable[[IntegerWriter, Any, list[str]], str]] = {
    ops.Input: lambda writer, op, inputs: "image",
    ops.Convolve: IntegerWriter._convolution,
    ops.Multiply: IntegerWriter._product,
    ops.Product: IntegerWriter._of_two,
    ops.SumPool: IntegerWriter._sums,
    ops.Rescale: IntegerWriter._rescale,
    ops.Output: IntegerWriter._output,
    ops.FixedRescale: IntegerWriter._fixed_rescale,
    ops.FixedOutput: IntegerWriter._fixed_output,
    ops.Table: IntegerWriter._table,
    ops.Reinterpret: lambda writer, op, inputs: inputs[0],
    **dict.fromkeys(MOVES, IntegerWriter._move),
    ops.MaxPool: IntegerWriter._largest,
}
