"""Rectangles that are erased, against algorithm 1 of Zhong et al. 2017."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import ImageData, Synthetic
from qatlab.data.batches import BatchLoader
from qatlab.data.transforms import RandomErasing
from qatlab.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def boxes_of(images: Tensor, before: float) -> np.ndarray[Any, Any]:
    """Top, left, height and width of what is not ``before``, for each image."""
    found = []
    for image in images:
        changed = image[0] != before
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        height, width = len(rows), len(columns)
        assert changed.sum() == height * width  # a rectangle, and all of it
        found.append([int(rows[0]), int(columns[0]), height, width] if height else [0] * 4)
    return np.array(found)


def zeros(n: int, channels: int = 1, height: int = 40, width: int = 60) -> Tensor:
    return torch.zeros(n, channels, height, width, dtype=torch.uint8)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_so_many_images_lose_a_rectangle(probability: float) -> None:
    images = zeros(1000)
    result = RandomErasing(probability, value=9)(images, rng())
    assert not images.any()
    erased = (result != 0).flatten(1).any(1).sum().item()
    assert abs(erased - 1000 * probability) <= 6 * np.sqrt(1000 * probability * (1 - probability))


def test_rectangles_have_areas_and_shapes_within_the_limits() -> None:
    height, width, area, ratio = 300, 400, (0.05, 0.3), (0.5, 3.0)
    images = zeros(250, height=height, width=width)
    _, _, h, w = boxes_of(RandomErasing(1.0, area, ratio, value=1)(images, rng()), 0).T
    shares = h * w / (height * width)
    rounding = 0.52 * (1 / h + 1 / w)  # of two sides to whole pixels, relative
    assert (shares > area[0] * (1 - rounding)).all()
    assert (shares < area[1] * (1 + rounding)).all()
    assert (h / w > ratio[0] * (1 - rounding)).all()
    assert (h / w < ratio[1] * (1 + rounding)).all()
    assert shares.min() < 0.06
    assert (h / w).min() < 0.55
    assert (h / w).max() > 2.5


def test_what_is_drawn_is_erased_to_the_pixel() -> None:
    erasing = RandomErasing(1.0, value=1)
    drawn = erasing._rectangles(50, 40, 60, rng())[1]
    assert (boxes_of(erasing(zeros(50), rng()), 0) == drawn).all()


def by_algorithm_1(
    n: int, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray[Any, Any]:
    """Draw rectangles one by one, as the paper does."""
    draws, found = rng(1), []
    while len(found) < n:
        s, r = height * width * draws.uniform(*area), draws.uniform(*ratio)
        h, w = round(np.sqrt(s * r)), round(np.sqrt(s / r))
        x, y = draws.integers(width), draws.integers(height)
        if x + w <= width and y + h <= height:
            found.append([y, x, h, w])
    return np.array(found)


def test_rectangles_are_distributed_as_by_the_algorithm_of_the_paper() -> None:
    n, settings = 8000, ((0.02, 0.4), (0.3, 1 / 0.3))
    ours = RandomErasing(1.0, *settings)._rectangles(n, 40, 60, rng())[1]
    theirs = by_algorithm_1(n, 40, 60, *settings)
    assert (ours[:, 2:] > 0).all()  # all have found one that fits
    for column in range(4):  # two-sample Kolmogorov-Smirnov, far beyond the 0.1 % level
        values = np.arange(60)
        cumulative = [(x[:, column, None] <= values).mean(0) for x in (ours, theirs)]
        assert np.abs(cumulative[0] - cumulative[1]).max() < 2.2 * np.sqrt(2 / n)


def test_bytes_are_replaced_by_any_byte_for_each_channel_and_pixel() -> None:
    result = RandomErasing(1.0, (0.2, 0.4))(zeros(100, channels=3), rng())
    assert result.dtype == torch.uint8
    erased = result[:, 0] != 0
    values = result.permute(1, 0, 2, 3)[:, erased].double()
    assert values.mean().item() == pytest.approx(127.5, abs=1)
    assert values.std().item() == pytest.approx(256 / np.sqrt(12), abs=1)
    assert abs(torch.corrcoef(values)[0, 1]) < 0.02  # channels have nothing to do with each other


def test_floats_are_replaced_by_values_in_the_range_of_their_image() -> None:
    images = torch.linspace(0, 1, 600).reshape(1, 1, 20, 30) * torch.tensor([2.0, 8.0])[
        :, None, None, None
    ] - torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1)
    result = RandomErasing(1.0, (0.3, 0.4))(images, rng())
    for image, before, (low, high) in zip(result, images, [(-1, 1), (-4, 4)], strict=True):
        values = image[image != before]
        assert len(values) > 100
        assert low <= values.min() < 0.8 * low
        assert 0.8 * high < values.max() <= high


@pytest.mark.parametrize(
    ("value", "expected"), [(7, [7, 7, 7]), ([1, 2.6, 300], [1, 3, 255]), (0, [0, 0, 0])]
)
def test_a_given_value_fills_each_channel(value: Any, expected: list[int]) -> None:
    images = torch.full((1, 3, 20, 20), 99, dtype=torch.uint8)
    result = RandomErasing(1.0, value=value)(images, rng())[0]
    erased = result[0] != 99
    assert erased.any()
    assert result[:, erased].T.unique(dim=0).tolist() == [expected]
    assert (result[:, ~erased] == 99).all()
    floats = RandomErasing(1.0, value=-0.5)(images.float(), rng())
    assert set(floats.unique().tolist()) == {-0.5, 99.0}


def test_images_that_measure_a_network_are_left_alone_unless_it_is_said() -> None:
    assert RandomErasing().apply_to == ("training",)
    assert RandomErasing(apply_to=None).apply_to == ("training", "validation", "test")


def test_an_image_in_which_nothing_fits_stays_as_it_is() -> None:
    images = zeros(3, height=4, width=100)
    assert not RandomErasing(1.0, area=(0.5, 0.5), ratio=(3, 3), value=1)(images, rng()).any()


def test_the_generator_decides() -> None:
    images = torch.randint(0, 256, (20, 2, 9, 7), dtype=torch.uint8)
    erase = RandomErasing(0.5)
    assert erase.random
    assert torch.equal(erase(images, rng(1)), erase(images, rng(1)))
    assert not torch.equal(erase(images, rng(1)), erase(images, rng(2)))


def test_each_epoch_erases_something_else_and_can_be_repeated() -> None:
    images = torch.randint(0, 256, (20, 1, 9, 7), dtype=torch.uint8)
    loader = BatchLoader(images, torch.arange(20), 8, transforms=[RandomErasing(1.0)])

    def epoch(number: int) -> Tensor:
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def in_memory(random_erasing: float, transforms: dict[str, Any] | None = None) -> ImageData:
    source = Synthetic(24, 4, num_classes=2, channels=3, size=(16, 16), noise=9.0, seed=1)
    settings = {"random_erasing": random_erasing, "transforms": transforms}
    data = ImageData(source, (16, 16), 8, 8, 8, 0, 0, 0, False, **settings)
    data.setup("fit")
    return data


def test_of_images_in_memory_only_those_to_train_on_lose_rectangles() -> None:
    whole, erased = in_memory(0.0), in_memory(1.0)
    for (x, labels), (y, other) in zip(
        whole.train_dataloader(), erased.train_dataloader(), strict=True
    ):
        assert torch.equal(labels, other)  # the same images in the same order
        changed = (x != y).any(1)
        assert changed.flatten(1).any(1).all()
        assert changed.float().mean() < 0.4
    assert torch.equal(
        next(iter(whole.val_dataloader()))[0], next(iter(erased.val_dataloader()))[0]
    )


def test_images_in_memory_refuse_what_is_no_probability_and_what_transforms_would_do() -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.random_erasing=1\.5 is wrong\. Accepted: a number of at"
    ):
        in_memory(1.5)
    told = (
        r"^data\.random_erasing cannot be combined with data\.transforms; .* or RandomErasing there"
    )
    with pytest.raises(ConfigError, match=told):
        in_memory(0.5, transforms={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"probability": 1.5},
            r"probability=1\.5 is wrong\. Accepted: a number of at least 0 and at mo",
        ),
        (
            {"area": [0, 0.4]},
            r"area=\[0\.0, 0\.4\] is wrong\. Accepted: .* two numbers above 0 and at most 1",
        ),
        (
            {"ratio": [2, 1]},
            r"ratio=\[2\.0, 1\.0\] is wrong\. Accepted: \[lowest, highest\], two numbers above 0",
        ),
        ({"value": "rand"}, r"value=rand is wrong\. Accepted: random, a number, one for each"),
        ({"value": [1, "x"]}, r"value=x is wrong\. Accepted: a number"),
    ],
)
def test_a_mistake_is_reported_by_its_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.transforms: RandomErasing\.{message}"):
        RandomErasing(**options)


def test_a_value_for_each_channel_needs_as_many_channels() -> None:
    erase = RandomErasing(value=[1, 2, 3])
    assert erase.channels(3) == 3
    with pytest.raises(ConfigError, match=r"RandomErasing\.value has 3 numbers .* 1 channels"):
        erase.channels(1)
    assert RandomErasing().channels(1) == 1
