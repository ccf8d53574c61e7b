"""C of convolutions in blocks: channels at two places at a time, of which weights are read once.

Codes of a row of a window lie behind each other (of an image, those of one channel), weights in the
order of the loop. Where products
are small enough, those of two channels are added up in the halves of one word: with whole numbers k
of weights ``gap * k + lowest``, which are not negative, ``(k_a + k_b << 16) * code`` is both. The
rest of the weights is one sum of codes for each place. Windows that reach beyond the border are
computed one by one, from their part inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qatlab.deploy.c.memory import Tensor
from qatlab.deploy.c.packing import packed
from qatlab.deploy.c.sites import Layer
from qatlab.deploy.c.windows import Window
from qatlab.deploy.c.words import function, indented, loop, moved, scaled, size_of
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import NO_SIDES, Integers

HALF = (1 << 16) - 1  # largest sum in a half of a word
FEWEST = 8  # taps between which halves are taken apart, at least
IN_A_BYTE = {1: 8, 2: 4, 4: 2, 8: 1}  # weights, by their bits
CHANNELS = {1: 8, 2: 4, 4: 4, 8: 2}  # of a block


@dataclass(frozen=True)
class Block(Layer):
    """A convolution that is computed in blocks.

    Attributes:
        op: a convolution.
        largest_code: of what it reads, in size.
    """

    op: ops.Convolve
    largest_code: int

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return CHANNELS[self.weights.bits]

    @property
    def planes(self) -> int:
        """Parts of a window that lie apart: its channels, where the image is read."""
        return len(self.op.weight[0]) if is_planar(self.source) else 1

    @property
    def depth(self) -> int:
        """Codes of a place that lie behind each other."""
        return len(self.op.weight[0]) // self.planes

    @property
    def bytes(self) -> int:
        """Bytes of the weights of a tap."""
        return self.channels * self.weights.bits // 8

    @property
    def chunk(self) -> int:
        """Taps after which the halves of a word are taken apart; 0 where words are not halved."""
        largest = (self.weights.highest - self.weights.lowest) // self.weights.gap
        taps = HALF // (largest * self.largest_code)
        fits = self.weights.bits in (2, 4) and self.source.kind == "uint8_t" and taps >= FEWEST
        return taps if fits else 0


def suits(op: ops.Convolve, source: Tensor, reader: ops.Operation, result: Tensor | None) -> bool:
    """Tell whether a convolution can be computed in blocks.

    Args:
        op: the operation.
        source: what it reads.
        reader: the only operation that reads its sums.
        result: of the reader.
    """
    if op.groups > 1 or op.dilation != (1, 1) or _bits(op.weight) not in IN_A_BYTE:
        return False
    if type(reader) not in (ops.Rescale, ops.FixedRescale) or len(reader.inputs) > 1:
        return False
    site: Any = reader
    numbers = (*site.multipliers, site.offset)
    return (
        result is not None
        and site.below is None
        and all(own.ndim < 2 for own in numbers)
        and (source.strides[0] == 1 or is_planar(source))
        and result.strides[0] == 1
        # Nothing lies between the taps of a row.
        and (op.kernel[1] == 1 or source.strides[2] in (1, op.weight.shape[1]))
        and all(size_of(tensor.kind) == 1 for tensor in (source, result))
        and op.weight.min() < op.weight.max()
        and Window(op, source, result.shape).has_taps_everywhere
    )


def _bits(weight: Integers) -> int:
    """Return the bits of a weight, 0 for weights that cannot be packed."""
    try:
        return packed(weight).bits
    except ValueError:
        return 0


def is_planar(source: Tensor) -> bool:
    """Tell whether codes lie channel by channel."""
    return source.strides[0] != 1 and source.strides[2] == 1


def as_convolution(op: ops.Multiply) -> ops.Convolve:
    """Return a fully-connected layer as a convolution of one place."""
    weight = op.weight[:, :, None, None]
    return ops.Convolve(op.name, op.inputs, weight, (1, 1), NO_SIDES, (1, 1), 1, op.largest)


def in_order(weight: Integers, planar: bool) -> Integers:
    """Return weights ``(C_out, C_in, kH, kW)`` in the order in which blocks read them."""
    count = CHANNELS[packed(weight).bits]
    taps = (weight if planar else weight.transpose(0, 2, 3, 1)).reshape(len(weight), -1)
    missing = -len(weight) % count  # channels that nobody reads
    taps = np.concatenate([taps, np.full((missing, taps.shape[1]), weight.min())])
    return np.ascontiguousarray(taps.reshape(-1, count, taps.shape[1]).transpose(0, 2, 1))


class Writer:
    """Writes the functions of a site that reads a block.

    Args:
        block: what the site reads.
        site: identifier of the site.
        result: where the codes go.
        code: C that returns the code of channel ``c`` that ``sum`` becomes.
    """

    def __init__(self, block: Block, site: str, result: Tensor, code: Sequence[str]) -> None:
        self.block, self.site, self.result, self.code = block, site, result, code
        self.by_channel = any("[c]" in line for line in code)
        self.rows, self.columns = block.op.kernel
        self.taps = self.columns * block.depth  # of a row
        self.all_taps = block.planes * self.rows * self.taps
        self.is_whole = self.all_taps <= block.chunk  # no half overflows
        self.in_pairs = result.shape[2] > 1
        self.row = block.source.strides[1]
        self.beside = block.op.stride[1] * block.source.strides[2]  # codes to the next place

    def functions(self) -> str:
        """Return them all."""
        pairs = [self._places(2)] if self.in_pairs else []
        return "\n\n".join([self._code(), self._places(1), *pairs, self._run()])

    def _code(self) -> str:
        channel = ", int32_t c" if self.by_channel else ""
        head = f"static inline {self.result.kind} code_{self.site}(int32_t sum{channel})"
        return function(head, self.code)

    def _places(self, places: int) -> str:
        """Return the function that computes all channels of a place, or of two beside each other.

        At one place only ``taps`` of each row may be inside.
        """
        block, op = self.block, self.block.op
        n_out, step = len(op.weight), self.result.strides[2]
        taps = str(self.taps) if places == 2 else "taps"
        lowest, gap = block.weights.lowest, block.weights.gap
        body = []
        if lowest:
            body += [f"int32_t all{q} = 0;" for q in range(places)]
            loads = [f"all{q} += row[{moved('i', q * self.beside)}];" for q in range(places)]
            row = f"const {block.source.pointed} *row = in + {self._of_row()};"
            body += self._over_rows([row, *loop("i", taps, loads)])
        sums = [f"sum{p}{q}" for p in range(block.channels) for q in range(places)]
        lines = [
            "const uint8_t *of_block = "
            f"weights + c / {block.channels} * {self.all_taps * block.bytes};",
            *(f"int32_t {name} = 0;" for name in sums if not self.is_whole),
            *(self._halves(places) if self.is_whole else ()),
            *self._over_rows(self._row(places, taps)),
            *(self._sums(places, "const int32_t", "=") if self.is_whole else ()),
        ]
        for q in range(places):
            for p in range(block.channels):
                total = scaled(f"sum{p}{q}", gap)
                if lowest:
                    sign = "+" if lowest > 0 else "-"
                    total += f" {sign} {scaled(f'all{q}', abs(lowest))}"
                given = f"{total}, {moved('c', p)}" if self.by_channel else total
                store = f"out[{moved('c', p + q * step)}] = code_{self.site}({given});"
                guarded = p and n_out % block.channels and p >= n_out % block.channels
                if guarded:
                    lines += [f"if ({moved('c', p)} < {n_out}) {{", f"    {store}", "}"]
                else:
                    lines.append(store)
        head = f"for (int32_t c = 0; c < {n_out}; c += {block.channels}) {{"
        body += [head, *indented(lines), "}"]
        inputs = f"const {block.source.pointed} *in, const uint8_t *weights, int32_t rows"
        if places == 1:
            inputs += ", int32_t taps"
        what = "a place" if places == 1 else "two places beside each other"
        return function(
            f"static void {WORDS[places]}_{self.site}({inputs}, {self.result.pointed} *out)",
            body,
            [f"Codes of all channels at {what}, from {self.rows} rows of taps or fewer."],
        )

    def _over_rows(self, body: Sequence[str]) -> list[str]:
        rows = loop("a", "rows", body)
        return loop("plane", self.block.planes, rows) if self.block.planes > 1 else rows

    def _of_row(self) -> str:
        """Return C of where the codes of a row of taps begin."""
        plane = f"plane * {self.block.source.strides[0]} + " if self.block.planes > 1 else ""
        return f"{plane}a * {self.row}"

    def _row(self, places: int, taps: str) -> list[str]:
        """Return the lines that add the products of a row of taps to the sums."""
        block = self.block
        number = f"(plane * {self.rows} + a)" if block.planes > 1 else "a"
        lines = [
            f"const {block.source.pointed} *x = in + {self._of_row()};",
            f"const uint8_t *w = of_block + {number} * {self.taps * block.bytes};",
        ]
        if not block.chunk:
            return [*lines, *loop("i", taps, self._apart(places))]
        products = self._in_halves(places)
        if self.is_whole:
            return [*lines, *loop("i", taps, products)]
        start, end = self._halves(places), self._sums(places, "", "+=")
        if self.taps <= block.chunk:
            return [*lines, *start, *loop("i", taps, products), *end]
        last = f"{taps} - first < {block.chunk} ? {taps} : first + {block.chunk}"
        inner = [
            f"const int32_t last = {last};",
            *start,
            *loop("i", "last", products, "first"),
            *end,
        ]
        head = f"for (int32_t first = 0; first < {taps}; first += {block.chunk}) {{"
        return [*lines, head, *indented(inner), "}"]

    def _in_halves(self, places: int) -> list[str]:
        bits = self.block.weights.bits
        mask = ((1 << bits) - 1) * 0x10001
        lines = []
        for p in range(self.block.channels // 2):
            at, first = divmod(2 * p, IN_A_BYTE[bits])
            byte = f"w[{moved(scaled('i', self.block.bytes), at)}]"
            low = f"{byte} >> {first * bits}" if first else byte
            both = f"({low} | {byte} << {16 - (first + 1) * bits}) & {mask:#x}"
            lines.append(f"const uint32_t pair{p} = (uint32_t)({both});")
            lines += [
                f"halves{p}{q} += pair{p} * x[{moved('i', q * self.beside)}];"
                for q in range(places)
            ]
        return lines

    def _halves(self, places: int) -> list[str]:
        words = range(self.block.channels // 2)
        return [f"uint32_t halves{p}{q} = 0;" for p in words for q in range(places)]

    def _sums(self, places: int, kind: str, sign: str) -> list[str]:
        """Return the lines that take the halves apart."""
        return [
            f"{kind} sum{2 * p + high}{q} {sign} (int32_t)(halves{p}{q} {half});".strip()
            for p in range(self.block.channels // 2)
            for q in range(places)
            for high, half in enumerate(("& 65535", ">> 16"))
        ]

    def _apart(self, places: int) -> list[str]:
        return [
            f"sum{p}{q} += {self._number(p)} * x[{moved('i', q * self.beside)}];"
            for p in range(self.block.channels)
            for q in range(places)
        ]

    def _number(self, channel: int) -> str:
        """Return C of the number of a channel's weight at tap ``i``."""
        bits = self.block.weights.bits
        at, place = divmod(channel, IN_A_BYTE[bits])
        byte = f"w[{moved(scaled('i', self.block.bytes), at)}]"
        shifted = f"{byte} >> {place * bits}" if place else byte
        if place == IN_A_BYTE[bits] - 1:
            return f"({shifted})" if place else shifted
        return f"({shifted} & {(1 << bits) - 1})"

    def _run(self) -> str:
        block, op = self.block, self.block.op
        _, height, width = block.source.shape
        _, rows, columns = self.result.shape
        (down, right), (above, left) = op.stride, (before for before, _ in op.padding)
        inside = f"left >= 0 && left + {right + self.columns} <= {width} && x + 1 < {columns}"
        column = scaled("left", block.source.strides[2])
        pair = [f"two_{self.site}(line + {column}, weights, rows, place);", "x += 2;"]
        alone = [
            "const int32_t b_first = qatlab_first_tap(left, 1);",
            f"const int32_t b_end = qatlab_end_tap(left, 1, {width}, {self.columns});",
            f"one_{self.site}(line + {scaled('(left + b_first)', block.source.strides[2])}, "
            f"weights + {scaled('b_first', block.depth * block.bytes)}, rows, "
            f"{scaled('(b_end - b_first)', block.depth)}, place);",
            "x += 1;",
        ]
        ways = [f"if ({inside}) {{", *indented(pair), "} else {", *indented(alone), "}"]
        inner = [
            f"const int32_t left = {moved(scaled('x', right), -left)};",
            f"{self.result.pointed} *place = out + {self.result.index_in('0', 'y', 'x')};",
            *(ways if self.in_pairs else alone),
        ]
        body = [
            f"const int32_t top = {moved(scaled('y', down), -above)};",
            "const int32_t a_first = qatlab_first_tap(top, 1);",
            f"const int32_t rows = qatlab_end_tap(top, 1, {height}, {self.rows}) - a_first;",
            f"const {block.source.pointed} *line = in + (top + a_first) * {self.row};",
            f"const uint8_t *weights = {block.table} + a_first * {self.taps * block.bytes};",
            f"for (int32_t x = 0; x < {columns};) {{",
            *indented(inner),
            "}",
        ]
        head = f"static void run_{self.site}(const {block.source.pointed} *in, "
        about = f"Codes of {self.site}: {self.rows}x{self.columns} of {block.name}."
        return function(f"{head}{self.result.pointed} *out)", loop("y", rows, body), [about])


WORDS = {1: "one", 2: "two"}
