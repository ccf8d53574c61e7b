"""C of sites and outputs: sums of accumulators and codes, which become codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qatlab.deploy.c.memory import Shape, Tensor, in_order
from qatlab.deploy.c.packing import Packed
from qatlab.deploy.c.rescale import In32Bits, SumIn32Bits
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import function, indented, integer_type, loop, size_of
from qatlab.deploy.integer import operations as ops
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
        by_rows: whether the weights of an output channel are unpacked first, as a convolution reads
            them in many places.
    """

    op: ops.Convolve | ops.Multiply
    name: str
    source: Tensor
    weights: Packed
    table: str
    largest: int
    by_rows: bool

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
class Products:
    """Products of two tensors, or their sums over windows, which their readers compute.

    Attributes:
        op: the operation.
        sources: what it reads.
        shape: ``(C, H, W)`` of the products.
        largest: no number of it is larger in size.
        name: identifier of the sums over windows; "" for the products themselves.
    """

    op: ops.Product
    sources: tuple[Tensor, Tensor]
    shape: Shape
    largest: int
    name: str = ""

    def number(self, pointers: Sequence[str], y: str, x: str) -> str:
        """Return C of the number of channel ``c`` in a place, by pointers to the two tensors."""
        if self.name:
            return f"sum_{self.name}({', '.join(pointers)}, c, {y}, {x})"
        one, other = (
            source.load(pointer, self._index(source, y, x))
            for source, pointer in zip(self.sources, pointers, strict=True)
        )
        return f"((int32_t){one} * {other})"  # before it is multiplied and rounded

    def _index(self, source: Tensor, y: str, x: str) -> str:
        places = zip(("c", y, x), source.shape, self.shape, strict=True)
        return source.index_in(*(place if own == whole else "0" for place, own, whole in places))


@dataclass(frozen=True)
class Term:
    """What a site reads: accumulators of a layer, products, or codes.

    Attributes:
        sources: the codes, or those that the layer or the products read.
        largest: no number of it is larger in size.
        layer: None for codes.
    """

    sources: tuple[Tensor, ...]
    largest: int
    layer: Layer | Products | None = None

    def pointers(self, number: int) -> list[str]:
        """Return the names of pointers to the sources of the term of that number."""
        return [f"{'by' if i else 'in'}{number}" for i in range(len(self.sources))]


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
            f"static QATLAB_RAM {kind} {_row(slot, kind)}[{length}];"
            for (slot, kind), length in self._lengths.items()
        ]

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(length * size_of(kind) for (_, kind), length in self._lengths.items())


def _row(slot: int, kind: str) -> str:
    return f"row{slot}_{kind.removesuffix('_t')}"


def site(
    op: ops.Weighted | ops.FixedPoint,
    terms: Sequence[Term],
    shape: Shape,
    result: Tensor | None,
    tables: Tables,
    rows: Rows,
    few: SumIn32Bits | None = None,
) -> str:
    """Return the function ``run_*`` of a site or output.

    Args:
        op: the operation.
        terms: what it reads.
        shape: ``(C, H, W)`` of the result.
        result: where the codes go; None for outputs.
        tables: which its constants are added to.
        rows: buffers for weights.
        few: a sum of 32 bits with the same codes; None for one of 64.

    Raises:
        ConfigError: if a sum may not fit into 64 bits.
    """
    bent = op if isinstance(op, (ops.Rescale, ops.FixedRescale)) and op.below is not None else None
    if op.whole:
        _check(op, terms)
        if bent is not None:
            _check(bent.below, terms)
    channels, height, width = shape
    flat = height * width == 1
    y, x = ("0", "0") if flat else ("y", "x")
    numbers: list[str] = []
    unpack: list[str] = []
    for i, term in enumerate(terms):
        layer = term.layer
        if layer is None:
            source = term.sources[0]
            numbers.append(source.load(f"in{i}", source.index("c", "y", "x")))
        elif isinstance(layer, Products):
            numbers.append(layer.number(term.pointers(i), y, x))
        elif not layer.by_rows:
            numbers.append(f"sum_{layer.name}(in{i}, c)")
        else:
            buffer = rows.buffer(len(unpack), layer)
            unpack.append(_unpacked(layer, buffer))
            group = "c, " if layer.op.groups > 1 else ""
            numbers.append(f"sum_{layer.name}(in{i}, {buffer}, {group}{y}, {x})")
    body: list[str] = []
    if bent is not None:  # each is read twice
        body = [f"const int32_t term{i} = {number};" for i, number in enumerate(numbers)]
        numbers = [f"term{i}" for i in range(len(numbers))]
    if few is not None and result is not None:
        lines, total = _few(op, numbers, tables, few)
        body += [*lines, result.store("out", result.index("c", "y", "x"), total)]
    else:
        body += _total(op, numbers, tables)
    if few is not None and result is not None:
        pass
    elif result is None:
        answer = Tensor("", "", shape, in_order(shape), 0).index("c", "y", "x")
        body.append(f"out[{_place(op, answer, tables)}] = total;")
    else:
        index = result.index("c", "y", "x")
        code = result.store("out", index, CODES[type(op)](op, tables, ""))
        if bent is None:
            body.append(code)
        else:
            zero = tables.of_place("zeros", op.name, np.asarray(bent.zero))
            instead = _total(bent.below, numbers, tables, "_below")
            of_below = CODES[type(op)](bent.below, tables, "_below")
            instead.append(result.store("out", index, of_below))
            body += [f"if (total < {zero}) {{", *indented(instead)]
            body += ["} else {", f"    {code}", "}"]
    inner = body if flat else loop("y", height, loop("x", width, body))
    inputs = [
        f"const {source.pointed} *{pointer}"
        for i, term in enumerate(terms)
        for source, pointer in zip(term.sources, term.pointers(i), strict=True)
    ]
    output = f"{result.pointed} *out" if result else "qatlab_number *out"
    head = f"static void run_{tables.identifiers[op.name]}({', '.join([*inputs, output])})"
    about = f"Codes of {op.name}." if result else f"Outputs: {op.name}."
    return function(head, loop("c", channels, [*unpack, *inner]), [about])


def code_of_sum(
    op: ops.Rescale | ops.FixedRescale,
    term: Term,
    kind: str,
    tables: Tables,
    few: In32Bits | None,
) -> list[str]:
    """Return the lines that return the code, of a C type, of channel ``c`` and its only ``sum``.

    In 32 bits, the sum has been moved to the left by ``few.lift``.

    Raises:
        ConfigError: if a sum may not fit into 64 bits.
    """
    if op.whole:
        _check(op, [term])
    if few is not None and isinstance(op, ops.FixedRescale):
        factor, moved = numbers_of(op, tables, few)
        shifted = f"qatlab_shift_32(qatlab_high(sum, {factor}) + {moved}, {few.shift})"
        return [f"return ({kind})qatlab_clip_32({shifted}, {op.codes.low}, {op.codes.high});"]
    code = CODES[type(op)](op, tables, "")
    return [*_total(op, ["sum"], tables), f"return ({kind}){code};"]


def numbers_of(op: ops.FixedRescale, tables: Tables, few: In32Bits) -> tuple[str, str]:
    """Return C of multiplier and offset of channel ``c`` in 32 bits."""
    factor = tables.of_place("multipliers", op.name, few.multipliers, "int32_t")
    return factor, tables.of_place("offsets", op.name, few.offsets, "int32_t")


def code_of_codes(
    op: ops.Rescale | ops.FixedRescale,
    terms: Sequence[Term],
    kind: str,
    tables: Tables,
    few: SumIn32Bits | None,
) -> list[str]:
    """Return the lines that return the code of channel ``c`` that codes ``in0, in1 ...`` become.

    Raises:
        ConfigError: if a sum may not fit into 64 bits.
    """
    numbers = [f"in{i}" for i in range(len(terms))]
    if few is not None:
        lines, code = _few(op, numbers, tables, few)
        return [*lines, f"return ({kind}){code};"]
    if op.whole:
        _check(op, terms)
    return [*_total(op, numbers, tables), f"return ({kind}){CODES[type(op)](op, tables, '')};"]


def numbers_of_few(op: Any, tables: Tables, few: SumIn32Bits) -> tuple[str, tuple[str, ...]]:
    """Return C of the offset of channel ``c`` in 32 bits, and of the multiplier of each input."""
    start = tables.of_place("offsets", op.name, few.offset, "int32_t")
    factors = (
        tables.of_place(f"multipliers{i}", op.name, own, "int32_t")
        for i, own in enumerate(few.multipliers)
    )
    return start, tuple(factors)


def _few(
    op: Any, numbers: Sequence[str], tables: Tables, few: SumIn32Bits
) -> tuple[list[str], str]:
    """Return the lines that make a total of 32 bits, and C of its code."""
    start, factors = numbers_of_few(op, tables, few)
    lines = [f"int32_t total = {start};"]
    lines += [
        f"total += (int32_t){own} * {number};" for own, number in zip(factors, numbers, strict=True)
    ]
    shifted = f"qatlab_shift_32(total, {few.shift})"
    return lines, f"qatlab_clip_32({shifted}, {op.codes.low}, {op.codes.high})"


def _total(op: Any, numbers: Sequence[str], tables: Tables, where: str = "") -> list[str]:
    """Return the lines that make ``total`` of the numbers of a place."""
    kind, cast = ("int64_t", "") if op.whole else ("double", "(double)")
    start = tables.of_place(f"offsets{where}", op.name, op.offset)
    lines = [f"{'' if where else kind + ' '}total = {start};"]
    for i, (number, multiplier) in enumerate(zip(numbers, op.multipliers, strict=True)):
        factor = tables.of_place(f"multipliers{i}{where}", op.name, multiplier)
        widened = "(int64_t)" if op.whole and not factor.startswith("INT64_C") else ""
        lines.append(f"total += {widened}{factor} * {cast}{number};")
    return lines


def _unpacked(layer: Layer, buffer: str) -> str:
    packed = layer.weights
    bits = f"qatlab_open({layer.table}, (uint32_t)c * {layer.count * packed.bits}u)"
    numbers = f"{packed.bits}, {packed.gap}, {packed.lowest}"
    return f"qatlab_unpack_{layer.row}({bits}, {numbers}, {buffer}, {layer.count});"


def _place(op: Any, index: str, tables: Tables) -> str:
    """Return the index of an answer."""
    if op.places is None or np.array_equal(op.places, np.arange(len(op.places))):
        return index
    return f"{tables.array('places', op.name, np.argsort(op.places))}[{index}]"


def _nearest(op: ops.Rescale, tables: Tables, where: str) -> str:
    return f"qatlab_nearest(total, {op.codes.low}, {op.codes.high})"


def _shifted(op: ops.FixedRescale, tables: Tables, where: str) -> str:
    shift = tables.of_place(f"shifts{where}", op.name, op.shift)
    shift = shift.removeprefix("INT64_C(").removesuffix(")")
    function = "qatlab_shift_to_even" if op.to_even else "qatlab_shift"
    return f"qatlab_clip({function}(total, {shift}), {op.codes.low}, {op.codes.high})"


# The code that a site makes of ``total``.
CODES: dict[type[ops.Operation], Callable[[Any, Tables, str], str]] = {
    ops.Rescale: _nearest,
    ops.FixedRescale: _shifted,
}


def _check(op: Any, terms: Sequence[Term]) -> None:
    sizes = [
        int(abs(multiplier).max()) * term.largest
        for multiplier, term in zip(op.multipliers, terms, strict=True)
    ]
    if int(abs(op.offset).max()) + sum(sizes) > LARGEST:
        raise ConfigError(f"{op.name}: a sum in fixed point may not fit into 64 bits.")
    if op.group is ops.Group.ANSWER and len(np.unique(op.shift)) > 1:
        raise ConfigError(f"{op.name}: outputs have shifts of their own, so no C compares them.")
