"""What a search has found: its widths, what they cost and lose; as rules and as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from qatlab.mixed_precision.choices import Assignment, Tensor
from qatlab.quant.rules import rules_of_bits

RULE = "searched"  # names of rules begin with it
BEGUN, DONE, PRUNED, FAILED = "begun", "done", "pruned", "failed"  # of a training


@dataclass(frozen=True)
class Trained:
    """What a short training with an assignment has reached.

    Attributes:
        run: its folder, beside the record.
        state: ``begun``, ``done``, ``pruned`` (ended early, as it was behind the others) or
            ``failed``.
        accuracy: share of validation images that are right in the best epoch; None without one.
        accuracies: of each epoch that counts.
        reason: why it failed.
    """

    run: str
    state: str = BEGUN
    accuracy: float | None = None
    accuracies: Sequence[float] = ()
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """One assignment.

    Attributes:
        assignment: bits of each tensor.
        loss: that the sum of all increases predicts.
        costs: by the name of the budget.
        limits: budgets that were to be kept.
        measured: loss and share of right answers of the whole assignment; None if not measured.
        trained: a training with it; None if there was none.
    """

    assignment: Assignment
    loss: float
    costs: Mapping[str, float]
    limits: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[float, float] | None = None
    trained: Trained | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        loss, accuracy = self.measured or (None, None)
        return {
            "budgets": dict(self.limits),
            "costs": dict(self.costs),
            "predicted_loss": self.loss,
            "measured_loss": loss,
            "measured_accuracy": accuracy,
            "bits": [
                {"name": tensor.name, "part": tensor.part, "bits": bits}
                for tensor, bits in self.assignment.items()
            ],
            "trained": None if self.trained is None else asdict(self.trained),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Found:
        """Return what :meth:`to_json` has made plain values of.

        Raises:
            LookupError, TypeError: if it is not of that form.
        """
        measured = content["measured_loss"], content["measured_accuracy"]
        trained = content["trained"]
        return cls(
            {Tensor(own["part"], own["name"]): own["bits"] for own in content["bits"]},
            content["predicted_loss"],
            content["costs"],
            content["budgets"],
            None if measured[0] is None else measured,
            None if trained is None else Trained(**trained),
        )


def rules_text(found: Found, about: str) -> str:
    """Return a file of rules, with what it was made of at its head."""
    costs = ", ".join(f"{name} {value:,.6g}" for name, value in found.costs.items())
    lines = [f"# {line}" for line in (about, f"predicted loss {found.loss:.4f}; {costs}")]
    bits = {(tensor.part, tensor.name): own for tensor, own in found.assignment.items()}
    rules = rules_of_bits(bits, RULE)
    body = yaml.safe_dump(rules, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join([*lines, body])
