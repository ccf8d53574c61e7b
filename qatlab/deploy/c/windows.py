"""C of what looks at windows: accumulators and poolings; borders are left out of inner loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qatlab.deploy.c.memory import Shape, Tensor, in_order
from qatlab.deploy.c.packing import Packed
from qatlab.deploy.c.words import function, indented, loop, moved, scaled
from qatlab.deploy.integer import operations as ops
from qatlab.errors import ConfigError

UNROLLED = 8  # taps of a row that are written one by one


class Window:
    """The taps of a convolution or pooling, at the place ``y, x`` of its result.

    Args:
        op: the operation.
        source: what it reads.
        result: ``(C, H, W)`` of what it makes.

    Attributes:
        crosses: whether some windows reach beyond the border.
    """

    def __init__(self, op: ops.Windowed, source: Tensor, result: Shape) -> None:
        self.rows, self.columns = op.kernel
        self.down, self.right = op.dilation
        self.stride, self.source, self.result = op.stride, source, result
        self.padding = tuple(before for before, _ in op.padding)
        self.crosses = any(
            start < 0 or start + (taps - 1) * spread >= size
            for size, taps, spread, starts in self._axes()
            for start in starts
        )

    def _axes(self) -> Iterator[tuple[int, int, int, list[int]]]:
        """Yield size, taps, their distance and the first taps, of rows and columns."""
        taps, spreads = (self.rows, self.columns), (self.down, self.right)
        for axis in (0, 1):
            places = range(self.result[axis + 1])
            starts = [place * self.stride[axis] - self.padding[axis] for place in places]
            yield self.source.shape[axis + 1], taps[axis], spreads[axis], starts

    def corner(self) -> list[str]:
        """Return the lines that say where the first tap lies."""
        pairs = zip(("top", "left"), ("y", "x"), self.stride, self.padding, strict=True)
        return [
            f"const int32_t {name} = {moved(scaled(place, stride), -padding)};"
            for name, place, stride, padding in pairs
        ]

    def is_inside(self) -> str:
        """Return the condition that all taps lie inside the border."""
        _, height, width = self.source.shape
        below, beside = (self.rows - 1) * self.down, (self.columns - 1) * self.right
        return f"top >= 0 && top + {below} < {height} && left >= 0 && left + {beside} < {width}"

    def has_tap(self) -> str:
        """Return the condition that the tap ``a, b`` lies inside the border."""
        _, height, width = self.source.shape
        row, column = f"top + {scaled('a', self.down)}", f"left + {scaled('b', self.right)}"
        return f"{row} >= 0 && {row} < {height} && {column} >= 0 && {column} < {width}"

    def ends(self) -> list[str]:
        """Return the lines that say which taps lie inside: ``a_first`` to ``a_end``, and b."""
        _, height, width = self.source.shape
        axes = (
            ("a", "top", self.down, height, self.rows),
            ("b", "left", self.right, width, self.columns),
        )
        return [
            line
            for tap, start, spread, size, taps in axes
            for line in (
                f"const int32_t {tap}_first = qatlab_first_tap({start}, {spread});",
                f"const int32_t {tap}_end = qatlab_end_tap({start}, {spread}, {size}, {taps});",
            )
        ]

    def over_ends(self, body: Sequence[str]) -> list[str]:
        """Return loops over the taps ``a, b`` that lie inside."""
        return loop("a", "a_end", loop("b", "b_end", body, "b_first"), "a_first")

    def over_taps(self, body: Sequence[str]) -> list[str]:
        """Return loops over all taps ``a, b``, or over those that lie inside."""
        if self.crosses:
            return [*self.ends(), *self.over_ends(body)]
        return loop("a", self.rows, loop("b", self.columns, body))

    def at(self, channel: str, column: str) -> str:
        """Return the index of tap ``a`` and a column, counted from the first tap, if any."""
        row = f"top + {scaled('a', self.down)}"
        return self.source.index_in(channel, row, "left" + (f" + {column}" if column else ""))

    @property
    def has_taps_everywhere(self) -> bool:
        """Whether no window lies beyond the border as a whole."""
        return all(
            any(0 <= start + tap * spread < size for tap in range(taps))
            for size, taps, spread, starts in self._axes()
            for start in starts
        )

    def check(self, name: str) -> None:
        """Raise a ConfigError if a window of a pooling lies beyond the border as a whole."""
        if not self.has_taps_everywhere:
            raise ConfigError(f"{name} has windows without a tap inside the border.")


def convolution(op: ops.Convolve, name: str, source: Tensor, result: Shape, row: str) -> str:
    """Return the function ``sum_*`` of an accumulator.

    Args:
        op: the operation.
        name: its identifier.
        source: what it reads.
        result: ``(C, H, W)`` of the accumulators.
        row: C type of the weights of an output channel, which are unpacked.
    """
    window = Window(op, source, result)
    channels, weights = op.weight.shape[1], window.rows * window.columns
    channel, place, first = "i", "int32_t y, int32_t x", []
    if op.groups > 1:
        channel, place = "(first + i)", f"int32_t c, {place}"
        group = scaled(f"c / {len(op.weight) // op.groups}", channels)
        first = [f"const int32_t first = {group};"]
    k = f"{scaled('i', weights)} + {scaled('a', window.columns)}"
    of_row = [
        f"const int32_t k = {k};",
        f"const int32_t at = {window.at(channel, '')};",
        *_products(window),
    ]
    whole = loop("i", channels, loop("a", window.rows, of_row))
    body = [*window.corner(), *first, "int32_t total = 0;"]
    if window.crosses:
        load = source.load("in", window.at(channel, scaled("b", window.right)))
        tap = f"total += (int32_t)row[{k} + b] * {load};"
        body += [f"if ({window.is_inside()}) {{", *indented([*whole, "return total;"]), "}"]
        body += [*window.ends(), *loop("i", channels, window.over_ends([tap]))]
    else:
        body += whole
    inputs = f"const {source.pointed} *in, const {row} *row, {place}"
    head = f"static inline int32_t sum_{name}({inputs})"
    return function(head, [*body, "return total;"], [f"Accumulators of {op.name}."])


def _products(window: Window) -> list[str]:
    """Return the lines that add the products of a row of taps, all of which lie inside."""
    source, right = window.source, window.right * window.source.strides[2]
    if window.columns > UNROLLED:
        load = source.load("in", f"at + {scaled('b', right)}")
        return loop("b", window.columns, [f"total += (int32_t)row[k + b] * {load};"])
    loads = [source.load("in", moved("at", b * right)) for b in range(window.columns)]
    return [f"total += (int32_t)row[{moved('k', b)}] * {load};" for b, load in enumerate(loads)]


def product(op: ops.Multiply, name: str, source: Tensor, table: str, weights: Packed) -> str:
    """Return the function ``sum_*`` of an accumulator, which unpacks its weights on the way.

    Args:
        op: the operation.
        name: its identifier.
        source: what it reads.
        table: array of the weights.
        weights: what is in it.
    """
    count = op.weight.shape[1]
    weight = scaled(f"qatlab_take(&bits, {weights.bits})", weights.gap)
    weight = f"({moved(weight, weights.lowest)})"
    body = [
        f"qatlab_bits bits = qatlab_open({table}, (uint32_t)c * {count * weights.bits}u);",
        "int32_t total = 0;",
        *loop("i", count, [f"total += {weight} * {source.load('in', 'i')};"]),
        "return total;",
    ]
    head = f"static inline int32_t sum_{name}(const {source.pointed} *in, int32_t c)"
    return function(head, body, [f"Accumulators of {op.name}."])


def largest(op: ops.MaxPool, name: str, source: Tensor, result: Tensor) -> str:
    """Return the function ``run_*`` of the largest codes of windows.

    Raises:
        ConfigError: if a window lies beyond the border as a whole.
    """
    window = Window(op, source, result.shape)
    window.check(op.name)
    load = source.load("in", window.at("c", scaled("b", window.right)))
    taken = [f"const int32_t code = {load};", "if (code > found) {", "    found = code;", "}"]
    about = f"Largest codes of windows: {op.name}."
    return _pooled(window, result, name, "INT32_MIN", taken, about)


def sums(op: ops.SumPool, name: str, source: Tensor, result: Tensor) -> str:
    """Return the function ``run_*`` of sums of the codes of windows."""
    window = Window(op, source, result.shape)
    taken = [f"found += {source.load('in', window.at('c', 'b'))};"]
    return _pooled(window, result, name, "0", taken, f"Sums of windows: {op.name}.")


def _pooled(
    window: Window, result: Tensor, name: str, start: str, taken: list[str], about: str
) -> str:
    body = [*window.corner(), f"int32_t found = {start};", *window.over_taps(taken)]
    body.append(result.store("out", result.index("c", "y", "x"), "found"))
    channels, height, width = result.shape
    lines = loop("c", channels, loop("y", height, loop("x", width, body)))
    head = f"static void run_{name}(const {window.source.pointed} *in, {result.pointed} *out)"
    return function(head, lines, [about])


def pooled_sums(
    op: ops.SumPool, name: str, number: str, inner: Shape, result: Shape, head: str
) -> str:
    """Return the function ``sum_*`` of accumulators, added up over windows.

    Args:
        op: the operation.
        name: its identifier.
        number: C of what it adds up, at the tap ``a, b``.
        inner: ``(C, H, W)`` of that.
        result: the same of the sums.
        head: parameters of the function, without the place.
    """
    window = Window(op, Tensor("", "int32_t", inner, in_order(inner), 32), result)
    tap = f"total += {number};"
    body = [*window.corner(), "int32_t total = 0;", *window.over_taps([tap]), "return total;"]
    head = f"static inline int32_t sum_{name}({head}, int32_t y, int32_t x)"
    return function(head, body, [f"Sums of accumulators over windows: {op.name}."])
