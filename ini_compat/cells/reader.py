"""Reads one cell section into layers of the layer graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from ini_compat.cells.activations import KEY as FUNCTION
from ini_compat.cells.activations import read_activation_function
from ini_compat.cells.config import Config
from ini_compat.cells.geometry import text
from ini_compat.cells.layer_names import Names
from ini_compat.cells.quantizers import read_activation
from ini_compat.cells.unused_keys import why_unused, writer
from ini_compat.errors import Deviation, IniError, Kind
from ini_compat.network import IMAGE, Cell, Node, ParameterFile, Quantizer, Shape, file_name
from ini_compat.solvers.settings import Pace
from ini_compat.solvers.solvers import group, solver_type
from ini_compat.syntax.resolve import Document, Section

__all__ = ["CellReader", "Names"]

MOST_OUTPUTS = 1 << 20
MOST_VALUES = 1 << 32  # of one image's tensor
LEARNED = {  # by a quantizer of activations: parameter, class, and N2D2's file
    "SAT": ("alpha", "SatActivation", "QAct_SAT_Alpha"),
    "LSQ": ("step_size", "LsqActivation", "QAct_LSQ_StepSize"),
}


class CellReader:
    """One cell section while it is read.

    Attributes:
        section: of the cell.
        config: its parameters.
        cell: what is being made.
        parents: all cells before this one.
        inputs: layers that the parents' outputs come from.
        shapes: of these.
        model: N2D2's Model, such as ``Frame_CUDA``.
        accepted: names of the parameters that such a cell has in its config sections.
        solvers: what begins the keys of its solvers there, such as ``Solvers.``.
    """

    def __init__(
        self,
        document: Document,
        section: Section,
        cell: Cell,
        parents: Mapping[str, Cell],
        image: Shape,
        names: Names,
        pace: Pace,
    ) -> None:
        self.document = document
        self.section = section
        self.cell = cell
        self.parents = parents
        self.names = names
        self.pace = pace
        owner = section if section.has("Model") else document.globals
        key = "Model" if section.has("Model") else "DefaultModel"
        self.model: str = owner.text(key, "Transcode")
        self.config = Config.of(document, section, self.model)
        self.accepted: tuple[str, ...] = ()
        self.solvers: tuple[str, ...] = ()
        self.inputs = [IMAGE if p == IMAGE else self._output_of(parents[p]) for p in cell.inputs]
        self.shapes = [image if p == IMAGE else _known(parents[p]) for p in cell.inputs]
        cell.input_shapes = self.shapes
        self._last: str | list[str] = self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def on_gpu(self) -> bool:
        """Whether N2D2 would compute this cell on a GPU."""
        return self.model.endswith("CUDA")

    # -- what cells have in common ---------------------------------------------------------------

    def number_of_outputs(self, expected: int | None = None) -> int:
        """Return NbOutputs, which has to be ``expected`` where that is known."""
        outputs = self.section.unsigned("NbOutputs")
        if not 1 <= outputs <= MOST_OUTPUTS:
            raise self.wrong("NbOutputs", f"1 to {MOST_OUTPUTS}")
        if expected is not None and outputs != expected:
            raise self.wrong("NbOutputs", f"{expected}, as its inputs require")
        return outputs

    def joined(self) -> Shape:
        """Return the shape of all inputs, one behind the other along the channels."""
        if len({shape[1:] for shape in self.shapes}) > 1:
            raise self.error("Input", f"joins tensors of different sizes: {self.sizes()}")
        return (sum(s[0] for s in self.shapes), *self.shapes[0][1:])

    def only_input(self) -> Shape:
        """Return the shape of the only input."""
        if len(self.shapes) != 1:
            raise self.wrong("Input", "a single cell")
        return self.shapes[0]

    def sizes(self) -> str:
        """Return the shapes of the inputs by name, of many the first ones."""
        named = list(zip(self.cell.inputs, self.shapes, strict=True))
        texts = [f"{name} {text(shape)}" for name, shape in named[:8]]
        return ", ".join(texts + ["..."] * (len(named) > 8))

    def add(self, node: Node, suffix: str = "") -> str:
        """Append a layer that reads the one before it in this cell."""
        name = self.names.unique(f"{self.cell.name}{suffix}")
        self.cell.layers[name] = {**node, "input": self._last}
        self._last = self.cell.output = name
        return name

    def passes_on(self) -> None:
        """Let the cell hand on its input: it has no layer of its own."""
        if isinstance(self._last, list):
            self.add({"type": "concat"})
        else:
            self.cell.output = self._last

    def finish(self, shape: Shape, default: str = "Linear") -> None:
        """Add activation function and quantizer, and note the shape of the output."""
        if prod(shape) > MOST_VALUES:
            raise self.error("NbOutputs", f"makes {text(shape)} numbers of an image")
        self.cell.shape = shape
        name, function = read_activation_function(self.section, default)
        quantizer: Quantizer | None = None
        if self.section.has(FUNCTION):
            quantizer = read_activation(self.section, self.pace.note)
        plain = function == {"type": "relu"}
        if name == "LogisticWithLoss":
            if quantizer:
                raise self.error("QAct", "behind LogisticWithLoss is not supported here")
            self.cell.with_loss = "logistic"
        elif function is not None and not (plain and quantizer):
            self.add(function, "_act")
        if quantizer is not None:
            if name == "Rectifier":
                arguments = {**quantizer.arguments, "dead_zeros": True}
                quantizer = Quantizer(quantizer.method, arguments)
            if function is not None and not plain:
                self.note(
                    "QAct",
                    f"N2D2 takes the derivative of {name} at its quantized output, here it is that "
                    "of the function itself",
                )
            self._quantize(quantizer)
        if self.cell.output == IMAGE:
            self.add({"type": "identity"})

    def _quantize(self, quantizer: Quantizer) -> None:
        cell = self.cell
        cell.site = self.add({"type": "relu"}, "_qact")
        cell.activation = quantizer
        learned, kind, stem = LEARNED[quantizer.method]
        key = f"{cell.site}.{learned}"
        cell.solvers[key] = self.own_solver("QActSolver")
        state = f"quantize {kind} {quantizer.n_steps}"
        self.file(stem, key, (), "scalar", optional=True, quantizer=state)

    def _output_of(self, parent: Cell) -> str:
        """Return the layer whose output a parent hands on."""
        if not parent.with_loss:
            return parent.output
        reason = (
            f"N2D2 hands the gradients of {self.cell.name} on without the derivative of the "
            f"{parent.with_loss}, here with it"
        )
        self.pace.note(Deviation(parent.place, f"[{parent.name}]", "approximated", reason))
        if parent.with_loss == "softmax":
            return parent.output
        name = self.names.unique(f"{parent.name}_act")  # the loss takes what comes before it
        self.cell.layers[name] = {"type": "sigmoid", "input": parent.output}
        return name

    # -- parameters ------------------------------------------------------------------------------

    def file(self, stem: str, key: str, shape: tuple[int, ...], kind: str, **facts: Any) -> None:
        """Note a weight file of this cell."""
        stem = f"{file_name(self.cell.name)}_{stem}"
        self.cell.files.append(ParameterFile(stem, key, shape, kind, **facts))

    def solver(self, part: str, there: bool = True) -> Node:
        """Return the settings of ``WeightsSolver``, ``BiasSolver`` or ``ScaleSolver``.

        The cell's own ``Solvers=`` makes both, ``<part>=`` replaces one, and what the config
        sections say then changes their parameters.

        Args:
            part: ``WeightsSolver`` or the like.
            there: whether the cell has parameters for it; else it is only checked.
        """
        section = self.section
        kind = "SGD"
        keys: dict[str, tuple[Section, str]] = {}
        for prefix in ("Solvers", part):
            if section.has(prefix):
                kind = solver_type(section, prefix)
                keys = {s: (section, k) for s, k in section.prefixed(f"{prefix}.").items()}
        for prefix in ("Solvers", part):
            keys |= self.config.prefixed(f"{prefix}.")
        pace = self.pace
        if not there:
            pace = replace(pace, note=lambda item: None, iteration_sizes=[], lengths=[])
        return group(kind, keys, pace)

    def own_solver(self, part: str) -> Node:
        """Return the settings of ``QActSolver`` or ``QWeightSolver``, which no config changes."""
        section = self.section
        if not section.has(part):
            return group("SGD", {}, self.pace)
        keys = {s: (section, k) for s, k in section.prefixed(f"{part}.").items()}
        return group(solver_type(section, part), keys, self.pace)

    # -- what goes wrong -------------------------------------------------------------------------

    def check_config(self, *accepted: str, solvers: Iterable[str] = ()) -> None:
        """Say which parameters such a cell has; raise for the first one it does not have."""
        self.accepted, self.solvers = accepted, tuple(solvers)
        unknown = self.config.unknown(accepted, self.solvers)
        if unknown:
            raise unknown[0]

    def error(self, key: str, message: str) -> IniError:
        """Return an error at a key of this cell or a parameter of its config."""
        owner = self._owner(key) or self.section
        return IniError(f"[{owner.name}] {key} {message}", owner.place(key))

    def wrong(self, key: str, accepted: str) -> IniError:
        """Return the error for the value of a key of this cell or a parameter of its config."""
        return (self._owner(key) or self.section).wrong(key, accepted)

    def note(self, key: str, reason: str, kind: Kind = "approximated") -> None:
        """Note a key that is not taken over as it is."""
        owner = self._owner(key)
        if owner is not None:
            self.pace.note(Deviation(owner.place(key), f"[{owner.name}] {key}", kind, reason))

    def _owner(self, key: str) -> Section | None:
        """Return the section whose value of a key counts."""
        if key in self.accepted:
            return self.config.owner(key)
        return self.section if self.section.has(key) else None

    def note_unused(self) -> None:
        """Note every key of the section that nobody has read, where it is written."""
        section, unused = self.section, set(self.section.unused())
        by_section = {section.name: unused}
        for key in section:
            if key not in unused:
                continue
            source = writer(self.document, section, key)
            if source.name not in by_section:
                by_section[source.name] = set(source.unused())
            name = source.name if key in by_section[source.name] else section.name
            reason = why_unused(section, key, self.cell.type, self.accepted, self.solvers)
            self.pace.note(Deviation(section.place(key), f"[{name}] {key}", "ignored", reason))


def _known(cell: Cell) -> Shape:
    assert cell.shape is not None  # whoever reads a cell has asked for it
    return cell.shape
