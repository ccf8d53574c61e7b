"""How operations are written that hand on what they read, be it codes or real numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import NO_SIDES, Sides
from qatlab.deploy.onnx.graph import Graph, window
from qatlab.errors import ConfigError

PADDINGS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
WRAPS = 19  # the opset from which Pad has the mode wrap


def padded(graph: Graph, op: ops.Pad, x: str, value: np.generic) -> str:
    """Write what adds rows, columns or channels.

    Args:
        graph: it is added to.
        op: the operation.
        x: what it reads.
        value: what is put there in the mode ``constant``, of the type of x.

    Raises:
        ConfigError: for a mode that the opset has not.
    """
    mode = PADDINGS[op.mode]
    if mode == "wrap" and graph.opset < WRAPS:
        raise ConfigError(
            f"{op.name}: circular padding needs --opset {WRAPS} or higher, not {graph.opset}."
        )
    amounts = [n for side in zip(*((0, 0), *op.amounts), strict=True) for n in side]
    inputs = [x, graph.constant(np.array(amounts, np.int64))]
    if op.mode == "constant" and value:
        inputs.append(graph.constant(value))
    return graph.node("Pad", inputs, op.name, mode=None if mode == "constant" else mode)


def inside_kernel(
    graph: Graph, op: ops.MaxPool | ops.SumPool, x: str, value: np.generic
) -> tuple[str, Sides]:
    """Return what a pooling reads and how it is padded: onnxruntime pads less than a kernel."""
    pairs = zip(op.padding, op.kernel, strict=True)
    if all(max(side) < taps for side, taps in pairs):
        return x, op.padding
    wider = ops.Pad(f"{op.name}_padded", (), ((0, 0), *op.padding))
    return padded(graph, wider, x, value), NO_SIDES


def _max_pool(graph: Graph, op: ops.MaxPool, inputs: list[str], lowest: np.generic) -> str:
    x, padding = inside_kernel(graph, op, inputs[0], lowest)
    return graph.node("MaxPool", [x], op.name, **window(op, padding))


def _pad(graph: Graph, op: ops.Pad, inputs: list[str], lowest: np.generic) -> str:
    value = op.value if np.issubdtype(lowest.dtype, np.floating) else 0
    return padded(graph, op, inputs[0], lowest.dtype.type(value))


def _reshape(graph: Graph, op: ops.Reshape, inputs: list[str], lowest: np.generic) -> str:
    if len(op.shape) == 1:
        return graph.node("Flatten", inputs, op.name, axis=1)
    return graph.node("Reshape", [*inputs, graph.constant(np.array([-1, *op.shape]))], op.name)


def _permute(graph: Graph, op: ops.Permute, inputs: list[str], lowest: np.generic) -> str:
    split, shape = (graph.constant(np.array([-1, *sizes])) for sizes in (op.split, op.shape))
    apart = graph.node("Reshape", [*inputs, split])
    moved = graph.node("Transpose", [apart], perm=[0, *(axis + 1 for axis in op.axes)])
    return graph.node("Reshape", [moved, shape], op.name)


def _slice(graph: Graph, op: ops.Slice, inputs: list[str], lowest: np.generic) -> str:
    starts, ends, steps = (list(part) for part in zip(*op.slices, strict=True))
    axes = list(range(1, len(starts) + 1))
    parts = [graph.constant(np.array(part, np.int64)) for part in (starts, ends, axes, steps)]
    return graph.node("Slice", [*inputs, *parts], op.name)


def _taken(graph: Graph, x: str, numbers: Sequence[int], name: str, axis: int = 1) -> str:
    taken = graph.constant(np.array(numbers, np.int64))
    return graph.node("Gather", [x, taken], name, axis=axis)


def _concatenate(graph: Graph, op: ops.Concatenate, inputs: list[str], lowest: np.generic) -> str:
    name = op.name if op.order is None else ""
    joined = graph.node("Concat", inputs, name, axis=1)
    return joined if op.order is None else _taken(graph, joined, op.order, op.name)


def _pick(graph: Graph, op: ops.Pick, inputs: list[str], lowest: np.generic) -> str:
    return _taken(graph, inputs[0], op.channels, op.name)


def _gather(graph: Graph, op: ops.Gather, inputs: list[str], lowest: np.generic) -> str:
    rows = _taken(graph, inputs[0], op.rows, "", axis=2)
    return _taken(graph, rows, op.columns, op.name, axis=3)


# Each is given the names of what it reads, and a number of their type than which none is smaller.
MOVES: dict[type[ops.Operation], Callable[[Graph, Any, list[str], np.generic], str]] = {
    ops.MaxPool: _max_pool,
    ops.Slice: _slice,
    ops.Pick: _pick,
    ops.Gather: _gather,
    ops.Concatenate: _concatenate,
    ops.Reshape: _reshape,
    ops.Permute: _permute,
    ops.Pad: _pad,
}
