"""C of sites and outputs: sums of accumulators and codes, which become codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qatlab.deploy.c.memory import Shape, Tensor, index_of
from qatlab.deploy.c.packing import Packed
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import function, indented, integer_type, loop, size_of
from qatlab.deploy.integer.network import (
    Convolve,
    FixedOutput,
    FixedPoint,
    FixedRescale,
    Multiply,
    Operation,
    Output,
    Rescale,
    Weighted,
)
from qatlab.errors import ConfigError

LARGEST = (1 << 63) - 1  # of sums in fixed point


@dataclass(frozen=True)
class Layer:
    """A convolution or fully-connected layer, whose accumulators its readers compute.

    Attributes:
        op: the operation.
        name: its identifier.
        source: what it reads.
        weights: what is stored of them.
        table: the array that they are in.
        largest: no accumulator, or sum of them over a window, is larger in size.
    """

    op: Convolve | Multiply
    name: str
    source: Tensor
    weights: Packed
    table: str
    largest: int

    @property
    def row(self) -> str:
        """C type of its weights where they are unpacked."""
        low, high = self.weights.lowest, self.weights.highest
        return str(integer_type(min(low, -1), high))

    @property
    def count(self) -> int:
        """Weights of an output channel."""
        return int(self.op.weight[0].size)


@dataclass(frozen=True)
class Term:
    """What a site reads: accumulators of a layer, or codes.

    Attributes:
        value: the layer or tensor.
        largest: no number of it is larger in size.
    """

    value: Layer | Tensor
    largest: int


class Rows:
    """Buffers for the weights of one output channel, which all sites share."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, str], int] = {}

    def buffer(self, slot: int, layer: Layer) -> str:
        """Return the buffer of the slot-th convolution that one site reads."""
        key = (slot, layer.row)
        self._lengths[key] = max(self._lengths.get(key, 0), layer.count)
        return _row(*key)

    def declarations(self) -> list[str]:
        """Return C of all buffers."""
        return [
            f"static {kind} {_row(slot, kind)}[{length}];"
            for (slot, kind), length in self._lengths.items()
        ]

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(length * size_of(kind) for (_, kind), length in self._lengths.items())


def _row(slot: int, kind: str) -> str:
    return f"row{slot}_{kind.removesuffix('_t')}"


def site(
    op: Weighted | FixedPoint,
    terms: Sequence[Term],
    shape: Shape,
    result: Tensor | None,
    tables: Tables,
    rows: Rows,
) -> str:
    """Return the function ``run_*`` of a site or output.

    Args:
        op: the operation.
        terms: what it reads.
        shape: ``(C, H, W)`` of the result.
        result: where the codes go; None for outputs.
        tables: which its constants are added to.
        rows: buffers for weights.

    Raises:
        ConfigError: if a sum may not fit into 64 bits.
    """
    if isinstance(op, FixedPoint):
        _check(op, terms)
        if isinstance(op, FixedRescale) and op.below is not None:
            _check(op.below, terms)
    channels, height, width = shape
    flat = height * width == 1
    y, x = ("0", "0") if flat else ("y", "x")
    index = index_of(shape)
    numbers: list[str] = []
    unpack: list[str] = []
    for i, term in enumerate(terms):
        value = term.value
        if isinstance(value, Tensor):
            numbers.append(value.load(f"in{i}", index))
        elif isinstance(value.op, Multiply):
            numbers.append(f"sum_{value.name}(in{i}, c)")
        else:
            buffer = rows.buffer(len(unpack), value)
            unpack.append(_unpacked(value, buffer))
            group = "c, " if value.op.groups > 1 else ""
            numbers.append(f"sum_{value.name}(in{i}, {buffer}, {group}{y}, {x})")
    below = op.below if isinstance(op, (Rescale, FixedRescale)) else None
    body: list[str] = []
    if below is not None:  # each is read twice
        body = [f"const int32_t term{i} = {number};" for i, number in enumerate(numbers)]
        numbers = [f"term{i}" for i in range(len(numbers))]
    body += _total(op, numbers, tables)
    written = _written(op, result, index, tables)
    if below is not None:
        zero, where = _zero(op, tables), "_below"
        instead = _total(below, numbers, tables, where)
        instead.append(_written(below, result, index, tables, where))
        body += [f"if (total < {zero}) {{", *indented(instead), "} else {", f"    {written}", "}"]
    else:
        body.append(written)
    inner = body if flat else loop("y", height, loop("x", width, body))
    sources = [t.value if isinstance(t.value, Tensor) else t.value.source for t in terms]
    inputs = [f"const {source.pointed} *in{i}" for i, source in enumerate(sources)]
    output = f"{result.pointed} *out" if result else "qatlab_number *out"
    head = f"static void run_{tables.identifiers[op.name]}({', '.join([*inputs, output])})"
    told = f"Codes of {op.name}." if result else f"Outputs: {op.name}."
    return function(head, loop("c", channels, [*unpack, *inner]), [told])


def _total(
    op: Weighted | FixedPoint, numbers: Sequence[str], tables: Tables, where: str = ""
) -> list[str]:
    """Return the lines that make ``total`` of the numbers of a place."""
    fixed = isinstance(op, FixedPoint)
    kind, cast = ("int64_t", "") if fixed else ("double", "(double)")
    start = tables.of_place(f"offsets{where}", op.name, op.offset)
    lines = [f"{'' if where else kind + ' '}total = {start};"]
    for i, (number, multiplier) in enumerate(zip(numbers, op.multipliers, strict=True)):
        factor = tables.of_place(f"multipliers{i}{where}", op.name, multiplier)
        widened = "(int64_t)" if fixed and not factor.startswith("INT64_C") else ""
        lines.append(f"total += {widened}{factor} * {cast}{number};")
    return lines


def _zero(op: Weighted | FixedPoint, tables: Tables) -> str:
    """Return C for the sum that stands for 0."""
    if isinstance(op, FixedRescale):
        assert op.zero is not None
        return tables.of_place("zeros", op.name, op.zero)
    assert isinstance(op, Rescale)
    return tables.of_place("zeros", op.name, np.array(op.zero))


def _unpacked(layer: Layer, buffer: str) -> str:
    packed = layer.weights
    bits = f"qatlab_open({layer.table}, (uint32_t)c * {layer.count * packed.bits}u)"
    numbers = f"{packed.bits}, {packed.gap}, {packed.lowest}"
    return f"qatlab_unpack_{layer.row}({bits}, {numbers}, {buffer}, {layer.count});"


def _written(
    op: Operation, result: Tensor | None, index: str, tables: Tables, where: str = ""
) -> str:
    """Return the statement that makes a result of ``total``."""
    if result is None:
        assert isinstance(op, (Output, FixedOutput))
        if op.places is not None and not np.array_equal(op.places, np.arange(len(op.places))):
            index = f"{tables.array('places', op.name, np.argsort(op.places))}[{index}]"
        return f"out[{index}] = total;"
    if isinstance(op, FixedRescale):
        shift = tables.of_place(f"shifts{where}", op.name, op.shift)
        shift = shift.removeprefix("INT64_C(").removesuffix(")")
        code = f"qatlab_clip(qatlab_shift(total, {shift}), {op.codes.low}, {op.codes.high})"
    else:
        assert isinstance(op, Rescale)
        code = f"qatlab_nearest(total, {op.codes.low}, {op.codes.high})"
    return result.store("out", index, code)


def _check(op: FixedPoint, terms: Sequence[Term]) -> None:
    sizes = [
        int(abs(multiplier).max()) * term.largest
        for multiplier, term in zip(op.multipliers, terms, strict=True)
    ]
    if int(abs(op.offset).max()) + sum(sizes) > LARGEST:
        raise ConfigError(f"{op.name}: a sum in fixed point may not fit into 64 bits.")
    if isinstance(op, FixedOutput) and len(np.unique(op.shift)) > 1:
        raise ConfigError(f"{op.name}: outputs have shifts of their own, so no C compares them.")
