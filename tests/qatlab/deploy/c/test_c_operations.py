"""Programs in C of networks that no model here is lowered to: each operation in all its forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import answers, assert_computes_the_same, build, names

from qatlab.deploy.c import c_program
from qatlab.deploy.integer import Codes, IntegerNetwork, compute, with_rescale
from qatlab.deploy.integer.operations import (
    NO_SIDES,
    Concatenate,
    Convolve,
    FixedOutput,
    FixedRescale,
    Gather,
    Input,
    MaxPool,
    Multiply,
    Operation,
    Output,
    Pad,
    Permute,
    Pick,
    Product,
    Reinterpret,
    Rescale,
    Reshape,
    Sides,
    Slice,
    SumPool,
    Table,
)
from qatlab.deploy.integer.state import both_sides
from qatlab.deploy.integer.weights import largest_accumulator
from qatlab.errors import ConfigError

IMAGE = Input("x", (), Codes(0, 255, 1.0), (4, 7, 9))
IMAGES = torch.randint(0, 256, (3, 4, 7, 9), generator=torch.Generator().manual_seed(3))
ONE, ZERO, NOTHING = np.array([1]), np.array([0]), np.array(0.0)


def given_out(operations: list[Operation], *results: str) -> IntegerNetwork:
    """Return a network whose outputs are the codes of some results, one after the other."""
    sizes = IntegerNetwork([IMAGE, *operations]).shapes
    flat: list[Operation] = [
        Reshape(f"flat {name}", (name,), (int(np.prod(sizes[name])),)) for name in results
    ]
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
        top, left = (-(-gap // 2) + int(rng.integers(0, 4)) for gap in least)
        bottom, right = (-(-gap // 2) + int(rng.integers(0, 4)) for gap in least)
        padding = ((top, bottom), (left, right))
        n_steps = int(rng.choice([1, 2, 7, 300]))
        weight = rng.integers(0, n_steps + 1, (4, 4 // groups, *taps)) * 2 - n_steps
        bound = largest_accumulator(weight, IMAGE.codes, "conv")
        operations += [
            Convolve(f"conv{i}", ("x",), weight, stride, padding, dilation, groups, bound),
            rescaled(f"site{i}", f"conv{i}", Codes(-bound, bound, 1.0)),
        ]
        sites.append(f"site{i}")
    assert_computes_the_same(given_out(operations, *sites), IMAGES, tmp_path)


def sums(
    name: str, of: str, kernel: tuple[int, int], stride: tuple[int, int], sides: Sides, most: int
) -> SumPool:
    return SumPool(name, (of,), kernel, stride, sides, Codes(-most, most, 1.0), most)


def test_poolings_of_any_geometry(tmp_path: Path) -> None:
    signed = FixedRescale("signed", ("x",), (ONE,), np.array([-128]), ZERO, Codes(-128, 127, 1.0))
    low = FixedRescale("low", ("x",), (ONE,), np.array([-300]), ZERO, Codes(-300, -45, 1.0))
    operations: list[Operation] = [
        signed,
        low,
        MaxPool("a", ("signed",), (3, 2), (2, 1), both_sides(1), (1, 1)),
        MaxPool("b", ("signed",), (2, 3), (2, 3), both_sides((1, 0)), (3, 2)),
        MaxPool("c", ("signed",), (2, 2), (2, 2), ((0, 1), (0, 1)), (1, 1)),
        MaxPool("d", ("low",), (3, 3), (2, 2), ((1, 2), (1, 2)), (1, 1)),  # no 0 wins
        sums("e", "signed", (3, 2), (2, 1), both_sides(1), 768),
        sums("f", "x", (7, 9), (1, 1), NO_SIDES, 255 * 63),
        sums("g", "f", (1, 1), (1, 1), NO_SIDES, 255 * 63),
    ]
    operations.append(rescaled("h", "f", Codes(-(1 << 23), 1 << 23, 1.0), -500))
    operations.append(sums("i", "h", (1, 1), (1, 1), NO_SIDES, 1 << 23))
    network = given_out(operations, *"abcdefghi")
    assert_computes_the_same(network, IMAGES, tmp_path)


def behind(name: str, of: str, channels: int) -> Pad:
    return Pad(name, (of,), ((0, channels), (0, 0), (0, 0)))


@pytest.mark.parametrize("source", ["narrow", "wide", "x"])
def test_codes_are_moved(source: str, tmp_path: Path) -> None:
    narrow, wide = Codes(-8, 7, 1.0), Codes(-(1 << 15), (1 << 15) - 1, 1.0)
    amounts = ((0, 0), (2, 3), (1, 4))
    operations: list[Operation] = [
        rescaled("narrow", "x", narrow, 1, 5),
        rescaled("wide", "x", wide, -100),
        Slice("cut", (source,), ((1, 4, 2), (1, 6, 2), (2, 9, 3))),
        Pick("picked", (source,), (3, 1, 1, 0)),
        Gather("gathered", (source,), (6, 0, 0, 3, 6), (8, 8, 1)),
        Permute("shuffled", (source,), (2, 2, 7, 9), (1, 0, 2, 3), (4, 7, 9)),
        Permute("turned", (source,), (4, 7, 9), (0, 2, 1), (4, 9, 7)),
        Permute("deeper", (source,), (2, 2, 7, 3, 3), (4, 1, 0, 2, 3), (12, 7, 3)),
        Reshape("split", ("deeper",), (6, 14, 3)),
        Concatenate("mixed", (source, "picked"), (7, 0, 6, 1, 5, 2, 4, 3)),
        Pad("constant", (source,), ((1, 2), *amounts[1:])),
        *(Pad(mode, (source,), amounts, mode) for mode in ("reflect", "replicate", "circular")),
    ]
    results = ("cut", "picked", "gathered", "shuffled", "turned", "split", "mixed", "constant")
    results += ("reflect", "replicate", "circular")
    assert_computes_the_same(given_out(operations, *results), IMAGES, tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-128, 127), (-(1 << 15), 1 << 15)])
@pytest.mark.parametrize("count", [2, 256, 1000])
def test_codes_are_looked_up(low: int, high: int, count: int, tmp_path: Path) -> None:
    codes = Codes(-count // 3, count - count // 3, 1.0)
    number = codes.high - codes.low + 1
    entries = np.random.default_rng(count).integers(low, high + 1, number)
    made, pixels = Codes(low, high, 1.0), np.arange(256) * (high - low) // 255 + low
    operations: list[Operation] = [
        rescaled("narrow", "x", codes, 3),
        Table("t", ("narrow",), codes.low, entries, entries * 1.0, made, "silu", {}),
        Table("pixels", ("x",), 0, pixels, pixels * 1.0, made, "silu", {}),
    ]
    assert_computes_the_same(given_out(operations, "t", "pixels"), IMAGES, tmp_path)


@pytest.mark.parametrize("codes", [Codes(-8, 7, 1.0), Codes(-(1 << 15), (1 << 15) - 1, 1.0)])
def test_codes_are_multiplied(codes: Codes, tmp_path: Path) -> None:
    factors: list[Operation] = [
        rescaled("whole", "x", codes, -7, 3),
        MaxPool("channels", ("whole",), (7, 9), (1, 1), NO_SIDES, (1, 1)),
        Slice("map", ("whole",), ((1, 2, 1),)),
        Slice("rows", ("whole",), ((0, 4, 1), (0, 7, 1), (3, 4, 1))),
        Slice("columns", ("map",), ((0, 1, 1), (5, 6, 1))),
        Reshape("vector", ("channels",), (4,)),
    ]
    largest = 255 * codes.largest
    wide, shift = Codes(-(1 << 23), (1 << 23) - 1, 1.0), 0 if codes.bits == 4 else 9
    operations, names = list[Operation](), list[str]()
    for op in factors:
        other = "vector" if op.name == "vector" else "x"
        first, second = (op.name, other) if op.name < "n" else (other, op.name)
        large = codes.largest**2 if other == "vector" else largest
        operations.append(Product(f"{op.name} product", (first, second), large))
        names.append(f"{op.name} product")
    operations += [
        Product("all", ("rows", "columns"), codes.largest**2),
        SumPool("sums", ("whole product",), (3, 2), (2, 1), both_sides(1), None, 6 * largest),
        SumPool("wider", ("sums",), (2, 2), (1, 1), NO_SIDES, None, 24 * largest),
        SumPool("mean", ("columns product",), (7, 9), (1, 1), NO_SIDES, None, 63 * largest),
        Reshape("flat mean", ("mean",), (4,)),
    ]
    names += ["all", "sums", "wider", "mean", "flat mean"]
    sites = [rescaled(f"{name} site", name, wide, 1, shift) for name in names]
    added = FixedRescale("sum", ("x", "all", "map product"), (ONE, ONE, ONE), ZERO, ONE * 8, wide)
    network = given_out([*factors, *operations, *sites, added], *(s.name for s in sites), "sum")
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_accumulators_are_added_up_over_windows(groups: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.integers(-3, 4, (8, 4 // groups, 3, 3))
    bound = largest_accumulator(weight, IMAGE.codes, "")
    codes = Codes(-(1 << 20), 1 << 20, 1.0)
    operations: list[Operation] = [
        Convolve("a", ("x",), weight, (1, 1), both_sides(1), (1, 1), groups, bound),
        SumPool("b", ("a",), (2, 3), (2, 1), ((1, 0), (0, 2)), None, 6 * bound),
        SumPool("c", ("b",), (2, 2), (2, 2), NO_SIDES, None, 24 * bound),
        SumPool("d", ("a",), (7, 9), (1, 1), NO_SIDES, None, 63 * bound),
        *(rescaled(f"{name} site", name, codes) for name in "bcd"),
    ]
    assert_computes_the_same(given_out(operations, "b site", "c site", "d site"), IMAGES, tmp_path)


@pytest.mark.parametrize("rescale", ["float", "fixed32", "fixed16", "double_shift"])
@pytest.mark.parametrize("slope", [np.array(0.1), np.array([0.5, -0.25, 2.0, 0.0])])
def test_what_is_below_zero_is_multiplied_by_a_slope(
    rescale: str, slope: np.ndarray, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    weight = rng.integers(-3, 4, (4, 4, 3, 3))
    bound = largest_accumulator(weight, IMAGE.codes, "")
    factors, bias = rng.uniform(0.01, 0.1, 4), rng.uniform(-3, 3, 4)
    site = Rescale("s", ("a",), (factors,), bias, NOTHING, Codes(-128, 127, 0.5, 1.3), slope)
    operations: list[Operation] = [
        IMAGE,
        Convolve("a", ("x",), weight, (1, 1), both_sides(1), (1, 1), 1, bound),
        site,
        Reshape("flat", ("s",), (252,)),
        Output("output", ("flat",), (np.array(1.0),), NOTHING, NOTHING),
    ]
    network = with_rescale(IntegerNetwork(operations), rescale)
    assert_computes_the_same(network, IMAGES, tmp_path)
    if rescale == "float":
        sums = compute(IntegerNetwork(operations), IMAGES)
        plain = compute(
            IntegerNetwork([*operations[:2], replace(site, slope=None), *operations[3:]]), IMAGES
        )
        assert not torch.equal(sums.outputs, plain.outputs)


def test_codes_are_copied_only_where_they_are_not_in_place_already(tmp_path: Path) -> None:
    narrow, wide = Codes(-8, 7, 1.0), Codes(-(1 << 15), (1 << 15) - 1, 1.0)
    operations: list[Operation] = [
        rescaled("n", "x", narrow, 1, 5),
        rescaled("m", "x", narrow, -1, 5),
        rescaled("w", "x", wide, -100),
        Slice("part", ("n",), ((1, 3, 1),)),
        Concatenate("same", ("n", "m")),
        Concatenate("twice", ("m", "m")),  # once it is in `same` already
        Concatenate("mixed", ("part", "w", "x")),  # other types, a view and the image
        Slice("half", ("mixed",), ((0, 10, 1), (0, 7, 2), (0, 9, 3))),
        behind("padded", "half", 2),
        behind("more", "part", 1),
        Slice("last", ("padded",), ((3, 12, 1),)),
        behind("on image", "x", 1),
        Pad("in front", ("m",), ((2, 1), (0, 0), (0, 0))),
        Reinterpret("again", ("w",), wide, 2.0, 0.0),
    ]
    results = ("n", "same", "twice", "mixed", "half", "padded", "more", "last", "on image")
    results += ("in front", "again")
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
        Convolve("a", ("x",), weights[0], (1, 1), both_sides(1), (1, 1), 1, bounds[0]),
        Convolve("b", ("x",), weights[1], (1, 1), NO_SIDES, (1, 1), 1, bounds[1]),
        behind("c", "x", 2),
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
        Slice("three", ("x",), ((0, 3, 1),)),
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
    half = 128  # two codes to a byte, and whole words
    assert c_program(network, names(network)).ram == image + 2 * half


def layer(weight: np.ndarray, largest: int) -> list[Operation]:
    return [Reshape("flat", ("x",), (252,)), Multiply("fc", ("flat",), weight, largest)]


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
            [MaxPool("pool", ("x",), (2, 1), (1, 1), both_sides((1, 0)), (8, 1))],
            "pool has windows without a tap inside the border.",
        ),
        (
            [rescaled("site", "x", IMAGE.codes, 1 << 56)],
            "site: a sum in fixed point may not fit into 64 bits.",
        ),
    ],
)
def test_what_no_c_is_written_for_is_reported(operations: list[Operation], told: str) -> None:
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


def test_a_tensor_that_is_concatenated_with_itself_is_there_twice(tmp_path: Path) -> None:
    codes = rescaled("codes", "x", Codes(0, 255, 1.0))
    joined = Concatenate("twice", ("codes", "codes"))
    assert_computes_the_same(given_out([codes, joined], "twice"), IMAGES, tmp_path)
