"""Cells that change values where they are: ElemWise, Activation, Dropout, Softmax and others."""

from __future__ import annotations

from ini_compat.cells.reader import MOST_OUTPUTS, CellReader
from ini_compat.cells.weighted import crop
from ini_compat.network import Node

OPERATIONS = {
    "Sum": "sum",
    "AbsSum": "abs_sum",
    "EuclideanSum": "euclidean_sum",
    "Prod": "prod",
    "Max": "max",
}
COEFFICIENTS = {  # N2D2's key: its default, and the operations for which the layer graph has it
    "Weights": (1.0, ("Sum", "AbsSum", "EuclideanSum")),
    "Shifts": (0.0, ("Sum",)),
}
THRESHOLDS = {
    "Binary": "binary",
    "BinaryInverted": "binary_inverted",
    "Truncate": "truncate",
    "ToZero": "to_zero",
    "ToZeroInverted": "to_zero_inverted",
}


def elementwise(reader: CellReader) -> None:
    """Read an element-wise operation on inputs of one shape."""
    section = reader.section
    shape = reader.shapes[0]
    reader.number_of_outputs(shape[0])
    reader.check_config()
    if any(s != shape for s in reader.shapes):
        raise reader.error("Input", f"combines tensors of different shapes: {reader.sizes()}")
    operation = section.choice("Operation", tuple(OPERATIONS))
    node: Node = {"type": "elementwise", "operation": OPERATIONS[operation]}
    for key, (plain, users) in COEFFICIENTS.items():
        table = _coefficients(reader, key)
        if all(n == plain for row in table for n in (row if isinstance(row, list) else [row])):
            continue
        if operation not in users:
            raise reader.error(key, f"are not supported here with Operation={operation}")
        node[key.lower()] = table
    reader.add(node)
    reader.finish(shape)


def _coefficients(reader: CellReader, key: str) -> list[float] | list[list[float]]:
    """Return for each input a number, or one for each channel; nothing if nothing is said."""
    section, inputs, channels = reader.section, len(reader.shapes), reader.shapes[0][0]
    counts = {"PerInput": inputs, "PerLayer": 1, "PerChannel": channels}
    mode = section.choice("CoeffMode", tuple(counts), "PerInput")
    numbers = section.reals(key, [])
    if not numbers:
        return []
    if len(numbers) != counts[mode]:
        values = "value" if counts[mode] == 1 else "values"
        raise reader.wrong(key, f"{counts[mode]} {values}, as CoeffMode={mode}")
    if mode == "PerChannel":
        return [numbers] * inputs
    return numbers * inputs if mode == "PerLayer" else numbers


def activation(reader: CellReader) -> None:
    """Read an activation function that is a cell of its own; Tanh by default."""
    shape = reader.joined()
    reader.check_config()
    if reader.section.has("NbOutputs"):
        reader.number_of_outputs(shape[0])
    reader.passes_on()
    reader.finish(shape, default="Tanh")


def dropout(reader: CellReader) -> None:
    """Read a dropout; the probability stands in the config section only."""
    crop(reader)
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config("Dropout")
    probability = reader.config.real("Dropout", 0.5)
    if not 0 <= probability < 1:
        raise reader.wrong("Dropout", "a probability in [0, 1)")
    node: Node = {"type": "dropout", "p": probability}
    if not reader.on_gpu:
        node["rescale"] = False  # N2D2's CPU code does not divide by 1 - p
    reader.add(node)
    reader.finish(shape)


def softmax(reader: CellReader) -> None:
    """Read a softmax; with WithLoss it belongs to the loss."""
    section = reader.section
    reader.check_config()
    crop(reader)
    shape = reader.only_input()
    reader.number_of_outputs(shape[0])
    size = section.unsigned("GroupSize", 0)
    if size and shape[0] % size:
        raise reader.wrong("GroupSize", f"a divisor of {shape[0]} channels")
    if section.boolean("WithLoss", False):
        reader.cell.with_loss = "softmax"
    groups = {"group_size": size} if size not in (0, shape[0]) else {}
    reader.add({"type": "softmax", **groups})
    reader.finish(shape)


def lrn(reader: CellReader) -> None:
    """Read a local response normalisation across channels."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config("N", "Alpha", "Beta", "K")
    config = reader.config
    if not reader.on_gpu:
        reader.note("Type", "N2D2's CPU code computes something else, here it is what its GPU does")
    size = config.unsigned("N", 5)
    if not 1 <= size <= MOST_OUTPUTS:
        raise reader.wrong("N", f"1 to {MOST_OUTPUTS}")
    node: Node = {"type": "lrn", **({"size": size} if size != 5 else {})}
    for key, name, default in (("Alpha", "alpha", 1e-4), ("Beta", "beta", 0.75), ("K", "k", 2.0)):
        value = config.real(key, default)
        node |= {name: value} if value != default else {}
    reader.add(node)
    reader.finish(shape)


def scaling(reader: CellReader) -> None:
    """Read a multiplication by a constant."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config()
    factors = reader.section.reals("Factor")
    if len(factors) not in (1, shape[0]):
        raise reader.wrong("Factor", f"1 or {shape[0]} values")
    reader.add({"type": "scale", "factor": factors[0] if len(factors) == 1 else factors})
    reader.finish(shape)


def normalize(reader: CellReader) -> None:
    """Read a division by the norm over channels."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config()
    norm = reader.section.choice("Norm", ("L1", "L2"))
    reader.add({"type": "normalize", "norm": norm.lower()})
    reader.finish(shape)


def threshold(reader: CellReader) -> None:
    """Read a threshold."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config("Operation", "MaxValue")
    operation = reader.config.choice("Operation", THRESHOLDS, "Binary")
    largest = reader.config.real("MaxValue", 1.0)
    node: Node = {"type": "threshold", "threshold": reader.section.real("Threshold")}
    node |= {"operation": THRESHOLDS[operation]} if operation != "Binary" else {}
    if largest != 1.0 and not operation.startswith("Binary"):
        reader.note("MaxValue", f"has no effect with Operation={operation}", "ignored")
    elif largest != 1.0:
        node["max_value"] = largest
    reader.add(node)
    reader.finish(shape)
