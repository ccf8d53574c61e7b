from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import GradientFilter, Morphology, Transform, WallisFilter
from qatlab.errors import ConfigError

RNG = np.random.default_rng(0)


def grey(*rows: list[int]) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.uint8)


def made(transform: Transform, images: Tensor) -> list[float]:
    result: list[float] = transform(images, RNG).flatten().tolist()
    return result


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("erode", [5, 1, 1, 1, 1, 1, 9]),
        ("dilate", [5, 5, 5, 2, 9, 9, 9]),
        ("opening", [5, 5, 1, 1, 1, 9, 9]),  # highest of the lowest
        ("closing", [5, 5, 2, 2, 2, 9, 9]),
        ("gradient", [0, 4, 4, 1, 8, 8, 0]),
        ("top_hat", [0, 0, 0, 1, 0, 0, 0]),
        ("black_hat", [0, 0, 1, 0, 1, 0, 0]),
    ],
)
def test_morphology_of_a_row(operation: Any, expected: list[int]) -> None:
    assert made(Morphology(operation, 3), grey([5, 5, 1, 2, 1, 9, 9])) == expected


def test_morphology_looks_along_both_axes_and_not_beyond_the_image() -> None:
    dot = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    dot[..., 2, 2] = 3
    grown = Morphology("dilate", 3)(dot, RNG)
    assert grown.dtype == torch.uint8
    assert grown.sum() == 9 * 3
    full = torch.full((1, 1, 4, 4), 7, dtype=torch.uint8)
    assert torch.equal(Morphology("erode", 3)(full, RNG), full)


def test_a_neighbourhood_of_even_size_reaches_further_to_the_front() -> None:
    assert made(Morphology("dilate", 2), grey([0, 0, 5, 0, 0])) == [0, 0, 5, 5, 0]


def test_morphology_of_floats_may_be_negative() -> None:
    assert made(Morphology("erode", 3), torch.tensor([[[[-1.5, 0.0, 2.0, 2.0]]]])) == [
        *(-1.5, -1.5, 0, 2),
    ]


def test_wallis_filter_takes_mean_and_deviation_off_the_surroundings() -> None:
    # Around the middle pixel: 0, 3, 6 in each row: mean 3, variance 6.
    images = grey([0, 3, 6], [0, 3, 6], [0, 3, 6])
    result = WallisFilter(3, mean=10, std_dev=2)(images, RNG)
    assert result[0, 0, 1, 1] == 10
    # Around its right neighbour the border mirrors: 3, 6, 3: mean 4, variance 2.
    assert result[0, 0, 1, 2] == pytest.approx(10 + 2 * (6 - 4) / 2**0.5)


def test_wallis_filter_of_a_flat_image_is_the_mean() -> None:
    flat = torch.full((1, 2, 5, 5), 200, dtype=torch.uint8)
    assert made(WallisFilter(4, mean=0.5), flat) == [0.5] * 50


def test_gradient_filter_is_half_the_sum_of_both_slopes() -> None:
    ramp = grey(*[[0, 10, 20, 30]] * 3)
    # Sobel weighs 1 + 2 + 1 rows, over a distance of two pixels: 8 * 10, halved.
    assert GradientFilter()(ramp, RNG)[0, 0, 1].tolist() == [0, 40, 40, 0]
    assert GradientFilter()(ramp.transpose(2, 3), RNG)[0, 0, :, 1].tolist() == [0, 40, 40, 0]
    assert GradientFilter(scale=0.5, delta=4.0)(ramp, RNG)[0, 0, 1].tolist() == [4, 24, 24, 4]


def test_gradient_filter_cuts_bytes_but_not_floats() -> None:
    step = grey(*[[0, 0, 255, 255]] * 3)
    assert GradientFilter()(step, RNG)[0, 0, 1].tolist() == [0, 128, 128, 0]  # 255 / 2, to even
    assert GradientFilter()(step.float(), RNG)[0, 0, 1].tolist() == [0, 510, 510, 0]


def test_wrong_arguments_are_reported() -> None:
    with pytest.raises(ConfigError, match="takes images of one channel, not of 3"):
        GradientFilter().channels(3)
    with pytest.raises(ConfigError, match=r"operation=eroded is wrong\. Did you mean 'erode'\?"):
        Morphology("eroded", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"WallisFilter\.size=0 is wrong"):
        WallisFilter(0)
