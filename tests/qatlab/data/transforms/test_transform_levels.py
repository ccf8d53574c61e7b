from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import Equalize, Normalize, Threshold, Transform
from qatlab.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def grey(*levels: int) -> Tensor:
    return torch.tensor([[[levels]]], dtype=torch.uint8)


def made(transform: Transform, images: Tensor) -> list[float]:
    result: list[float] = transform(images, RNG).flatten().tolist()
    return result


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 0.5, 1]),
        ({"norm_min": -1, "norm_max": 3}, [-1, 1, 3]),
        ({"norm": "l1", "norm_value": 9}, [0, 3, 6]),
        ({"norm": "l2"}, [0, 1 / 5**0.5, 2 / 5**0.5]),
        ({"norm": "linf"}, [0, 0.5, 1]),
    ],
)
def test_normalize_scales_to_a_range_or_a_norm(
    options: dict[str, Any], expected: list[float]
) -> None:
    assert made(Normalize(**options), grey(0, 10, 20)) == pytest.approx(expected)


def test_normalize_treats_channels_together_unless_told_otherwise() -> None:
    images = torch.tensor([[[[0.0, 1.0]], [[0.0, 4.0]]], [[[2.0, 4.0]], [[3.0, 3.0]]]])
    assert made(Normalize(), images) == [0, 0.25, 0, 1, 0, 1, 0.5, 0.5]
    assert made(Normalize(per_channel=True), images) == [0, 1, 0, 1, 0, 1, 0, 0]
    assert made(Normalize("linf"), images) == [0, 0.25, 0, 1, 0.5, 1, 0.75, 0.75]


def test_a_black_image_stays_black_whatever_the_norm() -> None:
    for norm in ("l1", "l2", "linf"):
        assert made(Normalize(norm), grey(0, 0)) == [0, 0]  # type: ignore[arg-type]
    assert made(Normalize(norm_min=2.0), grey(7, 7)) == [2, 2]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("binary", [0, 0, 200, 200]),
        ("binary_inverted", [200, 200, 0, 0]),
        ("truncate", [10, 90, 90, 90]),
        ("to_zero", [0, 0, 91, 240]),
        ("to_zero_inverted", [10, 90, 0, 0]),
    ],
)
def test_threshold_compares_bytes_as_opencv_does(operation: Any, expected: list[int]) -> None:
    transform = Threshold(90.7, operation=operation, max_value=199.6)  # 90 and 200
    assert made(transform, grey(10, 90, 91, 240)) == expected
    assert transform(grey(1), RNG).dtype == torch.uint8


def test_threshold_takes_floats_as_they_are() -> None:
    images = torch.tensor([[[[-1.0, 0.25, 0.5]]]])
    assert made(Threshold(0.25), images) == [0, 0, 1]
    assert made(Threshold(0.25, operation="truncate"), images) == [-1, 0.25, 0.25]


def test_otsu_separates_two_groups_of_levels_in_each_image() -> None:
    images = torch.tensor([[[[10, 12, 200, 202]]], [[[10, 12, 14, 100]]]]).byte()
    transform = Threshold(otsu=True, max_value=255)
    assert made(transform, images) == [0, 0, 255, 255, 0, 0, 0, 255]
    with pytest.raises(ConfigError, match="takes images of one channel, not of 3"):
        transform.channels(3)
    with pytest.raises(DataError, match="takes 8-bit images"):
        transform(images.float(), RNG)
    assert Threshold(1.0).channels(3) == 3


def test_equalize_maps_a_level_to_the_share_of_darker_pixels() -> None:
    # Of the 2 pixels above the lowest level, 1 is at most 1: round(127.5), to even.
    assert made(Equalize(), grey(0, 0, 1, 255)) == [0, 0, 128, 255]
    assert made(Equalize(), grey(7, 9, 8, 10)) == [0, 170, 85, 255]


def test_equalize_leaves_an_image_of_one_level_alone() -> None:
    images = torch.cat([grey(7, 7), grey(3, 4)])
    assert made(Equalize(), images) == [7, 7, 0, 255]


def test_clahe_of_a_single_cell_without_a_limit_is_the_cumulated_histogram() -> None:
    transform = Equalize("clahe", clip_limit=0, grid_size=1)
    assert made(transform, grey(0, 0, 1, 255)) == [128, 128, 191, 255]  # 127.5, 191.25


def test_clahe_shares_out_what_is_above_the_limit() -> None:
    # 512 pixels, all of level 9. The mean is 2, and so is the limit: 510 pixels are shared out, 1
    # to each level and 1 more to each of the first 254. Up to level 9: 10 * 2 + 2 = 22 of 512.
    images = torch.full((1, 1, 16, 32), 9, dtype=torch.uint8)
    result = Equalize("clahe", clip_limit=1, grid_size=1)(images, RNG)
    assert result.unique().tolist() == [round(22 * 255 / 512)]


def test_clahe_spreads_an_uneven_rest_over_all_levels() -> None:
    # 320 pixels of level 200. The limit is 1, so 319 are shared out: 1 to each level, and 63 more
    # to every 4th. Up to level 200: 201 + 51, and the one that was kept.
    images = torch.full((1, 1, 16, 20), 200, dtype=torch.uint8)
    result = Equalize("clahe", clip_limit=1, grid_size=1)(images, RNG)
    assert result.unique().tolist() == [round(253 * 255 / 320)]


def test_clahe_interpolates_between_cells() -> None:
    # Left black, right white, without a limit: black becomes 255 in the left cells and 0 in the
    # right ones, white becomes 255 in both.
    images = grey(*[0] * 4, *[255] * 4).expand(1, 1, 2, 8).contiguous()
    result = Equalize("clahe", clip_limit=0, grid_size=2)(images, RNG)[0, 0, 0].tolist()
    # Pixels lie at (x / 4 - 1/2): the first two before the middle of the first cell.
    assert result == [255, 255, 255, 191, 255, 255, 255, 255]


def test_equalize_takes_grey_bytes_only() -> None:
    with pytest.raises(ConfigError, match=r"of 3; put a ChannelExtraction with channel: gray"):
        Equalize().channels(3)
    with pytest.raises(DataError, match="8-bit images"):
        Equalize()(torch.zeros(1, 1, 2, 2), RNG)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Normalize("l3"), r"Normalize\.norm=l3 is wrong"),
        (
            lambda: Normalize(norm_value=True),
            r"Normalize\.norm_value=true is wrong\. Accepted: a number",
        ),
        (lambda: Threshold(1, operation="binry"), r"Did you mean 'binary'\?"),
        (lambda: Equalize("clae"), r"Equalize\.method=clae is wrong\. Did you mean 'clahe'\?"),
        (lambda: Equalize(clip_limit=-1), r"clip_limit=-1 is wrong.* of at least 0"),
        (lambda: Equalize(grid_size=0), r"grid_size=0 is wrong"),
    ],
)
def test_wrong_arguments_are_reported(make: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make()
