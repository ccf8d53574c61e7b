"""One ONNX node while it becomes a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ini_compat.cells.reader import CellReader, Names
from ini_compat.cells.shaping import reshape
from ini_compat.errors import Deviation, IniError, quoted
from ini_compat.network import ENVIRONMENTS, IMAGE, Cell, Network, Shape
from ini_compat.onnx_graph.constants import BATCH
from ini_compat.onnx_graph.file import Array, OnnxGraph, OnnxNode
from ini_compat.onnx_graph.section import NodeSection, section_of
from ini_compat.solvers.settings import Pace
from ini_compat.syntax.resolve import Document, Section

MOST_LISTED = 100  # integers, such as sizes: no tensor has that many dimensions
Sides = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Tensor:
    """What a node hands on.

    Attributes:
        source: name of the cell that makes it.
        shape: of that cell's output.
        rank: 4: (N, C, H, W); 2: (N, C), where C counts all of ``shape``.
        nonnegative: whether a function has cut it at 0.
    """

    source: str
    shape: Shape
    rank: int = 4
    nonnegative: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its sizes in the graph, without the number of images."""
        return self.shape if self.rank == 4 else (prod(self.shape),)


@dataclass
class Reading:
    """An ONNX file while it is read.

    Attributes:
        graph: the file.
        document: the .ini.
        section: of Type=ONNX there.
        network: what cells are added to.
        names: of layers.
        pace: for solvers.
        initialise: whether the file's weights are taken over.
        batch: number of images that the file was made for; None: any.
        tensors: by name.
        ignored: names of tensors that ``Ignore`` leaves out, and of what depends on them.
        users: nodes that read a tensor.
        merged: nodes whose numbers are the bias of another one -> that one.
        wanted: names that the .ini reads.
        readers: of all cells that were made.
    """

    graph: OnnxGraph
    document: Document
    section: Section
    network: Network
    names: Names
    pace: Pace
    initialise: bool
    batch: int | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    users: dict[str, list[OnnxNode]] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    readers: list[tuple[NodeSection, CellReader]] = field(default_factory=list)


class Step:
    """One node: what it reads, what it says, and the cells that it becomes.

    Attributes:
        reader: of the cell that was made last.
    """

    reader: CellReader

    def __init__(self, reading: Reading, node: OnnxNode) -> None:
        self.reading = reading
        self.node = node
        self.name = node.name

    # -- what it reads ---------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Tell if there is an input at that place."""
        return len(self.node.inputs) > index and bool(self.node.inputs[index])

    def tensor(self, index: int = 0, rank: int | None = None) -> Tensor:
        """Return an input that depends on the images."""
        if not self.has(index):
            raise self.error(f"has no input {index}")
        name = self.node.inputs[index]
        tensor = self.reading.tensors.get(name)
        if tensor is None:
            if name in self.reading.ignored:
                raise self.error(f"reads {quoted(name)}, which Ignore leaves out")
            if name in self.reading.graph.constants:
                raise self.error(f"does not depend on the images: {quoted(name)} is a constant")
            raise self.error(f"reads {quoted(name)}, which no node before it makes")
        if rank is not None and tensor.rank != rank:
            dims = {4: "images (N, C, H, W)", 2: "vectors (N, C)"}
            raise self.error(f"reads {dims[tensor.rank]}. Accepted: {dims[rank]}")
        return tensor

    def is_constant(self, index: int) -> bool:
        """Tell if the input there is a constant."""
        return self.has(index) and self.node.inputs[index] in self.reading.graph.constants

    def constant(self, index: int, what: str, sizes: bool = False) -> Array:
        """Return an input that has to be a constant.

        Args:
            index: of the input.
            what: it is, for messages.
            sizes: whether the number of images may be one of its numbers.
        """
        if self.is_constant(index):
            array = self.reading.graph.constants[self.node.inputs[index]]
            if sizes or not (array == BATCH).any():
                return array
        raise self.error(f"has {what} that are computed. Accepted: constants of the file")

    def integer(self, key: str, default: int) -> int:
        """Return an attribute."""
        value = self.node.attributes.get(key, default)
        if not isinstance(value, int):
            raise self.error(f"has no integer for {key}")
        return value

    def real(self, key: str, default: float) -> float:
        """Return an attribute."""
        value = self.node.attributes.get(key, default)
        if not isinstance(value, (int, float)):
            raise self.error(f"has no number for {key}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """Return an attribute."""
        value = self.node.attributes.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"has no text for {key}")
        return value

    def integers(self, key: str, default: list[int] | None = None) -> list[int] | None:
        """Return an attribute."""
        value = self.node.attributes.get(key, default)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(n, int) for n in value)
        ):
            raise self.error(f"has no list of integers for {key}")
        return value  # type: ignore[return-value]

    def listed(self, key: str, index: int) -> list[int] | None:
        """Return integers from an attribute, or as later opsets have them from an input."""
        if key not in self.node.attributes and self.has(index):
            array = self.constant(index, key, sizes=True)
            if not np.issubdtype(array.dtype, np.integer):
                raise self.error(f"has {key} that are not integers")
            return [int(n) for n in array.ravel()[:MOST_LISTED]]
        return self.integers(key)

    def error(self, message: str) -> IniError:
        """Return an error of this node."""
        operator = quoted(self.node.operator).strip("'\"")
        return IniError(
            f"node {quoted(self.name)} ({operator}) {message}", self.reading.graph.place
        )

    def note(self, key: str, reason: str) -> None:
        """Note what is only approximated."""
        section = self.reading.section
        place = section.header
        self.reading.pace.note(Deviation(place, f"[{section.name}] {key}", "approximated", reason))

    # -- what it becomes -------------------------------------------------------------------------

    def source(self, kind: str) -> Section | None:
        """Return the section of the .ini that holds for this node as a cell of that kind."""
        return section_of(self.reading.document, self.reading.section, kind, self.name)

    def cell(
        self,
        kind: str,
        read: Callable[[CellReader], None],
        tensors: Sequence[Tensor],
        said: Mapping[str, object] | None = None,
        defaults: Mapping[str, object] | None = None,
        sides: Sides = (0, 0, 0, 0),
        suffix: str = "",
    ) -> Cell:
        """Make a cell.

        Args:
            kind: N2D2's Type.
            read: reader of such cells.
            tensors: its inputs.
            said: what its section would say.
            defaults: parameters that a config section of the .ini may override.
            sides: padding, which need not be symmetric; of the first layer.
            suffix: of its name.
        """
        reading = self.reading
        place = reading.graph.place
        name = self.name + suffix
        self._check_name(name)
        written = NodeSection(
            name, kind, _texts(said), None if suffix else self.source(kind), place, reading.pace
        )
        cell = Cell(name, kind, [t.source for t in tensors], place)
        self.reader = reader = CellReader(
            *(reading.document, written.section, cell, reading.network.cells),
            *(reading.network.data.shape, reading.names, written.pace),
        )
        parameters = NodeSection(name, "", _texts(defaults), None, place, reading.pace).section
        reader.config.sections.insert(0, parameters)
        if any(sides):
            top, bottom, left, right = sides
            channels, height, width = reader.joined()
            reader.shapes = [(channels, height + top + bottom, width + left + right)]
        read(reader)
        if any(sides):
            symmetric = (top, left) == (bottom, right)
            layer = next(iter(cell.layers.values()))
            layer["padding"] = [top, left] if symmetric else list(sides)
            layer["input"] = layer.pop("input")  # stands last, as in other layers
        reading.readers.append((written, reader))
        reading.network.cells[name] = cell
        return cell

    def made(self, cell: Cell, rank: int = 4, nonnegative: bool = False) -> Tensor:
        """Return what a cell of this node hands on."""
        assert cell.shape is not None
        return Tensor(cell.name, cell.shape, rank, nonnegative)

    def flat(self, tensor: Tensor) -> Tensor:
        """Return a tensor (N, C) whose cell has the shape C x 1 x 1 too."""
        if tensor.rank == 4 or tensor.shape[1:] == (1, 1):
            return tensor
        number = sum(name.startswith(f"{self.name}_flat") for name in self.reading.network.cells)
        return self.made(self.reshaped(tensor, (prod(tensor.shape), 1, 1), f"_flat{number}"), 2)

    def reshaped(self, tensor: Tensor, shape: Shape, suffix: str = "") -> Cell:
        """Make a cell that gives a tensor another shape."""
        channels, height, width = shape
        said = {"Dims": (width, height, channels), "NbOutputs": channels}
        return self.cell("Reshape", reshape, [tensor], said, suffix=suffix)

    def weigh(self, cell: Cell, key: str, array: Array, shape: tuple[int, ...]) -> None:
        """Let a parameter of the cell start with the file's numbers."""
        layer = next(iter(cell.layers))
        if array.shape != shape:
            sizes = ["x".join(map(str, s)) or "a single number" for s in (array.shape, shape)]
            raise self.error(f"has {key} of {sizes[0]}, where its input makes it {sizes[1]}")
        if not self.reading.initialise:
            return
        values = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(values).all():
            raise self.error(f"has {key} that are not finite numbers")
        self.reading.network.weights[f"{layer}.{key}"] = values

    def _check_name(self, name: str) -> None:
        reading = self.reading
        section = reading.document.sections.get(name)
        if name in reading.network.cells or (section is not None and section.has("Input")):
            raise self.error("has a name that another cell has")
        if name in (IMAGE, *ENVIRONMENTS):
            raise self.error("has a name that stands for the images in an .ini: rename its output")
        if not name.isprintable():
            raise self.error("has a name that cannot be printed: rename its output")


def _texts(values: Mapping[str, object] | None) -> dict[str, str]:
    """Return values as an .ini has them."""
    return {
        key: " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
        for key, value in (values or {}).items()
    }
