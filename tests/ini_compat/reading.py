"""Cells that are read without the rest of a project, and the layer graph they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ini_compat.cells.cell_types import TYPES
from ini_compat.cells.layer_names import Names
from ini_compat.cells.reader import CellReader
from ini_compat.errors import Deviation, IniError
from ini_compat.network import ENVIRONMENTS, IMAGE, Cell, Data, Network, Node, Shape
from ini_compat.solvers.settings import Pace
from ini_compat.syntax.resolve import Document
from ini_compat.weights import State, read_folder
from qatlab.models import LayerGraph

HEAD = "DefaultModel=Frame_CUDA\n"


@dataclass
class Cells:
    """What was read.

    Attributes:
        image: shape of the network's input.
        cells: by name.
        losses: what was not taken over.
        pace: of the solvers.
    """

    image: Shape
    cells: dict[str, Cell] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    pace: Pace | None = None

    def __getitem__(self, name: str) -> Cell:
        return self.cells[name]

    @property
    def layers(self) -> Node:
        return {name: node for cell in self.cells.values() for name, node in cell.layers.items()}

    @property
    def lost(self) -> list[str]:
        return [
            f"{item.place.line}: {item.key} {item.kind}: {item.reason}" for item in self.deviations
        ]

    def graph(self) -> LayerGraph:
        """Return the network of qatlab that the layers describe."""
        read = {
            i
            for node in self.layers.values()
            for i in ([node["input"]] if isinstance(node["input"], str) else node["input"])
        }
        outputs = [name for name in self.layers if name not in read]
        return LayerGraph(list(self.image), self.layers, outputs)

    def network(self) -> Network:
        """Return what weights are read for."""
        return Network("model", "model.ini", Data({}, self.image, 1), dict(self.cells))


def cells(folder: Path, text: str, image: Shape = (1, 8, 8), head: str = HEAD) -> Cells:
    """Read cells that stand in the order of their inputs; the environment is ``env``."""
    path = folder / "model.ini"
    path.write_text(head + text, encoding="utf-8")
    document = Document.read(str(path), {}, {})
    found = Cells(image)
    found.pace = Pace(60000, 100, True, found.deviations.append)
    names = Names()
    readers = []
    for name, section in document.sections.items():
        if not section.has("Input"):
            continue
        parents = section.text("Input").split(",")
        inputs = [IMAGE if parent in ENVIRONMENTS else parent for parent in parents]
        cell = found.cells[name] = Cell(name, section.text("Type"), inputs, section.header)
        reader = CellReader(document, section, cell, found.cells, image, names, found.pace)
        TYPES[cell.type](reader)
        readers.append(reader)
    for reader in readers:
        reader.note_unused()
    return found


def layer(folder: Path, text: str, image: Shape = (1, 8, 8)) -> Node:
    """Return the only layer of the last cell, without its input, after checking its shape."""
    found = cells(folder, text, image)
    cell = list(found.cells.values())[-1]
    assert found.graph().shapes[cell.output] == cell.shape
    (node,) = cell.layers.values()
    return {key: value for key, value in node.items() if key != "input"}


def refusal(folder: Path, text: str, image: Shape = (1, 8, 8)) -> str:
    """Return the error that reading these cells ends in, as line and message."""
    with pytest.raises(IniError) as caught:
        cells(folder, text, image)
    error = caught.value
    assert error.place is not None
    assert "\n" not in error.message
    return f"{error.place.line}: {error.message}"


# -- weight files -----------------------------------------------------------------------------


def numbers(count: int) -> list[float]:
    """Return different numbers that six digits hold."""
    return [(i * 37 % 1009 - 500) / 8 for i in range(count)]


def put(folder: Path, **files: list[float] | str) -> Path:
    """Write files of numbers, or with that content."""
    for stem, content in files.items():
        text = content if isinstance(content, str) else " ".join(map(repr, content))
        (folder / f"{stem}.syntxt").write_text(text)
    return folder


def state_of(found: Cells, folder: Path) -> State:
    """Return what the files of a folder are for these cells."""
    return read_folder(found.network(), folder, "quantize")
