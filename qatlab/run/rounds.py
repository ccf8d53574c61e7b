"""The smallest network that loses at most so much: ``qatlab search RUN budget.max_drop=0.2``.

Bisection over the budgets of one cost: for each the best widths are found and trained for a few
epochs, and what they then reach decides where to look next.
"""

from __future__ import annotations

from collections.abc import Mapping

from qatlab.errors import ConfigError
from qatlab.mixed_precision import Assignment, Choice, Found, Limit, best, smallest
from qatlab.mixed_precision.found import DONE
from qatlab.run.search import Search
from qatlab.run.trained_search import EPOCHS, Asked, TrainedSearch

ROUNDS = 5  # unless the user says otherwise: 31 budgets are told apart
ROUNDING = 1e-9  # of a difference of two accuracies, in points


def run(asked: Asked, max_drop: float) -> None:
    """Search, print what was found, and write it.

    Args:
        asked: what was asked for.
        max_drop: points of accuracy on the validation images that may be lost.

    Raises:
        QatlabError: for a run that cannot be searched, budgets that cannot be met, and if nothing
            that was trained loses as little.
    """
    cost, rounds = asked.settings.minimize or "size", asked.settings.rounds or ROUNDS
    searched = TrainedSearch(asked, cost, "round", rounds)
    accuracy = searched.record.accuracy
    assert accuracy is not None
    enough = accuracy - max_drop / 100
    searched.record.max_drop = max_drop
    searched.begin(f"{enough:.2%} are enough, and {cost} is made small")
    if not searched.record.points:
        budgets = asked.budgets
        searched.record.points = points(searched.search, cost, budgets, 2**rounds - 1)
        searched.record.save()

    def holds(found: Found) -> bool:
        return searched.drop(found) <= max_drop + ROUNDING

    def make(point: int) -> Found:
        limits = {**asked.budgets, cost: searched.record.points[point]}
        aims = wider_first(searched.search.sensitivity.losses)
        return searched.search.found(limits, exact=True, aims=aims, soft=cost)

    low, high, known = 0, len(searched.record.points), searched.record.found
    while low < high:
        middle = (low + high) // 2
        point = searched.record.points[middle]
        # Also those that were trained for another drop.
        at = next((i for i, own in enumerate(known) if own.limits[cost] == point), len(known))
        if at == len(known):
            searched.add(make(middle))
        low, high = (low, middle) if holds(searched.train(at)) else (middle + 1, high)
    held = [i for i, own in enumerate(known) if holds(own)]
    chosen = min(held, key=lambda i: known[i].costs[cost], default=None)
    searched.finish(chosen, lambda own: "holds" if holds(own) else "loses too much", enough)
    if chosen is None:
        raise ConfigError(_short_by(searched, max_drop))


def points(search: Search, cost: str, budgets: Mapping[str, float], count: int) -> list[float]:
    """Return budgets of a cost, ascending, that have different assignments.

    They lie between the smallest network and the widest that the other budgets allow, each by the
    same factor above the one before.

    Args:
        search: what is known of the run.
        cost: its name.
        budgets: of all costs; that of this one is an upper end.
        count: how many there are at most.
    """
    own, within = search.costs[cost], [Limit(search.costs[k], most) for k, most in budgets.items()]
    aims = wider_first(search.sensitivity.losses)
    least = smallest(search.choices, own, within)
    assert least is not None  # as the budgets can be met
    widest: Assignment = {tensor: max(bits) for tensor, bits in search.choices.widths.items()}
    if search.choices.tied or any(limit.cost.of(widest) > limit.most for limit in within):
        widest = best(search.choices, aims, within)
    low, high = own.of(least), own.of(widest)
    found: list[float] = []
    seen: list[Assignment] = []
    for i in range(count):
        most = high if i == count - 1 else low * (high / low) ** (i / max(count - 1, 1))
        widths = best(search.choices, aims, [*within, Limit(own, most)])
        if widths not in seen:
            seen.append(widths)
            found.append(most)
    return found


def wider_first(losses: Mapping[Choice, float]) -> dict[Choice, float]:
    """Return losses by which of two widths that lose the same the wider one is better.

    So the end of the front is the widest network, and not one that seemed as good on a few images.
    """
    little = 1e-6 * max(losses.values(), default=0.0) or 1.0
    widest = max((bits for _, bits in losses), default=0)
    return {
        (tensor, bits): own + little * (widest - bits) for (tensor, bits), own in losses.items()
    }


def _short_by(searched: TrainedSearch, max_drop: float) -> str:
    done = [own for own in searched.record.found if own.trained and own.trained.state == DONE]
    if not done:
        return "no training has ended; what was wrong stands above."
    best_one = min(done, key=searched.drop)
    lost = searched.drop(best_one)
    return (
        f"budget.max_drop={max_drop:g}: all widths that were trained lose more; the best, round "
        f"{searched.record.found.index(best_one) + 1} of {best_one.costs['mean_bits']:.2f} bits, "
        f"loses {lost:.2f} points, {lost - max_drop:.2f} too many; train longer ({EPOCHS}=), or "
        "allow more."
    )
