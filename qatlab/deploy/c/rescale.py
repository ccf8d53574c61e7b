"""Rescaling in 32 bits, where it is shown that it gives the codes of 64 bits.

``(((sum << lift) * M >> 32) + B) >> shift`` takes a third of the instructions that a multiplication
and a sum of 64 bits take on a microcontroller. A code grows with the sum (or falls, where M is
negative), so two ways to make it are the same if each code begins at the same sum, of all that
occur.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import Range, begins, rises
from qatlab.deploy.integer.operations import Codes, Integers

BITS = 31  # of numbers, without their sign
TRIED = 6  # shifts
TRIED_SUMS = 1 << 22  # of codes, in all channels
NEAR = (0, 1, -1, 2)  # how far offsets and multipliers may be from the first that are tried


@dataclass(frozen=True)
class In32Bits:
    """A rescaling in 32 bits.

    Attributes:
        multipliers: one for each channel.
        offsets: likewise.
        lift: by which sums are moved to the left first.
        shift: by which the last one is moved to the right.
    """

    multipliers: Integers
    offsets: Integers
    lift: int
    shift: int


def in_32_bits(op: ops.FixedRescale, sums: Range) -> In32Bits | None:
    """Return a rescaling in 32 bits with the same codes, None if none was found.

    Args:
        op: with one input, and one multiplier and offset for each channel.
        sums: between which numbers its input lies.
    """
    largest = int(max(abs(sums.low).max(), abs(sums.high).max(), 1))
    lift = BITS - largest.bit_length()
    if op.to_even or lift < 1:
        return None
    codes, sign, size, offset, shift, first, last, wanted = rises(op, sums)
    real, moved = np.ldexp(size.astype(float), -shift), np.ldexp(offset.astype(float), -shift)
    for own in range(_largest_shift(real, moved, lift), 0, -1)[:TRIED]:
        near = np.round(np.ldexp(real, 32 + own - lift)).astype(np.int64)
        start = np.floor(np.ldexp(moved, own)).astype(np.int64)
        found, left = (near.copy(), start.copy()), np.ones(len(size), bool)
        for by, more in itertools.product(NEAR, NEAR):
            tried = near + by * (near > 0), start + more
            # (sum << lift) * M >> 32 is sum * M >> (32 - lift).
            needed = ((codes << own) - tried[1][:, None]) << (32 - lift)
            same = left & (begins(needed, tried[0], first, last) == wanted).all(1)
            for kept, numbers in zip(found, tried, strict=True):
                kept[same] = numbers[same]
            left &= ~same
        if not left.any() and max(int(abs(numbers).max()) for numbers in found) < 1 << BITS:
            return In32Bits(sign * found[0], found[1], lift, own)
    return None


@dataclass(frozen=True)
class SumIn32Bits:
    """A sum of codes in 32 bits: ``(sum_i multipliers[i] * code_i + offset) >> shift``.

    Attributes:
        multipliers: for each input one for each channel.
        offset: one for each channel.
        shift: of all.
    """

    multipliers: tuple[Integers, ...]
    offset: Integers
    shift: int


def sum_in_32_bits(op: ops.FixedRescale, inputs: Sequence[Codes]) -> SumIn32Bits | None:
    """Return a sum of codes in 32 bits with the same codes for all that can be added up.

    None if none was found, or if there are too many to try.

    Args:
        op: with one multiplier and offset for each channel.
        inputs: what it adds up.
    """
    count = math.prod(codes.high - codes.low + 1 for codes in inputs)
    numbers = (*op.multipliers, op.offset, op.shift)
    if op.to_even or op.below is not None or any(own.ndim > 1 for own in numbers):
        return None
    table = np.stack(np.broadcast_arrays(*numbers), 1)
    kinds, channel = np.unique(table, axis=0, return_inverse=True)
    if count * len(kinds) > TRIED_SUMS:
        return None
    axes = [np.arange(codes.low, codes.high + 1, dtype=np.int64) for codes in inputs]
    codes = [own.reshape(-1, 1) for own in np.meshgrid(*axes, indexing="ij")]
    *multipliers, offset, shift = kinds.T

    def made(multipliers: Sequence[Integers], offset: Integers, shift: Integers) -> Integers:
        total = sum(own * codes[i] for i, own in enumerate(multipliers)) + offset
        return np.asarray(np.clip(total >> shift, op.codes.low, op.codes.high))

    wanted = made(multipliers, offset, shift)
    largest = [max(own.largest, 1) for own in inputs]
    size = sum(abs(own) * most for own, most in zip(multipliers, largest, strict=True))
    real = np.ldexp((size + abs(offset)).astype(float), -shift)
    for own in range(min(BITS - 1 - int(np.frexp(real.max())[1]), BITS - 1), 0, -1)[:TRIED]:
        near = [
            np.round(np.ldexp(m.astype(float), own - shift)).astype(np.int64) for m in multipliers
        ]
        start = np.floor(np.ldexp(offset.astype(float), own - shift)).astype(np.int64)
        found, left = start.copy(), np.ones(len(kinds), bool)
        for by in NEAR:
            same = left & (made(near, start + by, np.full_like(shift, own)) == wanted).all(0)
            found[same] = (start + by)[same]
            left &= ~same
        if not left.any():
            each = channel.reshape(-1)
            return SumIn32Bits(tuple(m[each] for m in near), found[each], own)
    return None


def _largest_shift(real: NDArray[Any], moved: NDArray[Any], lift: int) -> int:
    """Return the largest shift for which multipliers, and sums with offsets, have 31 bits."""
    largest, offset = float(real.max()), float(abs(moved).max()) + 1
    of_multiplier = BITS - int(np.frexp(largest)[1]) - (32 - lift) if largest else BITS
    # The product's upper half has 30 bits; the offset may have as many.
    return min(of_multiplier, BITS - 1 - int(np.frexp(offset)[1]))
