"""Random integer networks of few layers, of all widths, signs, geometries and endings."""

from __future__ import annotations

from itertools import count

import numpy as np
import torch
from torch import Tensor

from qatlab.deploy.integer import Codes, IntegerNetwork, compute
from qatlab.deploy.integer.operations import (
    Convolve,
    FixedOutput,
    FixedRescale,
    Input,
    MaxPool,
    Operation,
    Reshape,
)
from qatlab.deploy.integer.weights import largest_accumulator

ONE, ZERO = np.array([1]), np.array([0])
RANGES = [
    (0, 1),
    (0, 3),
    (0, 7),
    (0, 15),
    (0, 255),
    (-2, 1),
    (-4, 3),
    (-8, 7),
    (-16, 15),
    (-100, 27),
]


def site(
    name: str,
    source: str,
    codes: Codes,
    largest: int,
    channels: int,
    rng: np.random.Generator,
) -> Operation:
    """Return a site that brings sums of up to ``largest`` to its codes, with ends that clip."""
    shift = max(largest.bit_length() - codes.bits + 7, 7)
    multiplier = rng.integers(500, 1500, channels) * rng.choice([-1, 1], channels, p=[0.2, 0.8])
    offset = rng.integers(-1 << shift, 1 << shift, channels)
    return FixedRescale(name, (source,), (multiplier,), offset, np.full(channels, shift), codes)


def answered(image: Input, operations: list[Operation], result: str) -> IntegerNetwork:
    """Return a network whose outputs are the codes of a site."""
    shape = IntegerNetwork([image, *operations]).shapes[result]
    flat = Reshape("flat", (result,), (int(np.prod(shape)),))
    output = FixedOutput("output", ("flat",), (ONE,), ZERO, ZERO)
    return IntegerNetwork([image, *operations, flat, output])


def random_layers(seed: int) -> tuple[IntegerNetwork, Tensor]:
    """Return a network and three images: convolutions, some channel-wise, additions, poolings.

    Networks that answer the same to all images are left out.
    """
    for attempt in count():
        network, images = _random_layers(seed, attempt)
        if len(compute(network, images).outputs.unique()) > 1:
            return network, images
    raise AssertionError


def _random_layers(seed: int, attempt: int) -> tuple[IntegerNetwork, Tensor]:
    rng = np.random.default_rng([seed, attempt])
    height, width = rng.integers(3, 9, 2)
    channels = int(rng.integers(1, 9))
    image = Input("x", (), Codes(0, 255, 1.0), (channels, int(height), int(width)))
    operations: list[Operation] = []
    source, codes = "x", image.codes
    if rng.random() < 0.7:
        codes = _codes(rng)
        shift = np.full(channels, 8)
        copy = (np.full(channels, codes.high - codes.low),)
        offset = np.full(channels, codes.low * 256)
        operations.append(FixedRescale("codes", ("x",), copy, offset, shift, codes))
        source = "codes"
    for layer in range(int(rng.integers(1, 4))):
        shape = IntegerNetwork([image, *operations]).shapes[source]
        depthwise = rng.random() < 0.3
        n_out = shape[0] if depthwise else int(rng.integers(1, 11))
        taps = tuple(int(n) for n in rng.integers(1, 4 + depthwise, 2))
        sides = tuple(
            (max(int(rng.integers(0, t)), t - side), int(rng.integers(0, t)))
            for t, side in zip(taps, shape[1:], strict=True)
        )
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        bits, gap = int(rng.integers(1, 9)), int(rng.choice([1, 2]))
        depth = 1 if depthwise else shape[0]
        ranks = rng.integers(0, 1 << bits, (n_out, depth, *taps))
        ranks.flat[0], ranks.flat[-1] = 0, (1 << bits) - 1
        weight = ranks * gap - (1 << bits - 1)
        name, groups = f"conv{layer}", n_out if depthwise else 1
        largest = largest_accumulator(weight, codes, name)
        conv = Convolve(name, (source,), weight, stride, sides, (1, 1), groups, largest)
        own = _codes(rng)
        operations += [conv, site(f"site{layer}", name, own, largest, n_out, rng)]
        made, codes = f"site{layer}", own
        ending = rng.random()
        out = IntegerNetwork([image, *operations]).shapes[made]
        if ending < 0.35 and not depthwise:  # an addition to what a second layer makes
            other = _codes(rng)
            second = Convolve(f"by{layer}", (source,), weight[::-1].copy(), *_geometry(conv))
            operations += [
                second,
                site(f"by_site{layer}", second.name, other, largest, n_out, rng),
                _added(f"sum{layer}", (made, f"by_site{layer}"), (own, other), codes, n_out, rng),
            ]
            made = f"sum{layer}"
        elif ending < 0.7 and min(out[1:]) > 1:
            size = tuple(int(rng.integers(1, min(side, 3) + 1)) for side in out[1:])
            around = tuple((int(rng.integers(0, (s + 1) // 2)), 0) for s in size)
            step = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
            operations.append(MaxPool(f"pool{layer}", (made,), size, step, around, (1, 1)))
            made = f"pool{layer}"
        source = made
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, *image.shape), generator=generator)
    images[0] = 255
    return answered(image, operations, source), images


def random_shortcut(seed: int, bits: int) -> tuple[IntegerNetwork, Tensor]:
    """Return a network with two signed sites of some bits, ``narrow`` and ``made``, and images.

    The first, ``(8, 6, 5)``, is read by a convolution, a depthwise one and a pooling, whose codes
    are added up; the second, of the same size, is added to a shortcut, as is that sum.
    """
    rng = np.random.default_rng([seed, bits])
    image = Input("x", (), Codes(0, 255, 1.0), (8, 6, 5))
    sides, codes = ((1, 1), (1, 1)), Codes(0, 15, 1.0)
    signed = Codes(-(1 << bits - 1), (1 << bits - 1) - 1, 1.0)
    one = np.full(8, 1)
    rest = (one * (signed.low << 8), one * 8, signed)
    operations: list[Operation] = [
        FixedRescale("codes", ("x",), (one * 16,), one * 0, one * 8, codes),
        FixedRescale("narrow", ("x",), (one << bits,), *rest),
    ]
    for name, source, read, own, groups in (
        ("conv", "narrow", signed, codes, 1),
        ("channels", "narrow", signed, signed, 8),
        ("second", "conv_site", codes, signed, 1),
    ):
        weight = rng.integers(-8, 8, (8, 8 // groups, 3, 3))
        largest = largest_accumulator(weight, read, name)
        operations += [
            Convolve(name, (source,), weight, (1, 1), sides, (1, 1), groups, largest),
            site(f"{name}_site", name, own, largest, 8, rng),
        ]
    added = ("pool", "channels_site", "second_site")
    operations += [
        MaxPool("pool", ("narrow",), (3, 3), (1, 1), sides, (1, 1)),
        _added("shortcut", added, (signed,) * 3, signed, 8, rng),
        Convolve("last", ("conv_site",), weight[::-1].copy(), (1, 1), sides, (1, 1), 1, largest),
        site("made", "last", signed, largest, 8, rng),
        _added("sum", ("shortcut", "made"), (signed, signed), codes, 8, rng),
        FixedRescale("all", ("codes", "narrow", "sum"), (one, one, one), one * 0, one, codes),
    ]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, *image.shape), generator=generator)
    return answered(image, operations, "all"), images


def convolutions(bits: list[int], channels: list[int]) -> IntegerNetwork:
    """Return convolutions one behind the other.

    Args:
        bits: of the weights of each, which fill them.
        channels: of the image and of what each of them makes.
    """
    rng = np.random.default_rng([*bits, *channels])
    codes, sides = Codes(0, 15, 1.0), ((1, 1), (1, 1))
    image = Input("x", (), Codes(0, 255, 1.0), (channels[0], 3, 4))
    operations: list[Operation] = [
        FixedRescale("codes", ("x",), (ONE,), ZERO, ONE * 4, codes),
    ]
    for i, own in enumerate(bits):
        weight = rng.integers(-(1 << own - 1), 1 << own - 1, (channels[i + 1], channels[i], 3, 3))
        weight.flat[:2] = -(1 << own - 1), (1 << own - 1) - 1
        largest = largest_accumulator(weight, codes, f"conv{i}")
        source = operations[-1].name
        conv = Convolve(f"conv{i}", (source,), weight, (1, 1), sides, (1, 1), 1, largest)
        operations += [
            conv,
            site(f"site{i}", conv.name, codes, largest, channels[i + 1], rng),
        ]
    return answered(image, operations, operations[-1].name)


def _codes(rng: np.random.Generator) -> Codes:
    low, high = RANGES[rng.integers(len(RANGES))]
    return Codes(low, high, 1.0)


def _geometry(op: Convolve) -> tuple[object, ...]:
    return op.stride, op.padding, op.dilation, op.groups, op.largest


def _added(
    name: str,
    inputs: tuple[str, ...],
    read: tuple[Codes, ...],
    codes: Codes,
    channels: int,
    rng: np.random.Generator,
) -> Operation:
    largest = sum(own.largest for own in read) << 8
    shift = max(largest.bit_length() - codes.bits + 7, 7)
    multipliers = tuple(rng.integers(200, 400, channels) for _ in inputs)
    offset = rng.integers(-1 << shift, 1 << shift, channels)
    shifts = np.full(channels, max(shift - 7, 1))
    return FixedRescale(name, inputs, multipliers, offset, shifts, codes)
