"""Multiplications by real numbers, in front of a rounding, as whole numbers and shifts.

A site's codes are ``(sum_i M_i * accumulator_i + B) >> S`` with whole M, B and S for each channel:
S makes full use of the width of M, unless fewer bits hold the real numbers exactly, and B holds the
bias to the same precision, so that no step but that of M itself is rounded twice. All sums fit into
64 bits; for 24 see :mod:`narrowing`.

Sums become the nearest code, and those half way the upper one. Where M and B hold the real numbers
exactly, as steps that are powers of two make them, many sums lie half way: there they become the
even code, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import beside, narrowed
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Integers, Reals, largest_sizes, product
from qatlab.errors import ConfigError, wrong

RESCALES = {
    "float": "float64 numbers, rounded to even: what the fake-quantized network computes",
    "fixed32": "multipliers of 32 bits, sign included, and a shift",
    "sums24": "the codes of fixed32, exactly, by sums of 24 bits alone, which float32 holds, too",
    "fixed16": "multipliers of 16 bits and a shift",
    "single_shift": "multipliers that are one power of two",
    "double_shift": "multipliers that are the sum or difference of two powers of two",
}
SUM_BITS = 62  # of sums in fixed point, without their sign: one bit is kept free
OUTPUT_BITS = 52  # of outputs, so that float64 holds them
MANTISSA = 15  # bits behind the first one of what shifts approximate


def check_word(rescale: str) -> None:
    """Raise a ConfigError unless ``rescale`` is one of :data:`RESCALES`."""
    if rescale not in RESCALES:
        raise wrong("rescale", rescale, RESCALES)


def with_rescale(network: IntegerNetwork, rescale: str) -> IntegerNetwork:
    """Return a network whose multiplications by real numbers are done in another way.

    Args:
        network: one that :func:`~qatlab.deploy.integer.lower` returned.
        rescale: one of :data:`RESCALES`.

    Raises:
        ConfigError: for another word, and for sums that fixed point has not enough bits for.
    """
    check_word(rescale)
    if rescale == "float":
        return network
    largest = largest_sizes(network.operations, network.codes)
    is_narrow = rescale == "sums24"
    operations: list[ops.Operation] = [
        FIXED[type(op)](
            op, [largest[name] for name in op.inputs], "fixed32" if is_narrow else rescale
        )
        if type(op) in FIXED
        else op
        for op in network.operations
    ]
    made = IntegerNetwork(tuple(operations), network.sites)
    return narrowed(made) if is_narrow else made


def _rescale(op: ops.Rescale, largest: Sequence[int], rescale: str) -> ops.FixedRescale:
    terms, offset, shift, sizes = _scaled(op, largest, rescale)
    room = np.minimum(SUM_BITS - _bits(sizes), SUM_BITS - op.codes.largest.bit_length())
    multipliers, added, shift = _within(op.name, terms, offset, shift, room)
    # A sum that is a code already has a bit behind it, too, where that is needed for ties.
    more = np.where((shift == 0) & (room > 0), 1, 0)
    to_even = False
    if (shift + more).min() > 0:
        wide = tuple(own << beside(more, own) for own in (*multipliers, added))
        less, to_even = _spare_bits(op, wide[:-1], wide[-1], shift + more)
        if to_even:
            *few, added = (own >> beside(less, own) for own in wide)
            multipliers = tuple(few)
            shift = shift + more - less
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    added = added + beside(half, offset)
    made = ops.FixedRescale(op.name, op.inputs, multipliers, added, shift, op.codes, to_even)
    if op.below is None:
        return made
    zero = np.ceil(np.ldexp(op.zero, shift)).astype(np.int64) + half
    return replace(made, below=_rescale(op.below, largest, rescale), zero=zero)


def _spare_bits(
    op: ops.Rescale, multipliers: Sequence[Integers], offset: Integers, shift: Integers
) -> tuple[Integers, bool]:
    """Return for each channel how many bits its numbers can spare, and whether there are ties.

    Spared are bits of numbers that are the real ones, exactly; the shift keeps one. Ties are sums
    of such numbers half way between two codes.
    """
    numbers, real = (*multipliers, offset), (*op.multipliers, op.offset)
    exact = np.ones(len(shift), bool)
    for own, wanted in zip(numbers, real, strict=True):
        each = _of_each(wanted, len(shift))
        if each.ndim < own.ndim:  # a map of one number, as a shift of each place has made of it
            each = each.reshape(-1, *(1,) * (own.ndim - 1))
        same = np.ldexp(own.astype(np.float64), -beside(shift, own)) == each
        exact &= same.reshape(len(shift), -1).all(1)
    *factors, of_offset = (_trailing_zeros(own) for own in numbers)
    of_factors = np.min(factors, axis=0)
    # At a tie products and offset come to an odd number of halves.
    meets = np.where(of_factors < shift, of_offset >= of_factors, of_offset == shift - 1)
    spare = np.minimum(np.minimum(of_factors, of_offset), shift - 1)
    return np.where(exact, spare, 0), bool(np.any(exact & meets))


def _trailing_zeros(numbers: Integers) -> Integers:
    """Return for each channel the last bits that are 0 in all its numbers; 63 if these are."""
    joined = np.bitwise_or.reduce(numbers.reshape(len(numbers), -1), axis=1)
    return np.where(joined == 0, 63, np.frexp((joined & -joined).astype(np.float64))[1] - 1)


def _output(op: ops.Output, largest: Sequence[int], rescale: str) -> ops.FixedOutput:
    terms, offset, shift, sizes = _scaled(op, largest, rescale)
    room = OUTPUT_BITS - _bits(sizes)
    shift, room = (np.full(len(shift), numbers.min()) for numbers in (shift, room))
    numbers = _within(op.inputs[0], terms, offset, shift, room)
    return ops.FixedOutput(op.name, op.inputs, *numbers, op.shape, op.function, op.places)


FIXED: dict[type[ops.Operation], Callable[[Any, Sequence[int], str], ops.Operation]] = {
    ops.Rescale: _rescale,
    ops.Output: _output,
}


def _scaled(
    op: ops.Weighted, largest: Sequence[int], rescale: str
) -> tuple[list[Reals], Reals, Integers, Reals]:
    """Return multipliers, offset, the shift that they would take, and how large sums become."""
    given = [np.asarray(numbers) for numbers in (*op.multipliers, op.offset)]
    channels = max(len(np.atleast_1d(numbers)) for numbers in given)
    *terms, offset = (_of_each(numbers, channels) for numbers in given)
    if rescale.endswith("shift"):
        near = [_near(term, double=rescale == "double_shift") for term in terms]
        # What the first term, that of the layer, is larger or smaller by, its bias is, too.
        own = np.divide(near[0], terms[0], out=np.ones_like(terms[0]), where=terms[0] != 0)
        offset = np.asarray(product(offset, own))
        terms, bits = near, 31
    else:
        bits = int(rescale.removeprefix("fixed")) - 1
    widest = np.max([_largest_of(term) for term in terms], axis=0)
    shift = bits - _bits(widest)
    shift = shift - (_whole(widest, shift) >> bits)  # 0.99999 would become 1
    sizes = _largest_of(offset) + 1
    for term, bound in zip(terms, largest, strict=True):
        sizes = sizes + _largest_of(term) * bound
    return terms, offset, shift, sizes


def _within(
    name: str, terms: Sequence[Reals], offset: Reals, shift: Integers, room: Integers
) -> tuple[tuple[Integers, ...], Integers, Integers]:
    """Return multipliers and offset in whole numbers, and the shift for which there is room."""
    if room.min() < 0:
        factor = max(_largest_of(term).max() for term in terms)
        raise ConfigError(
            f"{name}: fixed point has not enough bits, as values are multiplied by up to "
            f"{factor:.2g}: weights have exploded, or the step of a site has vanished."
        )
    shift = np.maximum(np.minimum(shift, room), 0)
    multipliers = tuple(_whole(term, beside(shift, term)) for term in terms)
    return multipliers, _whole(offset, beside(shift, offset)), shift


def _of_each(numbers: Reals, channels: int) -> Reals:
    """Return one number for each channel, or the map that there is."""
    if numbers.ndim > 1:
        return np.broadcast_to(numbers, (channels, *numbers.shape[1:])).astype(np.float64)
    return np.broadcast_to(numbers, channels).astype(np.float64)


def _largest_of(numbers: Reals) -> Reals:
    """Return the largest size for each channel."""
    return np.asarray(abs(numbers.reshape(len(numbers), -1)).max(1))


def _bits(numbers: Reals) -> Integers:
    """Return the least n with ``|number| < 2**n``; 0 for 0."""
    return np.asarray(np.frexp(numbers)[1], dtype=np.int64)


def _whole(numbers: Reals, shift: Integers) -> Integers:
    return np.asarray(np.round(np.ldexp(numbers, shift)).astype(np.int64))


def _near(numbers: Reals, double: bool) -> Reals:
    """Return the nearest numbers that are one power of two, or a sum or difference of two."""
    mantissa, exponent = np.frexp(numbers)  # a mantissa is at least 1/2 in size, and below 1
    size, powers = abs(mantissa), 2.0 ** -np.arange(1, MANTISSA + 1)
    near = np.array([0.5, 1.0])
    if double:
        near = np.concatenate([near, 0.5 + powers, 1.0 - powers])
        near = near[(near >= 0.5) & (near <= 1)]
    found = near[abs(size[..., None] - near).argmin(-1)]
    return np.asarray(np.sign(mantissa) * np.where(mantissa == 0, 0, np.ldexp(found, exponent)))
