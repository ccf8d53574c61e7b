"""The solver against all assignments, counted one by one."""

from __future__ import annotations

import itertools
import random

import pytest

from qatlab.errors import ConfigError
from qatlab.mixed_precision import Choices, Cost, Limit, Sum, Tensor, best, smallest
from qatlab.mixed_precision.cost import Shared

WIDTHS = [2, 3, 4, 8]


def tensors(count: int) -> list[Tensor]:
    """Weights and sites in turn."""
    return [Tensor("weight" if i % 2 == 0 else "activation", f"t{i}") for i in range(count)]


def drawn(seed: int) -> tuple[Choices, dict, dict[str, Cost]]:
    """A problem of up to 6 tensors with 4 widths, and a cost of each kind."""
    draw = random.Random(seed)
    own = tensors(draw.randint(2, 6))
    choices = Choices({tensor: sorted(draw.sample(WIDTHS, draw.randint(1, 4))) for tensor in own})
    losses = {choice: draw.random() / choice[1] for choice in choices.all()}
    alone = {((t, b),): draw.randint(1, 50) * b for t, b in choices.all()}
    pairs = {
        ((one, b), (other, a)): float(draw.randint(1, 9) * a * b)
        for one, other in itertools.pairwise(own)
        for b in choices.widths[one]
        for a in choices.widths[other]
    }
    shared = [
        Shared(draw.randint(50, 400), frozenset(draw.sample(sorted([*alone, *pairs]), 2)))
        for _ in range(4)
    ]
    moments = [
        Sum(
            f"step{i}", draw.randint(0, 20), {c: v for c, v in alone.items() if draw.random() < 0.6}
        )
        for i in range(3)
    ]
    saved = {condition: -value for condition, value in list(pairs.items())[:3]}
    return (
        choices,
        losses,
        {
            "size": Cost("size", "bytes", [Sum("size", 10.0, alone)]),
            "bops": Cost("bops", "bit operations", [Sum("bops", 5.0, pairs)]),
            "flash": Cost("flash", "bytes", [Sum("flash", 100.0, {**alone, **pairs}, shared)]),
            "ram": Cost("ram", "bytes", moments),
            "in place": Cost("ram", "bytes", [Sum("ram", 300.0, {**alone, **saved})]),
        },
    )


def every(choices: Choices) -> list[dict[Tensor, int]]:
    return [
        dict(zip(choices.widths, bits, strict=True))
        for bits in itertools.product(*choices.widths.values())
    ]


@pytest.mark.parametrize("kind", ["size", "bops", "flash", "ram", "in place"])
@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_that_of_all_assignments(seed: int, kind: str) -> None:
    choices, losses, costs = drawn(seed)
    cost, assignments = costs[kind], every(choices)
    values = sorted(cost.of(own) for own in assignments)
    for share in (0, len(values) // 5, len(values) // 2, len(values) - 1):
        most = values[share]
        within = [own for own in assignments if cost.of(own) <= most]
        least = min(sum(losses[choice] for choice in own.items()) for own in within)
        found = best(choices, losses, [Limit(cost, most)])
        assert cost.of(found) <= most
        assert sum(losses[choice] for choice in found.items()) == pytest.approx(least, abs=1e-9)
    widths = smallest(choices, cost)
    assert widths is not None
    assert cost.of(widths) == pytest.approx(values[0])


@pytest.mark.parametrize("seed", range(6))
def test_two_budgets_at_once_and_tied_tensors(seed: int) -> None:
    drawn_choices, losses, _ = drawn(seed)
    one, other = list(drawn_choices.widths)[:2]
    tied = {**drawn_choices.widths, one: WIDTHS, other: [3, 4]}
    choices = Choices(tied, [(one, other)])
    losses = {choice: losses.get(choice, 1 / choice[1]) for choice in choices.all()}
    size = Cost("size", "bytes", [Sum("size", 0.0, {((t, b),): 3.0 * b for t, b in choices.all()})])
    mean = Cost("mean", "bits", [Sum("mean", 0.0, {((one, b),): 1.0 * b for b in WIDTHS})])
    limits = [Limit(size, 3.0 * 3 * len(tied) + 9), Limit(mean, 4)]
    within = [
        own
        for own in every(choices)
        if own[one] == own[other] and all(x.cost.of(own) <= x.most for x in limits)
    ]
    least = min((sum(losses[c] for c in own.items()) for own in within), default=None)
    if least is None:
        with pytest.raises(ConfigError, match="cannot be met"):
            best(choices, losses, limits)
        return
    found = best(choices, losses, limits)
    assert found[one] == found[other]
    assert sum(losses[c] for c in found.items()) == pytest.approx(least, abs=1e-9)


def test_a_budget_that_cannot_be_met_names_the_smallest_that_can() -> None:
    own = tensors(2)
    choices = Choices({tensor: [2, 8] for tensor in own})
    terms = {((tensor, bits),): 100.0 * bits for tensor, bits in choices.all()}
    terms |= {((own[1], bits),): 1000.0 * bits for bits in (2, 8)}
    size = Cost("size", "bytes", [Sum("size", 7.0, terms)])
    with pytest.raises(ConfigError) as caught:
        best(choices, dict.fromkeys(choices.all(), 0.0), [Limit(size, 2000)])
    assert str(caught.value) == (
        "budget.size=2,000 cannot be met: the smallest that can is 2,207 bytes, with the lowest "
        "widths that are allowed; t1 (activation) takes 2,000."
    )


def test_budgets_that_exclude_each_other_are_both_named() -> None:
    own = tensors(1)
    choices = Choices({own[0]: [2, 8]})
    rising = Cost("size", "bytes", [Sum("size", 0.0, {((own[0], b),): 10.0 * b for b in (2, 8)})])
    falling = Cost("bops", "", [Sum("bops", 0.0, {((own[0], b),): 100.0 / b for b in (2, 8)})])
    with pytest.raises(
        ConfigError, match=r"budget.bops=20 cannot be met together with budget.size"
    ):
        best(choices, dict.fromkeys(choices.all(), 0.0), [Limit(rising, 30), Limit(falling, 20)])


def test_tied_tensors_without_a_common_width_are_refused() -> None:
    one, other = tensors(2)
    with pytest.raises(ConfigError, match=r"t0 \(weight\): 2; t1 \(activation\): 4, 8"):
        Choices({one: [2], other: [4, 8]}, [(one, other)])
