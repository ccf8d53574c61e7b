"""ONNX nodes that move values: poolings, paddings, and other shapes for the same numbers."""

from __future__ import annotations

from math import prod

import numpy as np

from ini_compat.cells import shaping
from ini_compat.cells.reader import CellReader
from ini_compat.network import Shape
from ini_compat.onnx_graph.constants import BATCH
from ini_compat.onnx_graph.step import Step, Tensor
from ini_compat.onnx_graph.window import HIGHEST, ceil_sides, read_window

FLOATS = (1, 10, 11, 16)  # numbers of ONNX's types


def max_pool(step: Step) -> Tensor:
    """Maximum over windows."""
    if any(step.node.outputs[1:]):
        raise step.error("hands on where the maxima are, which is not supported here")
    return _windows(step, "Max")


def average_pool(step: Step) -> Tensor:
    """Average over windows; padding has to count, as it does in N2D2."""
    return _windows(step, "Average")


def global_max_pool(step: Step) -> Tensor:
    """Maximum over each channel."""
    return _whole(step, "Max", 4)


def global_average_pool(step: Step) -> Tensor:
    """Average over each channel."""
    return _whole(step, "Average", 4)


def reduce_mean(step: Step) -> Tensor:
    """Average, of whole channels only."""
    return _reduce(step, "Average")


def reduce_max(step: Step) -> Tensor:
    """Maximum, of whole channels only."""
    return _reduce(step, "Max")


def pad(step: Step) -> Tensor:
    """Zeros around the images."""
    tensor = step.tensor()
    mode = step.text("mode", "constant")
    if mode != "constant":
        raise step.error(f"has mode={mode!r:.40}. Accepted: constant")
    value = step.real("value", 0.0)
    if step.has(2):
        value = float(step.constant(2, "values").ravel()[:1].sum())
    key = "paddings" if "paddings" in step.node.attributes else "pads"
    pads = step.listed(key, 1) or []
    axes = step.listed("axes", 3)
    rank = tensor.rank
    around = axes if axes is not None else list(range(rank))
    around = [axis % rank for axis in around]
    if len(pads) != 2 * len(around) or not all(abs(n) <= HIGHEST for n in pads):
        raise step.error(f"has pads={pads!s:.60}, which do not fit {rank} dimensions")
    edges = dict(
        zip(around, zip(pads[: len(around)], pads[len(around) :], strict=True), strict=True)
    )
    if not any(pads):
        return tensor
    if rank != 4 or any(any(edges.get(axis, ())) for axis in (0, 1)):
        raise step.error("pads more than rows and columns, which is not supported here")
    if value != 0:
        raise step.error(f"pads with {value:g}. Accepted: 0")
    (top, bottom), (left, right) = edges.get(2, (0, 0)), edges.get(3, (0, 0))
    said = {"TopPadding": top, "BottomPadding": bottom, "LeftPadding": left, "RightPadding": right}
    said["NbOutputs"] = tensor.shape[0]
    return step.made(step.cell("Padding", shaping.padding, [tensor], said))


def concat(step: Step) -> Tensor:
    """Tensors one behind the other along the channels."""
    tensors = [step.tensor(i) for i in range(len(step.node.inputs))]
    ranks = {tensor.rank for tensor in tensors}
    if len(ranks) != 1:
        raise step.error("joins images with vectors")
    (rank,) = ranks
    if step.integer("axis", 1) % rank != 1:
        raise step.error(f"has axis={step.integer('axis', 1)}. Accepted: 1, the channels")
    tensors = [step.flat(tensor) for tensor in tensors]
    return step.made(step.cell("Concat", _joined, tensors), rank)


def same(step: Step) -> Tensor:
    """What comes in."""
    return step.tensor()


def cast(step: Step) -> Tensor:
    """What comes in, as other floating-point numbers."""
    if step.integer("to", 1) not in FLOATS:
        raise step.error("makes integers, which is not supported here")
    return step.tensor()


def flatten(step: Step) -> Tensor:
    """Images as vectors."""
    tensor = step.tensor()
    axis = step.integer("axis", 1)
    if axis % tensor.rank != 1:
        raise step.error(f"has axis={axis}. Accepted: 1")
    return _vectors(tensor)


def reshape(step: Step) -> Tensor:
    """The same numbers in other dimensions."""
    tensor = step.tensor()
    sizes = step.listed("shape", 1)
    if not sizes:
        raise step.error("has no shape")
    if not step.integer("allowzero", 0):
        whole = (BATCH, *tensor.sizes)
        sizes = [whole[i] if n == 0 and i < len(whole) else n for i, n in enumerate(sizes)]
    return _reshaped(step, tensor, sizes)


def squeeze(step: Step) -> Tensor:
    """Without dimensions of size 1."""
    tensor = step.tensor()
    sizes = (BATCH, *tensor.sizes)
    axes = step.listed("axes", 1)
    if axes is None:
        axes = [i for i, n in enumerate(sizes) if n == 1]
    axes = [axis % len(sizes) for axis in axes]
    if any(sizes[axis] != 1 for axis in axes):
        raise step.error(f"has axes={axes!s:.60}, of which not all have the size 1")
    return _reshaped(step, tensor, [n for i, n in enumerate(sizes) if i not in axes])


def unsqueeze(step: Step) -> Tensor:
    """With more dimensions of size 1."""
    tensor = step.tensor()
    axes = step.listed("axes", 1) or []
    sizes = [BATCH, *tensor.sizes]
    if len(axes) > 8:
        raise step.error(f"has axes={axes!s:.60}")
    for axis in sorted(axis % (len(sizes) + len(axes)) for axis in axes):
        sizes.insert(axis, 1)
    return _reshaped(step, tensor, sizes)


def transpose(step: Step) -> Tensor:
    """Dimensions in another order; the first stays."""
    tensor = step.tensor()
    rank = tensor.rank
    order = step.integers("perm") or list(range(rank))[::-1]
    if sorted(order) != list(range(rank)) or order[0] != 0:
        raise step.error(f"has perm={order!s:.60}, which moves the images of a batch")
    if rank == 2 or order == list(range(rank)):
        return tensor
    sizes = (BATCH, *tensor.sizes)
    longer = [axis for axis in order if sizes[axis] != 1]
    if longer == sorted(longer):  # in memory all numbers stay where they are
        return _reshaped(step, tensor, [sizes[axis] for axis in order])
    perm = [axis - 1 for axis in order[1:]]
    said = {"Perm": [*(2 - perm[2 - axis] for axis in range(3)), 3]}
    return step.made(step.cell("Transpose", shaping.transpose, [tensor], said))


def _windows(step: Step, kind: str) -> Tensor:
    tensor = step.tensor(rank=4)
    window = read_window(step, tensor)
    if window.dilation != (1, 1):
        raise step.error("has dilations other than 1, which is not supported here")
    sides = ceil_sides(step, tensor, window)
    if kind == "Average":
        if sides != window.sides:
            raise step.error("has ceil_mode=1 with incomplete windows, which is not supported here")
        if any(sides) and not step.integer("count_include_pad", 0):
            raise step.error(
                "has pads that do not count in the average, which is not supported here. Accepted: "
                "count_include_pad=1"
            )
    said = _pooling(kind, window.kernel, tensor) | {"StrideDims": window.stride[::-1]}
    return step.made(step.cell("Pool", shaping.pool, [tensor], said, sides=sides))


def _whole(step: Step, kind: str, rank: int) -> Tensor:
    tensor = step.tensor(rank=4)
    said = _pooling(kind, tensor.shape[1:], tensor)
    return step.made(step.cell("Pool", shaping.pool, [tensor], said), rank)


def _pooling(kind: str, kernel: tuple[int, int], tensor: Tensor) -> dict[str, object]:
    return {
        "Pooling": kind,
        "PoolDims": kernel[::-1],
        "NbOutputs": tensor.shape[0],
        "Mapping.ChannelsPerGroup": 1,
    }


def _reduce(step: Step, kind: str) -> Tensor:
    axes = sorted(axis % 4 for axis in step.listed("axes", 1) or ())
    if axes != [2, 3]:
        raise step.error(f"has axes={axes!s:.60}. Accepted: 2 and 3, rows and columns")
    return _whole(step, kind, 4 if step.integer("keepdims", 1) else 2)


def _joined(reader: CellReader) -> None:
    shape = reader.joined()
    reader.passes_on()
    reader.finish(shape)


def _vectors(tensor: Tensor) -> Tensor:
    return Tensor(tensor.source, tensor.shape, 2, tensor.nonnegative)


def _reshaped(step: Step, tensor: Tensor, sizes: list[int]) -> Tensor:
    """Return the tensor with those sizes; the first is the number of images."""
    total = prod(tensor.shape)
    batch, *rest = sizes or [0]
    open_ends = [n for n in (batch, *rest) if n == -1]
    if batch not in (BATCH, -1, step.reading.batch) or len(open_ends) > 1:
        raise step.error(f"has the shape {_text(sizes)}, which mixes the images of a batch")
    known = prod(n for n in rest if n != -1)
    rest = [total // known if n == -1 and known > 0 else n for n in rest]
    if prod(rest) != total or min(rest, default=1) < 1:
        raise step.error(f"has the shape {_text(sizes)} for {total} numbers of an image")
    if len(rest) == 1:
        return _vectors(tensor)
    if len(rest) != 3:
        raise step.error(
            f"has the shape {_text(sizes)}. Accepted: images (N, C, H, W) and vectors (N, C)"
        )
    shape: Shape = (rest[0], rest[1], rest[2])
    if shape == tensor.shape:
        return Tensor(tensor.source, tensor.shape, 4, tensor.nonnegative)
    return Tensor(step.reshaped(tensor, shape).name, shape, 4, tensor.nonnegative)


def _text(sizes: list[int]) -> str:
    return str(np.array(["N" if n == BATCH else str(n) for n in sizes[:9]]).tolist())
