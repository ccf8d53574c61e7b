from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import resize_bilinear
from qatlab.data.transforms import Flip, PadCrop, RandomResizeCrop, Rescale, Reshape, Transform
from qatlab.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def row(*levels: int) -> Tensor:
    return torch.tensor([[[levels]]], dtype=torch.uint8)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).byte()


def size_of(transform: Transform, height: int, width: int) -> tuple[int, int]:
    result = transform(torch.zeros(1, 1, height, width, dtype=torch.uint8), rng())
    return result.shape[2], result.shape[3]


def test_rescale_resizes_bytes_as_opencv_does() -> None:
    images = noise(3, 2, 9, 7)
    result = Rescale(width=12, height=10)(images, rng())
    assert result.dtype == torch.uint8
    assert torch.equal(result, resize_bilinear(images, (10, 12)))


def test_rescale_weights_floats_without_rounding() -> None:
    result = Rescale(width=4, height=1)(torch.tensor([[[[0.0, 1.0]]]]), rng())
    assert result.flatten().tolist() == [0, 0.25, 0.75, 1]  # positions -1/4, 1/4, 3/4, 5/4
    column = Rescale(width=1, height=3)(torch.tensor([[[[0.0], [3.0]]]]), rng())
    assert column.flatten().tolist() == pytest.approx([0, 1.5, 3])


@pytest.mark.parametrize(
    ("to_fit", "given", "expected"),
    [
        (True, (40, 60), (20, 30)),  # min(30/60, 40/40) = 1/2
        (False, (40, 60), (40, 60)),  # max = 1
        (True, (30, 100), (9, 30)),
        (False, (37, 20), (55, 30)),  # 37 * 1.5 = 55.5 is cut
        (True, (1000, 10), (40, 1)),  # 0.4 pixels wide would be none
    ],
)
def test_rescale_keeps_the_aspect_ratio_and_cuts_to_whole_pixels(
    to_fit: bool, given: tuple[int, int], expected: tuple[int, int]
) -> None:
    transform = Rescale(30, 40, keep_aspect_ratio=True, resize_to_fit=to_fit)
    assert size_of(transform, *given) == expected


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("reflect_101", [3, 2, 1, 2, 3, 4, 3]),
        ("reflect", [2, 1, 1, 2, 3, 4, 4]),
        ("replicate", [1, 1, 1, 2, 3, 4, 4]),
        ("wrap", [3, 4, 1, 2, 3, 4, 1]),
        ("constant", [9, 9, 1, 2, 3, 4, 9]),
    ],
)
def test_pad_crop_fills_borders_as_opencv_does(border: Any, expected: list[int]) -> None:
    # Of 7 - 4 pixels, one is in front and two behind.
    given = row(1, 2, 3, 4).flip(3)
    result = PadCrop(width=7, height=1, border=border, border_value=9)(given, rng())
    assert result.flatten().tolist() == expected[::-1]


def test_pad_crop_reflects_as_often_as_it_takes() -> None:
    result = PadCrop(width=12, height=3)(row(1, 2, 3), rng())
    assert result[0, 0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2]] * 3


def test_pad_crop_pads_a_single_pixel() -> None:
    assert PadCrop(width=3, height=2)(row(5), rng()).flatten().tolist() == [5] * 6


def test_pad_crop_cuts_out_the_middle() -> None:
    images = noise(2, 3, 28, 29)
    assert torch.equal(PadCrop(24, 24)(images, rng()), images[:, :, 2:26, 2:26])


def test_pad_crop_pads_one_side_and_cuts_the_other() -> None:
    assert PadCrop(width=2, height=3)(row(1, 2, 3, 4), rng())[0, 0].tolist() == [[2, 3]] * 3


def test_additive_pad_crop_changes_the_size_by_a_number_of_pixels() -> None:
    assert size_of(PadCrop(4, -2, additive=True), 10, 20) == (8, 24)
    with pytest.raises(ConfigError, match="nothing is left of an image of 2x5 pixels"):
        PadCrop(0, -2, additive=True)(torch.zeros(1, 1, 2, 5), rng())


def test_a_border_may_have_a_value_for_each_channel() -> None:
    transform = PadCrop(3, 1, border="constant", border_value=[1, 2, 300.0])
    result = transform(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), rng())
    assert result[0, :, 0].tolist() == [[1, 0, 1], [2, 0, 2], [255, 0, 255]]
    with pytest.raises(ConfigError, match=r"PadCrop\.border_value has 3 numbers .* 1 channels"):
        transform.channels(1)


@pytest.mark.parametrize(
    ("options", "axes"),
    [({"horizontal": True}, [3]), ({"vertical": True}, [2]), ({}, [])],
)
def test_flip_mirrors_all_images(options: dict[str, bool], axes: list[int]) -> None:
    images, transform = noise(2, 3, 4, 5), Flip(**options)
    assert not transform.random
    assert torch.equal(transform(images, rng()), images.flip(axes))


@pytest.mark.parametrize(("option", "axis"), [("random_horizontal", 3), ("random_vertical", 2)])
def test_flip_mirrors_about_every_second_image(option: str, axis: int) -> None:
    images = noise(1, 1, 4, 5).repeat(1000, 1, 1, 1)
    transform = Flip(**{option: True})
    assert transform.random
    result = transform(images, rng())
    mirrored = (result == images.flip(axis)).all(dim=(1, 2, 3))
    kept = (result == images).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 400 < mirrored.sum() < 600  # 6 standard deviations of a fair coin
    assert torch.equal(result, transform(images, rng()))
    assert not torch.equal(result, transform(images, rng(1)))


def test_random_resize_crop_of_the_whole_image_is_a_resize() -> None:
    images = noise(2, 3, 20, 20)
    assert torch.equal(
        RandomResizeCrop(9, 8)(images, rng()), Rescale(width=9, height=8)(images, rng())
    )


def test_random_resize_crop_draws_area_and_shape_in_their_ranges() -> None:
    transform = RandomResizeCrop(32, 32, scale=(0.1, 0.5), ratio=(0.5, 2.0))
    draws = rng()
    parts = np.array([transform._part(300, 400, draws) for _ in range(2000)])
    top, left, height, width = parts.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    area, ratio = height * width / (300 * 400), width / height
    assert area.min() == pytest.approx(0.1, abs=0.01)
    assert area.max() == pytest.approx(0.5, abs=0.01)
    assert ratio.min() == pytest.approx(0.5, abs=0.02)
    assert ratio.max() == pytest.approx(2.0, abs=0.05)
    # Wide parts are as frequent as tall ones; 5 standard deviations of a fair coin, and some for
    # those drawn again because they did not fit.
    assert 0.4 < (ratio > 1).mean() < 0.6


def test_random_resize_crop_takes_the_middle_when_nothing_fits() -> None:
    transform = RandomResizeCrop(8, 8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert transform._part(10, 40, rng()) == (0, 15, 10, 10)
    assert transform._part(40, 11, rng()) == (14, 0, 11, 11)


def test_random_resize_crop_resizes_exactly_the_part() -> None:
    images = torch.arange(40.0).view(1, 1, 1, 40).expand(1, 1, 40, 40).contiguous()
    transform = RandomResizeCrop(5, 5, scale=(0.25, 0.25))
    top, left, height, width = transform._part(40, 40, rng(3))
    assert (height, width) == (20, 20)
    result = transform(images, rng(3))
    # Pixel i of the result lies at 4 (i + 1/2) - 1/2 of the part.
    assert result[0, 0, 0].tolist() == [left + 1.5 + 4 * i for i in range(5)]
    assert 0 <= top <= 20


def test_reshape_reads_row_by_row_all_channels_of_a_pixel_together() -> None:
    image = torch.tensor([[[[1, 2, 3]], [[10, 20, 30]]]])  # pixels (1, 10), (2, 20), (3, 30)
    one = Reshape(rows=2, n_channels=1)
    assert one.channels(2) == 1
    assert one(image, rng()).tolist() == [[[[1, 10, 2], [20, 3, 30]]]]
    assert Reshape(rows=3)(image, rng()).tolist() == [[[[1], [2], [3]], [[10], [20], [30]]]]
    assert Reshape(rows=1, columns=2, n_channels=3)(image, rng())[0, :, 0].tolist() == [
        [1, 20],
        [10, 3],
        [2, 30],
    ]
    with pytest.raises(ConfigError, match="cannot make 4 rows of some columns and 2 channels"):
        Reshape(rows=4)(image, rng())
    with pytest.raises(ConfigError, match="3 rows of 2 columns"):
        Reshape(rows=3, columns=2)(image, rng())


@pytest.mark.parametrize("transform", [Rescale, PadCrop, RandomResizeCrop])
def test_no_image_is_made_that_fills_the_memory(transform: type[Transform]) -> None:
    with pytest.raises(ConfigError, match=r"width=70000 is wrong\. Accepted: .* at most 65,536"):
        transform(width=70_000, height=3)
