"""What can be wrong with a file, where it stands, and what an import could not keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["ignored", "approximated"]

SHOWN = 60  # characters of a value that a message quotes
COMPARED = 100  # longest name that is worth a comparison: difflib is quadratic
CANDIDATES = 1000


@dataclass(frozen=True)
class Place:
    """A line of a file, as the user named the file; line 0 is the file as a whole."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return "model.ini:12"."""
        return f"{self.file}:{self.line}" if self.line else self.file


class IniError(Exception):
    """Something in the file that cannot be understood; the message is one sentence."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message, place)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        """Return "model.ini:12: message"."""
        return f"{self.place}: {self.message}" if self.place else self.message


class UnknownValue(IniError):
    """A value that depends on one which N2D2 computes and which could not be determined here."""


@dataclass(frozen=True)
class Deviation:
    """Something in the file that the import does not keep, or not exactly."""

    place: Place
    key: str  # "[conv1] NoBias"
    kind: Kind
    reason: str


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the accepted name nearest to ``word``, or ""."""
    if len(word) > COMPARED:
        return ""
    names = islice((name for name in accepted if len(name) <= COMPARED), CANDIDATES)
    nearest = get_close_matches(word, list(names), n=1)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def quoted(text: str) -> str:
    """Return the text as a message shows it: in quotes, on one line, cut when it is long."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def label(section: str, key: str) -> str:
    """Return "[conv1] NoBias", or "DefaultModel" for a key of the global section."""
    return f"[{section}] {key}" if section else key
