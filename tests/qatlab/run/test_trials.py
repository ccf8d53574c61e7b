"""What a trial proposes is moved to the nearest assignment within the budgets."""

from __future__ import annotations

from qatlab.mixed_precision import Choices, Cost, Limit, Sum, Tensor, best
from qatlab.run.trials import distances

TENSORS = [Tensor("weight", name) for name in ("a", "b", "c")]
CHOICES = Choices({tensor: [2, 3, 4, 8] for tensor in TENSORS})
LOSSES = {(t, b): (8 - b) * {"a": 3.0, "b": 2.0, "c": 1.0}[t.name] for t, b in CHOICES.all()}
COST = Cost("bits", "", [Sum("bits", 0.0, {((t, b),): float(b) for t, b in CHOICES.all()})])


def moved(wanted: tuple[int, int, int], most: float) -> tuple[int, ...]:
    aims = distances(CHOICES, dict(zip(TENSORS, wanted, strict=True)), LOSSES)
    found = best(CHOICES, aims, [Limit(COST, most)])
    return tuple(found[tensor] for tensor in TENSORS)


def test_what_is_within_the_budget_is_kept() -> None:
    assert moved((2, 8, 3), 13) == (2, 8, 3)
    assert moved((2, 2, 2), 24) == (2, 2, 2)  # though wider ones would lose less


def test_what_is_not_is_moved_as_little_as_can_be_and_where_it_loses_least() -> None:
    assert moved((8, 8, 8), 20) == (8, 8, 4)  # one step is enough, and c loses least by it
    assert moved((4, 4, 4), 11) == (4, 4, 3)
    assert moved((4, 4, 4), 6) == (2, 2, 2)
