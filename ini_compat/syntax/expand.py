"""The value of a key: ``[section]Key``, ``${VAR}`` and ``$(...)`` in it, replaced recursively."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ini_compat.errors import IniError, Place, UnknownValue, did_you_mean, label, quoted
from ini_compat.syntax import limits
from ini_compat.syntax.expression import evaluate
from ini_compat.syntax.files import VARIABLE
from ini_compat.syntax.lexer import SPACE, Entry
from ini_compat.syntax.limits import Budget
from ini_compat.syntax.render import Value
from ini_compat.syntax.section import Section

COMPUTED_KEYS = (
    *("_NbChannels", "_ChannelsWidth", "_ChannelsHeight"),
    *("_NbOutputs", "_OutputsWidth", "_OutputsHeight"),
    *("_EpochSize", "_MeanData", "_StdDevData"),
    *("_GlobalValue.minVal", "_GlobalValue.maxVal", "_GlobalValue.mean", "_GlobalValue.stdDev"),
)
_PARENTHESIS = re.compile(r"[()]")
_KEY = re.compile(f"[^{SPACE}]*")


@dataclass
class _Reading:
    """One read of a key: what it cost, what it met, and the keys it is in the middle of."""

    trial: bool = False  # only to see which computed keys are met: nothing is evaluated
    evaluated: bool = False
    computed: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)
    steps: Budget = field(
        default_factory=lambda: Budget(limits.STEPS_OF_A_READ, "this value takes too many steps")
    )


@dataclass(frozen=True)
class _Context:
    """Where a text is expanded: in the section that reads, at the line it was written."""

    section: Section
    place: Place
    reading: _Reading


class Expander:
    """Expands values for the sections of one document."""

    def __init__(self, sections: Mapping[str, Section]) -> None:
        self.sections = sections
        self.definitions: Mapping[str, Entry] = {}  # of the global section
        self.computed: dict[tuple[str, str], str] = {}
        self.unknown: dict[tuple[str, str], str] = {}
        self.computed_sections: set[str] = set()
        self.steps = Budget(limits.STEPS, "the values of this file take too many steps")

    def value(self, section: Section, key: str) -> Value:
        """Return the value of a key the section has, with everything in it expanded."""
        reading = _Reading()
        text = self._read(section, key, reading)
        return Value(text, reading.evaluated)

    def computed_keys(self, section: Section, key: str) -> set[str]:
        """Return the names of the computed keys that the value depends on."""
        reading = _Reading(trial=True)
        self._read(section, key, reading)
        return reading.computed

    def _read(self, section: Section, key: str, reading: _Reading) -> str:
        entry = section.entries[key]
        try:
            return self._entry(section, entry, reading)
        except RecursionError:  # whoever asks may be deep already
            name = label(section.name, key)
            raise IniError(f"{name} refers to others too deeply.", entry.place) from None

    def _entry(self, section: Section, entry: Entry, reading: _Reading) -> str:
        """Expand what an entry says, ``section`` being the one that reads it."""
        reading.evaluated |= entry.evaluated
        name = label(section.name, entry.key)
        if name in reading.keys:
            circle = " -> ".join([*reading.keys[reading.keys.index(name) :], name])
            raise IniError(f"{name} depends on itself: {circle}.", entry.place)
        if len(reading.keys) >= limits.EXPANSION_DEPTH:
            reason = f"refers to others more than {limits.EXPANSION_DEPTH} deep"
            raise IniError(f"{name} {reason}.", entry.place)
        reading.keys.append(name)
        context = _Context(section, entry.place, reading)
        text = self._references(entry.value, context)
        replaced = self._variables(text, context)
        if replaced != text:  # such as [${PREV_SECTION_NAME}]NbOutputs
            replaced = self._references(replaced, context)
        expanded = self._expressions(replaced, context)
        reading.keys.pop()
        return expanded

    def _spend(self, context: _Context, size: int = 0) -> None:
        """Count one substitution by so many characters."""
        for steps in (context.reading.steps, self.steps):
            steps.spend(1 + size // 100, context.place)

    def _joined(self, parts: list[str], context: _Context) -> str:
        text = "".join(parts)
        self._spend(context, len(text))
        if len(text) > limits.VALUE:
            raise IniError(f"a value grows beyond {limits.VALUE} characters.", context.place)
        return text

    def _references(self, text: str, context: _Context) -> str:
        """Replace each ``[section]Key``; the key ends at white space."""
        parts: list[str] = []
        position, end = 0, -1
        while (start := text.find("[", position)) >= 0:
            self._spend(context)
            end = text.find("]", start) if end < start else end
            if end < 0:
                raise IniError(f"a '[' in {quoted(text)} is not closed by ']'.", context.place)
            name = text[start + 1 : end] if end - start <= limits.NAME + 1 else ""
            if name and (name in self.sections or name in self.computed_sections):
                match = _KEY.match(text, end + 1)
                assert match is not None  # it may be empty
                parts += [text[position:start], self._reference(name, match.group(), context)]
                position = match.end()
            else:  # not a reference: the bracket stays
                parts.append(text[position : start + 1])
                position = start + 1
        return self._joined([*parts, text[position:]], context) if parts else text

    def _reference(self, name: str, key: str, context: _Context) -> str:
        reading, written = context.reading, quoted(f"[{name}]{key}")
        section = self.sections.get(name)
        if (name, key) in self.computed or (name, key) in self.unknown:
            reading.computed.add(key)
            if (name, key) in self.computed:
                return self.computed[name, key]
            if not reading.trial:
                reason = self.unknown[name, key]
                raise UnknownValue(f"the value of {written} is not known: {reason}.", context.place)
            return "1"
        if section is not None and section.has(key):
            section.mark_used(key)
            return self._entry(section, section.entries[key], reading)
        if key in COMPUTED_KEYS:
            reading.computed.add(key)
            if reading.trial:
                return "1"
            reason = f"only known after the section [{name}] is built"
            raise IniError(f"{written} is {reason}.", context.place)
        known = [*(section.keys() if section is not None else ()), *COMPUTED_KEYS]
        missing = "has no such key"
        if key.startswith("_"):
            missing = "has no such key, and it is not one of the computed ones"
        hint = _missing_space(name, key, known) or did_you_mean(key, known)
        raise IniError(f"{written}: the section [{name}] {missing}.{hint}", context.place)

    def _variables(self, text: str, context: _Context) -> str:
        """Replace each ``${VAR}`` that is defined; others may be of the environment."""
        parts: list[str] = []
        position, end = 0, -1
        while (start := text.find("${", position)) >= 0:
            end = text.find("}", start) if end < start else end
            if end < 0:
                raise IniError(f"a '${{' in {quoted(text)} is not closed by '}}'.", context.place)
            name = text[start + 2 : end] if end - start <= limits.NAME + 2 else ""
            value = self._variable(name, context)
            self._spend(context, len(value or ""))
            if value is None:
                parts.append(text[position : start + 2])
                position = start + 2
            else:
                parts += [text[position:start], value]
                position = end + 1
        return self._joined([*parts, text[position:]], context) if parts else text

    def _variable(self, name: str, context: _Context) -> str | None:
        section = context.section
        if name == "SECTION_NAME":
            return section.name
        if name == "PREV_SECTION_NAME":
            if section.previous is None:
                raise IniError("there is no section before this one.", context.place)
            return section.previous
        entry = section.entries.get(f"${name}") or self.definitions.get(f"${name}")
        return None if entry is None else self._entry(section, entry, context.reading)

    def _expressions(self, text: str, context: _Context) -> str:
        """Replace each ``$(...)`` by its value."""
        parts: list[str] = []
        position = 0
        while (start := text.find("$(", position)) >= 0:
            end = _closing(text, start + 1)
            if end is None:
                raise IniError(f"a '$(' in {quoted(text)} is not closed by ')'.", context.place)
            inside = text[start + 2 : end]
            self._spend(context, 5 * len(inside))  # slower than copying
            parts += [text[position:start], self._evaluated(inside, context)]
            position = end + 1
        return self._joined([*parts, text[position:]], context) if parts else text

    def _evaluated(self, text: str, context: _Context) -> str:
        context.reading.evaluated = True
        if context.reading.trial:
            return "1"
        undefined = VARIABLE.search(text)
        if undefined is not None:
            defined = [
                key[1:] for key in (*context.section.entries, *self.definitions) if key[:1] == "$"
            ]
            hint = did_you_mean(undefined.group(1), defined)
            raise IniError(f"{quoted(undefined.group())} is not defined.{hint}", context.place)
        return str(evaluate(text, context.place))


def _missing_space(name: str, key: str, known: list[str]) -> str:
    """Return the hint for ``[a]X*2``, which asks for a key called ``X*2``."""
    meant = [k for k in known if key.startswith(k) and key[len(k) :][:1] in tuple("+-*/%)<>=,")]
    return f" A key ends at a space: write '[{name}]{max(meant, key=len)} ...'." if meant else ""


def _closing(text: str, opening: int) -> int | None:
    """Return the position of the parenthesis that closes the one at ``opening``."""
    depth = 0
    for match in _PARENTHESIS.finditer(text, opening):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return None
