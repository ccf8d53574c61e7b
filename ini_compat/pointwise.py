"""Cells that change values where they are: ElemWise, Activation, Dropout, Softmax and others."""

from __future__ import annotations

from ini_compat.cells import CellReader
from ini_compat.network import Node
from ini_compat.weighted import crop

OPERATIONS = {
    "Sum": "sum",
    "AbsSum": "abs_sum",
    "EuclideanSum": "euclidean_sum",
    "Prod": "prod",
    "Max": "max",
}


def elementwise(reader: CellReader) -> None:
    """Read an element-wise operation on inputs of one shape."""
    section = reader.section
    shape = reader.shapes[0]
    reader.number_of_outputs(shape[0])
    if any(s != shape for s in reader.shapes):
        texts = ", ".join(
            f"{name} {'x'.join(map(str, s))}"
            for name, s in zip(reader.cell.inputs, reader.shapes, strict=True)
        )
        raise reader.error("Input", f"combines tensors of unlike shapes: {texts}")
    operation = section.choice("Operation", tuple(OPERATIONS))
    node: Node = {"type": "elementwise", "operation": OPERATIONS[operation]}
    mode = section.choice("CoeffMode", ("PerInput", "PerLayer", "PerChannel"), "PerInput")
    for key, plain in (("Weights", 1.0), ("Shifts", 0.0)):
        numbers = section.reals(key, None) if section.has(key) else None
        if numbers is None:
            continue
        table = _coefficients(reader, key, numbers, mode, shape[0])
        if any(n != plain for row in table for n in (row if isinstance(row, list) else [row])):
            if operation in ("Prod", "Max"):
                reader.lose(key, f"N2D2 does not use it with Operation={operation}", "ignored")
            else:
                node[key.lower()] = table
    reader.add(node)
    reader.finish(shape)


def _coefficients(
    reader: CellReader, key: str, numbers: list[float], mode: str, channels: int
) -> list[float] | list[list[float]]:
    inputs = len(reader.shapes)
    if mode == "PerLayer" and len(numbers) == 1:
        return numbers * inputs
    if mode == "PerInput" and len(numbers) == inputs:
        return numbers
    if mode == "PerChannel" and len(numbers) in (channels, channels * inputs):
        numbers = numbers if len(numbers) != channels else numbers * inputs
        return [numbers[i * channels : (i + 1) * channels] for i in range(inputs)]
    wanted = {"PerLayer": 1, "PerInput": inputs, "PerChannel": channels}[mode]
    raise reader.error(key, f"has {len(numbers)} values. Accepted with CoeffMode={mode}: {wanted}")


def activation(reader: CellReader) -> None:
    """Read an activation function that is a cell of its own; Tanh by default."""
    shape = reader.joined()
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
    if not 0 <= probability <= 1:
        raise reader.error("Dropout", f"is {probability:g}. Accepted: from 0 to 1")
    node: Node = {"type": "dropout", "p": probability}
    if not reader.on_gpu:
        node["rescale"] = False  # N2D2's CPU code does not divide by 1 - p
    reader.add(node)
    reader.finish(shape)


def softmax(reader: CellReader) -> None:
    """Read a softmax; with WithLoss it belongs to the loss."""
    section = reader.section
    crop(reader)
    shape = reader.only_input()
    reader.number_of_outputs(shape[0])
    size = section.unsigned("GroupSize", 0)
    if size and shape[0] % size:
        raise reader.error("GroupSize", f"is {size}, which does not divide {shape[0]} channels")
    if section.boolean("WithLoss", False):
        reader.cell.with_loss = "softmax"
    reader.add({"type": "softmax"} | ({"group_size": size} if size else {}))
    reader.finish(shape)


def lrn(reader: CellReader) -> None:
    """Read a local response normalisation across channels."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    reader.check_config("N", "Alpha", "Beta", "K")
    config = reader.config
    if not reader.on_gpu:
        reader.lose("Type", "N2D2's CPU code computes something else, here it is what its GPU does")
    node: Node = {"type": "lrn"}
    size = config.unsigned("N", 5)
    if size < 1:
        raise reader.error("N", f"is {size}. Accepted: 1 or more")
    node |= {"size": size} if size != 5 else {}
    for key, name, default in (("Alpha", "alpha", 1e-4), ("Beta", "beta", 0.75), ("K", "k", 2.0)):
        value = config.real(key, default)
        node |= {name: value} if value != default else {}
    reader.add(node)
    reader.finish(shape)


def scaling(reader: CellReader) -> None:
    """Read a multiplication by a constant."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    factors = reader.section.reals("Factor")
    if len(factors) not in (1, shape[0]):
        raise reader.error("Factor", f"has {len(factors)} values. Accepted: 1 or {shape[0]}")
    reader.add({"type": "scale", "factor": factors[0] if len(factors) == 1 else factors})
    reader.finish(shape)


def normalize(reader: CellReader) -> None:
    """Read a division by the norm over channels."""
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    norm = reader.section.choice("Norm", ("L1", "L2"))
    reader.add({"type": "normalize", "norm": norm.lower()})
    reader.finish(shape)


def threshold(reader: CellReader) -> None:
    """Read a threshold."""
    section = reader.section
    shape = reader.joined()
    reader.number_of_outputs(shape[0])
    names = {
        "Binary": "binary",
        "BinaryInverted": "binary_inverted",
        "Truncate": "truncate",
        "ToZero": "to_zero",
        "ToZeroInverted": "to_zero_inverted",
    }
    reader.check_config("Operation", "MaxValue")
    owner = section if section.has("Operation") else reader.config.owner("Operation")
    operation = "Binary" if owner is None else owner.choice("Operation", tuple(names))
    owner = section if section.has("MaxValue") else reader.config.owner("MaxValue")
    largest = 1.0 if owner is None else owner.real("MaxValue")
    node: Node = {"type": "threshold", "threshold": section.real("Threshold")}
    node |= {"operation": names[operation]} if operation != "Binary" else {}
    reader.add(node | ({"max_value": largest} if largest != 1.0 else {}))
    reader.finish(shape)
