from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import ChannelExtraction, ColorSpace
from qatlab.data.transforms.color_spaces import SPACES
from qatlab.errors import ConfigError

RNG = np.random.default_rng(0)
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3


def pixel(*levels: float) -> Tensor:
    dtype = torch.uint8 if all(isinstance(level, int) for level in levels) else torch.float32
    return torch.tensor(levels, dtype=dtype).view(1, -1, 1, 1)


def converted(to: Any, *levels: float, given: Any = "rgb") -> list[float]:
    result: list[float] = ColorSpace(to, given)(pixel(*levels), RNG).flatten().tolist()
    return result


# From OpenCV's documented formulas; H is in degrees / 2, L, a, b and u, v fill 0..255.
@pytest.mark.parametrize(
    ("to", "given", "expected"),
    [
        ("hsv", RED, [0, 255, 255]),
        ("hsv", GREEN, [60, 255, 255]),
        ("hsv", BLUE, [120, 255, 255]),
        ("hsv", (255, 0, 255), [150, 255, 255]),
        ("hsv", (90, 90, 90), [0, 0, 90]),
        ("hsv", (200, 100, 50), [10, 191, 200]),  # 60 * 50/150 / 2; 255 * 150/200 = 191.25
        ("hls", RED, [0, 128, 255]),  # 127.5, to even
        ("hls", GREEN, [60, 128, 255]),
        ("hls", (0, 0, 100), [120, 50, 255]),
        ("hls", WHITE, [0, 255, 0]),
        ("ycrcb", RED, [76, 255, 85]),  # Cr = 179 * 0.713 + 128 = 255.6, cut
        ("ycrcb", WHITE, [255, 128, 128]),
        ("ycrcb", BLUE, [29, 107, 255]),
        ("cielab", WHITE, [255, 128, 128]),
        ("cielab", BLACK, [0, 128, 128]),
        ("cielab", RED, [136, 208, 195]),  # L* 53.24, a* 80.09, b* 67.20
        ("cielab", BLUE, [82, 207, 20]),  # L* 32.30, a* 79.19, b* -107.86
        ("cieluv", WHITE, [255, 97, 136]),  # u* = v* = 0: 134 * 255/354, 140 * 255/262
        ("cieluv", RED, [136, 223, 173]),  # u* 175.01, v* 37.75
        ("cieluv", BLACK, [0, 97, 136]),
        ("bgr", (1, 2, 3), [3, 2, 1]),
        ("rgb", (1, 2, 3), [1, 2, 3]),
    ],
)
def test_bytes_are_converted_with_opencvs_conventions(
    to: str, given: tuple[int, ...], expected: list[int]
) -> None:
    assert converted(to, *given) == expected
    assert ColorSpace(to)(pixel(*given), RNG).dtype == torch.uint8  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to", "given", "expected"),
    [
        ("hsv", (1.0, 0.0, 0.5), [330, 1, 1]),
        ("hsv", (0.25, 0.5, 0.25), [120, 0.5, 0.5]),
        ("hls", (0.0, 0.0, 0.5), [240, 0.25, 1]),
        ("ycrcb", (1.0, 0.0, 0.0), [0.299, 0.701 * 0.713 + 0.5, -0.299 * 0.564 + 0.5]),
        ("cielab", (1.0, 0.0, 0.0), [53.24, 80.09, 67.20]),
        ("cieluv", (1.0, 0.0, 0.0), [53.24, 175.01, 37.75]),
        ("bgr", (0.1, 0.2, 0.3), [0.3, 0.2, 0.1]),
    ],
)
def test_floats_have_their_own_ranges(
    to: str, given: tuple[float, ...], expected: list[float]
) -> None:
    # Lightness and colour of sRGB red are published with two digits.
    assert converted(to, *given) == pytest.approx(expected, abs=0.02, rel=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_floats_come_back_from_every_space(space: Any) -> None:
    rgb = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    there = ColorSpace(space)(rgb, RNG)
    back = ColorSpace("rgb", given=space)(there, RNG)
    assert torch.allclose(back, rgb, atol=1e-3)  # OpenCV's coefficients have three digits or more


@pytest.mark.parametrize("space", SPACES)
def test_bytes_come_back_from_every_space_within_the_grid(space: Any) -> None:
    rgb = torch.randint(0, 256, (2, 3, 20, 20), generator=torch.Generator().manual_seed(0)).byte()
    back = ColorSpace("rgb", given=space)(ColorSpace(space)(rgb, RNG), RNG)
    apart = (back.int() - rgb.int()).abs().float().mean()
    assert apart <= (0 if space in ("rgb", "bgr") else 1.5)  # grey levels, lost by rounding


def test_blue_first_images_are_converted_alike() -> None:
    images = torch.randint(0, 256, (1, 3, 9, 9)).byte()
    for to in ("hsv", "ycrcb", "rgb"):
        expected = ColorSpace(to)(images, RNG)  # type: ignore[arg-type]
        assert torch.equal(ColorSpace(to, "bgr")(images.flip(1), RNG), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("to", ["rgb", "bgr"])
def test_grey_images_become_three_equal_channels(to: Any) -> None:
    transform = ColorSpace(to, given="bgr")
    assert transform.channels(1) == 3
    assert transform(pixel(7), RNG).flatten().tolist() == [7, 7, 7]


def test_other_spaces_refuse_grey_images() -> None:
    with pytest.raises(ConfigError, match=r"converts rgb to hsv, .* 3 channels, not of 1"):
        ColorSpace("hsv").channels(1)
    with pytest.raises(ConfigError, match="not of 4"):
        ColorSpace("bgr").channels(4)
    with pytest.raises(ConfigError, match=r"to=hvs is wrong\. Did you mean 'hsv'\?"):
        ColorSpace("hvs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("red", 200),
        ("green", 100),
        ("blue", 50),
        ("gray", 124),  # 59.8 + 58.7 + 5.7 = 124.2
        ("hue", 10),
        ("saturation", 191),
        ("value", 200),
        ("y", 124),
        ("cr", 182),  # 76 * 0.713 + 128 = 182.2
        ("cb", 86),  # -74 * 0.564 + 128 = 86.3
    ],
)
def test_a_single_channel_is_extracted(channel: Any, expected: int) -> None:
    transform = ChannelExtraction(channel)
    assert transform.channels(3) == 1
    assert transform(pixel(200, 100, 50), RNG).flatten().tolist() == [expected]
    assert ChannelExtraction(channel, "bgr")(pixel(50, 100, 200), RNG).item() == expected


def test_grey_has_fifteen_bits_of_which_blue_gets_the_rest() -> None:
    # 0.299 and 0.587 are rounded to 9798 and 19235 of 32768, which leaves 3735: less than 0.114.
    assert ChannelExtraction("gray")(pixel(0, 0, 250), RNG).item() == 28  # 28.495 and not 28.5


def test_grey_of_floats_is_not_rounded() -> None:
    grey = ChannelExtraction("gray")(pixel(1.0, 0.5, 0.25), RNG)
    assert grey.item() == pytest.approx(0.299 + 0.587 / 2 + 0.114 / 4)


def test_grey_images_have_a_grey_channel_only() -> None:
    assert ChannelExtraction("gray").channels(1) == 1
    assert torch.equal(ChannelExtraction("gray")(pixel(7), RNG), pixel(7))
    with pytest.raises(ConfigError, match="takes images of 3 channels, not of 1"):
        ChannelExtraction("red").channels(1)
