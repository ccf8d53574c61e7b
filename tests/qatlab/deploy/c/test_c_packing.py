"""Weights in few bits, and the names and comments of C."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatlab.deploy.c.memory import Block, planned
from qatlab.deploy.c.packing import packed, unpacked
from qatlab.deploy.c.words import Identifiers, comment, integer_type, string


@given(st.data(), st.integers(1, 16), st.integers(1, 9), st.integers(-(1 << 16), 1 << 16))
def test_packed_numbers_come_back(data: st.DataObject, bits: int, gap: int, lowest: int) -> None:
    ranks = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=40))
    numbers = gap * np.array(ranks) + lowest
    found = packed(numbers)
    assert (unpacked(found, len(ranks)) == numbers).all()
    assert found.bits <= bits
    assert len(found.data) == -(-len(ranks) * found.bits // 8)


@pytest.mark.parametrize(
    ("numbers", "bits", "gap", "lowest"),
    [
        (range(-15, 16, 2), 4, 2, -15),  # SAT of 4 bits
        ([-1, 1], 1, 2, -1),
        ([-2, 0, 2], 2, 2, -2),  # ternary
        (range(-8, 8), 4, 1, -8),  # LSQ
        (range(-7, 8), 4, 1, -7),
        ([0, 6, 9], 2, 3, 0),
        ([5, 5], 1, 1, 5),
    ],
)
def test_numbers_take_the_fewest_bits(numbers: list[int], bits: int, gap: int, lowest: int) -> None:
    found = packed(np.array(numbers))
    assert (found.bits, found.gap, found.lowest) == (bits, gap, lowest)


def test_the_first_number_is_in_the_lowest_bits() -> None:
    assert packed(np.array([1, 2, 3, 0])).data.tolist() == [0b00111001]


@given(st.lists(st.tuples(*[st.integers(1, 9), st.integers(0, 9), st.integers(0, 4)])))
def test_what_is_needed_at_one_time_never_overlaps(given: list[tuple[int, int, int]]) -> None:
    blocks = [Block(size, first, first + more) for size, first, more in given]
    starts, total = planned(blocks)
    for step in range(14):
        taken = [
            byte
            for block, start in zip(blocks, starts, strict=True)
            if block.first <= step <= block.last
            for byte in range(start, start + block.size)
        ]
        assert len(set(taken)) == len(taken)
        assert max(taken, default=0) <= total


def test_blocks_share_memory() -> None:
    chain = [Block(8, 0, 1), Block(4, 1, 2), Block(6, 2, 3), Block(2, 3, 4)]
    assert planned(chain)[1] == 12


def test_each_name_has_an_identifier_of_its_own() -> None:
    identifiers = Identifiers()
    long = "block" * 20
    names = [
        "a.b",
        "a_b",
        "a_b_2",
        "conv[0]",
        "conv.0",
        "",
        ".",
        "ä",
        long + "1",
        long + "2",
        "A.b",
    ]
    found = [identifiers[name] for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"x_\w*", f"x_{word}", flags=re.ASCII) for word in found)
    assert max(map(len, found)) < 50
    assert identifiers["a.b"] == "a_b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a"b\\', r'"a\"b\\"'),
        ("??/", r'"\?\?/"'),
        ("é1", r'"\303\2511"'),  # three digits: the 1 is no part of it
        ("\n\0", r'"\012\000"'),
    ],
)
def test_strings_are_escaped(text: str, expected: str) -> None:
    assert string(text) == expected


def test_comments_neither_end_early_nor_begin_twice() -> None:
    found = comment(["*/ int x; /*", "/*/", "??/", "ü\\", "two\nlines"])
    inner = found.removeprefix("/*").removesuffix("*/")
    assert not any(part in inner for part in ("*/", "/*", "??"))
    assert found.isascii()
    assert len(found.splitlines()) == 6


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        *((0, 255, "uint8_t"), (-1, 127, "int8_t"), (-1, 128, "int16_t"), (0, 256, "uint16_t")),
        *((-1, 65535, "int32_t"), (0, 1 << 32, "uint64_t"), (-1, 1 << 63, None)),
    ],
)
def test_the_narrowest_type_is_taken(low: int, high: int, kind: str | None) -> None:
    assert integer_type(low, high) == kind
