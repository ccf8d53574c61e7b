"""Cells that move values: Pool, Unpool, FMP, Padding, Resize, Reshape, Transpose."""

from __future__ import annotations

from math import prod

from ini_compat import geometry
from ini_compat.cells import CellReader
from ini_compat.geometry import check_size, pair
from ini_compat.network import Cell, Node, Shape
from ini_compat.weighted import crop


def pool(reader: CellReader) -> None:
    """Read a pooling; by default each output pools over all channels."""
    node, shape = _pooling(reader)
    kind = reader.section.choice("Pooling", ("Max", "Average"))
    reader.add({"type": "max_pool" if kind == "Max" else "avg_pool", **node})
    reader.finish(shape)


def unpool(reader: CellReader) -> None:
    """Read an unpooling, which puts values back where a max pooling has found them."""
    section = reader.section
    channels, height, width = reader.only_input()
    reader.number_of_outputs(channels)
    kernel = pair(section, "Pool", None, "PoolSize")
    stride = pair(section, "Stride", (1, 1))
    padding = pair(section, "Padding", (0, 0), lowest=0)
    section.choice("Pooling", ("Max",), "Max")
    for key in section.keys():
        if key.startswith("Mapping"):
            section.mark_used(key)  # channel by channel is the only way
    name = section.text("ArgMax")
    partner = _partner(reader, name)
    size = [
        geometry.deconv_size(*numbers, 1)
        for numbers in zip((height, width), kernel, stride, padding, strict=True)
    ]
    node: Node = {"type": "max_unpool", "pool": partner, "kernel": list(kernel)}
    node |= {"stride": list(stride)} if stride != (1, 1) else {}
    node |= {"padding": list(padding)} if padding != (0, 0) else {}
    reader.add(node)
    reader.finish(check_size(section, (channels, size[0], size[1]), reader.shapes[0]))


def _partner(reader: CellReader, name: str) -> str:
    cells = reader.parents
    found: Cell | None = cells.get(name)
    layers = {} if found is None else found.layers
    pools = [layer for layer, node in layers.items() if node["type"] == "max_pool"]
    if not pools:
        raise reader.error("ArgMax", f"names '{name}', which is no max pooling before this cell")
    return pools[0]


def fmp(reader: CellReader) -> None:
    """Read a fractional max pooling."""
    section = reader.section
    channels, height, width = reader.joined()
    reader.number_of_outputs(channels)
    ratio = section.real("ScalingRatio")
    if ratio < 1:
        raise reader.error("ScalingRatio", f"is {ratio:g}. Accepted: 1 or more")
    reader.check_config("Overlapping", "PseudoRandom")
    node: Node = {"type": "fractional_max_pool", "ratio": ratio}
    for key, argument in (("Overlapping", "overlapping"), ("PseudoRandom", "pseudo_random")):
        on = section.boolean(key, True) if section.has(key) else reader.config.boolean(key, True)
        node |= {} if on else {argument: False}
    for key in section.keys():
        if key.startswith("Mapping"):
            section.mark_used(key)
    reader.add(node)
    size = (channels, int(height / ratio), int(width / ratio))
    reader.finish(check_size(section, size, (channels, height, width)))


def padding(reader: CellReader) -> None:
    """Read a padding; negative numbers cut off."""
    section = reader.section
    channels, height, width = reader.joined()
    reader.number_of_outputs(channels)
    sides = ("top", "bottom", "left", "right")
    edges = {s: section.integer(f"{s.title()}Padding", 0) for s in sides}
    reader.add({"type": "padding", **{side: n for side, n in edges.items() if n}})
    size = (
        channels,
        height + edges["top"] + edges["bottom"],
        width + edges["left"] + edges["right"],
    )
    reader.finish(check_size(section, size, (channels, height, width)))


def resize(reader: CellReader) -> None:
    """Read a resizing of feature maps."""
    section = reader.section
    channels, *_ = reader.joined()
    reader.number_of_outputs(channels)
    reader.check_config("AlignCorners")
    height, width = section.unsigned("OutputHeight"), section.unsigned("OutputWidth")
    modes = {"Bilinear": "bilinear", "BilinearTF": "bilinear_tf", "NearestNeighbor": "nearest"}
    mode = modes[section.choice("Mode", tuple(modes))]
    node: Node = {"type": "resize", "height": height, "width": width, "mode": mode}
    if not reader.config.boolean("AlignCorners", True):
        node["align_corners"] = False
    reader.add(node)
    reader.finish(check_size(section, (channels, height, width), reader.shapes[0]))


def reshape(reader: CellReader) -> None:
    """Read a reshaping; N2D2 gives the dimensions as X Y Z, and may leave one to be found."""
    section = reader.section
    crop(reader)
    before = reader.only_input()
    dims = section.integers("Dims")
    if len(dims) == 4 and dims[3] in (-1, 0):
        dims = dims[:3]  # the batch
    if not 1 <= len(dims) <= 3 or any(d < -1 for d in dims) or dims.count(-1) > 1:
        raise reader.error("Dims", f"{dims} is wrong. Accepted: X Y Z, one of them -1")
    numbers = [*dims, *(1,) * (3 - len(dims))][::-1]
    numbers = [before[i] if n == 0 else n for i, n in enumerate(numbers)]
    known = prod(n for n in numbers if n != -1)
    numbers = [prod(before) // known if n == -1 else n for n in numbers]
    if prod(numbers) != prod(before):
        raise reader.error("Dims", f"has {prod(numbers)} values, its input {prod(before)}")
    shape: Shape = (numbers[0], numbers[1], numbers[2])
    if section.has("NbOutputs"):
        reader.number_of_outputs(shape[0])
    reader.add({"type": "reshape", "dims": list(shape)})
    reader.finish(shape)


def transpose(reader: CellReader) -> None:
    """Read a transposition; N2D2's axes 0, 1, 2, 3 are X, Y, Z and the batch."""
    section = reader.section
    crop(reader)
    before = reader.only_input()
    axes = section.integers("Perm")
    if sorted(axes) != list(range(len(axes))) or axes[3:] not in ([], [3]) or len(axes) < 3:
        raise reader.error(
            "Perm", f"{axes} is wrong. Accepted: an order of 0 1 2 3 that leaves 3 at its place"
        )
    perm = [2 - axes[2 - axis] for axis in range(3)]
    shape: Shape = (before[perm[0]], before[perm[1]], before[perm[2]])
    if section.has("NbOutputs"):
        reader.number_of_outputs(shape[0])
    reader.add({"type": "transpose", "perm": perm})
    reader.finish(shape)


def _pooling(reader: CellReader) -> tuple[Node, Shape]:
    section = reader.section
    channels, height, width = before = reader.joined()
    outputs = reader.number_of_outputs()
    kernel = pair(section, "Pool", None, "PoolSize")
    stride = pair(section, "Stride", (1, 1))
    padded = pair(section, "Padding", (0, 0), lowest=0)
    mapping = geometry.read_mapping(
        section, reader.cell.inputs, [s[0] for s in reader.shapes], outputs
    )
    size = [
        geometry.pool_size(*numbers)
        for numbers in zip((height, width), kernel, stride, padded, strict=True)
    ]
    node: Node = {"kernel": list(kernel)}
    node |= {"stride": list(stride)} if stride != (1, 1) else {}
    node |= {"padding": list(padded)} if padded != (0, 0) else {}
    if not mapping.identity:
        node["mapping"] = list(mapping.rows)
    return node, check_size(section, (outputs, size[0], size[1]), before)
