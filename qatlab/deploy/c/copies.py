"""C of operations that hand on codes as they are, where these are wanted in another place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qatlab.deploy.c.memory import JOINS, Memory, Tensor, channels_in_front, index_of
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
    start, end = first * math.prod(result.shape[1:]), math.prod(result.shape)
    zero = result.store("out", "i", "0")
    body = loop("i", start, [zero]) if start else []
    read: list[Tensor] = []
    for part in op.inputs:
        source = memory.tensors[part]
        count = math.prod(source.shape)
        if not memory.written_in_place(part, op.name):
            code = source.load(f"in{len(read)}", "i")
            body += loop("i", count, [result.store("out", moved("i", start), code)])
            read.append(source)
        start += count
    return body + (loop("i", end, [zero], str(start)) if start < end else []), read


def _in_order(op: ops.Concatenate, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    """Channels of several tensors in an order of their own."""
    assert op.order is not None
    area, to = math.prod(result.shape[1:]), np.argsort(op.order)
    table = tables.array("channels", op.name, to)
    body, first = [], 0
    for i, source in enumerate(read):
        code = source.load(f"in{i}", f"{scaled('c', area)} + j")
        place = f"{scaled(table + '[' + moved('c', first) + ']', area)} + j"
        body += loop("c", source.shape[0], loop("j", area, [result.store("out", place, code)]))
        first += source.shape[0]
    return body


def _picked(op: ops.Pick, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    area = math.prod(result.shape[1:])
    table = tables.array("channels", op.name, np.array(op.channels))
    code = source.load("in0", f"{scaled(f'{table}[c]', area)} + j")
    store = result.store("out", f"{scaled('c', area)} + j", code)
    return loop("c", result.shape[0], loop("j", area, [store]))


def _gathered(op: ops.Gather, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    y, x = (
        f"{tables.array(f'read_{words}', op.name, np.array(numbers))}[{place}]"
        for words, numbers, place in (("rows", op.rows, "y"), ("columns", op.columns, "x"))
    )
    channels, height, width = source.shape
    code = source.load("in0", f"(c * {height} + {y}) * {width} + {x}")
    store = result.store("out", index_of(result.shape), code)
    return loop("c", channels, loop("y", len(op.rows), loop("x", len(op.columns), [store])))


def _sliced(op: ops.Slice, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    channels, height, width = result.shape
    ends = [*op.slices, *((0, 0, 1),) * (3 - len(op.slices))]
    c, y, x = (
        moved(scaled(place, step), start)
        for place, (start, _, step) in zip("cyx", ends, strict=True)
    )
    code = source.load("in0", f"(({c}) * {source.shape[1]} + {y}) * {source.shape[2]} + {x}")
    store = result.store("out", index_of(result.shape), code)
    return loop("c", channels, loop("y", height, loop("x", width, [store])))


def _permuted(op: ops.Permute, read: list[Tensor], result: Tensor, tables: Tables) -> list[str]:
    (source,) = read
    strides = [math.prod(op.split[axis + 1 :]) for axis in range(len(op.split))]
    place = " + ".join(scaled(f"i{axis}", strides[axis]) for axis in op.axes)
    body = [result.store("out", "k", source.load("in0", place)), "++k;"]
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
    _, height, width = source.shape
    code = source.load("in0", f"({c} * {height} + {y}) * {width} + {x}")
    index = index_of(result.shape)
    body = [result.store("out", index, code)]
    if inside:
        zero = indented([result.store("out", index, "0")])
        body = [f"if ({' && '.join(inside)}) {{", *indented(body), "} else {", *zero, "}"]
    channels, height, width = result.shape
    return loop("c", channels, loop("y", height, loop("x", width, body)))


def looked_up(op: ops.Table, name: str, source: Tensor, result: Tensor, tables: Tables) -> str:
    """Return the function ``run_*`` of a table of codes."""
    table = tables.array("table", op.name, op.entries)
    code = f"{table}[{moved(source.load('in', 'i'), -op.lowest)}]"
    body = loop("i", math.prod(result.shape), [result.store("out", "i", code)])
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
}
