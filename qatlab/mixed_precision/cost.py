"""What a choice of bit widths costs, as sums that a solver takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qatlab.mixed_precision.choices import Assignment, Choice, Tensor

Condition = tuple[Choice, ...]  # one choice, or two that are made together


@dataclass(frozen=True)
class Shared:
    """What is paid for once, if any of some choices is made, such as the code of an inner loop.

    Attributes:
        size: of it.
        users: the choices, each alone sufficient.
    """

    size: float
    users: frozenset[Condition]


@dataclass(frozen=True)
class Sum:
    """A sum over the choices that are made.

    Attributes:
        name: what it is the sum of, such as the operation at which memory is counted.
        constant: that no choice changes.
        terms: by one choice, or by two that are made together.
        shared: paid for once.
    """

    name: str
    constant: float = 0.0
    terms: Mapping[Condition, float] = field(default_factory=dict)
    shared: Sequence[Shared] = ()

    def of(self, assignment: Assignment) -> float:
        """Return the sum for an assignment."""
        made = sum(v for condition, v in self.terms.items() if holds(condition, assignment))
        once = sum(s.size for s in self.shared if any(holds(c, assignment) for c in s.users))
        return self.constant + made + once

    def by_tensor(self, assignment: Assignment) -> dict[Tensor, float]:
        """Return the terms of an assignment by the first tensor of each."""
        found: dict[Tensor, float] = {}
        for condition, value in self.terms.items():
            if holds(condition, assignment):
                tensor = condition[0][0]
                found[tensor] = found.get(tensor, 0.0) + value
        return found


@dataclass(frozen=True)
class Cost:
    """The largest of some sums: most costs are one; memory is one for each moment.

    Attributes:
        name: of the budget that limits it, such as ``flash``.
        unit: of its numbers, such as ``bytes``.
        sums: of which the largest counts.
    """

    name: str
    unit: str
    sums: Sequence[Sum]

    def of(self, assignment: Assignment) -> float:
        """Return the cost of an assignment."""
        return max(own.of(assignment) for own in self.sums)

    def decides(self, assignment: Assignment) -> str:
        """Return what takes most, in words."""
        most = max(self.sums, key=lambda own: own.of(assignment))
        parts = most.by_tensor(assignment)
        words = [f"at {most.name}"] if len(self.sums) > 1 else []
        if parts:
            tensor = max(parts, key=lambda own: parts[own])
            words.append(f"{tensor} takes {parts[tensor]:,.0f}")
        return ", ".join(words)


def holds(condition: Condition, assignment: Assignment) -> bool:
    """Tell whether the choices of a condition are made."""
    return all(assignment[tensor] == bits for tensor, bits in condition)
