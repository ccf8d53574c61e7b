"""Reads one cell section into layers of the layer graph."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping

from ini_compat.activations import KEY as FUNCTION
from ini_compat.activations import read_activation_function
from ini_compat.config import Config
from ini_compat.errors import IniError, Kind, Loss, Place, did_you_mean
from ini_compat.network import IMAGE, Cell, Node, ParameterFile, Quantizer, Shape
from ini_compat.quantizers import read_activation
from ini_compat.resolve import Document, Section
from ini_compat.solvers import Pace, group, solver_type

MOST_OUTPUTS = 1 << 20
# Attributes of a torch module, which no layer can be called by.
RESERVED = {
    *("image", "train", "training", "eval", "forward", "half", "float", "double", "type", "to"),
    *("cpu", "cuda", "ipu", "xpu", "mtia", "bfloat16", "modules", "parameters", "buffers", "apply"),
    *("children", "share_memory", "state_dict", "load_state_dict", "zero_grad", "compile"),
    *("named_modules", "named_children", "named_parameters", "named_buffers", "add_module"),
    *("extra_repr", "dump_patches", "call_super_init", "requires_grad_", "T_destination"),
    *("graph", "code", "layers", "shapes", "outputs", "add_submodule", "delete_submodule"),
}
CONFIG_ONLY = {  # parameters, which N2D2 reads from a ConfigSection and never from the cell
    *("NoBias", "BackPropagate", "WeightsExportFormat", "WeightsExportFlip", "OutputsRemap"),
    *("Normalize", "DropConnect", "Epsilon", "MovingAverageMomentum", "Dropout", "AlignCorners"),
    *("N", "Alpha", "Beta", "K"),
}
SOLVER_PREFIXES = ("Solvers.", "WeightsSolver.", "BiasSolver.", "ScaleSolver.")


class Names:
    """Gives each layer a name that is a Python identifier, and no two the same."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        """Return ``wanted``, or what of it can be a name, and remember it."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "layer"
        if name[0].isdigit() or name.startswith("_"):
            name = f"layer_{name.lstrip('_')}"
        if name in RESERVED or keyword.iskeyword(name):
            name += "_"
        number, unique = 2, name
        while unique in self.taken:
            unique, number = f"{name}_{number}", number + 1
        self.taken.add(unique)
        return unique


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
        self.inputs = [IMAGE if p == IMAGE else parents[p].output for p in cell.inputs]
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
            raise self.error("NbOutputs", f"is {outputs}. Accepted: 1 to {MOST_OUTPUTS}")
        if expected is not None and outputs != expected:
            raise self.error("NbOutputs", f"is {outputs}, but the inputs make it {expected}")
        return outputs

    def joined(self) -> Shape:
        """Return the shape of all inputs, one behind the other along the channels."""
        sizes = {shape[1:] for shape in self.shapes}
        if len(sizes) > 1:
            texts = ", ".join(
                f"{name} {'x'.join(map(str, shape))}"
                for name, shape in zip(self.cell.inputs, self.shapes, strict=True)
            )
            raise self.error("Input", f"joins tensors of unlike sizes: {texts}")
        return (sum(s[0] for s in self.shapes), *self.shapes[0][1:])

    def only_input(self) -> Shape:
        """Return the shape of the only input."""
        if len(self.shapes) != 1:
            raise self.error("Input", f"has {len(self.shapes)} parents. Accepted: one")
        return self.shapes[0]

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
        self.cell.shape = shape
        section, cell = self.section, self.cell
        name, function = read_activation_function(section, default)
        quantizer: Quantizer | None = None
        if section.has(FUNCTION):
            quantizer = read_activation(section)
        plain = function == {"type": "relu"}
        if name == "LogisticWithLoss":
            cell.with_loss = "logistic"
        elif function is not None and not (plain and quantizer):
            self.add(function, "_act")
        if quantizer is not None:
            self._quantize(quantizer, name)

    def _quantize(self, quantizer: Quantizer, function: str) -> None:
        cell = self.cell
        if function not in ("Linear", "Rectifier"):
            self.lose(
                "QAct",
                f"N2D2 takes the derivative of {function} at its quantized output, here it is that "
                "of the function itself",
            )
        elif function == "Rectifier":
            quantizer = Quantizer(quantizer.method, {**quantizer.arguments, "dead_zeros": True})
        cell.site = self.add({"type": "relu"}, "_qact")
        cell.activation = quantizer
        learned, kind, stem = {
            "SAT": ("alpha", "SatActivation", "QAct_SAT_Alpha"),
            "LSQ": ("step_size", "LsqActivation", "QAct_LSQ_StepSize"),
        }[quantizer.method]
        key = f"{cell.site}.{learned}"
        cell.solvers[key] = self.own_solver("QActSolver")
        state = f"quantize {kind} {quantizer.n_steps}"
        self.file(stem, key, (), "scalar", optional=True, quantizer=state)

    # -- parameters ------------------------------------------------------------------------------

    def file(self, stem: str, key: str, shape: tuple[int, ...], kind: str, **facts: object) -> None:
        """Note a weight file of this cell."""
        safe = re.sub(r'[\x00-\x1f<>:"|?*]', "_", self.cell.name)
        self.cell.files.append(ParameterFile(f"{safe}_{stem}", key, shape, kind, **facts))  # type: ignore[arg-type]

    def solver(self, part: str) -> Node:
        """Return the settings of ``WeightsSolver``, ``BiasSolver`` or ``ScaleSolver``.

        The cell's own ``Solvers=`` makes both, ``<part>=`` replaces one, and what the config
        sections say then changes their parameters.
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
        return group(kind, keys, self.pace)

    def own_solver(self, part: str) -> Node:
        """Return the settings of ``QActSolver`` or ``QWeightSolver``, which no config changes."""
        section = self.section
        if not section.has(part):
            return group("SGD", {}, self.pace)
        keys = {s: (section, k) for s, k in section.prefixed(f"{part}.").items()}
        return group(solver_type(section, part), keys, self.pace)

    # -- what goes wrong -------------------------------------------------------------------------

    def check_config(self, *accepted: str, solvers: Iterable[str] = ()) -> None:
        """Raise for the first parameter of the config sections that this cell does not have."""
        unknown = self.config.unknown(accepted, solvers)
        if unknown:
            raise unknown[0]

    def error(self, key: str, message: str) -> IniError:
        """Return an error at a key of this cell."""
        place = self.section.place(key) if self.section.has(key) else self.section.header
        return IniError(f"[{self.cell.name}] {key} {message}", place)

    def lose(self, key: str, reason: str, kind: Kind = "approximated") -> None:
        """Note a key that is not taken over as it is."""
        owner = self.section if self.section.has(key) else self.config.owner(key)
        if owner is not None:
            self.pace.lose(Loss(owner.place(key), f"[{owner.name}] {key}", kind, reason))

    def lose_unused(self) -> None:
        """Note every key of the section that nobody has read."""
        for key in self.section.unused():
            place = self.section.place(key)
            reason = self._why_unused(key)
            self.pace.lose(Loss(place, f"[{self.cell.name}] {key}", "ignored", reason))

    def _why_unused(self, key: str) -> str:
        if key in CONFIG_ONLY:
            return "N2D2 reads it from a ConfigSection only, so it has no effect there either"
        for prefix in ("Solvers", "WeightsSolver", "BiasSolver", "ScaleSolver"):
            if key.startswith(f"{prefix}."):
                return f"N2D2 reads it only beside {prefix}= or from a ConfigSection"
        if key == "QAct" or key.startswith(("QAct.", "QActSolver")):
            if not self.section.has(FUNCTION):
                return "N2D2 reads QAct only beside ActivationFunction in the same section"
            return "there is no QAct= line that it would belong to"
        if key == "QWeight" or key.startswith(("QWeight.", "QWeightSolver")):
            if self.cell.type not in ("Conv", "Fc"):
                return f"N2D2 has no weight quantizer for {self.cell.type}, only for Conv and Fc"
            return "there is no QWeight= line of a method that has it"
        return f"{self.cell.type} has no such key"


def _known(cell: Cell) -> Shape:
    assert cell.shape is not None  # whoever reads a cell has asked for it
    return cell.shape


def refuse(cell_type: str, reason: str) -> Callable[[CellReader], None]:
    """Return a reader that says why such a cell cannot be taken over."""

    def read(reader: CellReader) -> None:
        raise IniError(
            f"[{reader.cell.name}] Type={cell_type} is not supported here: {reason}",
            reader.section.place("Type"),
        )

    return read


def unknown_type(cell: Cell, accepted: Iterable[str], place: Place) -> IniError:
    """Return the error for a Type that N2D2 does not have."""
    names = sorted(accepted)
    return IniError(
        f"[{cell.name}] Type={cell.type} is no cell.{did_you_mean(cell.type, names)} Accepted: "
        f"{', '.join(names)}",
        place,
    )
