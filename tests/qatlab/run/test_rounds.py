"""Budgets among which the smallest network that holds is looked for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from qatlab.mixed_precision import Choices, Cost, Limit, Sensitivity, Sum, Tensor, best
from qatlab.run.rounds import points, wider_first

TENSORS = [Tensor("weight", name) for name in ("a", "b", "c")]
SIZES = {TENSORS[0]: 10, TENSORS[1]: 100, TENSORS[2]: 40}
CHOICES = Choices({tensor: [2, 4, 8] for tensor in TENSORS})
LOSSES = {(t, b): {2: 1.0, 4: 0.1, 8: 0.0}[b] for t, b in CHOICES.all()}
LOSSES[TENSORS[0], 4] = 0.0  # as good as 8, on a few images


def search(choices: Choices = CHOICES) -> Any:
    terms = {((t, b),): float(b * SIZES[t]) for t, b in choices.all()}
    other = {((t, b),): float(b) for t, b in choices.all()}
    costs = {
        "size": Cost("size", "bits", [Sum("size", 0.0, terms)]),
        "mean_bits": Cost("mean_bits", "", [Sum("mean_bits", 0.0, other)]),
    }
    return SimpleNamespace(choices=choices, costs=costs, sensitivity=Sensitivity(0.5, LOSSES, 8))


def assignments(found: list[float]) -> list[dict[Tensor, int]]:
    cost = search().costs["size"]
    return [best(CHOICES, wider_first(LOSSES), [Limit(cost, most)]) for most in found]


def test_budgets_go_from_the_smallest_to_the_widest_network_and_differ_in_what_they_allow() -> None:
    found = points(search(), "size", {}, 31)
    assert found[0] == 2 * 150
    assert found[-1] == 8 * 150
    assert found == sorted(found)
    own = assignments(found)
    assert all(one != other for one, other in pairwise(own))
    assert own[0] == dict.fromkeys(TENSORS, 2)
    assert own[-1] == dict.fromkeys(TENSORS, 8)  # also where fewer bits seem to be as good
    assert len(found) > 4


def test_other_budgets_are_an_upper_end() -> None:
    found = points(search(), "size", {"mean_bits": 14, "size": 900}, 31)
    cost = search().costs["mean_bits"]
    assert found[-1] <= 900
    limits = [Limit(cost, 14), Limit(search().costs["size"], found[-1])]
    assert sum(best(CHOICES, wider_first(LOSSES), limits).values()) <= 14


def test_there_are_no_more_budgets_than_rounds_can_tell_apart() -> None:
    assert points(search(), "size", {}, 1) == [8 * 150]
    assert len(points(search(), "size", {}, 3)) == 3


def test_of_widths_that_lose_the_same_the_wider_one_is_better() -> None:
    found = wider_first(LOSSES)
    assert found[TENSORS[0], 8] < found[TENSORS[0], 4]
    assert all(own == pytest.approx(LOSSES[choice], abs=1e-4) for choice, own in found.items())
    assert wider_first(dict.fromkeys(LOSSES, 0.0))[TENSORS[0], 2] > 0
