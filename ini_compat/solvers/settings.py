"""The parameters of one solver as typed values, and how N2D2's counts become epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from ini_compat.errors import Deviation, IniError, Kind
from ini_compat.syntax.resolve import Section

UNDEFINED = re.compile(r"\$\{\w+\}")  # a variable that expansion has left as it was
BELOW_ONE = math.nextafter(1.0, 0.0)

Keys = Mapping[str, tuple[Section, str]]
"""Parameter name -> the section and the key that say it."""


@dataclass
class Pace:
    """How N2D2's counts become epochs.

    Attributes:
        images: number of training images.
        batch_size: images per batch.
        known: whether ``images`` is the true number.
        note: notes what is ignored or approximated.
        iteration_sizes: all that were seen; `Network.iteration_size` is made of them.
        lengths: epochs of decays that have an end.
    """

    images: int
    batch_size: int
    known: bool
    note: Callable[[Deviation], None]
    iteration_sizes: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    def updates(self, iteration_size: int) -> Fraction:
        """Return the number of updates in an epoch; the last one may be of fewer images."""
        exact = Fraction(self.images, self.batch_size * iteration_size)
        return Fraction(math.ceil(exact)) if self.known else exact

    def samples(self, iteration_size: int) -> Fraction:
        """Return the number of samples that N2D2 counts in as many updates as an epoch has."""
        return self.updates(iteration_size) * self.batch_size * iteration_size


class Settings:
    """The parameters of one solver, typed.

    A parameter whose value is an undefined variable has its default, which is noted.
    """

    def __init__(self, keys: Keys, pace: Pace) -> None:
        self.pace = pace
        self.keys = {name: owner for name, owner in keys.items() if self._is_defined(name, owner)}

    def real(self, name: str, default: float, highest: float = math.inf) -> float:
        """Return a number from 0 to ``highest``."""
        if name not in self.keys:
            return default
        section, key = self.keys[name]
        number = section.real(key)
        if not 0 <= number <= highest:
            accepted = "0 or more"
            if highest < math.inf:
                accepted = "[0, 1)" if highest == BELOW_ONE else f"[0, {highest:g}]"
                accepted = f"a number in {accepted}"
            raise self.wrong(name, accepted)
        return number

    def unsigned(self, name: str, default: int) -> int:
        """Return a whole number from 0 on."""
        if name not in self.keys:
            return default
        section, key = self.keys[name]
        return section.unsigned(key)

    def text(self, name: str) -> str:
        """Return a text, which is empty where there is none."""
        if name not in self.keys:
            return ""
        section, key = self.keys[name]
        return section.text(key)

    def choice(self, name: str, accepted: tuple[str, ...], default: str) -> str:
        """Return one of the accepted words."""
        if name not in self.keys:
            return default
        section, key = self.keys[name]
        return section.choice(key, accepted)

    def epochs(self, name: str, count: int, per_epoch: Fraction) -> float:
        """Turn a count of samples or of updates, which the file may give, into epochs."""
        if name in self.keys and not self.pace.known:
            section, key = self.keys[name]
            if not section.depends_on(key, "_EpochSize"):
                reason = (
                    f"counts samples, and how many images there are to learn from is not known: "
                    f"taken as {self.pace.images}; give --images"
                )
                self.note(name, reason)
        return float(count / per_epoch)

    def note(self, name: str, reason: str, kind: Kind = "approximated") -> None:
        """Note what is not taken over."""
        section, key = self.keys[name]
        self.pace.note(_loss(section, key, reason, kind))

    def wrong(self, name: str, accepted: str) -> IniError:
        """Return the error for the value of a parameter."""
        section, key = self.keys[name]
        return section.wrong(key, accepted)

    def _is_defined(self, name: str, owner: tuple[Section, str]) -> bool:
        section, key = owner
        undefined = UNDEFINED.search(section.text(key))
        if undefined:
            reason = f"{undefined[0]} is defined nowhere; the default of {name} holds"
            self.pace.note(_loss(section, key, reason, "approximated"))
        return not undefined


def _loss(section: Section, key: str, reason: str, kind: Kind) -> Deviation:
    return Deviation(section.place(key), f"[{section.name}] {key}", kind, reason)
