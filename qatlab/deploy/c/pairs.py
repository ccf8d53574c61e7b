"""Codes of windows, two to a word: in which order they lie, and C that unpacks them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qatlab.deploy.c.words import function, indented
from qatlab.deploy.integer.operations import Integers


@dataclass(frozen=True, order=True)
class Unpack:
    """A function that unpacks codes that lie behind each other.

    Attributes:
        bits: of a code: 4 or 8.
        is_signed: whether codes may be negative.
        places: 2 where it writes every other pair, as those of two windows lie by turns; 1.
        has_rest: whether the codes may end within a word.
    """

    bits: int
    is_signed: bool
    places: int
    has_rest: bool

    @property
    def grain(self) -> int:
        """See :class:`Kernel`: all pairs of a word."""
        return grain_of(self.bits)

    @property
    def name(self) -> str:
        """Of the function."""
        rest = "_rest" if self.has_rest else ""
        return f"unpack_{'signed_' if self.is_signed else ''}{self.bits}_{self.places}{rest}"

    def text(self) -> str:
        """Return the function."""
        kind = self._pointed
        where = "" if self.places == 1 else ", for every other pair"
        what = "size" if self.has_rest else "size, a multiple of 4,"
        about = f"Makes pairs of codes of {self.bits} bits, {what} bytes{where}; returns their sum."
        head = f"static int32_t {self.name}(const {kind} *codes, int32_t size, qatlab_pair *to)"
        body = [
            "int32_t all = 0;",
            "#if defined(QATLAB_MVE)",
            *self._with_mve(),
            "#else",
            *self._by_words(),
            "#endif",
            "return all;",
        ]
        return function(head, body, [about]).replace("    #", "#")

    @property
    def _pointed(self) -> str:
        return "int8_t" if self.is_signed and self.bits == 8 else "uint8_t"

    def _by_words(self) -> list[str]:
        codes = "codes" if self._pointed == "uint8_t" else "(const uint8_t *)codes"
        word, count = f"qatlab_word({codes})", 16 // self.bits  # pairs of a word
        if self.has_rest:
            word = f"size >= 4 ? {word} : qatlab_bytes({codes}, size)"
        if self.is_signed and self.bits == 4:  # each code plus 8, also those behind the end
            word = f"({word}) ^ 0x88888888u"
        lines = [f"const uint32_t word = {word};"]
        mask = "0xf000f" if self.bits == 4 else "0xff00ff"
        add = "qatlab_add_signed" if self.is_signed else "qatlab_add"
        for i in range(count):
            part = f"word >> {self.bits * i}" if i else "word"
            pair = f"qatlab_pair_of({part} & {mask})"
            if self.is_signed:
                less_8 = f"qatlab_pair_less_8({part} & {mask})"
                pair = less_8 if self.bits == 4 else f"qatlab_signed_pair({part})"
            lines.append(f"to[{at(i, 0, self.places, self.grain)}] = {pair};")
        lines += [
            f"all = {add}(to[{at(i, 0, self.places, self.grain)}], all);" for i in range(count)
        ]
        lines += ["codes += 4;", f"to += {count * self.places};"]
        return ["for (; size > 0; size -= 4) {", *indented(lines), "}"]

    def _with_mve(self) -> list[str]:
        """Return the lines that unpack four words at a time."""
        count, sign = 16 // self.bits, "s" if self.is_signed else "u"
        each = count * self.places  # pairs from a word to the next one
        lines = ["const mve_pred16_t words = vctp32q(((uint32_t)size + 3) / 4);"]
        bytes_of = "words"  # as many bytes, where they fill words: one predicate is kept at hand
        if self.has_rest:
            lines.append("const mve_pred16_t bytes = vctp8q((uint32_t)size);")
            bytes_of = "bytes"
        load = self._pointed[0].replace("i", "s")
        lines.append(f"const {load}int8x16_t word = vldrbq_z_{load}8(codes, {bytes_of});")
        for i in range(count):
            if self.bits == 4 and self.is_signed:
                raised = "vreinterpretq_s16_u8(word)"
                raised = raised if i == 3 else f"vshlq_n_s16({raised}, {12 - 4 * i})"
                pair = f"vshrq_n_s16({raised}, 12)"
            elif self.bits == 4:
                shifted = f"vshrq_n_u32(vreinterpretq_u32_u8(word), {4 * i})"
                shifted = shifted if i else "vreinterpretq_u32_u8(word)"
                pair = f"vreinterpretq_u16_u32(vandq_u32({shifted}, vdupq_n_u32(0xf000f)))"
            else:
                pair = f"vmovl{'bt'[i]}q_{sign}8(word)"
            lines += [
                f"const {sign}int16x8_t pair{i} = {pair};",
                "vstrwq_scatter_shifted_offset_p_u32("
                f"&to[{at(i, 0, self.places, self.grain)}].both, places, "
                f"vreinterpretq_u32_{sign}16(pair{i}), words);",
                f"all = {'(int32_t)' if sign == 'u' else ''}vaddvaq_{sign}16("
                f"{'(uint32_t)' if sign == 'u' else ''}all, pair{i});",
            ]
        lines = [line.replace("const sint", "const int") for line in lines]
        lines += ["codes += 16;", f"to += {4 * each};"]
        start = f"const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), {each});"
        return [start, "for (; size > 0; size -= 16) {", *indented(lines), "}"]


def grain_of(bits: int) -> int:
    """Return how many pairs of a place lie behind each other, by the bits of codes in memory.

    A word of codes of 4 bits becomes four pairs, a vector of MVE.
    """
    return 4 if bits == 4 else 1


def at(pair: int, place: int, places: int, grain: int) -> int:
    """Return where a pair of a place lies among those of all places."""
    if places == 1:
        return pair
    return pair // grain * grain * places + place * grain + pair % grain


def order_of_codes(taps: int, bits: int) -> Integers:
    """Return which code of a row each half of its pairs is, ``(pairs, 2)``; -1 for none.

    Args:
        taps: codes that lie behind each other.
        bits: of a code in memory: 4 or 8.
    """
    each = 32 // bits
    apart = each // 2  # codes between the halves of a pair
    whole = np.arange(-(-taps // each) * each).reshape(-1, 2, apart).transpose(0, 2, 1)
    order = whole.reshape(-1, 2)
    return np.asarray(np.where(order < taps, order, -1), dtype=np.int64)
