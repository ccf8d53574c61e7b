"""Reads a whole file: data, then cell after cell in N2D2's order, then the targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ini_compat.cells.cell_types import REFUSED, TYPES
from ini_compat.cells.reader import CellReader, Names
from ini_compat.cells.targets import read_target
from ini_compat.data.environment import read_data
from ini_compat.errors import Deviation, IniError, Place, did_you_mean
from ini_compat.global_keys import check_data_type, check_globals, check_model
from ini_compat.network import ENVIRONMENTS, IMAGE, Cell, Data, Network, Shape
from ini_compat.order import in_order
from ini_compat.solvers.settings import Pace
from ini_compat.syntax.resolve import Document, Section

ONNX = "ONNX"
COMPUTED = ("_NbChannels", "_ChannelsWidth", "_ChannelsHeight")
COMPUTED_OUTPUTS = ("_NbOutputs", "_OutputsWidth", "_OutputsHeight")
TARGET = ".Target"


def understand(
    path: str,
    defines: Mapping[str, str] | None = None,
    images: int | None = None,
    onnx: str | None = None,
    folder: Path | None = None,
) -> Network:
    """Read an ``.ini`` file as far as it can be understood.

    Args:
        path: the file.
        defines: values of ``$VAR`` that replace those of the file.
        images: number of training images, for data sets whose number is not known.
        onnx: the file for the section of Type=ONNX.
        folder: of the data set, where statistics of its images may be measured.

    Returns:
        The network; ``problems`` is not empty if it cannot be taken over.

    Raises:
        IniError: if not even its sections can be read.
    """
    document = Document.read(path, defines or {})
    return _Build(document, path, images, onnx, folder).run()


class _Build:
    def __init__(
        self,
        document: Document,
        path: str,
        images: int | None,
        onnx: str | None,
        folder: Path | None,
    ) -> None:
        self.document = document
        self.images = images
        self.onnx = onnx
        self.folder = folder
        self.names = Names()
        self.seen: set[Deviation] = set()
        self.told: set[str] = set()
        self.readers: list[CellReader] = []
        self.sections = {n: s for n, s in document.sections.items() if s.has("Input")}
        empty = Data({}, (1, 1, 1), 1)
        name = re.sub(r"[^\w.-]", "_", Path(path).stem, flags=re.ASCII)
        self.network = Network(name, path, empty, notices=document.notices)
        for item in document.deviations:
            self.note(item)

    def run(self) -> Network:
        network = self.network
        network.problems += check_globals(self.document.globals, self.note)
        self._attempt(self._data)
        data = network.data
        known = data.training_images is not None
        self.pace = Pace(data.training_images or 1_000_000, data.batch_size, known, self.note)
        if not self.sections:
            self._problem("the file has no cell: no section has an Input")
        for name in self._in_order():
            self._attempt(lambda section=self.sections[name]: self._cell(section))  # type: ignore[misc]
        for reader in self.readers:
            reader.note_unused()
        self._targets()
        if not network.problems:
            self._unused()
        sizes = sorted(set(self.pace.iteration_sizes)) or [1]
        network.iteration_size = sizes[-1]
        if len(sizes) > 1:
            place = self.document.globals.header
            reason = f"solvers have {', '.join(map(str, sizes))}; the largest holds for all"
            self.note(Deviation(place, "Solvers.IterationSize", "approximated", reason))
        lengths = [length for length in self.pace.lengths if length >= 1]
        network.epochs = round(max(lengths)) if lengths else None
        return network

    # -- what goes wrong -------------------------------------------------------------------------

    def note(self, item: Deviation) -> None:
        if item not in self.seen:
            self.seen.add(item)
            self.network.deviations.append(item)

    def _problem(self, message: str, place: Place | None = None) -> None:
        self.network.problems.append(IniError(message, place or self.document.globals.header))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except IniError as error:
            if str(error) not in self.told:  # as all cells with the same config section have it
                self.told.add(str(error))
                self.network.problems.append(error)

    # -- parts -----------------------------------------------------------------------------------

    def _data(self) -> None:
        self.network.data = read_data(self.document, self.note, self.images, self.folder)

    def _in_order(self) -> list[str]:
        """Return the names of the cells as N2D2 places them."""
        onnx = [n for n, s in self.sections.items() if s.has("Type") and s.raw("Type") == ONNX]
        inputs: dict[str, set[str]] = {}
        for name, section in self.sections.items():
            inputs[name] = set()
            try:
                given = {*section.text("Input").split(",")} - {*ENVIRONMENTS}
            except IniError:
                continue  # which reading the cell tells
            inputs[name] = given & self.sections.keys()
            if given - self.sections.keys() and name not in onnx:
                inputs[name] |= set(onnx)  # the others come out of an ONNX file
        ordered, circular = in_order(inputs)
        if circular:
            place = self.sections[circular[0]].header
            first = ", ".join(circular[:5]) + ", ..." * (len(circular) > 5)
            self._problem(f"cells wait for each other in a circle: {first}", place)
        for name in circular:
            section = self.sections[name]
            self.network.cells[name] = Cell(name, _written_type(section), [], section.header)
        return ordered

    def _cell(self, section: Section) -> None:
        network, name = self.network, section.name
        if section.has("Type") and section.text("Type") == ONNX:
            self._onnx_graph(section)
            return
        cell = Cell(name, _written_type(section), [], section.header)
        network.cells[name] = cell
        if name in (IMAGE, *ENVIRONMENTS):
            raise IniError(f"[{name}] is a name of the network's input: rename it", section.header)
        cell.type = section.text("Type")
        cell.inputs = [self._parent(section, parent) for parent in section.text("Input").split(",")]
        if cell.type in REFUSED:
            raise IniError(
                f"[{name}] Type is {cell.type}, which is not supported here: {REFUSED[cell.type]}",
                section.place("Type"),
            )
        if cell.type not in TYPES:
            raise IniError(
                f"[{name}] Type={cell.type:.60} is not a cell.{did_you_mean(cell.type, TYPES)} "
                f"Accepted: {', '.join(sorted(TYPES))}",
                section.place("Type"),
            )
        if any(p != IMAGE and network.cells[p].shape is None for p in cell.inputs):
            return  # of one that is refused: that is told there
        if not network.data.node:
            return  # the size of the images is not known
        try:
            self._read(section, cell)
        except IniError:
            cell.shape = None
            raise

    def _read(self, section: Section, cell: Cell) -> None:
        if section.has("Model"):
            check_model(section, "Model")
        check_data_type(section, "DataType", self.note)
        network = self.network
        reader = CellReader(
            *(self.document, section, cell, network.cells, network.data.shape),
            *(self.names, self.pace),
        )
        TYPES[cell.type](reader)
        self.readers.append(reader)
        self._compute(cell)

    def _onnx_graph(self, section: Section) -> None:
        """Let the cells of an ONNX file stand for this section."""
        if self.onnx is None:
            raise IniError(
                f"[{section.name}] takes its cells from an ONNX file: give it with --onnx FILE",
                section.place("Type"),
            )
        from ini_compat.onnx_graph.read import read_graph  # needs onnx, which is an extra

        read_graph(*(self.onnx, self.document, section, self.network, self.names, self.pace))
        for cell in self.network.cells.values():
            if cell.shape is not None:
                self._compute(cell)

    def _compute(self, cell: Cell) -> None:
        """Write back what N2D2 does; see 1.5 of the specification of the format."""
        assert cell.shape is not None
        channels = sum(shape[0] for shape in cell.input_shapes)
        before: Shape = (channels, *cell.input_shapes[0][1:])
        for keys, (count, height, width) in ((COMPUTED, before), (COMPUTED_OUTPUTS, cell.shape)):
            for key, value in zip(keys, (count, width, height), strict=True):
                self.document.set_computed(cell.name, key, str(value))

    def _parent(self, section: Section, name: str) -> str:
        if name in ENVIRONMENTS:
            return IMAGE
        if name in self.network.cells:
            return name
        place = section.place("Input")
        known = [*self.network.cells, *self.sections, *ENVIRONMENTS]
        if name.strip() in known:
            raise IniError(
                f"[{section.name}] Input has a space beside '{name.strip()}', which N2D2 takes as "
                "part of the name: remove it",
                place,
            )
        raise IniError(
            f"[{section.name}] Input={name:.60} is not a cell of the file."
            f"{did_you_mean(name, known)}",
            place,
        )

    def _targets(self) -> None:
        """Read the targets in the order of the file: the first one is scored."""
        cells, found = self.network.cells, False
        for name, section in self.document.sections.items():
            owners = [name[: m.start()] for m in re.finditer(re.escape(TARGET), name)]
            if not owners or section.has("Input"):
                continue
            known = [owner for owner in owners if owner in cells]
            if not known:
                hint = did_you_mean(owners[0], cells)
                reason = f"there is no cell '{owners[0]:.60}'.{hint}"
                self.note(Deviation(section.header, f"[{name}]", "ignored", reason))
                continue
            found, cell = True, cells[known[-1]]
            if cell.shape is not None:
                self._attempt(lambda s=section, c=cell: self._target(s, c))  # type: ignore[misc]
        if not found:
            self._problem("the file has no target, such as [softmax.Target], and N2D2 needs one")

    def _target(self, section: Section, cell: Cell) -> None:
        target = read_target(section, cell, self.network.data.shape, self.note)
        self.network.targets.append(target)

    def _unused(self) -> None:
        """Note sections that nobody has read."""
        sections = self.document.sections
        used = {parent for section in sections.values() for parent in section.parents}
        used |= {section.template for section in sections.values() if section.template}
        noted = {item.key for item in self.network.deviations}
        for name, section in sections.items():
            keys = section.keys()
            if not keys or section.has("Input") or name in used or f"[{name}]" in noted:
                continue
            if len(section.unused()) == len(keys):
                self.note(Deviation(section.header, f"[{name}]", "ignored", "is used by nothing"))


def _written_type(section: Section) -> str:
    """Return the Type as it is written, for the table."""
    return section.raw("Type")[:60] if section.has("Type") else "?"
