"""Programs in C of networks that no model here is lowered to: each operation in all its forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from programs import answers, assert_computes_the_same, build, names

from qatlab.errors import ConfigError
from qatlab.export.c import c_program
from qatlab.integer import Codes, IntegerNetwork, compute
from qatlab.integer.network import (
    Channels,
    Concatenate,
    Convolve,
    FixedOutput,
    FixedRescale,
    Flatten,
    Input,
    MaxPool,
    Multiply,
    Operation,
    Output,
    PadChannels,
    Rescale,
    Subsample,
    SumPool,
)
from qatlab.integer.weights import largest_accumulator

IMAGE = Input("x", (), Codes(0, 255, 1.0), (4, 7, 9))
IMAGES = torch.randint(0, 256, (3, 4, 7, 9), generator=torch.Generator().manual_seed(3))
ONE, ZERO, NOTHING = np.array([1]), np.array([0]), np.array(0.0)


def given_out(operations: list[Operation], *results: str) -> IntegerNetwork:
    """Return a network whose outputs are the codes of some results, one after the other."""
    flat: list[Operation] = [Flatten(f"flat {name}", (name,)) for name in results]
    joined = Concatenate("joined", tuple(op.name for op in flat))
    output = FixedOutput("output", ("joined",), (ONE,), ZERO, ZERO)
    return IntegerNetwork([IMAGE, *operations, *flat, joined, output])


def rescaled(
    name: str, source: str, codes: Codes, multiplier: int = 1, shift: int = 0
) -> Operation:
    factor, by = np.array([multiplier]), np.array([shift])
    return FixedRescale(name, (source,), (factor,), ZERO, by, codes)


def test_convolutions_of_any_geometry(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    operations: list[Operation] = []
    sites = []
    for i in range(14):
        groups = int(rng.choice([1, 2, 4]))
        taps = (int(rng.integers(1, 5)), int(rng.integers(1, 11 if i == 3 else 5)))
        dilation, stride = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(2))
        # No taps beyond the border at all, or as many as lie within it, or all of them.
        least = [
            max(0, d * (t - 1) + 1 - s) for d, t, s in zip(dilation, taps, (7, 9), strict=True)
        ]
        padding = tuple(-(-gap // 2) + int(rng.integers(0, 4)) for gap in least)
        n_steps = int(rng.choice([1, 2, 7, 300]))
        weight = rng.integers(0, n_steps + 1, (4, 4 // groups, *taps)) * 2 - n_steps
        bound = largest_accumulator(weight, IMAGE.codes, "conv")
        operations += [
            Convolve(f"conv{i}", ("x",), weight, stride, padding, dilation, groups, bound),
            rescaled(f"site{i}", f"conv{i}", Codes(-bound, bound, 1.0)),
        ]
        sites.append(f"site{i}")
    assert_computes_the_same(given_out(operations, *sites), IMAGES, tmp_path)


def test_poolings_of_any_geometry(tmp_path: Path) -> None:
    signed = FixedRescale("signed", ("x",), (ONE,), np.array([-128]), ZERO, Codes(-128, 127, 1.0))
    low = FixedRescale("low", ("x",), (ONE,), np.array([-300]), ZERO, Codes(-300, -45, 1.0))
    operations: list[Operation] = [
        signed,
        low,
        MaxPool("a", ("signed",), (3, 2), (2, 1), (1, 1), (1, 1)),
        MaxPool("b", ("signed",), (2, 3), (2, 3), (1, 0), (3, 2)),
        MaxPool("c", ("signed",), (2, 2), (2, 2), (0, 0), (1, 1), ceil_mode=True),
        MaxPool("d", ("low",), (3, 3), (2, 2), (1, 1), (1, 1), ceil_mode=True),  # no 0 wins
        SumPool("e", ("signed",), (3, 2), (2, 1), (1, 1), Codes(-768, 762, 1.0)),
        SumPool("f", ("x",), (7, 9), (1, 1), (0, 0), Codes(0, 255 * 63, 1.0)),
        SumPool("g", ("f",), (1, 1), (1, 1), (0, 0), Codes(0, 255 * 63, 1.0)),
    ]
    operations.append(rescaled("h", "f", Codes(-(1 << 23), 1 << 23, 1.0), -500))
    operations.append(SumPool("i", ("h",), (1, 1), (1, 1), (0, 0), Codes(-(1 << 23), 1 << 23, 1.0)))
    network = given_out(operations, *"abcdefghi")
    assert_computes_the_same(network, IMAGES, tmp_path)


def test_codes_are_copied_only_where_they_are_not_in_place_already(tmp_path: Path) -> None:
    narrow, wide = Codes(-8, 7, 1.0), Codes(-(1 << 15), (1 << 15) - 1, 1.0)
    operations: list[Operation] = [
        rescaled("n", "x", narrow, 1, 5),
        rescaled("m", "x", narrow, -1, 5),
        rescaled("w", "x", wide, -100),
        Channels("part", ("n",), 1, 3),
        Concatenate("same", ("n", "m")),
        Concatenate("twice", ("m", "m")),  # once it is in `same` already
        Concatenate("mixed", ("part", "w", "x")),  # other types, a view and the image
        Subsample("half", ("mixed",), (2, 3)),
        PadChannels("padded", ("half",), 2),
        PadChannels("more", ("part",), 1),
        Channels("last", ("padded",), 3, 12),
        PadChannels("on image", ("x",), 1),
    ]
    results = ("n", "same", "twice", "mixed", "half", "padded", "more", "last", "on image")
    network = given_out(operations, *results)
    source = c_program(network, names(network)).source
    assert "run_same" not in source
    assert "run_twice" in source
    assert_computes_the_same(network, IMAGES, tmp_path)


def test_sites_add_layers_and_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = [rng.integers(-3, 4, (6, 4, 3, 3)), rng.integers(-300, 301, (6, 4, 1, 1))]
    bounds = [largest_accumulator(weight, IMAGE.codes, "") for weight in weights]
    codes = Codes(-100, 100, 1.0)
    multipliers = tuple(rng.normal(0, 0.01, size) for size in (6, 6, ()))
    # A map that is the same in its middle, as those of LSQ+ are, and 0.0 beside -0.0.
    offset = rng.normal(0, 3, (6, 7, 9))
    offset[:, 2:5] = offset[:, 2:3]
    offset[:, :, 1:8] = offset[:, :, 1:2]
    offset[0, 0, :], offset[0, 6, :] = 0.0, -0.0
    whole = tuple(
        np.round(np.ldexp(m, 20)).astype(np.int64) * np.ones(6, np.int64) for m in multipliers
    )
    operations: list[Operation] = [
        Convolve("a", ("x",), weights[0], (1, 1), (1, 1), (1, 1), 1, bounds[0]),
        Convolve("b", ("x",), weights[1], (1, 1), (0, 0), (1, 1), 1, bounds[1]),
        PadChannels("c", ("x",), 2),
        Rescale("real", ("a", "b", "c"), multipliers, NOTHING, offset, codes),
        FixedRescale(
            "whole",
            ("a", "b", "c"),
            whole,
            np.round(np.ldexp(offset, 20)).astype(np.int64),
            np.arange(20, 26),
            codes,
        ),
        Rescale("per channel", ("a",), multipliers[:1], offset[:, 0, 0], NOTHING, codes),
        Rescale("nothing", ("a",), (np.zeros(6),), NOTHING, NOTHING, codes),
    ]
    network = given_out(operations, "real", "whole", "per channel", "nothing")
    program = c_program(network, names(network))
    assert "rows_of_offsets_real[7]" in program.source
    assert_computes_the_same(network, IMAGES, tmp_path)


def test_real_numbers_are_rounded_to_even_and_clipped(tmp_path: Path) -> None:
    at = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999999999999994, -0.49999999999999994]
    at += [1e300, -1e300, 126.5, 127.5, -128.5, -127.5, 1e-300, -1e-300, 2.0**31, -(2.0**31) - 1]
    at += [float(np.nextafter(2.5, 3)), float(np.nextafter(-2.5, -3)), -0.0]
    image = Input("x", (), Codes(0, 255, 1.0), (len(at), 1, 1))
    factors = (np.zeros(len(at)),)
    large = 16777215  # the largest odd code of the integer network, and halves next to it
    wide = np.array([large - 0.5, -large + 0.5, large - 1.5])
    operations: list[Operation] = [
        image,
        Rescale("narrow", ("x",), factors, np.array(at), NOTHING, Codes(-128, 127, 1.0)),
        Channels("three", ("x",), 0, 3),
        Rescale("wide", ("three",), (np.zeros(3),), wide, NOTHING, Codes(-large, large, 1.0)),
        Concatenate("both", ("narrow", "wide")),
        Output("output", ("both",), (np.array(1.0),), NOTHING, NOTHING),
    ]
    images = torch.zeros(1, len(at), 1, 1, dtype=torch.long)
    assert_computes_the_same(IntegerNetwork(operations), images, tmp_path)


def test_the_sign_of_nothing_is_kept(tmp_path: Path) -> None:
    image = Input("x", (), Codes(0, 255, 1.0), (4, 1, 1))
    factors, offset = np.array([0.0, -0.0, -0.0, 0.5]), np.array([-0.0, 0.0, -0.0, -0.0])
    for multipliers, bias in ((factors, offset), (factors[:3].take([0, 1, 1, 1]), NOTHING * -1)):
        output = Output("output", ("x",), (multipliers,), bias, -0.0 * np.ones(()))
        images = torch.tensor([3, 3, 3, 3]).reshape(1, 4, 1, 1)
        network = IntegerNetwork([image, output])
        program = build(c_program(network, names(network)).source, tmp_path)
        expected = compute(network, images).outputs.numpy()
        assert len(set(np.signbit(expected).flat)) == 2
        assert (answers(program, images)[1].view(np.int64) == expected.view(np.int64)).all()


def test_the_first_of_several_largest_outputs_wins(tmp_path: Path) -> None:
    image = Input("x", (), Codes(0, 255, 1.0), (3, 1, 1))
    output = FixedOutput("output", ("x",), (ONE,), ZERO, np.array([60]))
    images = torch.tensor([[7, 7, 7], [1, 9, 9], [9, 9, 1], [0, 0, 1]]).reshape(4, 3, 1, 1)
    assert_computes_the_same(IntegerNetwork([image, output]), images, tmp_path)


def test_memory_is_used_again(tmp_path: Path) -> None:
    network = given_out(
        [
            rescaled("a", "x", Codes(0, 15, 1.0)),
            rescaled("b", "a", Codes(0, 15, 1.0)),
            rescaled("c", "b", Codes(0, 15, 1.0)),
            rescaled("d", "c", Codes(0, 15, 1.0)),
        ],
        "d",
    )
    image = 4 * 7 * 9
    assert c_program(network, names(network)).ram == image + 2 * image


def layer(weight: np.ndarray, largest: int) -> list[Operation]:
    return [Flatten("flat", ("x",)), Multiply("fc", ("flat",), weight, largest)]


FEW = np.ones((2, 252), dtype=np.int64)
UNEQUAL = np.eye(2, 252, dtype=np.int64)


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        (
            [Rescale("wide", ("x",), (np.array(1.0),), NOTHING, NOTHING, Codes(0, 1 << 31, 1.0))],
            "wide has codes from 0 to 2147483648, beyond 32 bits.",
        ),
        (
            [*layer(FEW, 1 << 31), rescaled("site", "fc", Codes(0, 1, 1.0))],
            "fc: an accumulator may not fit into 32 bits.",
        ),
        (
            [
                *layer(UNEQUAL * (1 << 24) + UNEQUAL[::-1] + 1, 9),
                rescaled("s", "fc", IMAGE.codes),
            ],
            "fc has weights that no C is written for: numbers of 25 bits.",
        ),
        (
            [
                Convolve("c", ("x",), np.ones((2, 4, 1, 1), int), (1, 1), (0, 0), (1, 1), 1, 9),
                MaxPool("pool", ("c",), (2, 2), (1, 1), (0, 0), (1, 1)),
            ],
            "pool reads sums that were not rescaled, which no C is written for.",
        ),
        (
            [MaxPool("pool", ("x",), (2, 1), (1, 1), (1, 0), (8, 1))],
            "pool has windows without a tap inside the border.",
        ),
        (
            [rescaled("site", "x", IMAGE.codes, 1 << 56)],
            "site: a sum in fixed point may not fit into 64 bits.",
        ),
    ],
)
def test_what_no_c_is_written_for_is_told(operations: list[Operation], told: str) -> None:
    network = given_out(operations, operations[-1].name)
    with pytest.raises(ConfigError) as caught:
        c_program(network, names(network))
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("high", "shifts", "classes", "told"),
    [
        (15, [0], 3, "x has other codes than bytes, which C reads."),
        (255, [0], 4, "output has 3 numbers for 4 classes."),
        (255, [0, 1, 1], 3, "output: outputs have shifts of their own, so no C compares them."),
    ],
)
def test_images_and_outputs_have_a_form_of_their_own(
    high: int, shifts: list[int], classes: int, told: str
) -> None:
    image = Input("x", (), Codes(0, high, 1.0), (3, 1, 1))
    output = FixedOutput("output", ("x",), (ONE,), ZERO, np.array(shifts))
    with pytest.raises(ConfigError) as caught:
        c_program(IntegerNetwork([image, output]), ["name"] * classes)
    assert str(caught.value) == told
