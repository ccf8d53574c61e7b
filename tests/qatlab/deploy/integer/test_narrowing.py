"""Fixed point in few bits against the sums of 64 bits that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from numpy.typing import NDArray

from qatlab.deploy.integer import Codes, compute, lower, with_rescale
from qatlab.deploy.integer.narrowing import (
    Part,
    Range,
    in_parts,
    needs_parts,
    parts,
    ranges,
    shortened,
)
from qatlab.deploy.integer.operations import FixedPoint, FixedRescale
from qatlab.deploy.integer.vectorised import results
from qatlab.errors import ConfigError

CODES = [Codes(0, 15, 1.0), Codes(-8, 7, 1.0), Codes(0, 1, 1.0), Codes(-127, 127, 1.0)]
CHANNELS = 24


def rescale_of(rng: np.random.Generator, codes: Codes, largest: int) -> FixedRescale:
    """Return a rescale as fixed32 makes it; a few channels are constant, or never leave an end."""
    size = codes.largest * 2.0 / largest * np.exp(rng.uniform(-4, 3, CHANNELS))
    real = size * rng.choice([-1, 1], CHANNELS)
    real[0] = 0
    shift = 31 - np.frexp(abs(real).clip(1e-12))[1].astype(np.int64)
    shift = np.minimum(shift, 62 - largest.bit_length() - 8)
    multiplier = np.round(np.ldexp(real, shift)).astype(np.int64)
    bias = rng.uniform(-2, 2, CHANNELS) * codes.largest
    bias[1] = 5 * codes.largest
    offset = np.round(np.ldexp(bias + 0.5, shift)).astype(np.int64)
    return FixedRescale("site", ("x",), (multiplier,), offset, shift, codes)


def codes_of(op: FixedRescale, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return codes ``(C, N)`` of accumulators."""
    total = op.multipliers[0][:, None] * x + op.offset[:, None]
    return (total >> op.shift[:, None]).clip(op.codes.low, op.codes.high)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("seed", range(4))
def test_small_numbers_give_the_same_code_for_every_accumulator(codes: Codes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    largest = int(rng.integers(5, 5000))
    op = rescale_of(rng, codes, largest)
    low = rng.integers(-largest, largest, CHANNELS)
    high = rng.integers(low, largest + 1)
    short = shortened(op, [Range(low, high)])
    x = np.arange(-largest, largest + 1)
    inside = (x >= low[:, None]) & (x <= high[:, None])
    assert np.array_equal(codes_of(short, x)[inside], codes_of(op, x)[inside])
    assert (abs(short.multipliers[0]) <= abs(op.multipliers[0]) + 1).all()
    assert (short.shift <= op.shift).all()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bits", [14, 18, 23])
def test_codes_begin_at_the_same_accumulators_of_a_wide_range(codes: Codes, bits: int) -> None:
    rng = np.random.default_rng(bits)
    largest = (1 << bits) - 1
    op = rescale_of(rng, codes, largest)
    short = shortened(op, [Range(np.array([-largest]), np.array([largest]))])
    for c in range(CHANNELS):
        m, o, s = (int(own[c]) for own in (op.multipliers[0], op.offset, op.shift))
        begins = [((k << s) - o) // m for k in range(codes.low, codes.high + 2)] if m else [0]
        x = np.array([b + d for b in begins for d in (-1, 0, 1, 2)] + [-largest, largest])
        x = np.unique(x.clip(-largest, largest))
        assert np.array_equal(codes_of(short, x)[c], codes_of(op, x)[c])
    assert (short.shift <= op.shift).all()


def total_of(part: Part, inputs: list[NDArray[np.int64]], carry: NDArray[np.int64]) -> NDArray:
    total = part.offset[..., None] + carry
    for multiplier, x in zip(part.multipliers, inputs, strict=True):
        total = total + multiplier.reshape(*multiplier.shape, 1) * x
    return total


@pytest.mark.parametrize("bits", [24, 31])
@pytest.mark.parametrize("sizes", [(9,), (20,), (13, 4), (8, 8, 19)])
@pytest.mark.parametrize("largest", [0, 30, 52])
def test_sums_in_parts_carry_to_what_the_whole_sum_is_shifted_to(
    bits: int, sizes: tuple[int, ...], largest: int
) -> None:
    rng = np.random.default_rng(sum(sizes) + bits)
    multipliers = tuple(rng.integers(-(1 << 31), 1 << 31, CHANNELS) for _ in sizes)
    offset = rng.integers(-(1 << largest), (1 << largest) + 1, CHANNELS)
    shift = rng.integers(max(13 + max(sizes), largest - 10), 61, CHANNELS)
    op = FixedPoint("sum", tuple("xyz"[: len(sizes)]), multipliers, offset, shift)
    ends = [(1 << size) - 1 for size in sizes]
    given = [Range(np.array([-end]), np.array([end])) for end in ends]
    inputs = [
        np.concatenate([rng.integers(-end, end + 1, (CHANNELS, 500)), [[-end, end]] * CHANNELS], 1)
        for end in ends
    ]
    whole = total_of(Part(multipliers, offset, shift), inputs, np.int64(0)) >> shift[:, None]
    carry = np.zeros_like(inputs[0])
    made = parts(op, given, bits)
    assert len(made) > 1
    for part in made:
        total = total_of(part, inputs, carry)
        assert abs(total).max() < 1 << bits
        for multiplier, end in zip(part.multipliers, ends, strict=True):
            assert abs(multiplier).max() * end < 1 << bits
        assert part.shift.max() < bits
        carry = total >> part.shift[:, None]
    assert np.array_equal(carry, whole)
    assert np.array_equal(np.sum([part.shift for part in made], 0), shift)


def test_what_few_bits_cannot_add_up_is_refused_by_name() -> None:
    one = np.array([1 << 20])
    op = FixedPoint("stage.add", ("x",), (one,), one, one * 0 + 30)
    with pytest.raises(ConfigError, match=r"stage\.add: sums of 24 bits cannot hold"):
        parts(op, [Range(-one * 8, one * 16)])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["sat", "lsq", "lsq_plus"])
def test_a_network_of_few_bits_computes_the_codes_of_fixed32(name: str, method: str) -> None:
    torch.manual_seed(2)
    exact = lower(convert(NETWORKS[name](), method, 4), [PIXEL] * 3, EXAMPLE)
    wide, narrow = with_rescale(exact, "fixed32"), with_rescale(exact, "sums24")
    expected, found = compute(wide, PIXELS), compute(narrow, PIXELS)
    assert expected.codes.keys() == found.codes.keys()
    for site, codes in expected.codes.items():
        assert torch.equal(found.codes[site], codes), site
    assert torch.equal(found.outputs, expected.outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_number_leaves_the_range_that_it_is_said_to_have(name: str) -> None:
    torch.manual_seed(2)
    network = lower(convert(NETWORKS[name](), "lsq_plus", 4), [PIXEL] * 3, EXAMPLE)
    known = ranges(network)
    for op, value, _ in results(network, torch.cat([PIXELS, PIXELS * 0, PIXELS * 0 + 255])):
        if op.name in known:
            channels = value.flatten(2) if value.ndim > 2 else value[..., None]
            low, high = (torch.from_numpy(np.array(end)) for end in known[op.name])
            assert (channels.amin((0, 2)) >= low).all()
            assert (channels.amax((0, 2)) <= high).all()


def test_channels_of_a_network_with_sums_in_parts_are_counted() -> None:
    torch.manual_seed(2)
    exact = lower(convert(NETWORKS["chain"](), "sat", 4), [PIXEL] * 3, EXAMPLE)
    wide, narrow = with_rescale(exact, "fixed32"), with_rescale(exact, "sums24")
    (most, channels), (few, same), (none, _) = (
        in_parts(wide),
        in_parts(narrow),
        in_parts(narrow, bits=61),
    )
    assert channels == same
    assert none < few < most / 2


def test_channels_that_one_sum_cannot_hold_are_named() -> None:
    multiplier, shift = np.array([1000, 1 << 20]), np.array([10, 23])
    op = FixedRescale("site", ("x",), (multiplier,), shift * 0, shift, Codes(0, 15, 1.0))
    given = [Range(np.array([-100]), np.array([100]))]
    assert needs_parts(op, given).tolist() == [False, True]
    assert needs_parts(op, given, bits=31).tolist() == [False, False]
    assert needs_parts(replace(op, shift=shift + 8), given, bits=31).tolist() == [False, True]
