from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from qatlab.data.splits import Shares, counts
from qatlab.errors import ConfigError


@pytest.mark.parametrize(
    ("n_images", "shares", "expected"),
    [
        (60_000, (0.8, 0.2, 0.0), (48_000, 12_000, 0)),
        (5, (0.5, 0.5, 0.0), (3, 2, 0)),  # 2.5 up, 2.5 down
        (7, (0.5, 0.25, 0.25), (4, 2, 1)),  # 3.5 up; of 3, 1.5 up
        (10, (0.6, 0.2, 0.2), (6, 2, 2)),
        (11, (0.6, 0.2, 0.2), (7, 2, 2)),  # 6.6; of 4.4, 2
        (3, (0.5, 0.0, 0.5), (2, 0, 1)),
        (10, (0.5, 0.2, 0.0), (5, 2, 0)),  # the rest is unused
        (5, (0.2, 0.3, 0.2), (1, 1, 1)),  # 2.5 for both down to 2, of which 1.2
        (10, (1.0, 0.0, 0.0), (10, 0, 0)),
        (0, (0.5, 0.25, 0.25), (0, 0, 0)),
    ],
)
def test_shares_are_rounded_as_n2d2_does(
    n_images: int, shares: tuple[float, float, float], expected: tuple[int, int, int]
) -> None:
    assert tuple(counts(n_images, *shares)) == expected


def test_shares_that_add_up_to_one_leave_no_image_out() -> None:
    for n_images in range(200):
        for validation in (0.1, 0.15, 0.2, 1 / 3, 0.5):
            assert sum(counts(n_images, 1 - validation, validation, 0.0)) == n_images


LABELS = np.array([0] * 10 + [1] * 6 + [2] * 8)


def divided(split: str = "in_order", seed: int = 0, **options: Any) -> dict[str, list[int]]:
    parts = Shares(**options).divide(LABELS, split, seed)
    assert list(parts) == ["training", "validation", "test"]
    return {part: index.tolist() for part, index in parts.items()}


def per_label(index: list[int]) -> list[int]:
    counted: list[int] = np.bincount(LABELS[index], minlength=3).tolist()
    return counted


def test_in_order_training_comes_first_and_the_test_set_last() -> None:
    parts = divided(training=0.5, validation=0.25, per_label=False)
    assert parts["training"] == list(range(12))
    assert parts["validation"] == list(range(12, 18))
    assert parts["test"] == list(range(18, 24))


def test_each_class_is_divided_for_itself() -> None:
    parts = divided(training=0.5, validation=0.25, equal=False)
    assert per_label(parts["training"]) == [5, 3, 4]
    assert per_label(parts["validation"]) == [3, 2, 2]  # of 5 2.5 up, of 3 1.5 up, of 4 2
    assert per_label(parts["test"]) == [2, 1, 2]
    assert parts["training"][:5] == [0, 1, 2, 3, 4]


def test_equal_classes_have_as_many_images_as_the_smallest_and_test_on_the_surplus() -> None:
    parts = divided(training=0.5, validation=0.25)
    assert per_label(parts["training"]) == [3, 3, 3]
    assert per_label(parts["validation"]) == [2, 2, 2]
    assert per_label(parts["test"]) == [5, 1, 3]
    assert sorted(chain(*parts.values())) == list(range(24))


def test_the_surplus_of_equal_classes_is_no_unused_share() -> None:
    parts = divided(training=0.5, test=0.0)
    assert per_label(parts["training"]) == [3, 3, 3]
    assert per_label(parts["test"]) == [4, 0, 2]  # what is beyond the smallest class


def test_numbers_above_one_are_images() -> None:
    parts = divided(training=4, validation=1.0 / 6, equal=False)
    assert per_label(parts["training"]) == [4, 4, 4]
    assert per_label(parts["validation"]) == [2, 1, 1]
    assert per_label(parts["test"]) == [4, 1, 3]
    parts = divided(training=10, validation=3, test=2, per_label=False)
    assert [len(index) for index in parts.values()] == [10, 3, 2]
    with pytest.raises(ConfigError, match="want 7 images, but there are only 6 of a class"):
        divided(training=7)
    with pytest.raises(ConfigError, match="want 25 images, but there are only 24"):
        divided(training=20, test=5, per_label=False)


def test_training_may_have_all_that_the_others_leave() -> None:
    parts = divided(training=None, validation=0.25, test=0.25, equal=False)
    assert [per_label(parts[part]) for part in parts] == [[5, 3, 4], [3, 2, 2], [2, 1, 2]]
    parts = divided(training=None, validation=2, equal=False)
    assert [per_label(parts[part]) for part in parts] == [[8, 4, 6], [2, 2, 2], [0, 0, 0]]


def test_a_random_division_depends_on_its_seed_only() -> None:
    options = {"training": 0.5, "validation": 0.25}
    first = divided("random", 1, **options)
    assert first == divided("random", 1, **options)
    assert first != divided("random", 2, **options)
    assert first["training"] != divided(**options)["training"]
    assert sorted(chain(*first.values())) == list(range(24))
    assert per_label(first["training"]) == [3, 3, 3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"training": -1},
            r"data\.source\.training=-1 is wrong\. Accepted: a number of at least 0",
        ),
        ({"training": "all"}, r"data\.source\.training=all is wrong"),
        ({"training": 0.5, "test": -0.5}, r"data\.source\.test=-0\.5 is wrong"),
        (
            {"training": 0.8, "validation": 0.3},
            r"shares training=0\.8, validation=0\.3 together exceed",
        ),
        (
            {"training": 0.8, "validation": 0.1, "test": 0.2},
            r"validation=0\.1, test=0\.2 together exceed 1",
        ),
    ],
)
def test_impossible_shares_are_reported(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Shares(**options)
