"""Rescaling in 32 bits, where it is shown that it gives the codes of 64 bits.

``(((sum << lift) * M >> 32) + B) >> shift`` takes a third of the instructions that a multiplication
and a sum of 64 bits take on a microcontroller. A code grows with the sum (or falls, where M is
negative), so two ways to make it are the same if each code begins at the same sum, of all that
occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import Range
from qatlab.deploy.integer.operations import Integers

BITS = 31  # of numbers, without their sign
TRIED = 6  # shifts
NEAR = (0, 1, -1, 2)  # how far offsets and multipliers may be from the first that are tried


@dataclass(frozen=True)
class Narrow:
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


def narrow(op: ops.FixedRescale, sums: Range) -> Narrow | None:
    """Return a rescaling in 32 bits with the same codes, None if none was found.

    Args:
        op: with one input, and one multiplier and offset for each channel.
        sums: between which numbers its input lies.
    """
    channels = len(op.shift)
    numbers = np.broadcast_arrays(op.multipliers[0], op.offset, op.shift, sums.low, sums.high)
    multiplier, offset, shift, low, high = (np.array(own, np.int64) for own in numbers)
    if op.to_even or len(multiplier) != channels:
        return None
    lift = BITS - int(max(abs(low).max(), abs(high).max(), 1)).bit_length()
    if lift < 1:
        return None
    codes = np.arange(op.codes.low + 1, op.codes.high + 1, dtype=np.int64)
    sign = np.where(multiplier < 0, -1, 1)
    first, last = np.where(sign < 0, -high, low)[:, None], np.where(sign < 0, -low, high)[:, None]
    size = abs(multiplier)
    wanted = _begins(codes, size, offset, shift[:, None], first, last)
    real, moved = np.ldexp(size.astype(float), -shift), np.ldexp(offset.astype(float), -shift)
    for own in range(_largest_shift(real, moved, lift), 0, -1)[:TRIED]:
        near = np.round(np.ldexp(real, 32 + own - lift)).astype(np.int64)
        start = np.floor(np.ldexp(moved, own)).astype(np.int64)
        found, left = (near.copy(), start.copy()), np.ones(channels, bool)
        for by in NEAR:
            for more in NEAR:
                tried = near + by * (near > 0), start + more
                # (sum * M) >> (32 - lift) is what (sum << lift) * M >> 32 is.
                begins = _begins_behind(codes, *tried, own, 32 - lift, first, last)
                same = left & (begins == wanted).all(1)
                for kept, number in zip(found, tried, strict=True):
                    kept[same] = number[same]
                left &= ~same
        if not left.any() and max(abs(own_number).max() for own_number in found) < 1 << BITS:
            return Narrow(sign * found[0], found[1], lift, own)
    return None


def _largest_shift(real: np.ndarray, moved: np.ndarray, lift: int) -> int:
    """Return the largest shift for which multipliers, and sums with offsets, have 31 bits."""
    largest, offset = float(real.max()), float(abs(moved).max()) + 1
    of_multiplier = BITS - int(np.frexp(largest)[1]) - (32 - lift) if largest else BITS
    # The product's upper half has 30 bits; the offset may have as many.
    return min(of_multiplier, BITS - 1 - int(np.frexp(offset)[1]))


def _begins(
    codes: Integers,
    size: Integers,
    offset: Integers,
    shift: Integers,
    first: Integers,
    last: Integers,
) -> Integers:
    """Return the sum at which each code begins: ``(size * sum + offset) >> shift >= code``."""
    needed = (codes << shift) - offset[:, None]
    return _divided(needed, size, first, last)


def _begins_behind(
    codes: Integers,
    size: Integers,
    offset: Integers,
    shift: int,
    dropped: int,
    first: Integers,
    last: Integers,
) -> Integers:
    """Return the same of ``((size * sum >> dropped) + offset) >> shift``."""
    needed = ((codes << shift) - offset[:, None]) << dropped
    return _divided(needed, size, first, last)


def _divided(needed: Integers, size: Integers, first: Integers, last: Integers) -> Integers:
    begins = -(-needed // np.maximum(size, 1)[:, None])
    constant = np.where(needed <= 0, first, last + 1)  # of a channel without weights
    return np.clip(np.where(size[:, None] > 0, begins, constant), first, last + 1)
