"""The phases of a run, and how long each lasts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from qatlab.quant import Phase, quantizers
from qatlab.utils.errors import ConfigError, wrong


@dataclass(frozen=True)
class Schedule:
    """How many epochs each phase lasts, in order; phases of no epochs are left out."""

    phases: tuple[tuple[Phase, int], ...]

    @classmethod
    def of(cls, epochs: Mapping[Phase, int], model: nn.Module) -> Schedule:
        """Read ``schedule.float_epochs``, ``clamp_epochs`` and ``quantize_epochs``.

        Args:
            epochs: of each phase, in order.
            model: the network; one without quantizers trains the sum in one float phase.

        Raises:
            ConfigError: for a negative number, none at all, or a clamp phase for quantizers that
                have none.
        """
        for phase, count in epochs.items():
            if count < 0:
                raise wrong(f"schedule.{phase.value}_epochs", count, "a whole number of at least 0")
        if sum(epochs.values()) == 0:
            names = " and ".join(f"{phase.value}_epochs" for phase in epochs)
            raise ConfigError(f"schedule has no epochs: {names} are all 0")
        found = quantizers(model)
        if not found:
            return cls(((Phase.FLOAT, sum(epochs.values())),))
        without = dict.fromkeys(q.method for q in found if not q.clamps)
        if epochs[Phase.CLAMP] and without:
            names = " and ".join(without)
            have = "has" if len(without) == 1 else "have"
            raise ConfigError(
                f"schedule.clamp_epochs={epochs[Phase.CLAMP]} cannot be combined with {names}, "
                f"which {have} no clamp phase; choose schedule=float_then_quantize or "
                "schedule=quantize_only."
            )
        return cls(tuple((phase, count) for phase, count in epochs.items() if count))

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return sum(epochs for _, epochs in self.phases)

    def phase_at(self, epoch: int) -> Phase:
        """Return the phase of an epoch counted from the start of the run."""
        return self.phases[self._index(epoch)][0]

    def starts_at(self, epoch: int) -> bool:
        """Tell whether a phase begins with this epoch."""
        return epoch in self._starts()

    def position(self, epoch: float) -> tuple[float, int]:
        """Return the epochs done in the present phase, and how many it has."""
        index = self._index(epoch)
        return epoch - self._starts()[index], self.phases[index][1]

    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(epochs for _, epochs in self.phases)][:-1]

    def _index(self, epoch: float) -> int:
        return max(i for i, start in enumerate(self._starts()) if start <= epoch)
