"""The text of a template as a tree: ``{{VAR}}``, ``if``, ``for``, ``block``, ``set``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ini_compat.errors import IniError, Place, did_you_mean, quoted
from ini_compat.syntax import limits

# In "${{{VAR}}}" the command begins at the last two of the three braces.
_OPENING = re.compile(r"\{\{(?!\{)|\{%")
_RANGE = re.compile(r"(\S+)\s+in\s+range\s*\(([^,()]*)(?:,([^,()]*))?\)", re.ASCII)
_ENDS = {"if": "endif", "for": "endfor", "block": "endblock", "set": "endset"}
_COMMANDS = [*_ENDS, *_ENDS.values(), "else"]


@dataclass(frozen=True)
class Literally:
    """Text that is copied."""

    text: str
    place: Place  # of its first line


@dataclass(frozen=True)
class Variable:
    """``{{name}}``."""

    name: str
    place: Place


@dataclass(frozen=True)
class If:
    """``{% if name exists %}``, ``not_exists``, ``== value`` or ``!= value``."""

    name: str
    test: Literal["exists", "not_exists", "==", "!="]
    value: str
    body: list[Node]
    otherwise: list[Node]
    place: Place


@dataclass(frozen=True)
class For:
    """``{% for name in range(first,end) %}``; the bounds are numbers or variable names."""

    name: str
    first: str
    end: str
    body: list[Node]
    place: Place


@dataclass(frozen=True)
class Block:
    """``{% block name %}``: the body as often as the variable says."""

    name: str
    body: list[Node]
    place: Place


@dataclass(frozen=True)
class Set:
    """``{% set name %}``: the variable becomes what the body renders to."""

    name: str
    body: list[Node]
    place: Place


Node: TypeAlias = Literally | Variable | If | For | Block | Set


@dataclass(frozen=True)
class _Command:
    """``{% word arguments %}``."""

    word: str
    arguments: str
    place: Place


def parse(text: str, file: str) -> list[Node]:
    """Return the commands of a template, nested as they are written."""
    return _Parser(text, file).nodes()


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.pieces = _pieces(text, file)

    def nodes(self) -> list[Node]:
        nodes, command = self._until((), 0)
        assert command is None  # no end is accepted at the outermost level
        return nodes

    def _until(self, ends: tuple[str, ...], depth: int) -> tuple[list[Node], _Command | None]:
        """Read up to one of the commands that end a body, or to the end of the text."""
        nodes: list[Node] = []
        for piece in self.pieces:
            if not isinstance(piece, _Command):
                nodes.append(piece)
            elif piece.word in ends:
                return nodes, piece
            else:
                nodes.append(self._compound(piece, depth + 1))
        return nodes, None

    def _compound(self, begin: _Command, depth: int) -> Node:
        word, arguments, place = begin.word, begin.arguments, begin.place
        if word not in _ENDS:
            known = "has nothing to end" if word in _COMMANDS else "is not a command of templates"
            hint = "" if word in _COMMANDS else did_you_mean(word, _COMMANDS)
            raise IniError(f"{quoted('{% ' + word + ' %}')} {known}.{hint}", place)
        if depth > limits.NESTING:
            raise IniError(f"commands are nested more than {limits.NESTING} deep.", place)
        if word == "if":
            return self._if(begin, depth)
        body, _ = self._body(begin, (_ENDS[word],), depth)
        if word == "for":
            match = _RANGE.fullmatch(arguments)
            if match is None:
                raise _malformed(begin, "for i in range(first, end)")
            name, first, end = match.groups()
            first, end = ("0", first) if end is None else (first, end)
            return For(name, first.strip(), end.strip(), body, place)
        if len(arguments.split()) != 1:
            raise _malformed(begin, f"{word} VARIABLE")
        return (Block if word == "block" else Set)(arguments, body, place)

    def _body(
        self, begin: _Command, ends: tuple[str, ...], depth: int
    ) -> tuple[list[Node], _Command]:
        body, end = self._until(ends, depth)
        if end is None:
            expected = quoted("{% " + ends[-1] + " %}")
            raise IniError(f"this '{begin.word}' is not closed by {expected}.", begin.place)
        return body, end

    def _if(self, begin: _Command, depth: int) -> If:
        name, test, value = _condition(begin)
        body, end = self._body(begin, ("else", "endif"), depth)
        otherwise: list[Node] = []
        if end.word == "else":
            otherwise, _ = self._body(begin, ("endif",), depth)
        return If(name, test, value, body, otherwise, begin.place)


def _condition(
    begin: _Command,
) -> tuple[str, Literal["exists", "not_exists", "==", "!="], str]:
    words = begin.arguments.split()
    if len(words) == 2 and words[1] == "exists":
        return words[0], "exists", ""
    if len(words) == 2 and words[1] == "not_exists":
        return words[0], "not_exists", ""
    name, equal, value = begin.arguments.partition("==")
    other_name, different, other_value = begin.arguments.partition("!=")
    if equal and len(name) < len(other_name) and len(name.split()) == 1 and value.strip():
        return name.strip(), "==", value.strip()
    if different and len(other_name.split()) == 1 and other_value.strip():
        return other_name.strip(), "!=", other_value.strip()
    raise _malformed(begin, "if VARIABLE exists, not_exists, == value or != value")


def _malformed(command: _Command, form: str) -> IniError:
    written = quoted(f"{command.word} {command.arguments}".strip())
    return IniError(f"{written} is malformed: the form is '{form}'.", command.place)


def _pieces(text: str, file: str) -> Iterator[Literally | Variable | _Command]:
    """Cut the text at its commands; each is closed on its own line."""
    position, line = 0, 1
    while opening := _OPENING.search(text, position):
        before = text[position : opening.start()]
        if before:
            yield Literally(before, Place(file, line))
            line += before.count("\n")
        closing = "}}" if opening.group() == "{{" else "%}"
        end = text.find(closing, opening.end())
        inside = text[opening.end() : end]
        if end < 0 or "\n" in inside:
            raise IniError(f"'{opening.group()}' is not closed on its line.", Place(file, line))
        yield _command(opening.group(), inside, Place(file, line))
        position = end + len(closing)
    if position < len(text):
        yield Literally(text[position:], Place(file, line))


def _command(opening: str, inside: str, place: Place) -> Variable | _Command:
    if len(inside) > limits.NAME:
        raise IniError(f"a command is longer than {limits.NAME} characters.", place)
    word, _, arguments = inside.strip().partition(" ")
    if not word:
        raise IniError(f"there is nothing after '{opening}'.", place)
    if opening == "{%":
        return _Command(word, arguments.strip(), place)
    if arguments:
        raise IniError(f"{quoted(inside.strip())} is not a variable name.", place)
    return Variable(word, place)
