"""One section: its keys with what it inherited, and their values read as a type."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from enum import Enum
from typing import Protocol, TypeVar

from ini_compat.errors import SHOWN, IniError, Place, did_you_mean, label
from ini_compat.syntax import limits
from ini_compat.syntax.lexer import SPACE, Entry
from ini_compat.syntax.render import Value

_INTEGER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_WORD = re.compile(f"[^{SPACE}]+")
D = TypeVar("D")


class Required(Enum):
    """The default of a key that must be there."""

    REQUIRED = 0


REQUIRED = Required.REQUIRED


class Expands(Protocol):
    """What a section asks for the values of its keys."""

    def value(self, section: Section, key: str) -> Value:
        """Return the value of a key the section has, with everything in it expanded."""

    def computed_keys(self, section: Section, key: str) -> set[str]:
        """Return the names of the computed keys that the value depends on."""


class Section:
    """A section of the file; keys are read through it, which also marks them as used.

    Attributes:
        name: the name in the header, "" for the global section.
        header: where the header stands.
        parents: names of the sections it inherits from, the first wins.
        template: name of the ``[x@file]`` section whose template produced it.
        previous: name of the section before it, not counting ``template``.
        entries: all keys, inherited ones included.
    """

    def __init__(
        self,
        name: str,
        header: Place,
        expands: Expands,
        parents: tuple[Section, ...] = (),
        template: str | None = None,
        previous: str | None = None,
    ) -> None:
        self.name = name
        self.header = header
        self.parents = [parent.name for parent in parents]
        self.template = template
        self.previous = previous
        self.entries: dict[str, Entry] = {}
        self._inherited: dict[str, Section] = {}
        self._used: set[str] = set()
        self._expands = expands
        for parent in parents:
            for key, entry in parent.entries.items():
                if key not in self.entries:
                    self.entries[key] = entry
                    self._inherited[key] = parent

    def set(self, entry: Entry) -> Entry | None:
        """Take a key; return the entry of this section that it replaces, if any."""
        inherited = self._inherited.pop(entry.key, None)
        earlier = self.entries.get(entry.key)
        self.entries[entry.key] = entry
        return None if inherited else earlier

    def place(self, key: str | None = None) -> Place:
        """Return where the key was written, by a parent if inherited; without a key, the header."""
        return self.entries[key].place if key in self.entries else self.header

    def has(self, key: str) -> bool:
        """Tell if the key is there; this does not mark it as used."""
        return key in self.entries

    def keys(self) -> list[str]:
        """Return all keys but definitions (``$X``)."""
        return [key for key in self.entries if not key.startswith("$")]

    def __iter__(self) -> Iterator[str]:
        """Return what ``keys`` returns."""
        return iter(self.keys())

    def prefixed(self, prefix: str) -> dict[str, str]:
        """Return the rest of each key that begins with the prefix -> the key."""
        return {key[len(prefix) :]: key for key in self.keys() if key.startswith(prefix)}

    def matching(self, pattern: str) -> list[str]:
        """Return the keys that a pattern with ``*`` and ``?`` describes."""
        wildcards = {"*": ".*", "?": "."}
        expression = "".join(wildcards.get(c, re.escape(c)) for c in pattern)
        return [key for key in self.keys() if re.fullmatch(expression, key, re.DOTALL)]

    def mark_used(self, key: str) -> None:
        """Count the key as read, here and in the section it was inherited from."""
        section: Section | None = self
        while section is not None:
            section._used.add(key)
            section = section._inherited.get(key)

    def unused(self) -> list[str]:
        """Return the keys that nobody has read: neither here, nor by reference, nor an heir."""
        return [key for key in self.keys() if key not in self._used]

    def depends_on(self, key: str, computed_key: str) -> bool:
        """Tell if the value of the key comes from a computed key of that name."""
        if key not in self.entries:
            return False
        return computed_key in self._expands.computed_keys(self, key)

    def raw(self, key: str) -> str:
        """Return the value as it is written."""
        if key not in self.entries:
            self._missing(key, REQUIRED)
        self.mark_used(key)
        return self.entries[key].value

    def value(self, key: str) -> Value:
        """Return the expanded value of a key that is there, and whether a ``$(...)`` made it."""
        self.mark_used(key)
        return self._expands.value(self, key)

    def text(self, key: str, default: D | Required = REQUIRED) -> str | D:
        """Return the expanded value."""
        value = self._value_of(key)
        return self._missing(key, default) if value is None else value.text

    def words(self, key: str, default: D | Required = REQUIRED) -> list[str] | D:
        """Return the values between white space."""
        value = self._value_of(key)
        return self._missing(key, default) if value is None else _WORD.findall(value.text)

    def integer(self, key: str, default: D | Required = REQUIRED) -> int | D:
        """Return an integer: the floor of what a ``$(...)`` gives."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        return self._integer(key, value.text, value.evaluated)

    def unsigned(self, key: str, default: D | Required = REQUIRED) -> int | D:
        """Return an integer that is not below 0."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        number = self._integer(key, value.text, value.evaluated)
        if number < 0 or value.text.startswith("-"):
            raise self.wrong(key, "an integer of at least 0", value.text)
        return number

    def real(self, key: str, default: D | Required = REQUIRED) -> float | D:
        """Return a finite number."""
        value = self._value_of(key)
        return self._missing(key, default) if value is None else self._real(key, value.text)

    def boolean(self, key: str, default: D | Required = REQUIRED) -> bool | D:
        """Return a truth value, which is written 0 or 1."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        if value.text not in ("0", "1"):
            raise self.wrong(key, "0 or 1", value.text)
        return value.text == "1"

    def choice(
        self, key: str, accepted: Collection[str], default: D | Required = REQUIRED
    ) -> str | D:
        """Return one of the accepted words."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        if value.text not in accepted:
            raise self.wrong(key, accepted, value.text)
        return value.text

    def integers(self, key: str, default: D | Required = REQUIRED) -> list[int] | D:
        """Return the integers of a list."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        return [self._integer(key, word, value.evaluated) for word in _WORD.findall(value.text)]

    def reals(self, key: str, default: D | Required = REQUIRED) -> list[float] | D:
        """Return the numbers of a list."""
        value = self._value_of(key)
        if value is None:
            return self._missing(key, default)
        return [self._real(key, word) for word in _WORD.findall(value.text)]

    def wrong(
        self, key: str, accepted: str | Collection[str], given: str | None = None
    ) -> IniError:
        """Return the error "[conv1] Stride=0 is wrong. Accepted: 1 or more".

        Args:
            key: of the section.
            accepted: all valid words, of which the nearest is proposed; or what is, in words.
            given: the value, or the part of it that is wrong; by default the whole.
        """
        given = self.text(key) if given is None else given
        hint = ""
        if not isinstance(accepted, str):
            hint, accepted = did_you_mean(given, accepted), ", ".join(accepted)
        shown = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
        message = f"{label(self.name, key)}={shown} is wrong.{hint} Accepted: {accepted}"
        return IniError(message, self.place(key))

    def _value_of(self, key: str) -> Value | None:
        return self.value(key) if key in self.entries else None

    def _missing(self, key: str, default: D | Required) -> D:
        if isinstance(default, Required):
            hint = did_you_mean(key, self.keys())
            section = f"the section [{self.name}]" if self.name else "the global section"
            raise IniError(f"{section} needs the key {key}.{hint}", self.header)
        return default

    def _integer(self, key: str, text: str, evaluated: bool) -> int:
        """Read an integer; a real counts only if Python made it (``/`` of Python 2 made none)."""
        if _INTEGER.fullmatch(text) and len(text) <= limits.DIGITS:
            number = int(text)
        elif evaluated:
            number = math.floor(self._real(key, text))
        else:
            raise self.wrong(key, "an integer", text)
        if abs(number) >= limits.INTEGER:
            raise self.wrong(key, "an integer of 64 bits", text)
        return number

    def _real(self, key: str, text: str) -> float:
        if not _REAL.fullmatch(text) or len(text) > limits.DIGITS:
            raise self.wrong(key, "a number", text)
        number = float(text)
        if not math.isfinite(number):
            raise self.wrong(key, "a finite number", text)
        return number
