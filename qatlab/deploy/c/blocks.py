"""C of convolutions and fully-connected layers whose channels are computed in blocks.

The codes of a window are unpacked first, two windows at a time, and channels are then computed from
them by inner loops that all layers share (:mod:`qatlab.deploy.c.kernels`). Weights are stored as
whole numbers k of ``gap * k + lowest``; the rest is one sum of codes for each place. Weights of 3,
5, 6 or 7 bits lie in planes: k of 5 bits are ``k_0 + 16 * k_1``, of 4 bits and of 1; but from 5
bits on in bytes, where that takes less flash than the inner loops of the planes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qatlab.deploy.c.endings import Ending, Pool, can_end
from qatlab.deploy.c.kernels import WORDS, Kernel, in_words, turns
from qatlab.deploy.c.memory import Shape, Tensor
from qatlab.deploy.c.packing import Packed, packed
from qatlab.deploy.c.pairs import Unpack, grain_of
from qatlab.deploy.c.patches import Patch, is_planar, order_of_taps
from qatlab.deploy.c.sites import Layer
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.windows import Window
from qatlab.deploy.c.words import function, indented, loop, moved, scaled
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import NO_SIDES, Codes, Integers

LARGEST = (1 << 31) - 1  # of a sum
WIDEST = 8  # bits of weights
UNROLLED = 8  # words that are all written out
LOOP = 0.4  # what a loop takes, in words of weights
ADDED = 150  # bytes of code on a Cortex-M4 that add the sums of a further plane, about


@dataclass(frozen=True)
class Plane:
    """Some bits of all weights of a layer.

    Attributes:
        shift: the lowest of them.
        kernel: the inner loop.
        table: array of its words.
        pairs: of a window that it reads.
    """

    shift: int
    kernel: Kernel
    table: str
    pairs: int

    @property
    def words(self) -> int:
        """Words of the weights of a channel, or of two in one."""
        return self.pairs // self.kernel.turns


@dataclass(frozen=True)
class Part:
    """Some bits of all weights of a layer, before they are put into words.

    Attributes:
        shift: the lowest of them.
        kernel: the inner loop.
        ranks: the numbers that they are, ``(channels, pairs, 2)``.
    """

    shift: int
    kernel: Kernel
    ranks: Integers


@dataclass(frozen=True)
class Block(Layer):
    """A layer whose channels are computed in blocks.

    Attributes:
        op: a convolution.
        planes: of its weights.
    """

    op: ops.Convolve
    planes: tuple[Plane, ...]

    @property
    def channels(self) -> int:
        """Output channels of a block."""
        return max(plane.kernel.channels for plane in self.planes)

    @property
    def places(self) -> int:
        """Windows that are unpacked at a time."""
        return self.planes[0].kernel.places

    @property
    def pairs(self) -> int:
        """Pairs of codes of a window, with those that are only there to fill it up."""
        return max(plane.pairs for plane in self.planes)


def suits(op: ops.Convolve, source: Tensor, reader: ops.Operation, result: Tensor | None) -> bool:
    """Tell whether a convolution can be computed in blocks.

    Args:
        op: the operation.
        source: what it reads.
        reader: the only operation that reads its sums.
        result: of the reader.
    """
    if op.groups > 1 or op.dilation != (1, 1) or not 0 < _bits(op.weight) <= WIDEST:
        return False
    return (
        can_end(reader, source, result)
        and (source.strides[0] == 1 or is_planar(source))
        # Nothing lies between the taps of a row.
        and (op.kernel[1] == 1 or source.strides[2] in (1, op.weight.shape[1]))
        and op.largest <= LARGEST
        and op.weight[0].size * int(abs(op.weight).max() * 2 + 1) * 255 <= LARGEST
    )


def _bits(weight: Integers) -> int:
    """Return the bits of a weight, 0 for weights that cannot be packed."""
    try:
        return packed(weight).bits
    except ValueError:
        return 0


def as_convolution(op: ops.Multiply) -> ops.Convolve:
    """Return a fully-connected layer as a convolution of one place."""
    weight = op.weight[:, :, None, None]
    return ops.Convolve(op.name, op.inputs, weight, (1, 1), NO_SIDES, (1, 1), 1, op.largest)


@dataclass(frozen=True)
class Way:
    """What a way to store the weights of a layer takes.

    Attributes:
        widths: bits of the planes.
        size: bytes of the weights, and of the code that adds up planes.
        kernels: the inner loops.
    """

    widths: tuple[int, ...]
    size: int
    kernels: frozenset[Kernel]


@dataclass(frozen=True)
class Blocked:
    """A convolution that can be computed in blocks, and what it reads.

    Attributes:
        op: the convolution.
        weights: of it.
        source: what it reads.
        codes: of that.
        places: 2, or 1 if it has no more.
    """

    op: ops.Convolve
    weights: Packed
    source: Tensor
    codes: Codes
    places: int

    @property
    def ways(self) -> list[tuple[int, ...]]:
        """The bits of planes in which its weights may lie, the lowest first: of a byte, if any."""
        bits = self.weights.bits
        planes = tuple(own for own in (1, 2, 4, 8) if bits & own)
        return [(8,), planes] if 4 < bits < 8 else [planes]

    def way(self, widths: tuple[int, ...]) -> Way:
        """Return what planes of some bits take."""
        parts = self.parts(widths)
        bits = sum(part.ranks.size * part.kernel.bits for part in parts)
        kernels = frozenset(part.kernel for part in parts)
        return Way(widths, bits // 8 + ADDED * (len(parts) - 1), kernels)

    def parts(self, widths: tuple[int, ...]) -> list[Part]:
        """Return as many bits as given of its weights, the lowest first."""
        ranks = (self.op.weight - self.weights.lowest) // self.weights.gap
        order = order_of_taps(self.op, self.source)
        planar, grain = is_planar(self.source), grain_of(self.source.bits)
        found, shift = [], 0
        for bits in widths:
            own = ranks >> shift & (1 << bits) - 1
            flat = (own if planar else own.transpose(0, 2, 3, 1)).reshape(len(own), -1)
            in_pairs = np.where(order >= 0, flat[:, order], 0)
            kernel = _kernel(bits, in_pairs, self.codes, self.places, grain)
            found.append(Part(shift, kernel, in_pairs))
            shift += bits
        channels = max(part.kernel.channels for part in found)
        return [replace(part, ranks=_filled(part.ranks, part.kernel, channels)) for part in found]


def least(layers: Sequence[Blocked]) -> dict[str, tuple[int, ...]]:
    """Return the bits of the planes of each layer, by its name, so that flash is the least.

    It is a sum over layers, and over the inner loops that any of them calls. From all in planes,
    and from all in bytes where they may be, one layer after the other is changed while that helps;
    a better choice for several at once may be missed.
    """
    if all(len(layer.ways) == 1 for layer in layers):
        return {layer.op.name: layer.ways[0] for layer in layers}
    ways = {layer.op.name: [layer.way(widths) for widths in layer.ways] for layer in layers}
    found = (_descended({name: own[at] for name, own in ways.items()}, ways) for at in (0, -1))
    return {name: way.widths for name, way in min(found, key=_flash).items()}


def _descended(chosen: dict[str, Way], ways: Mapping[str, Sequence[Way]]) -> dict[str, Way]:
    """Return a choice that no other way of one layer makes smaller."""
    while True:
        tried = (chosen | {name: way} for name, own in ways.items() for way in own)
        better = next((other for other in tried if _flash(other) < _flash(chosen)), None)
        if better is None:
            return chosen
        chosen = better


def _flash(chosen: Mapping[str, Way]) -> int:
    """Return the bytes of weights, and of the code that their storage decides."""
    kernels = frozenset[Kernel]().union(*(way.kernels for way in chosen.values()))
    return sum(way.size for way in chosen.values()) + sum(kernel.size for kernel in kernels)


def block(layer: Blocked, name: str, widths: tuple[int, ...], tables: Tables) -> Block:
    """Return a layer in blocks, whose weights are added to the tables.

    Args:
        layer: the convolution.
        name: its identifier.
        widths: bits of the planes of its weights.
        tables: of the program.
    """
    op, weights, planes = layer.op, layer.weights, []
    for part in layer.parts(widths):
        what = f"weights_from_bit_{part.shift}" if part.shift else "weights"
        table = tables.words(op.name, what, in_words(part.ranks, part.kernel))
        planes.append(Plane(part.shift, part.kernel, table, part.ranks.shape[1]))
    table = planes[0].table
    return Block(op, name, layer.source, weights, table, op.largest, True, tuple(planes))


def _kernel(bits: int, ranks: Integers, codes: Codes, places: int, grain: int) -> Kernel:
    """Return the inner loop for weights ``(channels, pairs, 2)``."""
    pairs, taps = ranks.shape[1], 2 * ranks.shape[1]
    if bits < 8 and codes.low >= 0:
        # Sums of the first of two channels have ``bits`` bits less than a half of a word.
        high, room = (1 << 16 - bits) - 1, (1 << 15 + bits) - 1
        firsts, seconds = (int(ranks[i::2].sum((1, 2)).max(initial=0)) for i in range(2))
        if max(seconds, taps << bits - 1) * codes.high <= room:
            each = turns(bits, True)
            largest = 2 * each * ((1 << bits) - 1) * codes.high  # of a word
            if firsts * codes.high <= high:
                return Kernel(bits, True, _words(pairs, each, grain), places, grain)
            if fits := [n for n in _sizes(each, grain) if n * largest <= high]:
                words = _words(pairs, each, grain, fits)
                return Kernel(bits, True, words, places, grain, is_whole=False)
    words = _words(pairs, turns(bits, False), grain)
    return Kernel(bits, False, words, places, grain, is_signed=codes.low < 0)


def _sizes(each: int, grain: int) -> list[int]:
    """Return how many words may be written out: with whole grains, and parts that lie together."""
    return [n for n in range(1, WORDS + 1) if grain == 1 or (n != 3 and n * each % grain == 0)]


def _words(pairs: int, each: int, grain: int, sizes: Sequence[int] = ()) -> int:
    """Return how many words to write out: few are added to fill them up, and few loops are left."""
    wanted = -(-pairs // each)
    if not sizes and wanted <= UNROLLED // (each // 2 or 1) and (grain == 1 or wanted % WORDS == 0):
        return wanted
    return min(sizes or _sizes(each, grain), key=lambda n: -(-wanted // n) * (n + LOOP))


def _filled(ranks: Integers, kernel: Kernel, each: int) -> Integers:
    """Return weights with pairs of 0 behind them, as the inner loop reads them, and channels."""
    channels = -len(ranks) % each
    pairs = -ranks.shape[1] % (kernel.words * kernel.turns)
    return np.pad(ranks, ((0, channels), (0, pairs), (0, 0)))


class Writer:
    """Writes the functions of a block, up to the codes that are stored.

    Args:
        block: what a site reads.
        shape: ``(C, H, W)`` of its sums.
        ending: how these become codes, and where they go.
    """

    def __init__(self, block: Block, shape: Shape, ending: Ending) -> None:
        self.block, self.shape, self.ending = block, shape, ending
        self.site, self.result = ending.site, ending.result
        self.patch = Patch(block.op, block.source, shape, block.places)
        self.in_rows = ending.pool is not None  # row by row, as a pooling reads them

    def shared(self) -> Iterator[Kernel | Unpack]:
        """Yield the functions that they call, which other sites may call, too."""
        yield self.patch.unpack
        for plane in self.block.planes:
            yield plane.kernel

    def functions(self) -> str:
        """Return them all."""
        window = self.patch.function(f"window_{self.site}")
        parts = [*self.ending.functions, window, self._places()]
        if self.ending.pool is not None:
            parts.append(self._pooled(self.ending.pool))
        return "\n\n".join(parts)

    @property
    def count(self) -> int:
        """Places that the function of all, or of a row, computes."""
        _, rows, columns = self.shape
        return columns if self.in_rows else rows * columns

    def _places(self) -> str:
        """Return the function that computes all places, or those of a row."""
        block, op = self.block, self.block.op
        top, left = self.patch.corner()
        body = self._rest_of_windows()
        if self.count == 1:
            place = ["y" if self.in_rows else "0", "0"]
            numbers = [
                moved(scaled(at, stride), -before) if at != "0" else str(-before)
                for at, stride, (before, _) in zip(place, op.stride, op.padding, strict=True)
            ]
            window = f"window_{self.site}(in, {', '.join(numbers)}, windows)"
            body += [f"const int32_t all[{block.places}] = {{{window}}};", *self._channels()]
        else:
            body += ["int32_t x = 0;"] if self.in_rows else ["int32_t y = 0, x = 0;"]
            next_row = [f"if (x == {self.shape[2]}) {{", "    x = 0;", "    ++y;", "}"]
            axes = [] if self.in_rows else self.ending.axes
            grain = grain_of(block.source.bits)
            fill = [
                *(f"{axis}s[q] = {axis};" for axis in axes),
                f"all[q] = window_{self.site}(in, {top}, {left}, windows + {scaled('q', grain)});",
                "++x;",
                *([] if self.in_rows else next_row),
            ]
            others = [f"by{i} += {2 * _bytes(own)};" for i, own in enumerate(self.ending.others)]
            inner = [
                "int32_t all[2] = {0, 0};",
                *(f"int32_t {axis}s[2] = {{0, 0}};" for axis in axes),
                *self._over_windows(fill),
                *self._channels(),
                f"out += {2 * _bytes(self.result)};",
                *others,
            ]
            head = f"for (int32_t place = 0; place < {self.count}; place += 2) {{"
            body += [head, *indented(inner), "}"]
        others = [f"const {own.pointed} *by{i}, " for i, own in enumerate(self.ending.others)]
        inputs = f"const {block.source.pointed} *in, {''.join(others)}{self.result.pointed} *out"
        what = " x ".join(map(str, self.shape))
        rows, columns = op.kernel
        about = f"{what} codes of {self.site}: {rows}x{columns} of {self.patch.depth} channels"
        where, row = ("row", ", int32_t y") if self.in_rows else ("run", "")
        about = f"A row of {about}" if self.in_rows else about
        head = f"static void {where}_{self.site}({inputs}, qatlab_pair *windows{row})"
        text = function(head, body, [f"{about}, {block.name}."])
        return re.sub(r"^ +#", "#", text, flags=re.MULTILINE)

    def _pooled(self, pool: Pool) -> str:
        """Return the function that pools rows as soon as they are computed."""
        window = Window(pool.op, pool.rows, pool.result.shape)
        (kept, _), (down, _), above = pool.op.kernel, pool.op.stride, pool.op.padding[0][0]
        row = "a" if down == kept and not above else f"(top + a) % {kept}"
        column = scaled("(left + b)", _bytes(pool.rows))
        byte = f"rows[{scaled(f'({row})' if ' ' in row else row, pool.row)} + {column} + c]"
        both = pool.rows.bits == 4
        halves = {"found": "code"}
        if both:
            halves = dict(zip(("low", "high"), pool.rows.of_byte("code"), strict=True))
        start = str(-(1 << pool.rows.bits - 1)) if pool.rows.is_signed else "0"
        taken = [f"const int32_t code = {byte};"]
        for name, code in halves.items():
            taken += [f"if ({code} > {name}) {{", f"    {name} = {code};", "}"]
        found = pool.result.in_byte("low", "high") if both else f"({pool.result.kind})found"
        column = scaled("x", _bytes(pool.result))
        line = pool.result.strides[1] * pool.result.bits // 8
        of_byte = [
            *(f"int32_t {name} = {start};" for name in halves),
            *window.over_taps(taken),
            f"out[{scaled('y', line)} + {column} + c] = {found};",
        ]
        made = f"rows + {scaled(f'made % {kept}', pool.row)}"
        until = f"qatlab_end_tap(top, 1, {pool.rows.shape[1]}, {kept})"
        corner = window.corner()
        body = [
            corner[0],
            f"for (const int32_t end = top + {until}; made < end; ++made) {{",
            f"    row_{self.site}(in, {made}, windows, made);",
            "}",
            *loop("x", pool.result.shape[2], [corner[1], *loop("c", _bytes(pool.rows), of_byte)]),
        ]
        source = self.block.source.pointed
        inputs = f"const {source} *in, {pool.result.pointed} *out, qatlab_pair *windows"
        about = f"Largest codes of windows, of rows that are kept no longer: {pool.op.name}."
        head = f"static void run_{pool.site}({inputs}, {pool.rows.pointed} *rows)"
        lines = ["int32_t made = 0;", *loop("y", pool.result.shape[1], body)]
        return function(head, lines, [about])

    def _rest_of_windows(self) -> list[str]:
        """Return the lines that write what inner loops read behind the codes of a window."""
        first, end = (n * self.block.places for n in (self.patch.pairs, self.block.pairs))
        return (
            loop("i", end, ["windows[i] = qatlab_pair_of(0);"], str(first)) if end > first else []
        )

    def _over_windows(self, lines: Sequence[str]) -> list[str]:
        """Return a loop over the windows ``q`` that are there."""
        until = f"q < 2 && place + q < {self.count}" if self.count % 2 else "q < 2"
        return [f"for (int32_t q = 0; {until}; ++q) {{", *indented(lines), "}"]

    def _channels(self) -> list[str]:
        """Return the lines that compute all channels at the places of the windows."""
        block, n_out = self.block, len(self.block.op.weight)
        count = block.channels
        one = self.count == 1
        lowest = block.weights.lowest << self.ending.lift
        start: list[str] = []
        if lowest:  # what all sums of a place have in common, modulo 2 to the 32
            rest = [f"(uint32_t)all[{q}] * {lowest % (1 << 32)}u" for q in range(block.places)]
            start = [
                "/* The lowest weight, which the others are counted from, times all codes. */",
                f"const uint32_t rest[{block.places}] = {{{', '.join(rest)}}};",
            ]
        lines = [f"int32_t sums[{block.places * count}];"]
        for plane in block.planes:
            lines += self._sums_of(plane)
        stores = self._stores("0" if one else "q")
        if self.ending.vectors and count == 4 and n_out % 4 == 0:
            at_once = self._store_of_four("0" if one else "q")
            stores = ["#if defined(QATLAB_MVE)", *at_once, "#else", *stores, "#endif"]
        if one:
            lines += ["const int32_t *own = sums;", *stores]
        else:
            own = f"const int32_t *own = sums + {count} * q;"
            lines += self._over_windows([own, *stores])
        head = f"for (int32_t c = 0; c < {n_out}; c += {count}) {{"
        return [*start, head, *indented(lines), "}"]

    def _store_of_four(self, q: str) -> list[str]:
        """Return the lines that store the codes of four channels at once."""
        block, ending = self.block, self.ending
        rest = f"rest[{q}]" if block.weights.lowest else ""
        first, *others = ending.vectors
        lines = first.of_sums(block.weights.gap << ending.lift, rest)
        for i, tensor in enumerate(ending.others):
            lines += _loaded(f"by{i}", tensor, _place(tensor, q, 0), _place(tensor, q, 2))
        for i, vector in enumerate(others):
            names = [f"four_by{k}" for k in range(len(ending.others))]
            last = i + 1 == len(others)
            lines += vector.of_codes(
                [*names[: ending.at], "codes", *names[ending.at :]] if last else ["codes"]
            )
        if self.result.bits == 8:
            kind = "s" if self.result.is_signed else "u"
            codes = "codes" if kind == "s" else "vreinterpretq_u32_s32(codes)"
            return [*lines, f"vstrbq_{kind}32(out + {_place(self.result, q, 0)}, {codes});"]
        # The code of an odd channel is moved to the upper half of the byte in front of it.
        even = "vandq_s32(codes, vdupq_n_s32(15))" if self.result.is_signed else "codes"
        lines.append(f"codes = vorrq_s32({even}, vshlq_n_s32(vrev64q_s32(codes), 4));")
        return lines + [
            f"out[{_place(self.result, q, p)}] = (uint8_t)vgetq_lane_s32(codes, {p});"
            for p in (0, 2)
        ]

    def _stores(self, q: str) -> list[str]:
        """Return the lines that make codes of the sums of a block, ``own``, at a place."""
        block, n_out, each = self.block, len(self.block.op.weight), 8 // self.result.bits
        count, factor = block.channels, block.weights.gap << self.ending.lift
        rest = f" + rest[{q}]" if block.weights.lowest else ""
        place = {"y": f"ys[{q}]", "x": f"xs[{q}]"}
        if self.count == 1 or self.in_rows:
            column = "0" if self.count == 1 else f"place + {q}"
            place = {"y": "y" if self.in_rows else "0", "x": column}
        lines: list[str] = []
        for p in range(0, count, each):
            channels = [
                (moved("c", own), f"(int32_t)((uint32_t)own[{own}] * {factor}u{rest})")
                for own in range(p, p + each)
            ]
            others, store = [], []
            for i, other in enumerate(self.ending.others):
                at = _place(other, q, p)
                if other.bits == 4 and each == 1:
                    half = str(p % 2) if count % 2 == 0 else f"{moved('c', p)} & 1"
                    shift = {"0": "", "1": " >> 4"}.get(half, f" >> 4 * ({half})")
                    others.append([other.of_half(f"(by{i}[{at}]{shift} & 15)")])
                elif other.bits == 4:
                    store.append(f"const int32_t both{i} = by{i}[{at}];")
                    others.append(other.of_byte(f"both{i}"))
                else:
                    others.append([f"by{i}[{_place(other, q, own)}]" for own in range(p, p + each)])
            codes = [
                self.ending.code(total, {**place, "c": channel}, [own[k] for own in others])
                for k, (channel, total) in enumerate(channels)
            ]
            code = self.result.in_byte(*codes) if each == 2 else codes[0]
            store.append(f"out[{_place(self.result, q, p)}] = {code};")
            if n_out % count and p >= n_out % count:
                lines += [f"if ({channels[0][0]} < {n_out}) {{", *indented(store), "}"]
            elif len(store) > 1:
                lines += ["{", *indented(store), "}"]
            else:
                lines += store
        return lines

    def _sums_of(self, plane: Plane) -> Iterator[str]:
        """Yield the lines that add the sums of a plane of the weights to ``sums``."""
        kernel, block = plane.kernel, self.block
        each = 2 * plane.words  # of a block of channels of the kernel
        times = block.channels // kernel.channels
        for i in range(times):
            at = f"{plane.table} + {scaled(f'c / {kernel.channels}', each)}"
            if i:
                at += f" + {i * each}"
            only = len(block.planes) == 1
            where = "sums" if only else "part"
            call = f"{kernel.name}({at}, windows, {plane.pairs}, all, {where});"
            if only:
                yield call
                continue
            lines = [f"int32_t part[{kernel.channels * block.places}];", call]
            for q in range(block.places):
                for p in range(kernel.channels):
                    to = q * block.channels + i * kernel.channels + p
                    sign = "+=" if plane.shift else "="
                    value = scaled(f"part[{q * kernel.channels + p}]", 1 << plane.shift)
                    lines.append(f"sums[{to}] {sign} {value};")
            yield from ["{", *indented(lines), "}"]


def _loaded(pointer: str, tensor: Tensor, at: str, behind: str) -> list[str]:
    """Return the lines that load the codes of four channels, from the bytes of the first two."""
    name = f"four_{pointer}"
    if tensor.bits == 8:
        sign = "s" if tensor.is_signed else "u"
        four = f"vldrbq_{sign}32({pointer} + {at})"
        four = four if sign == "s" else f"vreinterpretq_s32_u32({four})"
        return [f"const int32x4_t {name} = {four};"]
    both = f"(uint32_t)({pointer}[{at}] | {pointer}[{behind}] << 8)"
    shifts = "vnegq_s32(vreinterpretq_s32_u32(vidupq_n_u32(0, 4)))"
    four = f"vandq_u32(vshlq_u32(vdupq_n_u32({both}), {shifts}), vdupq_n_u32(15))"
    four = f"vreinterpretq_s32_u32({four})"
    if tensor.is_signed:
        four = f"vshrq_n_s32(vshlq_n_s32({four}, 28), 28)"
    return [f"const int32x4_t {name} = {four};"]


def _bytes(tensor: Tensor) -> int:
    """Return the bytes from a place to the next one."""
    return tensor.strides[2] * tensor.bits // 8


def _place(tensor: Tensor, q: str, channel: int) -> str:
    """Return C of the byte of a channel behind ``c``, at the place ``q`` of two."""
    at = moved("c", channel)
    index = at if tensor.bits == 8 else f"({at}) / 2" if channel else "c / 2"
    return index if q == "0" else f"q * {_bytes(tensor)} + {index}"
