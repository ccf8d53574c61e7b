"""ONNX nodes that change values where they are: functions, sums, products, dropout, softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np

from ini_compat.cells import pointwise
from ini_compat.onnx_graph.file import Array, shortest
from ini_compat.onnx_graph.step import Step, Tensor

NO_BOUND = 3e38  # about the largest float32, which some exporters write for "none"


def relu(step: Step) -> Tensor:
    """Rectifier."""
    return _function(step, {"ActivationFunction": "Rectifier"}, nonnegative=True)


def leaky_relu(step: Step) -> Tensor:
    """Rectifier with a slope below 0."""
    slope = step.real("alpha", 0.01)
    said = {"ActivationFunction": "Rectifier", "ActivationFunction.LeakSlope": slope}
    return _function(step, said)


def function(name: str) -> Callable[[Step], Tensor]:
    """Return the operator for a function of N2D2 without parameters."""

    def read(step: Step) -> Tensor:
        return _function(step, {"ActivationFunction": name})

    return read


def clip(step: Step) -> Tensor:
    """Clipping that is a rectifier or a saturation."""
    low, high = _bound(step, "min", 1, -inf), _bound(step, "max", 2, inf)
    tensor = step.tensor()
    if low == -inf and tensor.nonnegative:
        low = 0.0
    if (low, high) == (-inf, inf):
        return tensor
    if low == 0 and high > 0:
        said: dict[str, object] = {"ActivationFunction": "Rectifier"}
        said |= {} if high == inf else {"ActivationFunction.Clipping": high}
        return _function(step, said, nonnegative=True)
    if low == -high:
        said = {"ActivationFunction": "Saturation", "ActivationFunction.Threshold": high}
        return _function(step, said)
    raise step.error(
        f"cuts at {low:g} and {high:g}. Accepted: 0 and a number above it, or -a and a"
    )


def add(step: Step) -> Tensor:
    """Sum of tensors, or of a tensor and constants."""
    return _sum(step, 1.0)


def subtract(step: Step) -> Tensor:
    """Difference."""
    return _sum(step, -1.0)


def multiply(step: Step) -> Tensor:
    """Product."""
    for constant, other in ((0, 1), (1, 0)):
        if len(step.node.inputs) == 2 and step.is_constant(constant):
            tensor = step.tensor(other)
            return _scaled(step, tensor, step.constant(constant, "factors"))
    return _elementwise(step, "Prod")


def divide(step: Step) -> Tensor:
    """Division by constants."""
    divisors = step.constant(1, "divisors")
    if (divisors == 0).any():
        raise step.error("divides by 0")
    return _scaled(step, step.tensor(), np.true_divide(1, divisors.astype(np.float64)))


def maximum(step: Step) -> Tensor:
    """Maximum of tensors."""
    return _elementwise(step, "Max")


def dropout(step: Step) -> Tensor:
    """Dropout."""
    tensor = step.tensor()
    ratio = step.real("ratio", 0.5)
    if step.has(1):
        ratio = _single(step, step.constant(1, "ratios"))
    said = {"NbOutputs": tensor.shape[0]}
    cell = step.cell("Dropout", pointwise.dropout, [tensor], said, {"Dropout": ratio})
    return step.made(cell, tensor.rank, tensor.nonnegative)


def softmax(step: Step) -> Tensor:
    """Softmax over channels; at the end of the graph it belongs to the loss, the cross-entropy."""
    tensor = step.flat(step.tensor())
    late = step.reading.graph.opset >= 13
    axis = step.integer("axis", -1 if late else 1)
    everything = not late and tensor.shape[1:] != (1, 1)  # it flattened what is behind the axis
    if axis % tensor.rank != 1 or everything:
        raise step.error(f"has axis={axis}. Accepted: the channels")
    said = {"NbOutputs": tensor.shape[0], "WithLoss": 1}
    if step.reading.users.get(step.name):
        said["WithLoss"] = 0
    return step.made(step.cell("Softmax", pointwise.softmax, [tensor], said), tensor.rank)


def lrn(step: Step) -> Tensor:
    """Local response normalisation across channels."""
    tensor = step.tensor(rank=4)
    size = step.integer("size", 0)
    if size < 1 or size % 2 == 0:
        raise step.error(f"has size={size}. Accepted: odd numbers")
    parameters = {
        "N": size,
        "Alpha": step.real("alpha", 1e-4),
        "Beta": step.real("beta", 0.75),
        "K": step.real("bias", 1.0),
    }
    said = {"NbOutputs": tensor.shape[0]}
    return step.made(step.cell("LRN", pointwise.lrn, [tensor], said, parameters))


def _function(step: Step, said: Mapping[str, object], nonnegative: bool = False) -> Tensor:
    tensor = step.tensor()
    source = step.source("Activation")
    if source is not None:
        if not source.has("ActivationFunction"):
            raise step.error(f"has the section [{source.name}], which has no ActivationFunction")
        said, nonnegative = {}, False
    cell = step.cell("Activation", pointwise.activation, [tensor], said)
    return step.made(cell, tensor.rank, nonnegative or cell.activation is not None)


def _bound(step: Step, key: str, index: int, default: float) -> float:
    value = step.real(key, default)
    if step.has(index):
        value = _single(step, step.constant(index, "bounds"))
    return value if abs(value) < NO_BOUND else default


def _single(step: Step, array: Array) -> float:
    if array.size != 1:
        raise step.error(f"has {array.size} numbers where one is accepted")
    return shortest(float(array.ravel()[0]))


def _sum(step: Step, sign: float) -> Tensor:
    for constant, other in ((1, 0), (0, 1)):
        if len(step.node.inputs) == 2 and step.is_constant(constant):
            if sign < 0 and constant == 0:
                raise step.error("subtracts from constants, which is not supported here")
            tensor = step.tensor(other)
            shifts = _by_channel(step, tensor, step.constant(constant, "summands"))
            if not any(shifts):
                return tensor
            tensor = step.flat(tensor)
            shifts = shifts * tensor.shape[0] if len(shifts) == 1 else shifts
            return _elementwise(
                *(step, "Sum", [tensor]),
                {"CoeffMode": "PerChannel", "Shifts": [sign * n for n in shifts]},
            )
    return _elementwise(step, "Sum", None, {} if sign > 0 else {"Weights": (1, -1)})


def _scaled(step: Step, tensor: Tensor, factors: Array) -> Tensor:
    numbers = _by_channel(step, tensor, factors)
    if all(n == 1 for n in numbers):
        return tensor
    tensor = step.flat(tensor)
    said = {"Factor": numbers, "NbOutputs": tensor.shape[0]}
    return step.made(step.cell("Scaling", pointwise.scaling, [tensor], said), tensor.rank)


def _by_channel(step: Step, tensor: Tensor, array: Array) -> list[float]:
    """Return constants as a single number or as one for each channel."""
    sizes = (tensor.sizes[0], *(1,) * (tensor.rank - 2))
    if array.size != 1 and array.shape not in (sizes, (1, *sizes)):
        text = "x".join(map(str, array.shape))
        raise step.error(f"has constants of {text}. Accepted: one, or one for each channel")
    if array.ndim > tensor.rank or not np.isfinite(array).all():
        raise step.error("has constants that do not fit its input")
    return [shortest(float(n)) for n in array.ravel()]


def _elementwise(
    step: Step,
    operation: str,
    tensors: Sequence[Tensor] | None = None,
    said: Mapping[str, object] | None = None,
) -> Tensor:
    if tensors is None:
        tensors = [step.tensor(i) for i in range(len(step.node.inputs))]
    if len({tensor.rank for tensor in tensors}) != 1:
        raise step.error("combines images with vectors, which is not supported here")
    if len({tensor.shape for tensor in tensors}) != 1:
        tensors = [step.flat(tensor) for tensor in tensors]
    known = {"NbOutputs": tensors[0].shape[0], "Operation": operation}
    cell = step.cell("ElemWise", pointwise.elementwise, tensors, {**known, **(said or {})})
    return step.made(cell, tensors[0].rank)
