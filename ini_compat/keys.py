"""Keys of a section that become arguments of a class of qatlab."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ini_compat.errors import Deviation, IniError, UnknownValue, did_you_mean
from ini_compat.network import Node
from ini_compat.syntax.resolve import Section

MISSING = "???"  # what Hydra calls a value that the user has to give


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: N2D2's.
        kind: ``unsigned``, ``positive``, ``integer``, ``real``, ``share``, ``boolean``, ``numbers``
            (one, or a list), ``range`` (two of them, ascending), or the accepted words.
        default: N2D2's, which is left out of the YAML; ``...`` for a key that is required.
        argument: of the class; "": the name with underscores; None: the class has no such
            argument, and does what the default says.
        words: what the class calls N2D2's words, those it does not know left out; None: the same
            with underscores.
    """

    name: str
    kind: str | tuple[str, ...]
    default: Any = ...
    argument: str | None = ""
    words: Mapping[str, Any] | None = None

    @property
    def python(self) -> str:
        """Name of the argument."""
        return self.argument or snake_case(self.name)


def snake_case(name: str) -> str:
    """Return ``min_width`` for ``MinWidth``."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", name).lower()


def read_keys(section: Section, keys: Iterable[Key], note: Callable[[Deviation], None]) -> Node:
    """Return the arguments that a section gives, without those that have their default.

    A value that N2D2 computes, and which is not known here, is left for the user to fill in.

    Raises:
        IniError: for a key that is missing, and for values that are not accepted.
    """
    node: Node = {}
    for key in keys:
        if key.default is not ... and not section.has(key.name):
            continue
        try:
            value = _value(section, key)
        except UnknownValue as error:
            reason = f"left as {MISSING}, to be filled in: {error.message}"
            label = f"[{section.name}] {key.name}"
            note(Deviation(section.place(key.name), label, "approximated", reason))
            value = MISSING
        if value == key.default:
            continue
        if key.argument is None:
            default = int(key.default) if isinstance(key.default, bool) else key.default
            raise _refused(section, key.name, str(default))
        node[key.python] = value
    return node


def check_names(section: Section, accepted: Iterable[str], what: str) -> None:
    """Raise an IniError for the first key of a section that is not accepted.

    Args:
        section: to be checked.
        accepted: names of its keys.
        what: the section is, such as ``RescaleTransformation``.
    """
    accepted = sorted(accepted)
    for given in section:
        if given not in accepted:
            raise IniError(
                f"[{section.name}] {given}: {what} has no key {given}, and N2D2 does not load the "
                f"file.{did_you_mean(given, accepted)} Accepted: {', '.join(accepted)}",
                section.place(given),
            )


def _value(section: Section, key: Key) -> Any:
    name = key.name
    if isinstance(key.kind, tuple):
        word = section.choice(name, key.kind)
        if key.words is None:
            return snake_case(word)
        if word not in key.words:
            raise _refused(section, name, ", ".join(key.words))
        return key.words[word]
    if key.kind == "numbers":
        numbers = section.reals(name)
        if not numbers:
            raise section.wrong(name, "a number, or one for each channel")
        return numbers[0] if len(numbers) == 1 else numbers
    if key.kind == "range":
        ends = section.reals(name)
        if len(ends) != 2 or ends[0] > ends[1]:
            raise section.wrong(name, "two numbers, the lowest and the highest")
        return ends
    if key.kind == "positive":
        if section.unsigned(name) == 0:
            raise section.wrong(name, "1 or more")
        return section.unsigned(name)
    if key.kind == "share":
        if not 0 <= section.real(name) <= 1:
            raise section.wrong(name, "a number in [0, 1]")
        return section.real(name)
    return getattr(section, key.kind)(name)


def _refused(section: Section, name: str, accepted: str) -> IniError:
    given = section.text(name)
    return IniError(
        f"[{section.name}] {name}={given} is not supported here. Accepted: {accepted}",
        section.place(name),
    )
