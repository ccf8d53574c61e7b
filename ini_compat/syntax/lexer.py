"""The text of an .ini as section headers and entries, each with the line it stands on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ini_compat.errors import IniError, Place, quoted
from ini_compat.syntax import limits

SPACE = " \t\r\n\v\f"  # what N2D2 trims: a no-break space is not among them
BYTE_ORDER_MARK = "\ufeff"
_QUOTED_OR_COMMENT = re.compile(r'"[^"]*"|[;#"]')


@dataclass(frozen=True)
class Line:
    """A line of text; ``evaluated`` if a template put the result of a ``$(...)`` into it."""

    text: str
    place: Place
    evaluated: bool = False


@dataclass(frozen=True)
class Header:
    """``[name] parents`` or, with the path of a template, ``[name@template] parents``."""

    name: str
    template: str | None
    parents: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """``key=value`` as written: nothing is expanded."""

    key: str
    value: str
    place: Place
    evaluated: bool = False


def lines_of(text: str, file: str) -> list[Line]:
    """Return the physical lines of a file."""
    if text.count("\n") >= limits.LINES:
        raise IniError(f"the file has more than {limits.LINES} lines.", Place(file, limits.LINES))
    lines = text.removesuffix("\n").split("\n")
    return [
        Line(line.removesuffix("\r"), Place(file, number))
        for number, line in enumerate(lines, start=1)
    ]


def tokens(lines: Iterable[Line]) -> Iterator[Header | Entry]:
    """Return headers and entries in the order of the lines."""
    for line in _joined(lines):
        text = _without_comment(line).strip(SPACE)
        if text.startswith("[") and "]" in text:
            yield _header(text, line.place)
        elif text:
            yield _entry(text, line)


def _joined(lines: Iterable[Line]) -> Iterator[Line]:
    """Join each line that ends in a backslash with the next; the first one's place counts."""
    begun: list[Line] = []
    texts: list[str] = []
    for line in lines:
        text = line.text.removeprefix(BYTE_ORDER_MARK)
        begun.append(line)
        texts.append(text.removesuffix("\\"))
        if not text.endswith("\\"):
            yield _one_line(begun, texts)
            begun, texts = [], []
    if begun:  # a backslash on the last line joins it with nothing
        yield _one_line(begun, texts)


def _one_line(lines: list[Line], texts: list[str]) -> Line:
    return Line("".join(texts), lines[0].place, any(line.evaluated for line in lines))


def _without_comment(line: Line) -> str:
    """Cut the text at the first ``;`` or ``#`` outside quotes; no space is needed before it."""
    for match in _QUOTED_OR_COMMENT.finditer(line.text):
        if match.group() == '"':
            raise IniError("Malformed property: a quote is not closed.", line.place)
        if match.group() in ";#":
            return line.text[: match.start()]
    return line.text


def _header(text: str, place: Place) -> Header:
    inside, _, after = text[1:].partition("]")
    name, at, template = inside.partition("@")
    if "@" in template:
        raise IniError(f"the header {quoted(text)} has more than one '@'.", place)
    if not name or (at and not template):
        what = "a template's path after '@'" if name else "a name"
        raise IniError(f"the header {quoted(text)} needs {what}.", place)
    _check_length(name, "section name", place)
    _check_length(template, "path of a template", place)
    parents = tuple(word for word in re.split(r"[ \t]+", after) if word)
    return Header(name, template if at else None, parents, place)


def _entry(text: str, line: Line) -> Entry:
    key, equals, value = text.partition("=")
    if not equals:
        hint = " (the ']' of a section header is missing)" if text.startswith("[") else ""
        raise IniError(f"Missing value: {quoted(text)} has no '='{hint}.", line.place)
    key, value = key.rstrip(SPACE), value.strip(SPACE)
    if not key:
        raise IniError(f"there is no key before the '=' in {quoted(text)}.", line.place)
    _check_length(key, "key", line.place)
    if len(value) > limits.VALUE:
        raise IniError(f"the value of {key} is longer than {limits.VALUE} characters.", line.place)
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = value[1:-1]
    return Entry(key, value, line.place, line.evaluated)


def _check_length(name: str, what: str, place: Place) -> None:
    if len(name) > limits.NAME:
        raise IniError(f"a {what} is longer than {limits.NAME} characters.", place)
