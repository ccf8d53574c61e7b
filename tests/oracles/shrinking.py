"""Makes a program whose forms differ as small as it can be while they still do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from random_programs import Program, Recipe, Statement, Unfit

PLAIN = Recipe()
CONVOLUTIONS = ("nn.Conv2d({c0}, 2, 1)", "nn.Conv2d({c0}, {c0}, 1)")
ATTEMPTS = 300


def shrunk(program: Program, fails: Callable[[Program], str | None]) -> Program:
    """Return the smallest program found that fails as ``program`` does.

    Args:
        program: one that fails.
        fails: returns the kind of the failure, None if there is none; may raise Unfit.
    """
    kind, attempts, found = fails(program), 0, True
    while found and attempts < ATTEMPTS:
        found = False
        for candidate in _simpler(program):
            attempts += 1
            smaller = candidate.without_dead_ends()
            if smaller != program and _kind(smaller, fails) == kind:
                program, found = smaller, True
                break
            if attempts >= ATTEMPTS:
                break
    return program


def _kind(program: Program, fails: Callable[[Program], str | None]) -> str | None:
    try:
        program.source()
        return fails(program)
    except Unfit:
        return None


def _simpler(program: Program) -> Iterator[Program]:
    """Yield programs that are simpler in one respect, those that lack most first."""
    if program.recipe != PLAIN:
        yield replace(program, recipe=PLAIN)
    for name in ("x", *(s.written[0] for s in program.statements[:-1])):
        yield replace(program, outputs=(name,), last="", named=False)
    for i in range(len(program.statements)):
        for rest in _without(program.statements, i):
            yield replace(program, statements=rest)
    for i in range(len(program.statements)):
        yield from _renamed(program, i)
    for name, statements in program.blocks.items():
        for i in range(len(statements)):
            for rest in _without(statements, i):
                if rest:
                    yield replace(program, blocks={**program.blocks, name: rest})
    if program.last or program.named:
        yield replace(program, last="", named=False)
    for i, statement in enumerate(program.statements):
        for other in _plainer(statement):
            changed = (*program.statements[:i], other, *program.statements[i + 1 :])
            yield replace(program, statements=changed)
    for key in ("rules", "normalised", "size", "channels", "rescale", "opset", "seed"):
        own = getattr(PLAIN, key)
        if getattr(program.recipe, key) != own:
            yield replace(program, recipe=replace(program.recipe, **{key: own}))
    for key in ("weight", "activation"):
        if getattr(program.recipe, key) != getattr(PLAIN, key):
            yield replace(program, recipe=replace(program.recipe, **{key: getattr(PLAIN, key)}))


def _without(statements: tuple[Statement, ...], i: int) -> Iterator[tuple[Statement, ...]]:
    """Yield the statements without one, whose results are replaced by what it reads."""
    gone, rest = statements[i], statements[i + 1 :]
    for read in gone.reads if gone.results else ("",):
        names = dict.fromkeys(gone.results, read)
        later = (
            replace(one, reads=tuple(names.get(name, name) for name in one.reads)) for one in rest
        )
        kept = (*statements[:i], *later)
        yield tuple(one for one in kept if one.reads)


def _renamed(program: Program, i: int) -> Iterator[Program]:
    """Yield the program with a statement that reads the image instead."""
    statement = program.statements[i]
    for j, name in enumerate(statement.reads):
        if name != "x":
            reads = (*statement.reads[:j], "x", *statement.reads[j + 1 :])
            changed = replace(statement, reads=reads)
            statements = (*program.statements[:i], changed, *program.statements[i + 1 :])
            yield replace(program, statements=statements)


def _plainer(statement: Statement) -> Iterator[Statement]:
    """Yield the statement with a simpler module."""
    if len(statement.made) > 1:
        yield replace(statement, made=statement.made[:1])
    if not statement.made:
        return
    member, _, text = statement.made[0].partition(" = ")
    if "nn.Conv2d" in text:
        for conv in CONVOLUTIONS:
            if conv != text:
                yield replace(statement, made=(f"{member} = {conv}", *statement.made[1:]))
    if text.startswith("nn.Sequential("):
        *_, last = text.removeprefix("nn.Sequential(").split("nn.")
        yield replace(statement, made=(f"{member} = nn.{last.rstrip(', )')})",))
