"""Fixed point in few bits, which gives the codes that sums of 64 bits give.

Numbers are made as small as they can be while the code of every accumulator stays the same
(:func:`shortened`): it grows with the accumulator, so it is enough that each code begins at the
same one. And where these are still too large, sums are made up of parts (:func:`parts`): low digits
of all multipliers are summed up first, and what they carry is added to the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Integers
from qatlab.errors import ConfigError

FLOAT = 24  # bits of whole numbers that float32 holds, too: int32 is computed in it by OpenVINO
NONE = 1 << 62  # larger than what any inequality asks for


class Range(NamedTuple):
    """The smallest and the largest number of a result, one for all channels or one for each."""

    low: Integers
    high: Integers


class Part(NamedTuple):
    """One of the sums that make up another one, see :func:`parts`.

    Attributes:
        multipliers: for each input, in the shape that they have in the operation.
        offset: likewise.
        shift: by which it is carried to the next part, or by which the last one becomes a code.
    """

    multipliers: tuple[Integers, ...]
    offset: Integers
    shift: Integers


def narrowed(network: IntegerNetwork) -> IntegerNetwork:
    """Return a network whose fixed point is to be computed in sums of :data:`FLOAT` bits.

    Args:
        network: in fixed point, with sums of 64 bits.
    """
    found = ranges(network)
    short = {
        op.name: shortened(op, [found[name] for name in op.inputs])
        for op in network.of(ops.FixedRescale)
    }
    operations = tuple(short.get(op.name, op) for op in network.operations)
    return IntegerNetwork(operations, network.sites, is_narrow=True)


def in_parts(network: IntegerNetwork, bits: int = FLOAT) -> tuple[int, int]:
    """Return for how many channels of sites one sum of few bits is not enough, and of how many.

    Args:
        network: in fixed point.
        bits: of the sums, without their sign.
    """
    known = ranges(network)
    needed = [
        needs_parts(op, [known[name] for name in op.inputs], bits)
        for op in network.of(ops.FixedRescale)
    ]
    return sum(int(own.sum()) for own in needed), sum(map(len, needed))


def ranges(network: IntegerNetwork) -> dict[str, Range]:
    """Return, by the name of each result of whole numbers, between which numbers it lies.

    Accumulators of codes lie between the sums of what each weight can add to them.
    """
    codes = network.codes
    found: dict[str, Range] = {}
    for op in network.operations:
        if op.name in codes:
            found[op.name] = _range(codes[op.name].low, codes[op.name].high)
        elif op.group is ops.Group.SUMS:
            found[op.name] = SUMS[type(op)](op, found[op.inputs[0]])
        elif op.group is ops.Group.MOVED:
            size = max(int(abs(end).max()) for end in found[op.inputs[0]])
            found[op.name] = _range(-size, size)
    return found


def _of_weights(op: ops.Convolve | ops.Multiply, read: Range) -> Range:
    low, high = np.minimum(read.low, 0), np.maximum(read.high, 0)  # there are zeros at a border
    weight = op.weight.reshape(len(op.weight), -1)
    up, down = np.maximum(weight, 0).sum(1), np.minimum(weight, 0).sum(1)
    return Range(up * low + down * high, up * high + down * low)


def _of_size(op: ops.Sums, read: Range) -> Range:
    return _range(-op.largest, op.largest)


# Between which numbers sums lie, by those that their first input lies between.
SUMS: dict[type[ops.Operation], Callable[[Any, Range], Range]] = {
    ops.Convolve: _of_weights,
    ops.Multiply: _of_weights,
    ops.Product: _of_size,
    ops.SumPool: _of_size,
}


def _range(low: int, high: int) -> Range:
    return Range(np.array([low]), np.array([high]))


class Rises(NamedTuple):
    """Where the codes of a site rise; of channels with a negative multiplier, as sums fall.

    Attributes:
        codes: all but the lowest one.
        sign: of the multiplier of each channel.
        size: of it; that of the negative sum, where the sign is -1.
        offset: of the channel.
        shift: likewise.
        first: smallest sum times the sign, ``(channels, 1)``.
        last: largest, likewise.
        begins: of such sums the first one with each code or a larger one, ``(channels, codes)``;
            ``last + 1`` if none has.
    """

    codes: Integers
    sign: Integers
    size: Integers
    offset: Integers
    shift: Integers
    first: Integers
    last: Integers
    begins: Integers


def rises(op: ops.FixedRescale, sums: Range) -> Rises:
    """Return where the codes of a site rise.

    Args:
        op: with one input, and one multiplier and offset for each channel.
        sums: between which numbers the input lies.
    """
    numbers = np.broadcast_arrays(op.multipliers[0], op.offset, op.shift, *sums)
    multiplier, offset, shift, low, high = (np.array(own, np.int64) for own in numbers)
    sign, size = np.where(multiplier < 0, -1, 1), np.abs(multiplier, dtype=np.int64)
    first, last = np.where(sign < 0, -high, low)[:, None], np.where(sign < 0, -low, high)[:, None]
    codes = np.arange(op.codes.low + 1, op.codes.high + 1, dtype=np.int64)
    found = begins((codes << shift[:, None]) - offset[:, None], size, first, last)
    return Rises(codes, sign, size, offset, shift, first, last, found)


def begins(needed: Integers, size: Integers, first: Integers, last: Integers) -> Integers:
    """Return the first number of which ``size`` times is as much as is needed, within a range.

    Args:
        needed: ``(channels, codes)``.
        size: of each channel, 0 or more.
        first: the range, ``(channels, 1)``.
        last: likewise; the number behind it stands for none.
    """
    found = -(-needed // np.maximum(size, 1)[:, None])
    found = np.where(size[:, None] > 0, found, np.where(needed <= 0, first, last + 1))
    return np.clip(found, first, last + 1)


def shortened(op: ops.FixedRescale, inputs: Sequence[Range]) -> ops.FixedRescale:
    """Return an operation that gives the same codes by the smallest numbers, in each channel.

    Args:
        op: with one input and one offset for each channel, and without ties that become even codes;
            others are returned as they are.
        inputs: between which numbers its inputs lie.
    """
    if (
        len(inputs) > 1
        or op.to_even
        or op.below is not None
        or max(op.multipliers[0].ndim, op.offset.ndim) > 1
    ):
        return op
    codes, sign, size, offset, shift, first, last, begins = rises(op, inputs[0])
    multiplier = sign * size
    reached, ends = begins <= last, begins > first  # in the range, and behind its first number
    at, before = begins, np.minimum(begins - 1, last)
    full, left = shift.copy(), np.arange(len(size))  # channels
    for own in range(int(full.max(initial=0))):
        wanted = codes << own
        # If any multiplier with this shift gives the same codes, so does one of the nearest two.
        for more in (0, 1):
            left = left[full[left] > own]
            near = (size[left] >> (full[left] - own)) + more
            at_least = np.where(reached[left], wanted - near[:, None] * at[left], -NONE)
            at_most = np.where(ends[left], wanted - near[:, None] * before[left] - 1, NONE)
            least, most = at_least.max(1, initial=-NONE), at_most.min(1, initial=NONE)
            found, fits = left[least <= most], least <= most
            multiplier[found], shift[found] = (sign[left] * near)[fits], own
            offset[found] = np.clip(0, least, most)[fits]
            left = left[~fits]
    return replace(op, multipliers=(multiplier,), offset=offset, shift=shift)


def parts(op: ops.FixedPoint, inputs: Sequence[Range], bits: int = FLOAT) -> list[Part]:
    """Return sums of few bits that make up those of an operation, for every accumulator.

        carry = 0
        for part in parts:
            total = sum_i part.multipliers[i] * input_i + part.offset + carry
            carry = total >> part.shift

    The last carry is ``(sum_i op.multipliers[i] * input_i + op.offset) >> op.shift``.

    Args:
        op: in fixed point.
        inputs: between which numbers its inputs lie.
        bits: of all numbers, without their sign.

    Raises:
        ConfigError: if inputs, or codes that are not clipped, take that many bits themselves.
    """
    numbers, shift = (*op.multipliers, op.offset), op.shift
    largest = [_sizes(own, len(shift)) for own in inputs]
    sums = np.sum(largest, axis=0)
    digits = np.maximum(bits - 1 - np.frexp(sums + 2.0)[1], 0)  # of multipliers, in a part
    carried = np.zeros_like(shift)
    found: list[Part] = []
    while not (fits := _fits(numbers, shift, largest, carried, bits)).all():
        step = np.where(fits, 0, np.minimum(shift, digits))
        if not step.any():
            raise ConfigError(f"{op.name}: sums of {bits} bits cannot hold what it adds up.")
        *low, offset = (own & ((1 << beside(step, own)) - 1) for own in numbers)
        found.append(Part(tuple(low), offset, step))
        numbers = tuple(own >> beside(step, own) for own in numbers)
        carried = (carried >> step) + (step > 0) * (sums + 2)
        shift = shift - step
    return [*found, Part(numbers[:-1], numbers[-1], shift)]


def needs_parts(
    op: ops.FixedRescale, inputs: Sequence[Range], bits: int = FLOAT
) -> NDArray[np.bool_]:
    """Tell for each channel whether one sum of few bits cannot hold what it adds up."""
    largest = [_sizes(own, len(op.shift)) for own in inputs]
    return ~_fits((*op.multipliers, op.offset), op.shift, largest, np.zeros_like(op.shift), bits)


def _sizes(numbers: Range, channels: int) -> Integers:
    """Return the largest size for each channel."""
    sizes = np.maximum(abs(numbers.low), abs(numbers.high))
    return np.broadcast_to(sizes if len(sizes) == channels else sizes.max(), channels)


def _fits(
    numbers: Sequence[Integers],
    shift: Integers,
    largest: Sequence[Integers],
    carried: Integers,
    bits: int,
) -> NDArray[np.bool_]:
    """Tell for each channel whether no number exceeds some bits: multipliers, and the offset."""
    *multipliers, offset = map(_largest_of, numbers)
    size = np.asarray(offset + carried, np.float64)
    for multiplier, bound in zip(multipliers, largest, strict=True):
        size += multiplier.astype(np.float64) * bound
    size = np.maximum(size, np.max(largest, axis=0))
    return np.asarray((size < 1 << bits) & (shift < bits))


def _largest_of(numbers: Integers) -> Integers:
    return np.asarray(abs(numbers.reshape(len(numbers), -1)).max(1))


def beside(of_channels: Integers, numbers: NDArray[Any]) -> Integers:
    """Return one number for each channel in a shape that broadcasts to others."""
    return of_channels.reshape(-1, *(1,) * (numbers.ndim - 1))
