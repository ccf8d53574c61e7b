"""C of convolutions in blocks: channels at two places at a time, of which weights are read once.

Codes of a row of a window lie behind each other, weights in the order of the loop. Where products
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
from qatlab.deploy.integer.operations import Integers

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
    if op.groups > 1 or op.dilation != (1, 1) or packed(op.weight).bits not in IN_A_BYTE:
        return False
    if type(reader) not in (ops.Rescale, ops.FixedRescale) or len(reader.inputs) > 1:
        return False
    site: Any = reader
    numbers = (*site.multipliers, site.offset)
    return (
        result is not None
        and site.below is None
        and all(own.ndim < 2 for own in numbers)
        and all(tensor.strides[0] == 1 for tensor in (source, result))
        and (op.kernel[1] == 1 or source.strides[2] == op.weight.shape[1])  # nothing between taps
        and all(size_of(tensor.kind) == 1 for tensor in (source, result))
        and op.weight.min() < op.weight.max()
        and Window(op, source, result.shape).has_taps_everywhere
    )


def in_order(weight: Integers) -> Integers:
    """Return weights ``(C_out, C_in, kH, kW)`` in the order in which blocks read them."""
    count = CHANNELS[packed(weight).bits]
    taps = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
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
        self.taps = self.columns * block.op.weight.shape[1]  # of a row
        self.is_whole = 0 < self.rows * self.taps <= block.chunk  # no half overflows
        self.row = block.source.strides[1]
        self.beside = block.op.stride[1] * block.source.strides[2]  # codes to the next place

    def functions(self) -> str:
        """Return them all."""
        return "\n\n".join([self._code(), self._places(1), self._places(2), self._run()])

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
            row = f"const {block.source.pointed} *row = in + a * {self.row};"
            body += loop("a", "rows", [row, *loop("i", taps, loads)])
        sums = [f"sum{p}{q}" for p in range(block.channels) for q in range(places)]
        lines = [
            "const uint8_t *of_block = "
            f"weights + c / {block.channels} * {self.rows * self.taps * block.bytes};",
            *(f"int32_t {name} = 0;" for name in sums if not self.is_whole),
            *(self._halves(places) if self.is_whole else ()),
            *loop("a", "rows", self._row(places, taps)),
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

    def _row(self, places: int, taps: str) -> list[str]:
        """Return the lines that add the products of a row of taps to the sums."""
        block = self.block
        lines = [
            f"const {block.source.pointed} *x = in + a * {self.row};",
            f"const uint8_t *w = of_block + a * {self.taps * block.bytes};",
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
        inner = [
            f"const int32_t left = {moved(scaled('x', right), -left)};",
            f"{self.result.pointed} *place = out + {self.result.index_in('0', 'y', 'x')};",
            f"if (left >= 0 && left + {right + self.columns} <= {width} && x + 1 < {columns}) {{",
            f"    two_{self.site}(line + left * {block.source.strides[2]}, weights, rows, place);",
            "    x += 2;",
            "} else {",
            *indented(
                [
                    "const int32_t b_first = qatlab_first_tap(left, 1);",
                    f"const int32_t b_end = qatlab_end_tap(left, 1, {width}, {self.columns});",
                    f"one_{self.site}(line + (left + b_first) * {block.source.strides[2]}, "
                    f"weights + b_first * {op.weight.shape[1] * block.bytes}, rows, "
                    f"(b_end - b_first) * {op.weight.shape[1]}, place);",
                    "x += 1;",
                ]
            ),
            "}",
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
