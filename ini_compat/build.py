"""Reads a whole file: data, then cell after cell in N2D2's order, then the targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ini_compat import pointwise, shaping, weighted
from ini_compat.cells import CellReader, Names, refuse, unknown_type
from ini_compat.environment import read_data
from ini_compat.errors import IniError, Loss, did_you_mean
from ini_compat.network import ENVIRONMENTS, IMAGE, Cell, Data, Network, Shape
from ini_compat.resolve import Document, Section
from ini_compat.solvers import Pace
from ini_compat.targets import read_target

SPIKING = "spiking cells have no place in a laboratory of quantized networks"
DETECTION = "it belongs to object detection; only image classification and reconstruction are here"
TYPES: Mapping[str, Callable[[CellReader], None]] = {
    "Conv": weighted.conv,
    "Deconv": weighted.deconv,
    "Fc": weighted.fc,
    "BatchNorm": weighted.batch_norm,
    "Pool": shaping.pool,
    "Unpool": shaping.unpool,
    "FMP": shaping.fmp,
    "Padding": shaping.padding,
    "Resize": shaping.resize,
    "Reshape": shaping.reshape,
    "Transpose": shaping.transpose,
    "ElemWise": pointwise.elementwise,
    "Activation": pointwise.activation,
    "Dropout": pointwise.dropout,
    "Softmax": pointwise.softmax,
    "LRN": pointwise.lrn,
    "Scaling": pointwise.scaling,
    "Normalize": pointwise.normalize,
    "Threshold": pointwise.threshold,
    "LSTM": refuse("LSTM", "recurrent networks are not supported"),
    "ROIPooling": refuse("ROIPooling", DETECTION),
    "RP": refuse("RP", DETECTION),
    "Proposal": refuse("Proposal", DETECTION),
    "Anchor": refuse("Anchor", DETECTION),
    "ObjectDet": refuse("ObjectDet", DETECTION),
    "TargetBias": refuse("TargetBias", "it needs the label in the forward pass"),
    "Distance": refuse("Distance", "it needs the label in the forward pass"),
    "Transformation": refuse("Transformation", "images are transformed before the network only"),
}
ONNX = "ONNX"
COMPUTED = ("_NbChannels", "_ChannelsWidth", "_ChannelsHeight")
COMPUTED_OUTPUTS = ("_NbOutputs", "_OutputsWidth", "_OutputsHeight")
GLOBAL_KEYS = (
    *("DefaultModel", "DefaultDataType", "InsertBatchNormAfterConv", "CheckWeightRange"),
    "ProgramMethod",
)
MOST_CELLS = 20_000


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
        self.names.taken.add(IMAGE)
        self.seen: set[Loss] = set()
        empty = Data({}, (1, 1, 1), 1)
        name = re.sub(r"[^\w.-]", "_", Path(path).stem, flags=re.ASCII)
        self.network = Network(name, path, empty, notices=document.notices)
        for loss in document.losses:
            self.lose(loss)

    def run(self) -> Network:
        network = self.network
        self._attempt(self._globals)
        self._attempt(self._data)
        pace = Pace(
            network.data.training_images or 1_000_000, network.data.batch_size, True, self.lose
        )
        pace.known = network.data.training_images is not None
        self.pace = pace
        sections = [s for s in self.document.sections.values() if s.has("Input")]
        if not sections:
            self._problem("the file has no cell: no section has an Input")
        for section in self._in_order(sections):
            self._cell(section)
        self._attempt(self._targets)
        if not network.problems:
            self._unused()
        sizes = sorted(set(pace.iteration_sizes)) or [1]
        network.iteration_size = sizes[-1]
        if len(sizes) > 1:
            place = self.document.globals.header
            reason = f"solvers have {', '.join(map(str, sizes))}; the largest holds for all"
            self.lose(Loss(place, "Solvers.IterationSize", "approximated", reason))
        lengths = [length for length in pace.lengths if length >= 1]
        network.epochs = round(max(lengths)) if lengths else None
        return network

    # -- what goes wrong -------------------------------------------------------------------------

    def lose(self, loss: Loss) -> None:
        if loss not in self.seen:
            self.seen.add(loss)
            self.network.losses.append(loss)

    def _problem(self, message: str) -> None:
        self.network.problems.append(IniError(message, self.document.globals.header))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except IniError as error:
            self.network.problems.append(error)

    # -- parts -----------------------------------------------------------------------------------

    def _globals(self) -> None:
        section = self.document.globals
        for key in section.keys():
            if key not in GLOBAL_KEYS:
                hint = did_you_mean(key, GLOBAL_KEYS)
                accepted = ", ".join(GLOBAL_KEYS)
                raise IniError(
                    f"{key} stands before the first section and is unknown there, so N2D2 does not "
                    f"load the file.{hint} Accepted: {accepted}",
                    section.place(key),
                )
        section.mark_used("CheckWeightRange")
        section.mark_used("ProgramMethod")
        if section.text("DefaultDataType", "Float32") != "Float32":
            place = section.place("DefaultDataType")
            reason = "networks compute in float32; trainer.precision chooses others"
            self.lose(Loss(place, "DefaultDataType", "approximated", reason))
        if section.boolean("InsertBatchNormAfterConv", False):
            raise IniError(
                "InsertBatchNormAfterConv=1 is not supported here: write the BatchNorm cells out",
                section.place("InsertBatchNormAfterConv"),
            )

    def _data(self) -> None:
        self.network.data = read_data(self.document, self.lose, self.images, self.folder)

    def _in_order(self, sections: list[Section]) -> list[Section]:
        """Return the sections as N2D2 places them: depth by depth, within one in file order."""
        if len(sections) > MOST_CELLS:
            raise IniError(
                f"the file has {len(sections)} cells. Accepted: {MOST_CELLS}",
                self.document.globals.header,
            )
        parents: dict[str, list[str]] = {}
        for section in sections:
            try:
                parents[section.name] = section.text("Input").split(",")
            except IniError as error:
                self.network.problems.append(error)
                parents[section.name] = []
        placed: list[Section] = []
        done: set[str] = set()
        rest = sections
        while rest:
            ready = [s for s in rest if not set(parents[s.name]) & (parents.keys() - done)]
            if not ready:
                names = ", ".join(s.name for s in rest[:5])
                raise IniError(f"cells wait for each other in a circle: {names}", rest[0].header)
            placed += ready
            done |= {s.name for s in ready}
            rest = [s for s in rest if s.name not in done]
        # A parent that is no section comes out of an ONNX file, whose place is before its users.
        return sorted(placed, key=lambda s: not (s.has("Type") and s.raw("Type") == ONNX))

    def _cell(self, section: Section) -> None:
        network = self.network
        if section.has("Type") and section.text("Type") == ONNX:
            self._attempt(lambda: self._onnx_graph(section))
            return
        cell = Cell(section.name, section.text("Type", "?"), [], section.header)
        network.cells[cell.name] = cell
        try:
            cell.inputs = [self._parent(section, name) for name in section.text("Input").split(",")]
            if cell.type not in TYPES:
                raise unknown_type(cell, TYPES, section.place("Type"))
            if any(p != IMAGE and network.cells[p].shape is None for p in cell.inputs):
                return  # of one that is refused: that is told there
            if not network.data.node:
                return  # the size of the images is not known
            self._read(section, cell)
        except IniError as error:
            cell.shape = None
            network.problems.append(error)

    def _read(self, section: Section, cell: Cell) -> None:
        network = self.network
        reader = CellReader(
            *(self.document, section, cell, network.cells, network.data.shape),
            *(self.names, self.pace),
        )
        if reader.model.startswith(("Spike", "CSpike", "RRAM")):
            key = "Model" if section.has("Model") else "DefaultModel"
            owner = section if section.has("Model") else self.document.globals
            raise IniError(
                f"[{cell.name}] {key}={reader.model} is not supported here: {SPIKING}",
                owner.place(key),
            )
        if section.text("DataType", "Float32") != "Float32":
            reader.lose("DataType", "networks compute in float32; trainer.precision chooses others")
        TYPES[cell.type](reader)
        reader.lose_unused()
        self._compute(cell)

    def _onnx_graph(self, section: Section) -> None:
        """Let the cells of an ONNX file stand for this section."""
        if self.onnx is None:
            raise IniError(
                f"[{section.name}] takes its cells from an ONNX file: give it with --onnx FILE",
                section.place("Type"),
            )
        from ini_compat.onnx_graph import read_graph  # needs onnx, which is an extra

        read_graph(
            *(self.onnx, self.document, section, self.network, self.names, self.pace)
        )
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
        if name.strip() in self.network.cells or name.strip() in ENVIRONMENTS:
            raise IniError(
                f"[{section.name}] Input has a space beside '{name.strip()}', which N2D2 takes as "
                "part of the name: remove it",
                place,
            )
        known = [*self.document.sections, *ENVIRONMENTS]
        raise IniError(
            f"[{section.name}] Input={name} is no cell of the file.{did_you_mean(name, known)}",
            place,
        )

    def _targets(self) -> None:
        network = self.network
        found = False
        for name, section in self.document.sections.items():
            cell = next(
                (c for c in network.cells.values() if name.startswith(f"{c.name}.Target")), None
            )
            if cell is None or section.has("Input"):
                continue
            found = True
            if cell.shape is not None:
                self._attempt(
                    lambda s=section, c=cell: network.targets.append(  # type: ignore[misc]
                        read_target(s, c, network.data.shape, self.lose)
                    )
                )
        if not found:
            self._problem("the file has no target, such as [softmax.Target], and N2D2 needs one")

    def _unused(self) -> None:
        """Note sections that nobody has read."""
        sections = self.document.sections
        parents = {parent for section in sections.values() for parent in section.parents}
        templates = {section.template for section in sections.values()}
        for name, section in sections.items():
            keys = section.keys()
            if not keys or section.has("Input") or name in parents | templates:
                continue
            if len(section.unused()) == len(keys) and not self._noted(name):
                reason = "is used by nothing"
                self.lose(Loss(section.header, f"[{name}]", "ignored", reason))

    def _noted(self, name: str) -> bool:
        return any(loss.key == f"[{name}]" for loss in self.network.losses)
