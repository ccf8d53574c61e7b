"""Whole numbers in as few bits as they take, one behind the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.integer.operations import Integers

WIDEST = 24  # bits of one number: what the reader of runtime.c holds, next to the rest of a byte


AT_ONCE = 1 << 20  # numbers that are packed at a time


@dataclass(frozen=True, eq=False)
class Packed:
    """Whole numbers ``gap * k + lowest``, of which the unsigned k are stored.

    Attributes:
        numbers: in the order of their memory.
        bits: width of each k.
        gap: what all differences of the numbers are multiples of: 2 where all are odd.
        lowest: of the numbers.
        highest: of the numbers.
    """

    numbers: Integers
    bits: int
    gap: int
    lowest: int
    highest: int

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return -(-len(self.numbers) * self.bits // 8)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes; the first k begins at the lowest bit of the first one."""
        pieces = []
        for first in range(0, len(self.numbers), AT_ONCE):  # which is a multiple of 8
            ranks = (self.numbers[first : first + AT_ONCE] - self.lowest) // self.gap
            streamed = (ranks[:, None] >> np.arange(self.bits)) & 1
            pieces.append(np.packbits(streamed.astype(np.uint8), bitorder="little"))
        return np.concatenate(pieces)

    def equals(self, other: Packed) -> bool:
        """Tell whether all numbers are the same."""
        return np.array_equal(self.numbers, other.numbers)


def packed(numbers: Integers) -> Packed:
    """Pack whole numbers of any shape, in the order of their memory.

    Raises:
        ValueError: if they take more than :data:`WIDEST` bits, or their differences more than 31.
    """
    flat = numbers.reshape(-1).astype(np.int64, copy=False)
    lowest, highest = int(flat.min()), int(flat.max())
    gap = int(np.gcd.reduce(flat - lowest)) or 1  # 0 where all are equal
    bits = max(((highest - lowest) // gap).bit_length(), 1)  # C has no arrays of no bytes
    if bits > WIDEST or highest - lowest >= 1 << 31:
        raise ValueError(f"numbers of {bits} bits")
    return Packed(flat, bits, gap, lowest, highest)


def unpacked(numbers: Packed, count: int) -> Integers:
    """Return the first numbers again, ``(count,)``."""
    streamed = np.unpackbits(numbers.data, count=count * numbers.bits, bitorder="little")
    places = np.int64(1) << np.arange(numbers.bits)
    ranks = (streamed.reshape(count, numbers.bits) * places).sum(1)
    return np.asarray(numbers.gap * ranks + numbers.lowest, dtype=np.int64)
