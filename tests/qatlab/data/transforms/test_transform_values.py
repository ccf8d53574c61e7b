from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import RangeAffine
from qatlab.errors import ConfigError

LEVELS = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
RNG = np.random.default_rng(0)


def values(transform: RangeAffine, images: Tensor = LEVELS) -> list[float]:
    result: list[float] = transform(images, RNG).flatten().tolist()
    return result


def test_both_operations_are_made_in_float32() -> None:
    transform = RangeAffine("minus", 103.94, "multiplies", 0.017)
    x = np.arange(256, dtype=np.float32)
    assert values(transform) == ((x - np.float32(103.94)) * np.float32(0.017)).tolist()
    assert transform(LEVELS, RNG).dtype == torch.float32


def test_a_division_is_a_product_with_the_float32_nearest_to_the_reciprocal() -> None:
    x = np.arange(256, dtype=np.float32)
    assert values(RangeAffine("divides", 255)) == (x * np.float32(1 / 255)).tolist()
    assert values(RangeAffine("divides", 255)) != (x / np.float32(255)).tolist()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("plus", 1), ("multiplies", 2), 22),
        (("multiplies", 2), ("plus", 1), 21),
        (("minus", 4), ("divides", 2), 3),
        (("divides", 2), ("minus", 4), 1),
        (("multiplies", 3), ("plus", None), 30),
    ],
)
def test_operations_come_in_order(
    first: tuple[Any, float], second: tuple[Any, float | None], expected: float
) -> None:
    assert values(RangeAffine(*first, *second), LEVELS[10:11]) == [expected]


def test_there_may_be_a_value_for_each_channel() -> None:
    images = torch.tensor([10, 20, 30]).byte().view(1, 3, 1, 1)
    transform = RangeAffine("minus", [1, 2, 3], "divides", [2, 2, 0.5])
    assert values(transform, images) == [4.5, 9, 54]
    assert transform.channels(3) == 3
    with pytest.raises(ConfigError, match=r"first_value has 3 numbers for images of 1 channels"):
        transform.channels(1)
    with pytest.raises(ConfigError, match=r"second_value has 2 numbers for images of 1 channels"):
        RangeAffine("minus", 1, "divides", [1, 2]).channels(1)


def test_truncation_cuts_towards_zero() -> None:
    transform = RangeAffine("multiplies", 0.5, truncate=True)
    assert values(transform, torch.tensor([[[[-3.0, 3.0, 4.0]]]])) == [-1, 1, 2]


def test_floats_are_not_changed_in_place() -> None:
    images = torch.ones(1, 1, 2, 2)
    RangeAffine("plus", 1)(images, RNG)
    assert torch.equal(images, torch.ones(1, 1, 2, 2))


def test_it_is_neither_random_nor_costly() -> None:
    transform = RangeAffine("plus", 1)
    assert transform.per_pixel
    assert not transform.random


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("devides", 2), r"first_operator=devides is wrong\. Did you mean 'divides'\?"),
        (("plus", 1, "time", 2), r"second_operator=time is wrong"),
        (("divides", [1, 0]), r"first_value=0 is wrong"),
        (("plus", []), r"first_value=\[\] is wrong\. Accepted: a number"),
        (("plus", [1, float("nan")]), r"first_value=nan is wrong\. Accepted: a number"),
        (("plus", 1, "plus", "2"), r"second_value='2' is wrong\. Accepted: a number"),
    ],
)
def test_wrong_arguments_are_reported(arguments: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.transforms: RangeAffine\.{expected}"):
        RangeAffine(*arguments)
