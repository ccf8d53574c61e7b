"""What a trial proposes is moved to the nearest assignment within the budgets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qatlab.mixed_precision import Choices, Cost, Found, Limit, Sum, Tensor, Trained, best
from qatlab.mixed_precision.found import DONE, FAILED, PRUNED
from qatlab.run import trials
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


def searched(*trained: Trained) -> Any:
    """A search that has trained these, of one width for all each."""
    widths = [dict.fromkeys(TENSORS, bits) for bits in (2, 3, 4, 8, 2, 3, 4, 8)]
    found = [Found(w, 0.0, {}, {}, trained=own) for w, own in zip(widths, trained, strict=False)]
    search = SimpleNamespace(choices=CHOICES)
    return SimpleNamespace(seed=1, search=search, record=SimpleNamespace(found=found))


def done(first: float, last: float) -> Trained:
    return Trained("", DONE, last, (first, last))


@pytest.mark.parametrize(("accuracy", "ended"), [(0.49, True), (0.5, False), (0.9, False)])
def test_a_trial_below_the_median_of_those_before_it_is_ended(accuracy: float, ended: bool) -> None:
    pytest.importorskip("optuna")
    before = [done(first, 0.95) for first in (0.1, 0.4, 0.5, 0.6, 0.7)]
    study = trials._study(searched(*before), 5, 0)
    assert trials._pruner(study)([accuracy]) is ended


def test_none_is_ended_before_five_are_known_and_failed_ones_do_not_count() -> None:
    pytest.importorskip("optuna")
    before = [*(done(0.9, 0.95) for _ in range(4)), Trained("", FAILED, reason="it broke")]
    assert not trials._pruner(trials._study(searched(*before), 5, 0))([0.1])
    study = trials._study(searched(*before, Trained("", PRUNED, 0.3, (0.3,))), 6, 0)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"]
