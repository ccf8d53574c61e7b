"""Convolutions that programs compute in blocks, of all geometries, widths and signs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import SANITIZED, answers, assert_computes_the_same, build, names
from random_layers import answered as layers_answered
from random_layers import convolutions, random_layers, random_shortcut
from random_layers import site as layers_site

from qatlab.deploy.c import blocks, c_program
from qatlab.deploy.c.kernels import Kernel
from qatlab.deploy.integer import Codes, IntegerNetwork, compute
from qatlab.deploy.integer.operations import (
    Concatenate,
    Convolve,
    FixedOutput,
    FixedRescale,
    Input,
    MaxPool,
    Multiply,
    Operation,
    Reshape,
    Slice,
)
from qatlab.deploy.integer.weights import largest_accumulator

IMAGE = Input("x", (), Codes(0, 255, 1.0), (5, 6, 9))
IMAGES = torch.randint(0, 256, (3, 5, 6, 9), generator=torch.Generator().manual_seed(3))
ONE, ZERO = np.array([1]), np.array([0])


def site(name: str, source: str, codes: Codes, largest: int, rng: np.random.Generator) -> Operation:
    """Return a site that brings sums of up to ``largest`` to its codes, with ends that clip."""
    channels = 7
    shift = max(largest.bit_length() - codes.bits + 7, 7)
    multiplier = rng.integers(500, 1500, channels) * rng.choice([-1, 1], channels, p=[0.2, 0.8])
    offset = rng.integers(-1 << shift, 1 << shift, channels)
    return FixedRescale(name, (source,), (multiplier,), offset, np.full(channels, shift), codes)


def answered(operations: list[Operation], result: str) -> IntegerNetwork:
    shape = IntegerNetwork([IMAGE, *operations]).shapes[result]
    flat = Reshape("flat", (result,), (int(np.prod(shape)),))
    output = FixedOutput("output", ("flat",), (ONE,), ZERO, ZERO)
    return IntegerNetwork([IMAGE, *operations, flat, output])


RANGES = [(0, 3), (0, 15), (0, 255), (-8, 7), (-128, 127)]


@pytest.mark.parametrize(
    ("bits", "low", "high"),
    [
        pytest.param(bits, *ends, marks=() if (i + j) % 2 else pytest.mark.slow)
        for i, bits in enumerate([1, 2, 4, 8])
        for j, ends in enumerate(RANGES)
    ],
)
def test_blocks_compute_what_convolutions_do(
    bits: int, low: int, high: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng([bits, high, -low])
    stride = [(1, 1), (2, 1), (1, 2), (3, 3)][rng.integers(4)]
    codes = Codes(low, high, 1.0)
    copy = FixedRescale("codes", ("x",), (ONE * (codes.bits and high - low),), ZERO, ONE * 8, codes)
    taps = [(1, 1), (3, 3), (2, 5), (5, 2)][rng.integers(4)]
    padding = tuple((int(rng.integers(0, t)), int(rng.integers(0, t))) for t in taps)
    gap = 2 if bits < 8 and rng.random() < 0.5 else 1
    weight = rng.integers(0, 1 << bits, (7, 5, *taps)) * gap - (1 << bits - 1)
    weight.flat[:2] = -(1 << bits - 1), ((1 << bits) - 1) * gap - (1 << bits - 1)
    largest = largest_accumulator(weight, codes, "conv")
    conv = Convolve("conv", ("codes",), weight, stride, padding, (1, 1), 1, largest)
    network = answered(
        [copy, conv, site("site", "conv", Codes(-100, 27, 1.0), largest, rng)], "site"
    )
    assert "window_site(" in c_program(network, names(network)).source
    assert_computes_the_same(network, IMAGES, tmp_path)


def test_results_may_lie_between_the_channels_of_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    codes = Codes(0, 15, 1.0)
    copy = FixedRescale("codes", ("x",), (ONE,), ZERO, ONE * 4, codes)
    operations: list[Operation] = [copy]
    for name in "ab":
        weight = rng.integers(-8, 8, (7, 5, 3, 3))
        largest = largest_accumulator(weight, codes, name)
        sides = ((1, 1), (1, 1))
        operations += [
            Convolve(name, ("codes",), weight, (1, 1), sides, (1, 1), 1, largest),
            site(f"{name}_site", name, codes, largest, rng),
        ]
    operations.append(Concatenate("joined", ("a_site", "b_site")))
    weight = rng.integers(-8, 8, (7, 14, 2, 2))
    largest = largest_accumulator(weight, codes, "c")
    operations += [
        Convolve("c", ("joined",), weight, (2, 2), ((0, 0), (0, 0)), (1, 1), 1, largest),
        site("c_site", "c", codes, largest, rng),
    ]
    network = answered(operations, "c_site")
    assert c_program(network, names(network)).source.count("static int32_t window_") == 3
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize(
    ("bits", "high", "kernel"),
    [
        (4, 15, r"twofold_4x4_2_by_4\("),  # in parts of 16 taps
        (4, 255, r"single_4x\d_2\("),
        (2, 3, r"twofold_2x\d_2_by_4_whole\("),
        (2, 63, r"twofold_2x\d_2\("),
        (1, 127, r"twofold_1x\d_2\("),
        (2, 255, r"single_2x\d_2\("),  # sums of the second channel take too many bits
        (1, 255, r"single_1x\d_2\("),
        (1, 1, r"twofold_1x\d_2_by_4_whole\("),
    ],
)
def test_sums_of_two_channels_come_apart(bits: int, high: int, kernel: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    image, codes = Input("x", (), Codes(0, 255, 1.0), (40, 3, 4)), Codes(0, high, 1.0)
    shift = ONE * (8 - codes.bits)
    copy = FixedRescale("codes", ("x",), (ONE,), ZERO, shift, codes)
    lowest = -(1 << bits - 1)
    # Sums as large as they become, of both signs.
    weight = np.where(rng.random((7, 40, 3, 3)) < 0.9, -lowest - 1, lowest)
    weight[3:] = -weight[3:] - 1
    weight.flat[0] += 1 if bits > 1 and weight.flat[0] < 0 else -(bits > 1)  # of all widths
    largest = largest_accumulator(weight, copy.codes, "conv")
    sides = ((1, 1), (1, 1))
    conv = Convolve("conv", ("codes",), weight, (1, 1), sides, (1, 1), 1, largest)
    operations = [image, copy, conv, site("site", "conv", Codes(0, 255, 1.0), largest, rng)]
    flat = Reshape("flat", ("site",), (7 * 3 * 4,))
    output = FixedOutput("output", ("flat",), (ONE,), ZERO, ZERO)
    network = IntegerNetwork([*operations, flat, output])
    assert re.search(kernel, c_program(network, names(network)).source)
    images = torch.full((2, 40, 3, 4), 255)
    images[1] = torch.randint(0, 256, images.shape[1:], generator=torch.Generator().manual_seed(1))
    assert_computes_the_same(network, images, tmp_path)


@pytest.mark.parametrize("taps", [1, 3])
def test_a_part_of_the_channels_has_others_between_its_places(taps: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    codes = Codes(0, 15, 1.0)
    weight = rng.integers(-8, 8, (7, 3, taps, taps))
    largest = largest_accumulator(weight, codes, "conv")
    sides = ((0, 0), (0, 0))
    operations: list[Operation] = [
        FixedRescale("codes", ("x",), (ONE,), ZERO, ONE * 4, codes),
        Slice("part", ("codes",), ((1, 4, 1),)),
        Convolve("conv", ("part",), weight, (1, 1), sides, (1, 1), 1, largest),
        site("site", "conv", codes, largest, rng),
    ]
    network = answered(operations, "site")
    assert ("window_site(" in c_program(network, names(network)).source) == (taps == 1)
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize(("bits", "taps"), [(8, (3, 3)), (4, (2, 4)), (2, (2, 2))])
def test_the_image_is_read_channel_by_channel(
    bits: int, taps: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    weight = rng.integers(-(1 << bits - 1), 1 << bits - 1, (7, 5, *taps))
    largest = largest_accumulator(weight, IMAGE.codes, "conv")
    sides = ((1, 0), (0, 1))
    conv = Convolve("conv", ("x",), weight, (2, 1), sides, (1, 1), 1, largest)
    network = answered([conv, site("site", "conv", Codes(0, 15, 1.0), largest, rng)], "site")
    assert "plane < 5" in c_program(network, names(network)).source
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fully_connected_layers_are_convolutions_of_one_place(bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    codes = Codes(0, 15, 1.0)
    copy = FixedRescale("codes", ("x",), (ONE,), ZERO, ONE * 4, codes)
    weight = rng.integers(-(1 << bits - 1), 1 << bits - 1, (7, 5 * 6 * 9))
    largest = largest_accumulator(weight, codes, "fc")
    flat = Reshape("rows", ("codes",), (5 * 6 * 9,))
    layer = Multiply("fc", ("rows",), weight, largest)
    network = answered([copy, flat, layer, site("s", "fc", Codes(0, 15, 1.0), largest, rng)], "s")
    program = c_program(network, names(network))
    assert "window_s(" in program.source
    assert {row.name: row.multiply_accumulates for row in program.layers}["fc"] == weight.size
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 200))]
)
def test_random_layers_answer_as_integers_do(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = random_layers(seed)
    if seed % 3:  # planes of 5, 6 and 7 bits, which small layers would not lie in
        monkeypatch.setattr(blocks, "ADDED", -(1 << 20))
    plain = ["-DQATLAB_PLAIN"] * (seed % 2)  # without vectors
    assert_computes_the_same(network, images, tmp_path, [*SANITIZED, *plain])


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 40))]
)
def test_codes_with_a_sign_lie_two_to_a_byte(seed: int, bits: int, tmp_path: Path) -> None:
    network, images = random_shortcut(seed, bits)
    program = c_program(network, names(network))
    sizes = {part.name: part.size for part in program.memory}
    signed = ("narrow", "channels_site", "second_site", "pool", "shortcut")
    codes = 8 * 6 * 5
    size = codes // 2 if bits <= 4 else codes
    assert [sizes[name] for name in signed] == [size] * 5
    # All of them are there at one moment, with two tensors that have no sign.
    assert program.needed["shortcut"] == 5 * size + 2 * codes // 2
    # The sum takes the place of what it adds, also of what has a sign, if its codes are as narrow.
    assert program.in_place == ({"sum": "shortcut"} if bits <= 4 else {})
    plain = ["-DQATLAB_PLAIN"] * (seed % 2)  # without vectors
    assert_computes_the_same(network, images, tmp_path, [*SANITIZED, *plain])


def test_a_sum_lies_where_nobody_reads_any_more(tmp_path: Path) -> None:
    """An addition takes the place of what it adds, unless that is read later or is larger."""
    rng = np.random.default_rng(11)
    codes, sides = Codes(0, 15, 1.0), ((1, 1), (1, 1))
    image = Input("x", (), Codes(0, 255, 1.0), (6, 5, 5))
    weight = rng.integers(-8, 8, (6, 6, 3, 3))
    largest = largest_accumulator(weight, codes, "conv")

    def network(kept: bool, wide: bool) -> IntegerNetwork:
        given = Codes(0, 255, 1.0) if wide else codes
        shift = ONE * (0 if wide else 4)
        own: list[Operation] = [
            FixedRescale("given", ("x",), (ONE,), ZERO, shift, given),
            FixedRescale("codes", ("x",), (ONE,), ZERO, ONE * 4, codes),
            Convolve("conv", ("codes",), weight, (1, 1), sides, (1, 1), 1, largest),
            layers_site("site", "conv", codes, largest, 6, rng),
            FixedRescale("sum", ("given", "site"), (ONE, ONE * 3), ZERO, ONE * 2, codes),
        ]
        last = "given" if kept else "sum"
        own.append(FixedRescale("last", ("sum", last), (ONE, ONE * 5), ZERO, ONE * 3, codes))
        return layers_answered(image, own, "last")

    images = torch.randint(0, 256, (3, 6, 5, 5), generator=torch.Generator().manual_seed(1))
    sizes = {}
    for kept in (False, True):
        for wide in (False, True):
            made = network(kept, wide)
            folder = tmp_path / f"{kept}{wide}"
            folder.mkdir()
            assert_computes_the_same(made, images, folder)
            parts = {part.name for part in c_program(made, names(made)).memory}
            sizes[kept, wide] = "sum" in parts
    assert sizes == {
        (False, False): False,
        (True, False): True,
        (False, True): True,
        (True, True): True,
    }


@pytest.mark.parametrize("above", [0, 1])
def test_a_pooling_keeps_the_rows_that_it_reads(above: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    codes = Codes(0, 15, 1.0)
    weight = rng.integers(-8, 8, (6, 5, 1, 1))
    largest = largest_accumulator(weight, IMAGE.codes, "conv")
    operations: list[Operation] = [
        Convolve("conv", ("x",), weight, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, largest),
        layers_site("site", "conv", codes, largest, 6, rng),
        MaxPool("pool", ("site",), (2, 3), (2, 3), ((above, 0), (0, 0)), (1, 1)),
    ]
    made = layers_answered(IMAGE, operations, "pool")
    assert "row_site(in, rows" in c_program(made, names(made)).source
    assert_computes_the_same(made, IMAGES, tmp_path)


def test_images_may_be_given_by_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    weight = rng.integers(-128, 128, (6, 5, 3, 2))
    largest = largest_accumulator(weight, IMAGE.codes, "conv")
    conv = Convolve("conv", ("x",), weight, (1, 1), ((1, 1), (0, 1)), (1, 1), 1, largest)
    site = layers_site("site", "conv", Codes(0, 15, 1.0), largest, 6, rng)
    made = layers_answered(IMAGE, [conv, site], "site")
    program = c_program(made, names(made), layout="hwc")
    assert "#define QATLAB_IMAGE_BYTES 270 /* 6 x 9 x 5 bytes: rows, columns, channels */" in (
        program.source
    )
    found = answers(build(program.source, tmp_path), IMAGES.permute(0, 2, 3, 1).contiguous())[1]
    assert np.array_equal(found, compute(made, IMAGES).outputs.numpy())


def test_vectors_read_behind_what_they_need() -> None:
    assert Kernel(8, False, 7, 2, 1).reads_beyond == 8
    assert Kernel(8, False, 8, 2, 1).reads_beyond == 0


@pytest.mark.parametrize(
    ("bits", "channels", "stored"),
    [
        ([7], [8, 8], [8]),  # 576 weights: three inner loops take more than a bit of each
        ([7], [64, 64], [7]),  # 36,864 weights, an eighth of which is 4.6 kB
        ([5], [8, 8], [8]),
        ([5], [32, 32], [5]),
        ([7, 8], [64, 64, 64], [7, 8]),
        ([5, 4], [12] * 3, [8, 4]),
        ([5, 4, 1], [12] * 4, [5, 4, 1]),  # whose inner loops are there anyway
        ([4, 1, 5], [12] * 4, [4, 1, 5]),  # in any order
        ([3], [8, 8], [3]),
    ],
)
def test_weights_lie_in_bytes_where_that_takes_less_flash(
    bits: list[int], channels: list[int], stored: list[int], tmp_path: Path
) -> None:
    network = convolutions(bits, channels)
    program = c_program(network, names(network))
    planes = [re.findall(rf" weights\w*_conv{i}\[", program.source) for i in range(len(bits))]
    # A name for each plane where it is declared; those of 5, 6 and 7 bits are two, two and three.
    assert [len(set(own)) for own in planes] == [own.bit_count() for own in stored]
    images = torch.randint(0, 256, (2, *network.input.shape))
    assert_computes_the_same(network, images, tmp_path)
