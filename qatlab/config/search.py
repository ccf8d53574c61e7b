"""What ``qatlab search`` accepts behind the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ESTIMATES = ("measured", "second_order")


@dataclass
class Budget:
    """``budget``: the most that a network may take; several numbers for a front."""

    flash: Any = None
    ram: Any = None
    instructions: Any = None
    size: Any = None
    bops: Any = None
    mean_bits: Any = None


@dataclass
class Widths:
    """``widths``: what bits a tensor may have."""

    weight: Any = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    activation: Any = field(default_factory=lambda: [2, 3, 4, 5, 6, 8])
    rules: dict[str, Any] | None = field(default_factory=dict)
    tied: Any = field(default_factory=list)


@dataclass
class Settings:
    """What ``qatlab search`` accepts behind the run."""

    budget: Budget = field(default_factory=Budget)
    widths: Widths = field(default_factory=Widths)
    quant: str | None = None
    estimate: str = "measured"
    images: int = 512
    front: int | None = None
    target: str | None = None
    allow: Any = None
