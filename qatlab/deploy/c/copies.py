"""C of operations that hand on codes as they are, where these are wanted in another place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qatlab.deploy.c.memory import JOINS, Memory, Shape, Tensor, channels_in_front
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import function, indented, loop, moved, scaled
from qatlab.deploy.integer import operations as ops

Copied = tuple[str, list[Tensor]]


def copied(op: ops.Operation, name: str, memory: Memory, tables: Tables) -> Copied | None:
    """Return the function ``run_*`` of an operation that moves codes, and what it reads.

    None where all has been written in place.

    Args:
        op: the operation.
        name: its identifier.
        memory: where tensors lie.
        tables: which its constants are added to.
    """
    if memory.written_in_place(op.name, op.inputs[0]):
        return None
    result, read = memory.tensors[op.name], [memory.tensors[part] for part in op.inputs]
    if (first := channels_in_front(JOINS, op)) is not None:
        body, read = _joined(op, memory, first)
    else:
        body = COPIES[type(op)](op, read, result, tables)
    if not body:
        return None
    inputs = [f"const {source.pointed} *in{i}" for i, source in enumerate(read)]
    head = f"static void run_{name}({', '.join([*inputs, f'{result.pointed} *out'])})"
    return function(head, body, [f"Copies codes: {op.name}."]), read


def _joined(op: ops.Operation, memory: Memory, first: int) -> tuple[list[str], list[Tensor]]:
    """Channels behind each other, of which most have been written in place, and zeros."""
    result = memory.tensors[op.name]
    zero = result.store("out", result.index("c", "y", "x"), "0")
    body = _everywhere(result.shape, [zero], channels=(0, first)) if first else []
    read: list[Tensor] = []
    for part in op.inputs:
        source = memory.tensors[part]
        if not memory.written_in_place(part, op.name):
            code = source.load(f"in{len(read)}", source.index("c", "y", "x"))
            store = result.store("out", result.index(moved("c", first), "y", "x"), code)
            body += _everywhere(source.shape, [store])
            read.append(source)
        first += source.shape[0]
    if first < result.shape[0]:
        body += _everywhere(result.shape, [zero], channels=(first, result.shape[0]))
    return body, read


def _everywhere(
    shape: Shape, body: list[str], channels: tuple[int, int] | None = None
) -> list[str]:
    """Return loops over the places ``y, x`` and the channels ``c``, all or some of them."""
    start, end = channels or (0, shape[0])
    lines = loop("c", end, body, str(start))
    for variable, count in (("x", shape[2]), ("y", shape[1])):
        lines = loop(variable, count, lines) if count > 1 else lines
    return lines


def _in_order(op: ops.Concatenate, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    """Channels of several tensors in an order of their own."""
    assert op.order is not None
    table = tables.array("channels", op.name, np.argsort(op.order))
    body, first = [], 0
    for i, source in enumerate(read):
        code = source.load(f"in{i}", source.index("c", "y", "x"))
        place = result.index(f"{table}[{moved('c', first)}]", "y", "x")
        body += _everywhere(source.shape, [result.store("out", place, code)])
        first += source.shape[0]
    return body


def _picked(op: ops.Pick, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    channel = _taken_from("channels", op.channels, "c", op.name, tables)
    code = source.load("in0", source.index(channel, "y", "x"))
    store = result.store("out", result.index("c", "y", "x"), code)
    return _everywhere(result.shape, [store])


def _taken_from(what: str, numbers: Sequence[int], place: str, owner: str, tables: Tables) -> str:
    """Return C for the number of a place: of a table, unless all are the same."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    return f"{tables.array(what, owner, np.array(numbers))}[{place}]"


def _gathered(op: ops.Gather, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    y = _taken_from("read_rows", op.rows, "y", op.name, tables)
    x = _taken_from("read_columns", op.columns, "x", op.name, tables)
    code = source.load("in0", source.index("c", y, x))
    return _everywhere(result.shape, [result.store("out", result.index("c", "y", "x"), code)])


def _sliced(op: ops.Slice, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    ends = [*op.slices, *((0, 0, 1),) * (3 - len(op.slices))]
    c, y, x = (
        moved(scaled(place, step), start) if size > 1 else str(start)
        for place, size, (start, _, step) in zip("cyx", result.shape, ends, strict=True)
    )
    code = source.load("in0", source.index(c, y, x))
    return _everywhere(result.shape, [result.store("out", result.index("c", "y", "x"), code)])


def _reshaped(op: ops.Reshape, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    """The same codes, which lie in another order by place."""
    (source,) = read
    channels, height, width = source.shape
    code = source.load("in0", source.index("c", "y", "x"))
    body = [result.store("out", result.flat("k"), code), "++k;"]
    lines = loop("c", channels, loop("y", height, loop("x", width, body)))
    return ["int32_t k = 0;", *lines]


def _permuted(op: ops.Permute, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    strides = [math.prod(op.split[axis + 1 :]) for axis in range(len(op.split))]
    place = " + ".join(scaled(f"i{axis}", strides[axis]) for axis in op.axes)
    body = [result.store("out", result.flat("k"), source.load("in0", source.flat(place))), "++k;"]
    for axis in reversed(op.axes):
        body = loop(f"i{axis}", op.split[axis], body)
    return ["int32_t k = 0;", *body]


def _padded(op: ops.Pad, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    """Rows, columns and channels around a tensor."""
    (source,) = read
    amounts = [*op.amounts, *((0, 0),) * (3 - len(op.amounts))]
    places, inside = [], []
    for place, (before, behind), size in zip("cyx", amounts, source.shape, strict=True):
        at = moved(place, -before)
        if not (before or behind):
            places.append(at)
        elif op.fill is not None:
            places.append(f"({at})")
            inside += [f"{at} >= 0", f"{at} < {size}"]
        else:
            places.append(f"qatlab_{op.mode}({at}, {size})")
    c, y, x = places
    code = source.load("in0", source.index(c, y, x))
    index = result.index("c", "y", "x")
    body = [result.store("out", index, code)]
    if inside:
        zero = indented([result.store("out", index, "0")])
        body = [f"if ({' && '.join(inside)}) {{", *indented(body), "} else {", *zero, "}"]
    return _everywhere(result.shape, body)


def looked_up(op: ops.Table, name: str, source: Tensor, result: Tensor, tables: Tables) -> str:
    """Return the function ``run_*`` of a table of codes."""
    table = tables.array("table", op.name, op.entries)
    code = source.load("in", source.index("c", "y", "x"))
    store = result.store("out", result.index("c", "y", "x"), f"{table}[{moved(code, -op.lowest)}]")
    body = _everywhere(result.shape, [store])
    head = f"static void run_{name}(const {source.pointed} *in, {result.pointed} *out)"
    return function(head, body, [f"Codes of {op.name}: a table of {op.function}."])


Writer = Callable[[Any, list[Tensor], Tensor, Tables], list[str]]
COPIES: dict[type[ops.Operation], Writer] = {
    ops.Concatenate: _in_order,
    ops.Pick: _picked,
    ops.Gather: _gathered,
    ops.Slice: _sliced,
    ops.Permute: _permuted,
    ops.Pad: _padded,
    ops.Reshape: _reshaped,
}
