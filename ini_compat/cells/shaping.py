"""Cells that move values: Pool, Unpool, FMP, Padding, Resize, Reshape, Transpose."""

from __future__ import annotations

from math import prod
from typing import Any

from ini_compat.cells.geometry import check_size, deconv_size, pair, pool_size, text
from ini_compat.cells.mapping import Mapping, check_written_out, read_mapping
from ini_compat.cells.reader import CellReader
from ini_compat.cells.weighted import crop
from ini_compat.network import Node, Shape


def pool(reader: CellReader) -> None:
    """Read a pooling; by default each output pools over all channels."""
    section = reader.section
    channels, height, width = before = reader.joined()
    reader.check_config()
    mapping = _mapping(reader, reader.number_of_outputs())
    kernel, stride, padded = _window(reader)
    kind = section.choice("Pooling", ("Max", "Average"))
    if any(p >= k for p, k in zip(padded, kernel, strict=True)):
        key = next(k for k in ("PaddingDims", "Padding", "PaddingX", "PaddingY") if section.has(k))
        raise reader.error(
            key, "is not below the size of the pooling, whose windows would be empty"
        )
    sizes = zip((height, width), kernel, stride, padded, strict=True)
    plane = [pool_size(*numbers) for numbers in sizes]
    shape = check_size(section, (mapping.outputs, plane[0], plane[1]), before)
    node = _window_node("max_pool" if kind == "Max" else "avg_pool", kernel, stride, padded)
    if not mapping.identity:
        check_written_out(section, channels, mapping.outputs)
        if mapping.blind:
            raise reader.error("NbOutputs", "counts outputs that no channel is mapped to")
        node["mapping"] = list(mapping.rows)
    reader.add(node)
    reader.finish(shape)


def unpool(reader: CellReader) -> None:
    """Read an unpooling, which puts values back where a max pooling has found them."""
    section = reader.section
    shape = reader.only_input()
    reader.number_of_outputs(shape[0])
    reader.check_config()
    _identity(reader, shape[0])
    kernel, stride, padded = _window(reader)
    section.choice("Pooling", ("Max",))
    node = _window_node("max_pool", kernel, stride, padded)
    sizes = zip(shape[1:], kernel, stride, padded, strict=True)
    plane = [deconv_size(*numbers, 1) for numbers in sizes]
    made: Shape = (shape[0], plane[0], plane[1])
    name = section.text("ArgMax")
    partner = reader.parents.get(name)
    layers = {} if partner is None else partner.layers
    found = next((item for item in layers.items() if item[1]["type"] == "max_pool"), None)
    wanted = ""
    if partner is None or found is None or partner.shape is None:
        wanted = "before this cell"
    elif {**found[1], "input": None} != {**node, "input": None} or partner.shape != shape:
        wanted = "without mapping, and with the window and the outputs of this cell"
    elif any(2 * p > k for p, k in zip(padded, kernel, strict=True)):
        wanted = "whose padding is at most half of its window"
    elif partner.input_shapes != [made]:
        before = " + ".join(text(s) for s in partner.input_shapes)
        wanted = f"of {text(made)}, which is what comes back, and not of {before}"
    if wanted or found is None:
        raise reader.wrong("ArgMax", f"a max pooling {wanted}")
    reader.add({**node, "type": "max_unpool", "pool": found[0]})
    reader.finish(made)


def fmp(reader: CellReader) -> None:
    """Read a fractional max pooling."""
    section = reader.section
    channels, height, width = before = reader.joined()
    reader.number_of_outputs(channels)
    reader.check_config("Overlapping", "PseudoRandom")
    _identity(reader, channels)
    ratio = section.real("ScalingRatio")
    if ratio < 1:
        raise reader.wrong("ScalingRatio", "1 or more")
    node: Node = {"type": "fractional_max_pool", "ratio": ratio}
    for key, argument in (("Overlapping", "overlapping"), ("PseudoRandom", "pseudo_random")):
        node |= {} if reader.config.boolean(key, True) else {argument: False}
    size = check_size(section, (channels, int(height / ratio), int(width / ratio)), before)
    reader.add(node)
    reader.finish(size)


def padding(reader: CellReader) -> None:
    """Read a padding; negative numbers cut off."""
    section = reader.section
    channels, height, width = before = reader.joined()
    reader.number_of_outputs(channels)
    reader.check_config()
    sides = ("top", "bottom", "left", "right")
    edges = {side: section.integer(f"{side.title()}Padding") for side in sides}
    high, wide = height + edges["top"] + edges["bottom"], width + edges["left"] + edges["right"]
    shape = check_size(section, (channels, high, wide), before)
    reader.add({"type": "padding", **{side: n for side, n in edges.items() if n}})
    reader.finish(shape)


def resize(reader: CellReader) -> None:
    """Read a resizing of feature maps."""
    section = reader.section
    channels, *_ = before = reader.joined()
    reader.number_of_outputs(channels)
    reader.check_config("AlignCorners")
    height, width = section.unsigned("OutputHeight"), section.unsigned("OutputWidth")
    shape = check_size(section, (channels, height, width), before)
    modes = {"Bilinear": "bilinear", "BilinearTF": "bilinear_tf", "NearestNeighbor": "nearest"}
    mode = modes[section.choice("Mode", tuple(modes))]
    node: Node = {"type": "resize", "height": height, "width": width, "mode": mode}
    if not reader.config.boolean("AlignCorners", True):
        node["align_corners"] = False
    reader.add(node)
    reader.finish(shape)


def reshape(reader: CellReader) -> None:
    """Read a reshaping; N2D2 gives the dimensions as X Y Z, and may leave one to be found."""
    section = reader.section
    reader.check_config()
    crop(reader)
    before = reader.only_input()
    dims = section.integers("Dims")
    if len(dims) == 4 and dims[3] in (-1, 0):
        dims = dims[:3]  # the fourth is the batch, which stays
    if not 1 <= len(dims) <= 3 or min(dims) < -1 or dims.count(-1) > 1:
        raise reader.wrong("Dims", "X Y Z, of which one may be -1, and -1 or 0 after them")
    numbers = [*dims, *(1,) * (3 - len(dims))][::-1]
    numbers = [old if n == 0 else n for n, old in zip(numbers, before, strict=True)]
    known = prod(n for n in numbers if n != -1)
    channels, height, width = (prod(before) // known if n == -1 else n for n in numbers)
    shape: Shape = (channels, height, width)
    if prod(shape) != prod(before):
        raise reader.error("Dims", f"has {prod(shape)} values, its input {prod(before)}")
    if section.has("NbOutputs"):
        reader.number_of_outputs(shape[0])
    reader.add({"type": "reshape", "dims": list(shape)})
    reader.finish(shape)


def transpose(reader: CellReader) -> None:
    """Read a transposition; N2D2's axes 0, 1, 2, 3 are X, Y, Z and the batch."""
    section = reader.section
    reader.check_config()
    crop(reader)
    before = reader.only_input()
    axes = section.integers("Perm")
    if sorted(axes[:3]) != [0, 1, 2] or axes[3:] not in ([], [3]):
        raise reader.wrong("Perm", "an order of 0 1 2 3 that leaves 3 in its place")
    perm = [2 - axes[2 - axis] for axis in range(3)]
    shape: Shape = (before[perm[0]], before[perm[1]], before[perm[2]])
    if section.has("NbOutputs"):
        reader.number_of_outputs(shape[0])
    reader.add({"type": "transpose", "perm": perm})
    reader.finish(shape)


def _window(reader: CellReader) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return kernel, stride and padding of a pooling."""
    section = reader.section
    kernel = pair(section, "Pool", None, "PoolSize")
    return kernel, pair(section, "Stride", (1, 1)), pair(section, "Padding", (0, 0), lowest=0)


def _window_node(kind: str, kernel: Any, stride: Any, padded: Any) -> Node:
    node: Node = {"type": kind, "kernel": list(kernel)}
    node |= {"stride": list(stride)} if stride != (1, 1) else {}
    return node | ({"padding": list(padded)} if padded != (0, 0) else {})


def _mapping(reader: CellReader, outputs: int) -> Mapping:
    channels = [shape[0] for shape in reader.shapes]
    return read_mapping(reader.section, reader.cell.inputs, channels, outputs)


def _identity(reader: CellReader, channels: int) -> None:
    """Raise unless output i is mapped to channel i."""
    if not _mapping(reader, channels).identity:
        raise reader.error(
            "NbOutputs",
            "are not mapped to one channel each, which is not supported here. Accepted: "
            "Mapping.Size=1",
        )
