"""The exact optimum: which widths lose least within some budgets, by mixed-integer programming.

The solver is HiGHS, through ``scipy.optimize.milp``. A variable for each choice is 0 or 1; one for
two choices that are made together follows from theirs (its sums over either side are theirs, which
is the tight formulation of a product), and one for what is paid for once is at least that of each
user.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qatlab.errors import ConfigError
from qatlab.mixed_precision.choices import Choice, Choices, Tensor
from qatlab.mixed_precision.cost import Condition, Cost

GAP = 1e-9  # relative, between what is found and what is proved to be the best
SECONDS = 60.0  # that one problem may take


@dataclass(frozen=True)
class Limit:
    """A budget: a cost, and the most that it may be."""

    cost: Cost
    most: float


def best(
    choices: Choices, losses: Mapping[Choice, float], limits: Sequence[Limit]
) -> dict[Tensor, int]:
    """Return the widths whose losses sum up to the least within all limits.

    Raises:
        ConfigError: if no widths are within them: with the smallest cost that can be, and what
            takes most of it.
    """
    asked = list(limits)
    while True:
        problem = _Problem(choices)
        for limit in asked:
            problem.limit(limit)
        found = problem.solved(losses)
        if found is None:
            raise ConfigError(_why(choices, limits))
        # The solver takes a limit for met that is exceeded by a millionth.
        beyond = [own.cost.of(found) - own.most for own in limits]
        if max(beyond, default=0) <= 0:
            return found
        asked = [
            replace(own, most=own.most - 2 * max(excess, 0))
            for own, excess in zip(asked, beyond, strict=True)
        ]


def smallest(
    choices: Choices, cost: Cost, limits: Sequence[Limit] = ()
) -> dict[Tensor, int] | None:
    """Return the widths of the least cost within some limits; None if none are within them."""
    problem = _Problem(choices)
    for limit in limits:
        problem.limit(limit)
    return problem.solved({}, cost)


def _why(choices: Choices, limits: Sequence[Limit]) -> str:
    """Return why no widths are within the limits."""
    within: list[Limit] = []
    for limit in limits:
        widths = smallest(choices, limit.cost, within)
        assert widths is not None  # the limits before can be met
        least = limit.cost.of(widths)
        if least > limit.most:
            name, unit = limit.cost.name, limit.cost.unit
            beside = " and ".join(f"budget.{own.cost.name}={_text(own.most)}" for own in within)
            return (
                f"budget.{name}={_text(limit.most)} cannot be met"
                f"{f' together with {beside}' if beside else ''}: the smallest that can is "
                f"{_text(least)}{f' {unit}' if unit else ''}, with the lowest widths that are "
                f"allowed; {limit.cost.decides(widths)}."
            )
        within.append(limit)
    raise ConfigError("the solver found no widths, though each budget can be met.")


def _text(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.4g}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody see what HiGHS prints for its authors, whatever it is told: it is no Python."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


class _Problem:
    """Variables and constraints of one problem."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        self._at: dict[Any, int] = {choice: i for i, choice in enumerate(choices.all())}
        self._count_of_choices = len(self._at)
        self._rows: list[tuple[dict[int, float], float, float]] = []
        self._known: set[tuple[Tensor, Tensor]] = set()
        for tensor, widths in choices.widths.items():
            self._rows.append(({self._at[tensor, bits]: 1.0 for bits in widths}, 1.0, 1.0))
        for first, *others in choices.tied:
            for other in others:
                self._tie(first, other)

    def _tie(self, first: Tensor, other: Tensor) -> None:
        for bits in {*self._choices.widths[first], *self._choices.widths[other]}:
            pair = [(first, bits, 1.0), (other, bits, -1.0)]
            row = {self._at[t, b]: sign for t, b, sign in pair if (t, b) in self._at}
            self._rows.append((row, 0.0, 0.0))

    def limit(self, limit: Limit) -> None:
        """Keep a cost within a limit."""
        for sum_ in limit.cost.sums:
            row = self._row_of(sum_)
            if row or sum_.constant > limit.most:
                self._rows.append((row, -np.inf, limit.most - sum_.constant))

    def solved(
        self, losses: Mapping[Choice, float], cost: Cost | None = None
    ) -> dict[Tensor, int] | None:
        """Return the widths with the least losses, or the least cost; None if there are none."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        objective: dict[int, float] = defaultdict(float)
        for choice, loss in losses.items():
            objective[self._at[choice]] += loss
        if cost is not None:
            top = self._new(("largest", cost.name))
            objective[top] = 1.0
            for sum_ in cost.sums:
                row = {**self._row_of(sum_), top: -1.0}
                self._rows.append((row, -np.inf, -sum_.constant))
        count = len(self._at)
        scale = max((abs(value) for value in objective.values()), default=1.0) or 1.0
        c = np.zeros(count)
        for i, value in objective.items():
            c[i] = value / scale
        # Rows of unlike sizes are brought to the same one, or the solver's tolerances mean nothing.
        sizes = [max(map(abs, row.values()), default=1.0) or 1.0 for row, _, _ in self._rows]
        entries = [
            (value / size, r, i)
            for r, ((row, _, _), size) in enumerate(zip(self._rows, sizes, strict=True))
            for i, value in row.items()
        ]
        values, rows, columns = (np.array(x) for x in zip(*entries, strict=True))
        matrix = csr_array((values, (rows, columns)), shape=(len(self._rows), count))
        low = np.array([least / s for (_, least, _), s in zip(self._rows, sizes, strict=True)])
        high = np.array([most / s for (_, _, most), s in zip(self._rows, sizes, strict=True)])
        whole = np.zeros(count, int)
        whole[: self._count_of_choices] = 1
        upper = np.ones(count)
        if cost is not None:
            upper[top] = np.inf
        with _quiet():
            done = milp(
                c,
                constraints=LinearConstraint(matrix, low, high),
                integrality=whole,
                bounds=Bounds(0, upper),
                options={"mip_rel_gap": GAP, "time_limit": SECONDS},
            )
        if done.status == 2:
            return None
        if done.x is None:
            raise ConfigError(f"the solver found no widths: {done.message}")
        return {
            tensor: max(widths, key=lambda bits: done.x[self._at[tensor, bits]])
            for tensor, widths in self._choices.widths.items()
        }

    def _row_of(self, sum_: Any) -> dict[int, float]:
        row: dict[int, float] = defaultdict(float)
        for condition, value in sum_.terms.items():
            if value:
                row[self._of(condition)] += value
        for shared in sum_.shared:
            own = self._new(("shared", len(self._at)))
            row[own] += shared.size
            for condition in shared.users:
                self._rows.append(({self._of(condition): 1.0, own: -1.0}, -np.inf, 0.0))
        return dict(row)

    def _new(self, key: Any) -> int:
        return self._at.setdefault(key, len(self._at))

    def _of(self, condition: Condition) -> int:
        """Return the variable of a condition; of a pair, with those of all pairs of its tensors."""
        if len(condition) == 1:
            return self._at[condition[0]]
        (one, _), (other, _) = condition
        if (one, other) not in self._known:
            self._known.add((one, other))
            for tensor in (one, other):
                for bits in self._choices.widths[tensor]:
                    row = {
                        self._new(((one, b), (other, a))): 1.0
                        for b in self._choices.widths[one]
                        for a in self._choices.widths[other]
                        if bits == (b if tensor == one else a)
                    }
                    row[self._at[tensor, bits]] = -1.0
                    self._rows.append((row, 0.0, 0.0))
        return self._at[condition]
