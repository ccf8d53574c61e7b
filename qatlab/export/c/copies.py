"""C of operations that hand on codes as they are, where these are wanted in another place."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qatlab.export.c.memory import Memory, Tensor, index_of
from qatlab.export.c.words import function, loop, moved, scaled
from qatlab.integer.network import Concatenate, PadChannels, Subsample


def joined(op: Concatenate | PadChannels, name: str, memory: Memory) -> tuple[str, list[Tensor]]:
    """Return the function ``run_*`` of what puts channels behind each other, and what it reads.

    It is "" where all has been written in place.
    """
    result, start = memory.tensors[op.name], 0
    read: list[Tensor] = []
    body: list[str] = []
    for part in op.inputs:
        source = memory.tensors[part]
        count = math.prod(source.shape)
        if not memory.written_in_place(part, op.name):
            code = source.load(f"in{len(read)}", "i")
            body += loop("i", count, [result.store("out", moved("i", start), code)])
            read.append(source)
        start += count
    if isinstance(op, PadChannels):
        body += loop("i", math.prod(result.shape), [result.store("out", "i", "0")], str(start))
    return (_copy(name, read, result, body, op.name) if body else "", read)


def subsampled(op: Subsample, name: str, source: Tensor, result: Tensor) -> str:
    """Return the function ``run_*`` of what keeps some rows and columns."""
    channels, height, width = result.shape
    _, rows, columns = source.shape
    (down, right) = op.stride
    place = scaled(f"({scaled('c', rows)} + {scaled('y', down)})", columns)
    code = source.load("in0", f"{place} + {scaled('x', right)}")
    store = result.store("out", index_of(result.shape), code)
    body = loop("c", channels, loop("y", height, loop("x", width, [store])))
    return _copy(name, [source], result, body, op.name)


def _copy(name: str, read: Sequence[Tensor], result: Tensor, body: Sequence[str], told: str) -> str:
    inputs = [f"const {source.pointed} *in{i}" for i, source in enumerate(read)]
    head = f"static void run_{name}({', '.join([*inputs, f'{result.pointed} *out'])})"
    return function(head, body, [f"Copies codes: {told}."])
