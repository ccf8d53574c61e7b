"""How sums become codes: one site, further ones that read it, a pooling; one by one, or by four.

C is made of what is behind a block, so that codes which one operation reads are never stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qatlab.deploy.c.memory import Tensor
from qatlab.deploy.c.words import function, size_of
from qatlab.deploy.integer import operations as ops


def can_end(reader: ops.Operation, source: Tensor, result: Tensor | None) -> bool:
    """Tell whether a site makes codes of the sums of one layer, a byte or less each.

    Args:
        reader: the only operation that reads the sums.
        source: what the layer reads.
        result: of the reader.
    """
    if type(reader) not in (ops.Rescale, ops.FixedRescale) or len(reader.inputs) > 1:
        return False
    site: Any = reader
    return (
        result is not None
        and site.below is None
        and all(own.ndim < 2 for own in site.multipliers)
        and result.strides[0] == 1
        and all(size_of(tensor.kind) == 1 for tensor in (source, result))
    )


@dataclass(frozen=True)
class Pool:
    """A pooling that reads the rows of a block as they are made, of which a few are kept.

    Attributes:
        op: the pooling.
        site: its identifier.
        rows: what it reads, of which as many rows are kept as a window has.
        result: where its codes go.
    """

    op: ops.MaxPool
    site: str
    rows: Tensor
    result: Tensor

    @property
    def size(self) -> int:
        """Bytes of the rows that are kept."""
        return self.op.kernel[0] * self.row

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.rows.strides[1] * self.rows.bits // 8


@dataclass(frozen=True)
class Code:
    """A function that returns a code.

    Attributes:
        name: of the function.
        text: of it.
        reads: what it is given behind numbers: of the place ``c``, ``y`` and ``x`` those it reads.
    """

    name: str
    text: str
    reads: tuple[str, ...]

    def call(self, numbers: Sequence[str], place: Mapping[str, str]) -> str:
        """Return C of a code.

        Args:
            numbers: C of what it is made of.
            place: C of ``c``, ``y`` and ``x``.
        """
        return f"{self.name}({', '.join([*numbers, *(place[axis] for axis in self.reads)])})"


def code(site: str, kind: str, numbers: Sequence[str], body: Sequence[str]) -> Code:
    """Return the function ``code_*`` of a site.

    Args:
        site: its identifier.
        kind: C type of a code.
        numbers: names of what it is made of.
        body: lines that return it.
    """
    text = "\n".join(body)
    reads = tuple(axis for axis in "cyx" if re.search(rf"\b{axis}\b", text))
    inputs = ", ".join(f"int32_t {name}" for name in (*numbers, *reads))
    name = f"code_{site}"
    return Code(name, function(f"static inline {kind} {name}({inputs})", body), reads)


@dataclass(frozen=True)
class Vector:
    """How four sums, or codes, become codes at once: ``(... + offsets) >> shift``, clipped.

    Attributes:
        multipliers: C of the one of channel ``c``, of the sums or of each input.
        offset: likewise.
        shift: of all.
        low: smallest code.
        high: largest code.
    """

    multipliers: tuple[str, ...]
    offset: str
    shift: int
    low: int
    high: int

    def of_sums(self, factor: int, rest: str) -> list[str]:
        """Return the lines that make ``codes`` of ``own``, by the upper halves of products."""
        add = [f"lifted = vaddq_n_u32(lifted, {rest});"] if rest else []
        high = f"vmulhq_s32(vreinterpretq_s32_u32(lifted), {_four(self.multipliers[0])})"
        return [
            f"uint32x4_t lifted = vmulq_n_u32(vld1q_u32((const uint32_t *)own), {factor}u);",
            *add,
            f"int32x4_t codes = {high};",
            *self._ended("codes"),
        ]

    def of_codes(self, names: Sequence[str]) -> list[str]:
        """Return the lines that make ``codes`` of vectors of codes, itself among them."""
        products = [
            f"vmulq_s32({name}, {_four(own)})"
            for name, own in zip(names, self.multipliers, strict=True)
        ]
        total = products[0]
        for product in products[1:]:
            total = f"vaddq_s32({total}, {product})"
        return [f"codes = {total};", *self._ended("codes")]

    def _ended(self, name: str) -> list[str]:
        clipped = f"vmaxq_s32({name}, vdupq_n_s32({self.low}))"
        return [
            f"{name} = vshrq_n_s32(vaddq_s32({name}, {_four(self.offset)}), {self.shift});",
            f"{name} = vminq_s32({clipped}, vdupq_n_s32({self.high}));",
        ]


def _four(word: str) -> str:
    """Return C of the numbers of four channels: of a table, or all the same."""
    return f"vld1q_s32(&{word})" if word.endswith("[c]") else f"vdupq_n_s32({word.strip('()')})"


@dataclass(frozen=True)
class Ending:
    """How sums become codes that are stored.

    Attributes:
        site: identifier of the last site.
        result: where the codes go.
        of_sum: makes a code of a sum.
        lift: by which the sum is to be moved to the left.
        of_codes: what further sites make of that, in turn, and of ``others`` at the same place.
        others: what the last of them adds, in the order of its inputs.
        at: which input of the last one is the code that was made so far.
        pool: a pooling that reads the codes, so that only some rows of them are kept.
        vectors: how four sums, and then codes, become codes at once; () where they do not.
    """

    site: str
    result: Tensor
    of_sum: Code
    lift: int
    of_codes: tuple[Code, ...] = ()
    others: tuple[Tensor, ...] = ()
    at: int = 0
    pool: Pool | None = None
    vectors: tuple[Vector, ...] = ()

    @property
    def functions(self) -> list[str]:
        """The functions that make codes."""
        return [own.text for own in (self.of_sum, *self.of_codes)]

    @property
    def axes(self) -> list[str]:
        """Whether a code depends on its row ``y``, and its column ``x``."""
        read = {axis for own in (self.of_sum, *self.of_codes) for axis in own.reads}
        return [axis for axis in "yx" if axis in read]

    def code(self, total: str, place: Mapping[str, str], others: Sequence[str] = ()) -> str:
        """Return C of a code.

        Args:
            total: C of the sum.
            place: C of ``c``, ``y`` and ``x``.
            others: C of the codes of ``others`` there.
        """
        made = self.of_sum.call([total], place)
        for i, own in enumerate(self.of_codes):
            last = i + 1 == len(self.of_codes)
            made = own.call(
                [*others[: self.at], made, *others[self.at :]] if last else [made], place
            )
        return made
