"""Computes what of an ONNX graph does not depend on the images: shapes, transposed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from ini_compat.errors import IniError, Place, quoted
from ini_compat.onnx_graph.file import Array, OnnxNode

BATCH = -(1 << 40)  # stands for the number of images where a graph asks for sizes
MOST_NUMBERS = 1 << 16  # that a result may have beyond those of its inputs

Compute = Callable[[OnnxNode, Sequence[Array]], Array]


def fold(node: OnnxNode, known: Mapping[str, Array], place: Place) -> Array | None:
    """Return what a node computes from constants; None if it does more than that.

    Raises:
        IniError: if its inputs do not fit together.
    """
    compute = OPERATORS.get(node.operator)
    if compute is None or not node.inputs or not all(name in known for name in node.inputs):
        return None
    arrays = [known[name] for name in node.inputs]
    if node.operator in ARITHMETIC and any((array == BATCH).any() for array in arrays):
        return None
    try:
        return compute(node, arrays)
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
        reason = quoted(str(error))
        raise IniError(
            f"node {quoted(node.name)} ({node.operator}) cannot be computed: {reason}", place
        ) from None


def numbers(node: OnnxNode, key: str, arrays: Sequence[Array], index: int) -> list[int] | None:
    """Return integers that stand in an attribute, or since a later opset in an input."""
    if key in node.attributes:
        value = node.attributes[key]
        return [int(n) for n in (value if isinstance(value, list) else np.ravel(value))]
    return [int(n) for n in arrays[index].ravel()] if len(arrays) > index else None


def _identity(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    return arrays[0]


def _cast(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    integers = (2, 3, 4, 5, 6, 7, 9, 12, 13)  # numbers of ONNX's integer types and bool
    wanted = np.int64 if node.attributes.get("to") in integers else np.float32
    return arrays[0].astype(wanted)


def _gather(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    table, indices = arrays
    axis = _integer(node, "axis", 0)
    rest = table.size // max(table.shape[axis], 1)
    _limit(rest * indices.size, arrays)
    return np.take(table, indices.astype(int), axis)


def _concat(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    _limit(sum(array.size for array in arrays), arrays)
    return np.concatenate(arrays, _integer(node, "axis", 0))


def _slice(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    data = arrays[0]
    starts, ends = numbers(node, "starts", arrays, 1), numbers(node, "ends", arrays, 2)
    if starts is None or ends is None:
        raise ValueError("starts or ends are missing")
    axes = numbers(node, "axes", arrays, 3) or list(range(len(starts)))
    steps = numbers(node, "steps", arrays, 4) or [1] * len(starts)
    window = [slice(None)] * data.ndim
    for axis, *bounds in zip(axes, starts, ends, steps, strict=True):
        window[axis] = slice(*bounds)
    return data[tuple(window)]


def _unsqueeze(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    return np.expand_dims(arrays[0], tuple(numbers(node, "axes", arrays, 1) or ()))


def _squeeze(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    axes = numbers(node, "axes", arrays, 1)
    return np.squeeze(arrays[0], None if axes is None else tuple(axes))


def _reshape(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    sizes = numbers(node, "shape", arrays, 1) or []
    kept = [arrays[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return arrays[0].reshape(kept)


def _transpose(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    return np.transpose(arrays[0], numbers(node, "perm", (), 0))


def _constant_of_shape(node: OnnxNode, arrays: Sequence[Array]) -> Array:
    sizes = [int(n) for n in arrays[0].ravel()]
    value = np.ravel(np.asarray(node.attributes.get("value", np.float32(0))))
    _limit(prod(sizes), ())
    return np.full(sizes, value[0])


def _arithmetic(function: Callable[[Array, Array], Array]) -> Compute:
    def compute(node: OnnxNode, arrays: Sequence[Array]) -> Array:
        first, second = arrays
        _limit(prod(np.broadcast_shapes(first.shape, second.shape)), arrays)
        return function(first, second).astype(first.dtype)

    return compute


def _divided(first: Array, second: Array) -> Array:
    if np.issubdtype(first.dtype, np.floating):
        return np.true_divide(first, second)
    return np.trunc(np.true_divide(first, second))


def _limit(size: int, arrays: Sequence[Array]) -> None:
    if size > max([MOST_NUMBERS, *(array.size for array in arrays)]):
        raise ValueError(f"the result has {size} numbers")


def _integer(node: OnnxNode, key: str, default: int) -> int:
    value = node.attributes.get(key, default)
    return value if isinstance(value, int) else default


ARITHMETIC: dict[str, Compute] = {
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divided),
}
OPERATORS: dict[str, Compute] = {
    "Identity": _identity,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "ConstantOfShape": _constant_of_shape,
    **ARITHMETIC,
}
