"""The phases of a run, and how long each lasts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from qatlab.errors import ConfigError, wrong
from qatlab.quant import Phase, quantizers
from qatlab.quant.quantizer import HIGHEST_BITS


class Span(NamedTuple):
    """A phase with its epochs.

    Attributes:
        phase: what quantizers do in it.
        epochs: how long it lasts.
        bits: that all quantizers have at least in it; None for their own.
    """

    phase: Phase
    epochs: int
    bits: int | None = None

    @property
    def name(self) -> str:
        """What files call it: ``quantize``, or ``quantize_8bit``."""
        return self.phase.value if self.bits is None else f"{self.phase.value}_{self.bits}bit"


@dataclass(frozen=True)
class Schedule:
    """How many epochs each phase lasts, in order; phases of no epochs are left out."""

    phases: tuple[Span, ...]

    @classmethod
    def of(
        cls,
        epochs: Mapping[Phase, int],
        model: nn.Module,
        falling_bits: Sequence[int] | None = None,
        falling_epochs: int = 1,
        first_epochs: int | None = None,
    ) -> Schedule:
        """Read the keys of ``schedule``.

        Args:
            epochs: ``float_epochs``, ``clamp_epochs`` and ``quantize_epochs``.
            model: the network; one without quantizers trains the sum in one float phase.
            falling_bits: quantize phases before the last one, by the bits that all quantizers have
                at least in them.
            falling_epochs: how long each of these lasts.
            first_epochs: the epochs before quantization that were asked for, of which ``epochs``
                has been made.

        Raises:
            ConfigError: for a negative number, none at all, a clamp phase for quantizers that have
                none, bits that do not fall or have no quantize phase behind them, and
                ``first_epochs`` that are not those of ``epochs``.
        """
        if first_epochs is not None:
            _check_first(first_epochs, epochs)
        wide = _falling([] if falling_bits is None else falling_bits, falling_epochs)
        if wide and epochs[Phase.QUANTIZE] < 1:
            reason = "Falling bits end in the quantize phase."
            raise wrong("schedule.quantize_epochs", epochs[Phase.QUANTIZE], "at least 1", reason)
        for phase, count in epochs.items():
            if count < 0:
                raise wrong(f"schedule.{phase.value}_epochs", count, "a whole number of at least 0")
        if sum(epochs.values()) == 0:
            names = " and ".join(f"{phase.value}_epochs" for phase in epochs)
            raise ConfigError(f"schedule has no epochs: {names} are all 0")
        found = quantizers(model)
        if not found:
            more = sum(span.epochs for span in wide)
            return cls((Span(Phase.FLOAT, sum(epochs.values()) + more),))
        without = dict.fromkeys(q.method for q in found if not q.clamps)
        for _, _, bits in wide:
            if all(q.own_steps >= (1 << (bits or 0)) - 1 for q in found):
                given = list(falling_bits or ())
                fewest = min(q.bits for q in found)
                raise wrong(
                    "schedule.falling_bits", given, f"more bits than {fewest}, as some have"
                )
        if epochs[Phase.CLAMP] and without:
            names = " and ".join(without)
            have = "has" if len(without) == 1 else "have"
            raise ConfigError(
                f"schedule.clamp_epochs={epochs[Phase.CLAMP]} cannot be combined with {names}, "
                f"which {have} no clamp phase; choose schedule=float_then_quantize or "
                "schedule=quantize_only."
            )
        spans = [Span(phase, count) for phase, count in epochs.items() if count]
        return cls((*spans[:-1], *wide, spans[-1]) if wide else tuple(spans))

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return sum(span.epochs for span in self.phases)

    def at(self, epoch: int) -> Span:
        """Return the phase of an epoch counted from the start of the run."""
        return self.phases[self._index(epoch)]

    def starts_at(self, epoch: int) -> bool:
        """Tell whether a phase begins with this epoch."""
        return epoch in self._starts()

    def position(self, epoch: float) -> tuple[float, int]:
        """Return the epochs done in the present phase, and how many it has."""
        index = self._index(epoch)
        return epoch - self._starts()[index], self.phases[index].epochs

    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(span.epochs for span in self.phases)][:-1]

    def _index(self, epoch: float) -> int:
        return max(i for i, start in enumerate(self._starts()) if start <= epoch)


def _check_first(first_epochs: int, epochs: Mapping[Phase, int]) -> None:
    if first_epochs < 0:
        raise wrong("schedule.first_epochs", first_epochs, "a whole number of at least 0")
    before = {phase: count for phase, count in epochs.items() if phase is not Phase.QUANTIZE}
    if first_epochs != sum(before.values()):
        given = " and ".join(f"schedule.{phase.value}_epochs={n}" for phase, n in before.items())
        raise ConfigError(
            f"schedule.first_epochs={first_epochs} contradicts {given}: give only one of them, or "
            "choose a schedule with a phase before quantization, such as "
            "schedule=float_then_quantize."
        )


def _falling(bits: Any, epochs: int) -> tuple[Span, ...]:
    """Return the quantize phases before the last one.

    Args:
        bits: of each, unless the user gave something else.
        epochs: of each.
    """
    key, accepted = "schedule.falling_bits", f"bits that fall, from {HIGHEST_BITS} to 2: [8, 6]"
    if not isinstance(bits, Sequence) or isinstance(bits, str):
        raise wrong(key, bits, accepted)
    if any(type(one) is not int or not 2 <= one <= HIGHEST_BITS for one in bits):
        raise wrong(key, list(bits), accepted)
    if any(one <= other for one, other in itertools.pairwise(bits)):
        raise wrong(key, list(bits), accepted)
    if bits and epochs < 1:
        raise wrong("schedule.falling_epochs", epochs, "a whole number above 0")
    return tuple(Span(Phase.QUANTIZE, epochs, one) for one in bits)
