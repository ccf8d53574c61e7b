"""C that unpacks the codes of a window into pairs, as inner loops read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from qatlab.deploy.c.memory import Shape, Tensor, in_words
from qatlab.deploy.c.pairs import Unpack, order_of_codes
from qatlab.deploy.c.words import function, indented, loop, moved, scaled
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import Integers


def is_planar(source: Tensor) -> bool:
    """Tell whether codes lie channel by channel, as those of the image do."""
    return source.strides[0] != 1 and source.strides[2] == 1


def order_of_taps(op: ops.Convolve, source: Tensor) -> Integers:
    """Return which tap each code of an unpacked window is, ``(pairs, 2)``; -1 for none.

    Taps are counted as they lie: by rows, columns and channels, or by channels, rows and columns in
    the image.
    """
    _, depth, rows, columns = op.weight.shape
    if is_planar(source):
        return order_of_codes(depth * rows * columns, source.bits)
    row = order_of_codes(columns * depth, source.bits)
    each = columns * depth
    return np.concatenate([np.where(row >= 0, row + a * each, -1) for a in range(rows)])


class Patch:
    """The window of a convolution, at the place ``y, x`` of its result.

    Args:
        op: the convolution.
        source: what it reads.
        result: ``(C, H, W)`` of what it makes.
        places: whose codes lie by turns in memory: 1 or 2.
    """

    def __init__(self, op: ops.Convolve, source: Tensor, result: Shape, places: int) -> None:
        self.op, self.source = op, source
        self.places = places
        self.rows, self.columns = op.kernel
        self.depth = op.weight.shape[1]
        self.pairs = len(order_of_taps(op, source))
        _, self.height, self.width = source.shape
        sizes = zip(source.shape[1:], result[1:], op.stride, op.kernel, op.padding, strict=True)
        self.crosses = any(
            before or (count - 1) * step + taps > size
            for size, count, step, taps, (before, _) in sizes
        )

    @property
    def unpack(self) -> Unpack:
        """The function that unpacks codes."""
        has_rest = not is_planar(self.source) and self._bytes(self.columns * self.depth) % 4 > 0
        return Unpack(self.source.bits, self.source.is_signed, self.places, has_rest)

    def corner(self) -> tuple[str, str]:
        """Return C of the row and column of the first tap."""
        top, left = (
            moved(scaled(place, stride), -before)
            for place, stride, (before, _) in zip(
                "yx", self.op.stride, self.op.padding, strict=True
            )
        )
        return top, left

    def function(self, name: str) -> str:
        """Return the function that unpacks the codes of a window."""
        body = self._of_image() if is_planar(self.source) else self._of_rows()
        text = "\n".join(body)
        unused = (word for word in ("top", "left") if not re.search(rf"\b{word}\b", text))
        body = [*(f"(void){word};" for word in unused), *body]
        inputs = f"const {self.source.pointed} *in, int32_t top, int32_t left, qatlab_pair *to"
        about = "Unpacks the codes of a window, zeros beyond the border; returns their sum."
        return function(f"static int32_t {name}({inputs})", body, [about])

    def _of_rows(self) -> list[str]:
        size = self._bytes(self.columns * self.depth)
        if self.source.shape[1:] == (1, 1) and not self.crosses:  # as a fully-connected layer reads
            return [f"return {self.unpack.name}(in, {size}, to);"]
        place = self._at("(top + a)" if self.rows > 1 else "top", "left")
        lines = [f"all += {self.unpack.name}(in + {place}, {size}, to);"]
        if self.rows == 1 and not self.crosses:
            return [f"return {self.unpack.name}(in + {place}, {size}, to);"]
        if self.crosses:
            inside = (
                f"top + a >= 0 && top + a < {self.height} && "
                f"left >= 0 && left + {self.columns} <= {self.width}"
            )
            lines = _either(inside, lines, self._at_border(size))
        row = self.pairs // self.rows * self.places
        lines.append(f"to += {row};")
        return ["int32_t all = 0;", *loop("a", self.rows, lines), "return all;"]

    def _at_border(self, size: int) -> list[str]:
        """Return the lines that unpack a row of which a part may lie beyond the border."""
        each = self._bytes(self.depth)
        copied = [f"line[{scaled('begin', each)} + b] = row[b];"]
        inside = [
            "const int32_t begin = qatlab_first_tap(left, 1);",
            f"const int32_t end = qatlab_end_tap(left, 1, {self.width}, {self.columns});",
            f"const {self.source.pointed} *row = in + {self._at('(top + a)', '(left + begin)')};",
            *loop("b", scaled("(end - begin)", each), copied),
        ]
        return [
            f"{self.source.pointed} line[{size}] = {{0}};",
            f"if (top + a >= 0 && top + a < {self.height}) {{",
            *indented(inside),
            "}",
            f"all += {self.unpack.name}(line, {size}, to);",
        ]

    def _of_image(self) -> list[str]:
        """Return the lines that copy a window of an image, channel by channel, and unpack it."""
        taps = self.depth * self.rows * self.columns
        whole, zero = self._copied(), " = {0}" if taps % 4 else ""
        if self.crosses:
            inside = (
                f"top >= 0 && top + {self.rows} <= {self.height} && "
                f"left >= 0 && left + {self.columns} <= {self.width}"
            )
            whole, zero = _either(inside, whole, self._copied_at_border()), " = {0}"
        size = in_words(taps)
        unpacked = f"return {self.unpack.name}(line, {size}, to);"
        return [f"{self.source.pointed} line[{size}]{zero};", *whole, unpacked]

    def _copied(self) -> list[str]:
        to, row = f"line + {self._row_of_line()}", f"in + {self._row_of_image()} + left"
        copy = f"qatlab_copy({to}, {row}, {self.columns});"
        return self._over_planes(loop("a", self.rows, [copy]))

    def _copied_at_border(self) -> list[str]:
        copy = f"line[{self._row_of_line()} + b] = in[{self._row_of_image()} + left + b];"
        ends = [
            "const int32_t a_begin = qatlab_first_tap(top, 1);",
            f"const int32_t a_end = qatlab_end_tap(top, 1, {self.height}, {self.rows});",
            "const int32_t b_begin = qatlab_first_tap(left, 1);",
            f"const int32_t b_end = qatlab_end_tap(left, 1, {self.width}, {self.columns});",
        ]
        over = loop("a", "a_end", loop("b", "b_end", [copy], "b_begin"), "a_begin")
        return [*ends, *self._over_planes(over)]

    def _over_planes(self, lines: list[str]) -> list[str]:
        return loop("plane", self.depth, lines) if self.depth > 1 else lines

    def _row_of_line(self) -> str:
        row = f"(plane * {self.rows} + a)" if self.depth > 1 else "a"
        return scaled(row, self.columns)

    def _row_of_image(self) -> str:
        plane, down, _ = self.source.strides
        start = f"plane * {plane} + " if self.depth > 1 else ""
        return f"{start}(top + a) * {down}"

    def _bytes(self, codes: int) -> int:
        """Bytes of some codes."""
        return -(-codes * self.source.bits // 8)

    def _at(self, row: str, column: str) -> str:
        """Return C of the index of a place, in bytes."""
        _, down, right = self.source.strides
        parts = [
            scaled(place, self._bytes(stride))
            for place, stride, size in ((row, down, self.height), (column, right, self.width))
            if size > 1
        ]
        return " + ".join(parts) or "0"


def _either(condition: str, lines: Sequence[str], others: Sequence[str]) -> list[str]:
    return [f"if ({condition}) {{", *indented(lines), "} else {", *indented(others), "}"]
