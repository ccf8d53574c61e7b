"""``Type=ONNX``: the nodes of an ONNX file as cells.

A node that computes something is a cell, called by its output as its section in the .ini is.
"""

from __future__ import annotations

import numpy as np

from ini_compat.cells.geometry import text
from ini_compat.cells.reader import Names
from ini_compat.errors import Deviation, IniError, Place, did_you_mean, quoted
from ini_compat.network import ENVIRONMENTS, IMAGE, Cell, Network, Shape
from ini_compat.onnx_graph.constants import BATCH, fold
from ini_compat.onnx_graph.file import NEWEST, OnnxGraph, OnnxNode, read_onnx
from ini_compat.onnx_graph.nodes import PASSED_ON, read_node
from ini_compat.onnx_graph.section import note_sections
from ini_compat.onnx_graph.step import Reading, Step, Tensor
from ini_compat.solvers.settings import Pace
from ini_compat.syntax.resolve import Document, Section

KEYS = ("Input", "Type", "File", "ONNX_init", "Ignore", "IgnoreInputSize", "Transpose", "CNTK")


def read_graph(
    path: str, document: Document, section: Section, network: Network, names: Names, pace: Pace
) -> None:
    """Add the cells of an ONNX file, and its weights, to the network.

    Args:
        path: the file; the one that the section names is not opened.
        document: the .ini.
        section: of Type=ONNX there.
        network: gets cells, weights and notices.
        names: of layers.
        pace: for solvers, and to note what is lost.

    Raises:
        IniError: for a file that cannot be read, and for what is not supported.
    """
    wanted = _wanted(document)
    try:
        if network.data.node:  # else the size of the images is not known, which is told elsewhere
            _read_file(path, document, section, network, names, pace, wanted)
    except IniError:
        _stand_in(document, network, wanted, section.header)
        raise
    if not network.data.node:
        _stand_in(document, network, wanted, section.header)


def _read_file(
    path: str,
    document: Document,
    section: Section,
    network: Network,
    names: Names,
    pace: Pace,
    wanted: set[str],
) -> None:
    _check_file_name(path, document, section, network)
    if section.boolean("Transpose", False):
        raise IniError(
            f"[{section.name}] Transpose=1 is not supported here: images are rows of pixels",
            section.place("Transpose"),
        )
    section.boolean("CNTK", False)  # biases that are added later are found without it
    graph = read_onnx(path)
    if graph.opset > NEWEST:
        network.notices.append(
            f"{path} has operators of opset {graph.opset}, and the newest that is known here is "
            f"{NEWEST}: they are read as those of {NEWEST}."
        )
    reading = Reading(
        *(graph, document, section, network, names, pace),
        initialise=section.boolean("ONNX_init", True),
        wanted=wanted,
    )
    with np.errstate(all="ignore"):  # whether numbers are finite is asked where they are used
        _read_nodes(reading)
    for key in section:
        if key not in KEYS:
            reason = f"Type=ONNX has no such key. Accepted: {', '.join(KEYS)}"
            _note(reading, section, key, reason)
    operators = {node.name: node.operator for node in graph.nodes}
    note_sections(document, section, operators, pace)


def _read_nodes(reading: Reading) -> None:
    graph = reading.graph
    _fold_constants(graph)
    _feed(reading)
    for node in graph.nodes:
        for name in set(node.inputs):
            reading.users.setdefault(name, []).append(node)
    _ignore(reading)
    for node in graph.nodes:
        _read(reading, node)
    for written, reader in reading.readers:
        written.note_unused(reader.accepted, reader.solvers)


def _check_file_name(path: str, document: Document, section: Section, network: Network) -> None:
    if not section.has("File"):
        return
    said = document.path(section, "File")
    names = [name.replace("\\", "/").rpartition("/")[2] for name in (said, path)]
    if names[0] != names[1]:
        network.notices.append(
            f"[{section.name}] names the ONNX file {quoted(names[0])}: {quoted(names[1])} was read."
        )


def _wanted(document: Document) -> set[str]:
    """Return the names of cells that the .ini mentions."""
    wanted = {name.partition(".Target")[0] for name in document.sections if ".Target" in name}
    for section in document.sections.values():
        if section.has("Input"):
            try:
                wanted |= set(section.text("Input").split(","))
            except IniError:
                continue  # told when the section is read
    return wanted


def _stand_in(document: Document, network: Network, wanted: set[str], place: Place) -> None:
    """Put cells without a shape where the graph is missing: what reads them is not told as well."""
    for name in wanted - network.cells.keys() - {*ENVIRONMENTS, *document.sections}:
        network.cells[name] = Cell(name, "?", [], place)


def _fold_constants(graph: OnnxGraph) -> None:
    rest = []
    for node in graph.nodes:
        folded = fold(node, graph.constants, graph.place)
        if folded is None:
            rest.append(node)
        else:
            graph.constants[node.name] = folded
    graph.nodes = rest


def _feed(reading: Reading) -> None:
    """Connect the graph's inputs with the cells that Input names."""
    section, graph, network = reading.section, reading.graph, reading.network
    place = section.place("Input")
    parents = [IMAGE if p in ENVIRONMENTS else p for p in section.text("Input").split(",")]
    for parent in parents:
        if parent != IMAGE and parent not in network.cells:
            raise IniError(
                f"[{section.name}] Input={parent} is not a cell before it. Accepted: "
                f"{', '.join([*ENVIRONMENTS, *list(network.cells)[:20]])}",
                place,
            )
    if len(parents) != len(graph.inputs):
        inputs = ", ".join(quoted(name) for name in list(graph.inputs)[:20])
        raise IniError(
            f"[{section.name}] has {len(parents)} inputs, the ONNX file {len(graph.inputs)}: "
            f"{inputs}",
            place,
        )
    free = section.boolean("IgnoreInputSize", False)
    for parent, (name, sizes) in zip(parents, graph.inputs.items(), strict=True):
        shape = network.data.shape if parent == IMAGE else network.cells[parent].shape
        if shape is not None:
            reading.tensors[name] = _fed(reading, name, sizes, parent, shape, free)
    if len(reading.tensors) < len(parents):
        raise IniError(f"[{section.name}] reads a cell that is not understood", place)


def _fed(
    reading: Reading,
    name: str,
    sizes: list[int | None] | None,
    parent: str,
    shape: Shape,
    free: bool,
) -> Tensor:
    place = reading.graph.place
    if sizes is None:
        return Tensor(parent, shape)
    tensor = Tensor(parent, shape, 2 if len(sizes) == 2 else 4)
    if len(sizes) not in (2, 4):
        raise IniError(
            f"the input {quoted(name)} has {len(sizes)} dimensions. Accepted: images (N, C, H, W) "
            "and vectors (N, C)",
            place,
        )
    reading.batch = sizes[0]
    known = zip(sizes[1:], tensor.sizes, strict=True)
    if not free and any(size not in (None, there) for size, there in known):
        wanted = "x".join("?" if size is None else str(size) for size in sizes[1:])
        raise IniError(
            f"the input {quoted(name)} takes {wanted}, and the .ini gives it {text(shape)}; "
            "IgnoreInputSize=1 lets that pass",
            place,
        )
    return tensor


def _ignore(reading: Reading) -> None:
    """Note what ``Ignore`` leaves out."""
    section = reading.section
    names = section.words("Ignore", None) or []
    made = [node.name for node in reading.graph.nodes]
    reading.ignored = set(names)
    for name in sorted(reading.ignored - set(made)):
        _note(
            reading, section, "Ignore", f"no node makes {quoted(name)}.{did_you_mean(name, made)}"
        )


def _read(reading: Reading, node: OnnxNode) -> None:
    graph, tensors = reading.graph, reading.tensors
    if node.name in reading.ignored:
        return
    if node.name in reading.merged:
        _hand_on(reading, node, tensors[reading.merged[node.name]])
        return
    if node.operator in PASSED_ON and node.inputs[:1] and node.inputs[0] in reading.ignored:
        reading.ignored.add(node.name)  # it would only pass on what is not there
        return
    if node.operator == "Shape" and node.inputs[:1] and node.inputs[0] in tensors:
        step = Step(reading, node)
        sizes = [BATCH, *tensors[node.inputs[0]].sizes]
        part = slice(step.integer("start", 0), step.integer("end", len(sizes)))
        graph.constants[node.name] = np.array(sizes[part], np.int64)
        return
    folded = fold(node, graph.constants, graph.place)
    if folded is not None:
        graph.constants[node.name] = folded
        return
    step = Step(reading, node)
    tensor = read_node(step)
    if node.name in reading.network.cells:
        tensors[node.name] = tensor
    else:
        _hand_on(reading, node, tensor)


def _hand_on(reading: Reading, node: OnnxNode, tensor: Tensor) -> None:
    """Note a tensor that another cell makes; it is a cell of its own where the .ini reads it."""
    reading.tensors[node.name] = tensor
    if node.name not in reading.wanted:
        return
    step = Step(reading, node)
    tensor = step.flat(tensor)
    source = reading.network.cells.get(tensor.source)
    if source is None:
        raise step.error("hands on the images themselves, and the .ini reads it")
    cell = Cell(node.name, node.operator, [source.name], reading.graph.place)
    cell.output, cell.shape, cell.input_shapes = source.output, tensor.shape, [tensor.shape]
    reading.network.cells[node.name] = cell


def _note(reading: Reading, section: Section, key: str, reason: str) -> None:
    section.mark_used(key)
    place: Place = section.place(key)
    reading.pace.note(Deviation(place, f"[{section.name}] {key}", "ignored", reason))
