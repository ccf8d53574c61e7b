"""What ``qatlab search`` accepts behind the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ESTIMATES = ("measured", "second_order")
METHODS = ("sums", "trials")
# Keys of a training, with all below them, that each training of a search may be given. Not among
# them is what would make it another network, or have it validated with other images than the run.
OF_TRAININGS = (
    *("schedule", "solver", "loss", "trainer", "callbacks", "logger", "distill", "mixup", "seed"),
    *("compile", "channels_last", "memory", "data.batch_size", "data.random_shift"),
    *("data.random_erasing", "data.random_flip"),
)


@dataclass
class Budget:
    """``budget``: the most that a network may take; several numbers for a front.

    And the most points of accuracy that it may lose by a training.
    """

    flash: Any = None
    ram: Any = None
    instructions: Any = None
    size: Any = None
    bops: Any = None
    mean_bits: Any = None
    max_drop: Any = None


@dataclass
class Widths:
    """``widths``: what bits a tensor may have."""

    weight: Any = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    activation: Any = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    rules: dict[str, Any] | None = field(default_factory=dict)
    tied: Any = field(default_factory=list)


@dataclass
class Settings:
    """What ``qatlab search`` accepts behind the run.

    The last three are of searches that train: the cost that is made small, and how many trainings
    there are at most, of ``budget.max_drop`` and of ``method=trials``.
    """

    budget: Budget = field(default_factory=Budget)
    widths: Widths = field(default_factory=Widths)
    quant: str | None = None
    estimate: str = "measured"
    images: int = 512
    front: int | None = None
    target: str | None = None
    allow: Any = None
    method: str = "sums"
    minimize: str | None = None
    rounds: int | None = None
    trials: int | None = None
