"""The record of a search that trains: ``rules.search.json``, from which a killed one goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.mixed_precision.choices import Tensor
from qatlab.mixed_precision.found import Found
from qatlab.mixed_precision.sensitivity import Sensitivity
from qatlab.system import files


def losses_to_json(sensitivity: Sensitivity) -> list[dict[str, Any]]:
    """Return what each width of each tensor loses as plain values."""
    return [
        {"name": t.name, "part": t.part, "bits": bits, "increase": loss}
        for (t, bits), loss in sensitivity.losses.items()
    ]


@dataclass
class Record:
    """What is known so far; it is written whenever something is added.

    Attributes:
        path: of the file.
        run: folder of the run whose bits are searched.
        words: what was asked for, without what may change when it goes on.
        accuracy: share of validation images that the run has right; None if it has none.
        sensitivity: what was measured first.
        points: the numbers of the budget among which the answer is looked for.
        found: all assignments that were trained, or begun, in this order.
        uniform: one width for all, not trained.
        max_drop: points of accuracy that may be lost; None if that is not what is looked for.
        chosen: which of ``found`` is the answer; None as long as there is none.
    """

    path: Path
    run: str
    words: Sequence[str]
    accuracy: float | None = None
    sensitivity: Sensitivity | None = None
    points: Sequence[float] = ()
    found: list[Found] = field(default_factory=list)
    uniform: Sequence[Found] = ()
    max_drop: float | None = None
    chosen: int | None = None

    @classmethod
    def begin(cls, path: Path, run: str, words: Sequence[str]) -> Record:
        """Return what a search that was killed has left, or a new record.

        Raises:
            ConfigError: if the file is that of another search, or damaged.
        """
        asked = cls(path, run, sorted(words))
        content = files.read_json(path) if path.exists() else {}
        if "words" not in content:
            return asked  # that of a search that trains nothing, which a moment makes again
        try:
            losses = {
                (Tensor(own["part"], own["name"]), own["bits"]): own["increase"]
                for own in content["losses"]
            }
            reference = content["reference"]
            kept = cls(
                path,
                content["run"],
                content["words"],
                reference["accuracy"],
                Sensitivity(reference["loss"], losses, content["images"]) if losses else None,
                content["points"],
                [Found.from_json(own) for own in content["found"]],
                [Found.from_json(own) for own in content["uniform"]],
                content["max_drop"],
                content["chosen"],
            )
            before, now = {kept.run, *kept.words}, {asked.run, *asked.words}
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: {error!r:.80}; delete it.") from error
        if before != now:
            there, here = (
                " ".join(sorted(map(str, own))) or "nothing" for own in (before - now, now - before)
            )
            raise ConfigError(
                f"{path} is the record of another search, with {there} where this one has {here}; "
                "delete it, or give another file as -o."
            )
        return kept

    def save(self) -> None:
        """Write the file."""
        known = self.sensitivity
        content = {
            "run": self.run,
            "words": self.words,
            "reference": {"accuracy": self.accuracy, "loss": known and known.reference},
            "images": known and known.images,
            "losses": losses_to_json(known) if known else [],
            "points": self.points,
            "found": [own.to_json() for own in self.found],
            "uniform": [own.to_json() for own in self.uniform],
            "max_drop": self.max_drop,
            "chosen": self.chosen,
        }
        files.write_json(self.path, content)
