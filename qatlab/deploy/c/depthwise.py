"""C of depthwise convolutions: one channel at all places, or two whose codes lie in a byte.

The weights of a channel are unpacked once, as pairs of taps, and multiplied with pairs of codes.
"""

from __future__ import annotations

from qatlab.deploy.c.endings import Ending, can_end
from qatlab.deploy.c.memory import Shape, Tensor
from qatlab.deploy.c.sites import Layer
from qatlab.deploy.c.windows import Window
from qatlab.deploy.c.words import function, indented, loop, moved, scaled
from qatlab.deploy.integer import operations as ops

MOST_TAPS = 49  # that are written out
SMALLEST, LARGEST = -(1 << 15), (1 << 15) - 1  # weights


def suits(op: ops.Convolve, source: Tensor, reader: ops.Operation, result: Tensor | None) -> bool:
    """Tell whether a convolution can be computed so; likewise :func:`blocks.suits`."""
    channels, depth, rows, columns = op.weight.shape
    if depth > 1 or op.groups != channels or channels != source.shape[0]:
        return False
    if op.dilation != (1, 1) or rows * columns > MOST_TAPS:
        return False
    return (
        can_end(reader, source, result)
        and source.strides[0] == 1
        and SMALLEST <= op.weight.min() <= op.weight.max() <= LARGEST
    )


class Writer:
    """Writes the functions of a depthwise convolution, up to the codes that are stored.

    Args:
        layer: the convolution.
        shape: ``(C, H, W)`` of its sums.
        ending: how these become codes, and where they go.
    """

    def __init__(self, layer: Layer, shape: Shape, ending: Ending) -> None:
        assert isinstance(layer.op, ops.Convolve)
        self.layer, self.op, self.shape, self.ending = layer, layer.op, shape, ending
        self.site, self.result, self.source = ending.site, ending.result, layer.source
        self.rows, self.columns = layer.op.kernel
        self.taps = self.rows * self.columns
        self.pairs = -(-self.taps // 2)
        self.by_two = self.source.bits == 4  # codes of two channels are read at once
        self.each = 2 if 4 in (self.source.bits, self.result.bits) else 1  # channels

    def functions(self) -> str:
        """Return them all."""
        return "\n\n".join([*self.ending.functions, self._of_place(), self._run()])

    def _of_place(self) -> str:
        """Return the function that adds up the products of one place."""
        source = self.source
        taps = [divmod(tap, self.columns) for tap in range(self.taps)]
        codes = []
        for a, b in taps:
            parts = [scaled(name, n) for name, n in (("down", a), ("right", b)) if n]
            codes.append(f"in[{' + '.join(parts) or '0'}]")
        lines = []
        for k in range(self.pairs):
            first = f"(uint32_t){codes[2 * k]}"
            if source.is_signed and not self.by_two:
                first += " & 65535"
            second = f" | (uint32_t){codes[2 * k + 1]} << 16" if 2 * k + 1 < self.taps else ""
            both = f"({first}){second}" if " " in first and second else first + second
            pairs, pair_of = [both], "qatlab_pair_of"
            if self.by_two:
                if source.is_signed:  # each code plus 8
                    both, pair_of = f"({both}) ^ 0x880088", "qatlab_pair_less_8"
                lines.append(f"const uint32_t both{k} = {both};")
                pairs = [f"both{k} & 0xf000f", f"both{k} >> 4 & 0xf000f"]
            for i, pair in enumerate(pairs):
                weight = f"w[{k + i * self.pairs}]"
                lines.append(
                    f"sums[{i}] = qatlab_products({pair_of}({pair}), {weight}, sums[{i}]);"
                )
        count = 2 if self.by_two else 1
        start = [f"sums[{i}] = 0;" for i in range(count)]
        what = "two channels" if self.by_two else "a channel"
        inputs = f"const {source.pointed} *in, int32_t down, int32_t right, const qatlab_pair *w"
        unused = [
            f"(void){name};" for name, n in (("down", self.rows), ("right", self.columns)) if n == 1
        ]
        return function(
            f"static inline void taps_{self.site}({inputs}, int32_t *sums)",
            [*unused, *start, *lines],
            [f"Sums of {what} at a place; rows lie down bytes apart, columns right."],
        )

    def _run(self) -> str:
        source, channels = self.source, self.shape[0]
        lines = [*self._weights(), f"const int32_t at = {'c / 2' if self.by_two else 'c'};"]
        lines += loop("y", self.shape[1], loop("x", self.shape[2], self._at_place()))
        if self.each == 1:
            body = loop("c", channels, lines)
        else:
            body = [f"for (int32_t c = 0; c < {channels}; c += 2) {{", *indented(lines), "}"]
        what = f"{self.rows}x{self.columns} of each channel, {self.layer.name}."
        about = f"{' x '.join(map(str, self.shape))} codes of {self.site}: {what}"
        head = (
            f"static void run_{self.site}(const {source.pointed} *in, {self.result.pointed} *out)"
        )
        return function(head, body, [about])

    def _weights(self) -> list[str]:
        """Return the lines that unpack the weights of one channel or two, as pairs ``w``."""
        packed = self.layer.weights
        first_bit = f"(uint32_t)c * {self.taps * packed.bits}u"
        number = moved(scaled(f"qatlab_take(&bits, {packed.bits})", packed.gap), packed.lowest)
        second = f"(uint32_t)({number}) << 16"
        if self.taps % 2:
            second = f"(k < {self.pairs - 1} ? {second} : 0)"
        lines = [
            f"qatlab_bits bits = qatlab_open({self.layer.table}, {first_bit});",
            f"qatlab_pair w[{self.each * self.pairs}];",
        ]
        for i in range(self.each):
            pair = [
                f"const uint32_t first = (uint32_t)({number}) & 65535;",
                f"w[{moved('k', i * self.pairs)}] = qatlab_pair_of(first | {second});",
            ]
            lines += loop("k", self.pairs, pair)
        return lines

    def _at_place(self) -> list[str]:
        """Return the lines that make the codes of a place ``y, x``."""
        source, result = self.source, self.result
        window = Window(self.op, source, self.shape)
        lines = [*window.corner(), f"int32_t sums[{self.each}];"]
        inside: list[str] = []
        beyond = [f"{source.pointed} border[{self.taps}] = {{0}};"]
        line, step = (stride * source.bits // 8 for stride in source.strides[1:])
        for i in range(1 if self.by_two else self.each):
            rest = f"{moved('w', i * self.pairs)}, {moved('sums', i)});"
            here = f"in + top * {line} + left * {step} + {moved('at', i)}"
            inside.append(f"taps_{self.site}({here}, {line}, {step}, {rest}")
            code = f"in[(top + a) * {line} + (left + b) * {step} + {moved('at', i)}]"
            # With loops from one end to another one gcc 12 makes wrong code for a Cortex-M0+.
            copied = [f"border[a * {self.columns} + b] = {code};"]
            taken = [f"if ({window.has_tap()}) {{", *indented(copied), "}"]
            beyond += loop("a", self.rows, loop("b", self.columns, taken))
            beyond.append(f"taps_{self.site}(border, {self.columns}, 1, {rest}")
        if window.crosses:
            inside = [
                f"if ({window.is_inside()}) {{",
                *indented(inside),
                "} else {",
                *indented(beyond),
                "}",
            ]
        lines += inside
        lifted = (scaled(f"sums[{i}]", 1 << self.ending.lift) for i in range(self.each))
        codes = [
            self.ending.code(own, {"c": moved("c", i), "y": "y", "x": "x"})
            for i, own in enumerate(lifted)
        ]
        down, right = (stride * result.bits // 8 for stride in result.strides[1:])
        place = f"out[y * {down} + x * {right} + "
        if result.bits == 4:
            return [*lines, f"{place}c / 2] = {result.in_byte(*codes)};"]
        return [*lines, *(f"{place}{moved('c', i)}] = {code};" for i, code in enumerate(codes))]
