"""C of the inner loops: sums of weights times codes, of some channels at one place or two.

The codes of a window lie two to a word (``qatlab_pair``), in the order in which they are unpacked,
those of two places by turns. So do weights k, which are not negative: a word of them becomes pairs
by a mask and a rotation. Where products are small, a half of such a pair is made of the weights of
two channels, ``k_a + (k_b - half << 16 - bits)``, so that a product with two codes (SMLAD) is four;
sums of both come apart as long as that of ``a`` has no more than ``16 - bits`` bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.c.pairs import at
from qatlab.deploy.c.words import function, indented, moved, scaled
from qatlab.deploy.integer.operations import Integers

VECTOR = 4  # words of MVE
WORDS = VECTOR  # of weights that are written out, at most, unless these are all


@dataclass(frozen=True, order=True)
class Kernel:
    """An inner loop.

    Attributes:
        bits: of a weight: 1, 2, 4 or 8.
        is_twofold: whether a half of a word is made of the weights of two channels.
        words: of the weights of a channel, or of two, that are read one after the other.
        places: 1 or 2.
        grain: pairs of one of two places that lie behind each other, before as many of the other.
        is_whole: whether sums of two channels come apart at the end; else after each ``words``.
        is_signed: whether codes may be negative.
    """

    bits: int
    is_twofold: bool
    words: int
    places: int
    grain: int
    is_whole: bool = True
    is_signed: bool = False

    @property
    def channels(self) -> int:
        """How many are computed at a time."""
        return 4 if self.is_twofold else 2

    @property
    def turns(self) -> int:
        """Pairs that a word is made into."""
        return turns(self.bits, self.is_twofold)

    @property
    def size(self) -> int:
        """Bytes of its code on a Cortex-M4, to about a fifth: all its pairs are written out."""
        return 60 + self.words * self.turns * (12 + 13 * self.places)

    @property
    def name(self) -> str:
        """Of the function."""
        kind = "twofold" if self.is_twofold else "single"
        rest = ("_whole" if self.is_twofold and self.is_whole else "") + "_signed" * self.is_signed
        grain = f"_by_{self.grain}" if self.places > 1 and self.grain > 1 else ""
        return f"sums_{kind}_{self.bits}x{self.words}_{self.places}{grain}{rest}"

    def text(self) -> str:
        """Return the function."""
        head = (
            f"static void {self.name}(const uint32_t *w, const qatlab_pair *x, int32_t pairs, "
            "const int32_t *all, int32_t *sums)"
        )
        what = "a place" if self.places == 1 else "two places"
        about = (
            f"Sums of codes times weights of {self.bits} bits: {self.channels} channels at {what}."
        )
        body = [
            "#if defined(QATLAB_MVE)",
            *self._with_mve(),
            "#elif defined(QATLAB_DSP)",
            *self._with_dsp(),
            *(["#elif defined(QATLAB_SSE2)", *self._with_sse2()] if self._fills_vectors else []),
            "#else",
            *self._plain(),
            "#endif",
        ]
        if not self.is_twofold:
            body.insert(0, "(void)all;")
        text = function(head, body, [about])
        return text.replace("    #", "#")

    def _at(self, pair: int, place: int = 0) -> int:
        """Return where a pair of a group lies."""
        return at(pair, place, self.places, self.grain)

    # Names: sum<place><word>, low<place><channel>.

    def _with_dsp(self) -> list[str]:
        """Return the body in which one instruction adds two products of halves."""
        rows = range(2)  # of weights
        places = range(self.places)
        apart = self.is_twofold and not self.is_whole
        mask = (1 << 16 - self.bits) - 1
        lines = [f"int32_t sum{q}{r} = 0;" for q in places for r in rows]
        if apart:
            lines += [f"int32_t low{q}{r} = 0;" for q in places for r in rows]
        lines.append(f"const qatlab_pair *const end = x + {self._count('pairs')};")
        inner: list[str] = []
        for i in range(self.words):
            inner += [f"const uint32_t w{r}_{i} = w[{r * self.words + i}];" for r in rows]
            for turn in range(self.turns):
                inner += ["{"]
                inner += [
                    f"    const uint32_t of{r} = {self._turned(f'w{r}_{i}', turn)};" for r in rows
                ]
                pair = turn * self.words + i
                inner += [
                    f"    sum{q}{r} = qatlab_dual(x[{self._at(pair, q)}], of{r}, sum{q}{r});"
                    for q in places
                    for r in rows
                ]
                inner += ["}"]
        inner += [f"w += {2 * self.words};", f"x += {self.words * self.turns * self.places};"]
        if apart:
            for q in places:
                for r in rows:
                    inner += [f"low{q}{r} += sum{q}{r} & {mask};", f"sum{q}{r} &= ~{mask};"]
        lines += ["do {", *indented(inner), "} while (x != end);"]
        return lines + self._results(apart)

    def _results(self, apart: bool) -> list[str]:
        """Return the lines that store sums of words, ``low<place><row>`` apart if they are."""
        pairs = [(q, r) for q in range(self.places) for r in range(2)]
        if not self.is_twofold:
            return [f"sums[{2 * q + r}] = sum{q}{r};" for q, r in pairs]
        shift, half, lines = 16 - self.bits, 1 << self.bits - 1, list[str]()
        for q, r in pairs:
            low = f"low{q}{r}" if apart else f"sum{q}{r} & {(1 << shift) - 1}"
            high = f"(sum{q}{r} >> {shift}) + {half} * all[{q}]"
            lines += [f"sums[{4 * q + 2 * r}] = {low};", f"sums[{4 * q + 2 * r + 1}] = {high};"]
        return lines

    @property
    def reads_beyond(self) -> int:
        """Pairs behind a window that vectors read, without effect."""
        return 0 if self.words % VECTOR == 0 else VECTOR * self.places

    def _with_mve(self) -> list[str]:
        """Return the body in which one instruction adds the products of vectors."""
        if self.is_twofold and not self.is_whole:
            return self._of_bytes() if self.bits == 4 and self.words == VECTOR else self._with_dsp()
        places, rows = range(self.places), range(2)
        lines = [f"int32_t sum{q}{r} = 0;" for q in places for r in rows]
        lines.append(f"const qatlab_pair *const end = x + {self._count('pairs')};")
        inner: list[str] = []
        for start in range(0, self.words, VECTOR):
            for r in rows:
                at = f"w + {r * self.words + start}"
                load = f"vldrwq_u32({at})"
                if self.words - start < VECTOR:
                    load = f"vldrwq_z_u32({at}, vctp32q({self.words - start}))"
                inner.append(f"const uint32x4_t w{r}_{start} = {load};")
            for turn in range(self.turns):
                lines_of = self._vectors(turn * self.words + start)
                for r in rows:
                    of = self._turned_vector(f"w{r}_{start}", turn)
                    lines_of.append(f"const uint32x4_t of{r} = {of};")
                for q in places:
                    for r in rows:
                        one, other = (
                            f"vreinterpretq_s16_u32({name})" for name in (f"both{q}", f"of{r}")
                        )
                        lines_of.append(f"sum{q}{r} = vmladavaq_s16(sum{q}{r}, {one}, {other});")
                inner += ["{", *indented(lines_of), "}"]
        inner += [f"w += {2 * self.words};", f"x += {self.words * self.turns * self.places};"]
        lines += ["do {", *indented(inner), "} while (x != end);"]
        return lines + self._results(apart=False)

    def _vectors(self, pair: int, name: str = "both") -> list[str]:
        """Return the lines that load four pairs of each place."""
        if self.places == 2 and self.grain == 1:
            lines = [f"const uint32x4x2_t {name} = vld2q_u32(&x[{self._at(pair)}].both);"]
            return lines + [f"const uint32x4_t {name}{q} = {name}.val[{q}];" for q in range(2)]
        return [
            f"const uint32x4_t {name}{q} = vldrwq_u32(&x[{self._at(pair, q)}].both);"
            for q in range(self.places)
        ]

    def _turned_vector(self, word: str, turn: int) -> str:
        """Return C of the pairs that words become."""
        by = turn * self.bits * (2 if self.is_twofold else 1)
        mask = f"vdupq_n_u32({self._mask:#x}u)"
        if self.is_twofold and by:
            word = f"vsliq_n_u32(vshrq_n_u32({word}, {by}), {word}, {32 - by})"
        elif by:
            word = f"vshrq_n_u32({word}, {by})"
        return f"vandq_u32({word}, {mask})"

    def _of_bytes(self) -> list[str]:
        """Return the same for weights of 4 bits as bytes, whose sums need not be taken apart.

        Codes are below 128 here, as a half of a word holds the sum of 16 products.
        """
        places, rows, half = range(self.places), range(2), 1 << self.bits - 1
        names = [f"sum{q}{r}{c}" for q in places for r in rows for c in "ab"]
        lines = [f"int32_t {name} = 0;" for name in names]
        lines.append(f"const qatlab_pair *const end = x + {self._count('pairs')};")
        inner = [*self._vectors(0, "even"), *self._vectors(VECTOR, "odd")]
        for q in places:
            even, odd = (f"vreinterpretq_u16_u32({name}{q})" for name in ("even", "odd"))
            both = f"vreinterpretq_s8_u16(vsliq_n_u16({even}, {odd}, 8))"
            inner.append(f"const int8x16_t x{q} = {both};")
        for r in rows:
            # The upper half of the next byte is k - 8 of the second channel, with its sign.
            turned = f"vsliq_n_u32(vshrq_n_u32(of{r}, 8), of{r}, 24)"
            first = f"vandq_u32(of{r}, vdupq_n_u32(0xf0f0f0fu))"
            inner += [
                f"const uint32x4_t of{r} = vldrwq_u32(w + {4 * r});",
                f"const int8x16_t a{r} = vreinterpretq_s8_u32({first});",
                f"const int8x16_t b{r} = vshrq_n_s8(vreinterpretq_s8_u32({turned}), 4);",
            ]
            inner += [
                f"sum{q}{r}{c} = vmladavaq_s8(sum{q}{r}{c}, x{q}, {c}{r});"
                for q in places
                for c in "ab"
            ]
        inner += [f"w += {2 * VECTOR};", f"x += {2 * VECTOR * self.places};"]
        lines += ["do {", *indented(inner), "} while (x != end);"]
        more = {"a": "", "b": f" + {half} * all[{{}}]"}
        return lines + [
            f"sums[{i}] = {name}{more[name[-1]].format(name[3])};" for i, name in enumerate(names)
        ]

    @property
    def _fills_vectors(self) -> bool:
        """Whether words come in whole vectors, and so do pairs."""
        return self.words % VECTOR == 0

    def _with_sse2(self) -> list[str]:
        """Return the body for computers, whose vectors have as many words."""
        pairs = [(q, r) for q in range(self.places) for r in range(2)]
        apart = self.is_twofold and not self.is_whole
        mask, zero = (1 << 16 - self.bits) - 1, "_mm_setzero_si128()"
        lines = [f"__m128i four{q}{r} = {zero};" for q, r in pairs]
        if apart:
            lines += [f"__m128i lows{q}{r} = {zero};" for q, r in pairs]
        lines.append(f"const qatlab_pair *const end = x + {self._count('pairs')};")
        inner: list[str] = []
        for start in range(0, self.words, VECTOR):
            for r in range(2):
                load = f"_mm_loadu_si128((const __m128i *)(w + {r * self.words + start}))"
                inner.append(f"const __m128i w{r}_{start} = {load};")
            for turn in range(self.turns):
                by = turn * self.bits * (2 if self.is_twofold else 1)
                lines_of = self._vectors_of_sse2(turn * self.words + start)
                for r in range(2):
                    word = f"w{r}_{start}"
                    turned = f"_mm_srli_epi32({word}, {by})" if by else word
                    if self.is_twofold and by:
                        turned = f"_mm_or_si128({turned}, _mm_slli_epi32({word}, {32 - by}))"
                    numbers = f"_mm_and_si128({turned}, _mm_set1_epi32((int32_t){self._mask:#x}u))"
                    lines_of.append(f"const __m128i of{r} = {numbers};")
                lines_of += [
                    f"four{q}{r} = _mm_add_epi32(four{q}{r}, _mm_madd_epi16(both{q}, of{r}));"
                    for q, r in pairs
                ]
                inner += ["{", *indented(lines_of), "}"]
        inner += [f"w += {2 * self.words};", f"x += {self.words * self.turns * self.places};"]
        if apart:
            low = f"_mm_set1_epi32({mask})"
            for q, r in pairs:
                own = f"four{q}{r}"
                inner += [
                    f"lows{q}{r} = _mm_add_epi32(lows{q}{r}, _mm_and_si128({own}, {low}));",
                    f"{own} = _mm_andnot_si128({low}, {own});",
                ]
        lines += ["do {", *indented(inner), "} while (x != end);"]
        lines += [f"const int32_t sum{q}{r} = qatlab_total(four{q}{r});" for q, r in pairs]
        if apart:
            lines += [f"const int32_t low{q}{r} = qatlab_total(lows{q}{r});" for q, r in pairs]
        return lines + self._results(apart)

    def _vectors_of_sse2(self, pair: int) -> list[str]:
        """Return the lines that load four pairs of each place."""
        load = "_mm_loadu_si128((const __m128i *)(x + {}))"
        if self.places == 1 or self.grain > 1:
            return [
                f"const __m128i both{q} = {load.format(self._at(pair, q))};"
                for q in range(self.places)
            ]
        first, second = (load.format(self._at(pair) + n) for n in (0, VECTOR))
        lines = [
            f"const __m128 first = _mm_castsi128_ps({first});",
            f"const __m128 second = _mm_castsi128_ps({second});",
        ]
        return lines + [
            f"const __m128i both{q} = _mm_castps_si128(_mm_shuffle_ps(first, second, {shuffle}));"
            for q, shuffle in enumerate(("0x88", "0xdd"))
        ]

    def _plain(self) -> list[str]:
        """Return the body that needs few registers: one word of weights at a time."""
        places = range(self.places)
        kind = "uint32_t" if self.is_twofold else "int32_t"
        apart = self.is_twofold and not self.is_whole
        lines = [f"{kind} sum{q} = 0;" for q in places]
        if apart:
            lines += [f"uint32_t low{q} = 0;" for q in places]
        word = "w[i]"
        if self.is_twofold:  # so that no weight is negative: the upper bit of every other one
            of_two = 1 << 2 * self.bits - 1
            flip = sum(of_two << at for at in range(0, 32, 2 * self.bits))
            word = f"w[i] ^ {flip:#x}u"
        group: list[str] = []
        for start in range(0, self.words, VECTOR):
            count = min(self.words - start, VECTOR)
            lines_of = [
                f"uint32_t word = {word.replace('[i]', f'[i + {start}]') if start else word};"
            ]
            lines_of += self._products(start, kind)
            group += [f"for (int32_t i = 0; i < {count}; ++i) {{", *indented(lines_of), "}"]
        group.append(f"w += {2 * self.words};")
        group.append(f"x += {self.words * self.turns * self.places};")
        shift = 16 - self.bits
        if apart:
            for q in places:
                group += [
                    f"low{q} += sum{q} & {(1 << shift) - 1};",
                    f"sum{q} -= sum{q} & {(1 << shift) - 1};",
                ]
        over = f"for (int32_t i = 0; i < pairs; i += {self.words * self.turns}) {{"
        over = over.replace("i = 0; i <", "at = 0; at <").replace("i +=", "at +=")
        lines += [over, *indented(group), "}"]
        for q in places:
            if not self.is_twofold:
                lines.append(f"sums[{2 * q} + row] = sum{q};")
                continue
            low = f"low{q}" if apart else f"sum{q} & {(1 << shift) - 1}"
            lines += [
                f"sums[{4 * q} + 2 * row] = (int32_t)({low});",
                f"sums[{4 * q} + 2 * row + 1] = (int32_t)(sum{q} >> {shift});",
            ]
        first = [
            "const qatlab_pair *const begin = x;",
            "const uint32_t *const first = w;",
            "for (int32_t row = 0; row < 2; ++row) {",
            f"    w = first + {self.words} * row;",
            "    x = begin;",
        ]
        unused = ["(void)all;"] if self.is_twofold else []
        return [*unused, *first, *indented(lines), "}"]

    def _products(self, start: int, kind: str) -> list[str]:
        """Return the lines that add the products of a word, ``start`` behind the first of a group.

        In the plain form, where pairs of the word ``i`` lie ``i`` times a step behind the first.
        """
        step = self.places if self.grain == 1 else 1
        mask, lines = self._mask & 0xFFFF, [f"{kind} of;"]
        for turn in range(self.turns):
            for half, name in enumerate(("first", "second")):
                if self.is_twofold:
                    of = f"word >> 16 & {mask:#x}u" if half else f"word & {mask:#x}u"
                else:
                    shift = 16 * half + self.bits * turn
                    of = f"(word >> {shift})" if shift else "word"
                    if shift + self.bits < 32:
                        of = f"{of} & {mask:#x}u"
                lines.append(f"of = ({kind})({of});")
                for q in range(self.places):
                    first = self._at(turn * self.words + start, q)
                    code = f"x[{moved(scaled('i', step), first)}].{name}"
                    code = f"(int16_t){code}" if self.is_signed else code
                    lines.append(f"sum{q} += {code} * of;")
            if self.is_twofold and turn + 1 < self.turns:
                lines.append(f"word = word >> {2 * self.bits} | word << {32 - 2 * self.bits};")
        return lines

    def _count(self, pairs: str) -> str:
        return f"{self.places} * {pairs}" if self.places > 1 else pairs

    @property
    def _mask(self) -> int:
        of_one = (1 << self.bits) - 1
        if self.is_twofold:
            of_one |= of_one << 16 - self.bits
        return of_one * 0x10001

    def _turned(self, word: str, turn: int) -> str:
        """Return C of the pair that a word becomes by a mask."""
        by = turn * self.bits * (2 if self.is_twofold else 1)
        if self.is_twofold and by:
            word = f"({word} >> {by} | {word} << {32 - by})"
        elif by:
            word = f"{word} >> {by}"
        return f"{word} & {self._mask:#x}u"


def turns(bits: int, is_twofold: bool) -> int:
    """Return how many pairs a word is made into."""
    return 8 // bits if is_twofold else 16 // bits


def in_words(ranks: Integers, kernel: Kernel) -> NDArray[np.uint32]:
    """Return weights in the order of a kernel.

    Args:
        ranks: whole numbers k, ``(channels, pairs, 2)``, where channels are a multiple of the
            kernel's and pairs of those that it reads at a time.
        kernel: the inner loop.
    """
    bits, count = kernel.bits, kernel.channels
    own = ranks.reshape(-1, count, ranks.shape[1], 2).astype(np.uint32)
    own = own.reshape(len(own), count, -1, kernel.turns, kernel.words, 2)
    each = 2 if kernel.is_twofold else 1
    words = np.zeros((len(own), own.shape[2], count // each, kernel.words), np.uint32)
    for turn in range(kernel.turns):
        for half in range(2):
            numbers = own[..., turn, :, half].transpose(0, 2, 1, 3)
            if kernel.is_twofold:
                first = (2 * bits * turn + 16 * half) % 32
                second = (first + 16 - bits) % 32
                sign = np.uint32(1 << bits - 1)
                words |= numbers[:, :, 0::2] << np.uint32(first)
                words |= (numbers[:, :, 1::2] ^ sign) << np.uint32(second)
            else:
                words |= numbers << np.uint32(bits * turn + 16 * half)
    return words.reshape(-1)
