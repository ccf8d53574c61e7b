"""A template and its variables as lines, each with the template's line that produced it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ini_compat.errors import IniError, Place, did_you_mean, quoted
from ini_compat.syntax import limits
from ini_compat.syntax.lexer import SPACE, Line
from ini_compat.syntax.limits import Budget
from ini_compat.syntax.template import Block, For, If, Literally, Node, Set, Variable

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True)
class Value:
    """A text without variables; ``evaluated`` if ``$(...)`` has made some of it."""

    text: str
    evaluated: bool = False


@dataclass(frozen=True)
class Work:
    """What the templates of one document may still cost."""

    steps: Budget = field(
        default_factory=lambda: Budget(limits.TEMPLATE_STEPS, "the templates never seem to end")
    )
    output: Budget = field(
        default_factory=lambda: Budget(
            limits.TEMPLATE_OUTPUT,
            f"templates produce more than {limits.TEMPLATE_OUTPUT} characters",
        )
    )


def render(nodes: list[Node], variables: Mapping[str, Value], work: Work) -> list[Line]:
    """Return the lines that a parsed template produces."""
    output = _Output(work.output)
    _Renderer(_Variables(variables, work.steps), work).render(nodes, output)
    return output.lines()


class _Output:
    """Lines that grow; a line stands where the first visible text in it was written."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.finished: list[Line] = []
        self.parts: list[str] = []
        self.place: Place | None = None
        self.evaluated = False

    def add(self, text: str, place: Place, evaluated: bool = False) -> None:
        self.budget.spend(len(text), place)
        first, *others = text.split("\n")
        self._part(first, place, evaluated)
        for offset, part in enumerate(others, start=1):
            self._finish(place)
            self._part(part, Place(place.file, place.line + offset), evaluated)

    def add_value(self, value: Value, place: Place) -> None:
        """Add the text of a variable: all of it stands where the variable is named."""
        self.budget.spend(len(value.text), place)
        first, *others = value.text.split("\n")
        self._part(first, place, value.evaluated)
        for part in others:
            self._finish(place)
            self._part(part, place, value.evaluated)

    def lines(self) -> list[Line]:
        if self.parts:
            self._finish(self.place or Place("", 0))
        return self.finished

    def _part(self, part: str, place: Place, evaluated: bool) -> None:
        if part:
            self.parts.append(part)
            self.evaluated |= evaluated
            if self.place is None and part.strip(SPACE):
                self.place = place

    def _finish(self, place: Place) -> None:
        text = "".join(self.parts).removesuffix("\r")
        self.budget.spend(limits.LINE_COST, place)
        self.finished.append(Line(text, self.place or place, self.evaluated))
        self.parts, self.place, self.evaluated = [], None, False


@dataclass
class _Repetition:
    """One turn of a loop: ``i`` of a ``for``, or ``#`` of the block of a variable."""

    name: str
    index: int
    block: bool


class _Variables:
    """What names mean at one point of a template: loops, ``set``, then the section's keys."""

    def __init__(self, given: Mapping[str, Value], steps: Budget) -> None:
        self.given = given
        self.changed: dict[str, Value] = {}
        self.repetitions: list[_Repetition] = []
        self.steps = steps

    def find(self, name: str, place: Place) -> Value | None:
        return self._find(name, len(self.repetitions), place)

    def value(self, name: str, place: Place) -> Value:
        value = self.find(name, place)
        if value is None:
            hint = did_you_mean(name, [*self.given, *self.changed])
            raise IniError(f"the template variable {quoted(name)} is not defined.{hint}", place)
        return value

    def number(self, text: str, place: Place) -> int:
        """Return a bound of a loop: digits, or the variable that holds them."""
        if _INTEGER.fullmatch(text):
            return int(text)
        value = self.value(text, place).text.strip(SPACE)
        if not _INTEGER.fullmatch(value):
            raise IniError(f"{quoted(text)} is {quoted(value)} and counts nothing.", place)
        return int(value)

    def _find(self, name: str, depth: int, place: Place) -> Value | None:
        """Look among the innermost ``depth`` loops: in a block over A, X may be A[0].X or A[0]X."""
        self.steps.spend(1, place)
        if depth == 0:
            return self.changed.get(name) or self.given.get(name)
        loop = self.repetitions[depth - 1]
        if name == ("#" if loop.block else loop.name):
            return Value(str(loop.index))
        if not loop.block:
            return self._find(name, depth - 1, place)
        name = name.replace("#", str(loop.index))
        element = f"{loop.name}[{loop.index}]"
        for candidate in (f"{element}.{name}", f"{element}{name}", name):
            if len(candidate) <= limits.NAME:
                found = self._find(candidate, depth - 1, place)
                if found is not None:
                    return found
        return None


class _Renderer:
    def __init__(self, variables: _Variables, work: Work) -> None:
        self.variables = variables
        self.work = work

    def render(self, nodes: list[Node], output: _Output) -> None:
        for node in nodes:
            self.work.steps.spend(1, node.place)
            if isinstance(node, Literally):
                output.add(node.text, node.place)
            elif isinstance(node, Variable):
                output.add_value(self.variables.value(node.name, node.place), node.place)
            elif isinstance(node, If):
                self.render(node.body if self._holds(node) else node.otherwise, output)
            elif isinstance(node, Set):
                self._set(node)
            else:
                self._loop(node, output)

    def _holds(self, node: If) -> bool:
        if node.test == "exists":
            return self.variables.find(node.name, node.place) is not None
        if node.test == "not_exists":
            return self.variables.find(node.name, node.place) is None
        equal = self.variables.value(node.name, node.place).text == node.value
        return equal if node.test == "==" else not equal

    def _set(self, node: Set) -> None:
        output = _Output(self.work.output)
        self.render(node.body, output)
        lines = output.lines()
        text = "\n".join(line.text for line in lines)
        evaluated = any(line.evaluated for line in lines)
        self.variables.changed[node.name] = Value(text, evaluated)

    def _loop(self, node: For | Block, output: _Output) -> None:
        number: Callable[[str, Place], int] = self.variables.number
        first = number(node.first, node.place) if isinstance(node, For) else 0
        end = number(node.end if isinstance(node, For) else node.name, node.place)
        if end - first > limits.REPETITIONS:
            raise IniError(f"a loop repeats more than {limits.REPETITIONS} times.", node.place)
        self.work.steps.spend(max(end - first, 0), node.place)
        for index in range(first, end):
            loop = _Repetition(node.name, index, isinstance(node, Block))
            self.variables.repetitions.append(loop)
            self.render(node.body, output)
            self.variables.repetitions.pop()
