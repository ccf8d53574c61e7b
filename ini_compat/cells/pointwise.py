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
COEFFICIENTS = {  # N2D2's key: its default, and the operations that use it
    "Weights": (1.0, ("Sum", "AbsSum", "EuclideanSum")),
    "Shifts": (0.0, ("Sum", "EuclideanSum")),
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
        raise reader.error("Input", f"combines tensors of unlike shapes: {reader.sizes()}")
    operation = section.choice("Operation", tuple(OPERATIONS))
    mode = section.choice("CoeffMode", ("PerInput", "PerLayer", "PerChannel"), "PerInput")
    if mode == "PerChannel" and operation != "Sum":
        raise reader.error("CoeffMode", "is PerChannel. Accepted with Operation=Sum only")
    node: Node = {"type": "elementwise", "operation": OPERATIONS[operation]}
    for key, (plain, users) in COEFFICIENTS.items():
        numbers = _coefficients(reader, key, plain, mode == "PerChannel")
        if numbers is None:
            continue
        if operation not in users:
            reader.lose(key, f"N2D2 does not use it with Operation={operation}", "ignored")
        elif (key, operation) == ("Shifts", "EuclideanSum"):
            raise reader.error(key, "are not supported here with Operation=EuclideanSum")
        else:
            node[key.lower()] = numbers
    reader.add(node)
    reader.finish(shape)


def _coefficients(
    reader: CellReader, key: str, plain: float, by_channel: bool
) -> list[float] | list[list[float]] | None:
    """Return a number, or one for each channel, for each input; None: all have the default."""
    inputs, channels = len(reader.shapes), reader.shapes[0][0]
    numbers = reader.section.reals(key, [])
    count = channels if by_channel else inputs
    if len(numbers) > count:
        of = "channels" if by_channel else "inputs"
        raise reader.error(
            key, f"has {len(numbers)} values. Accepted: one for each of {count} {of}"
        )
    numbers += [plain] * (count - len(numbers))
    if all(number == plain for number in numbers):
        return None
    return [numbers] * inputs if by_channel else numbers  # N2D2 has one for all inputs


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
        raise reader.error("Dropout", f"is {probability:g}. Accepted: from 0, below 1")
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
        raise reader.error("GroupSize", f"is {size}, which does not divide {shape[0]} channels")
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
        reader.lose("Type", "N2D2's CPU code computes something else, here it is what its GPU does")
    size = config.unsigned("N", 5)
    if not 1 <= size <= MOST_OUTPUTS:
        raise reader.error("N", f"is {size}. Accepted: 1 to {MOST_OUTPUTS}")
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
        raise reader.error("Factor", f"has {len(factors)} values. Accepted: 1 or {shape[0]}")
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
        reader.lose("MaxValue", f"has no effect with Operation={operation}", "ignored")
    elif largest != 1.0:
        node["max_value"] = largest
    reader.add(node)
    reader.finish(shape)
