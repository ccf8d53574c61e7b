"""Rescaling in 32 bits gives the codes of 64, for every sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qatlab.deploy.c.rescale import In32Bits, in_32_bits
from qatlab.deploy.integer import Codes
from qatlab.deploy.integer.narrowing import Range
from qatlab.deploy.integer.operations import FixedRescale

CHANNELS = 16


def rescale(codes: Codes, rng: np.random.Generator, reach: int) -> FixedRescale:
    """Return one whose multipliers have 31 bits, and whose codes change within some sums."""
    real = rng.uniform(0.2, 3, CHANNELS) * (codes.high - codes.low) / reach
    real *= rng.choice([-1, 1], CHANNELS, p=[0.3, 0.7])
    shift = np.asarray(31 - np.frexp(abs(real))[1], np.int64)
    offset = np.round(np.ldexp(rng.uniform(codes.low, codes.high, CHANNELS), shift))
    multiplier = np.round(np.ldexp(real, shift)).astype(np.int64)
    half = np.int64(1) << (shift - 1)
    made = (multiplier,), offset.astype(np.int64) + half, shift
    return FixedRescale("site", ("conv",), *made, codes)


def codes_of(op: FixedRescale, sums: np.ndarray) -> np.ndarray:
    total = op.multipliers[0][:, None] * sums + op.offset[:, None]
    return np.clip(total >> op.shift[:, None], op.codes.low, op.codes.high)


def codes_in_32_bits(made: In32Bits, codes: Codes, sums: np.ndarray) -> np.ndarray:
    """Compute as C does, and see that nothing leaves 32 bits."""
    lifted = sums << made.lift
    high = (lifted * made.multipliers[:, None]) >> 32
    total = high + made.offsets[:, None]
    for numbers in (lifted, made.multipliers, made.offsets, high, total):
        assert abs(numbers).max() < 1 << 31
    return np.clip(total >> made.shift, codes.low, codes.high)


@pytest.mark.parametrize("codes", [Codes(0, 15, 1.0), Codes(-127, 127, 1.0), Codes(0, 255, 1.0)])
@pytest.mark.parametrize("reach", [60, 2000, 40_000])
@pytest.mark.parametrize("seed", range(3))
def test_every_sum_has_the_same_code(codes: Codes, reach: int, seed: int) -> None:
    rng = np.random.default_rng([seed, reach, codes.high])
    op = rescale(codes, rng, reach)
    made = in_32_bits(op, Range(np.array([-reach]), np.array([2 * reach])))
    assert made is not None
    sums = np.arange(-reach, 2 * reach + 1)
    assert np.array_equal(codes_in_32_bits(made, codes, sums), codes_of(op, sums))


def test_channels_without_weights_have_one_code() -> None:
    op = rescale(Codes(0, 15, 1.0), np.random.default_rng(1), 500)
    op.multipliers[0][::2] = 0
    made = in_32_bits(op, Range(np.array([-500]), np.array([500])))
    assert made is not None
    sums = np.arange(-500, 501)
    assert np.array_equal(codes_in_32_bits(made, op.codes, sums), codes_of(op, sums))


def test_what_is_not_shown_to_be_the_same_is_left_alone() -> None:
    op = rescale(Codes(0, 15, 1.0), np.random.default_rng(1), 500)
    sums = Range(np.array([-500]), np.array([500]))
    assert in_32_bits(op, sums) is not None
    assert in_32_bits(replace(op, to_even=True), sums) is None
    assert (
        in_32_bits(op, Range(sums.low << 22, sums.high << 22)) is None
    )  # no bit is left for a lift
