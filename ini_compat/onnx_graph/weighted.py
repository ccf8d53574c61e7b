"""ONNX nodes with weights: convolutions, fully-connected layers, batch normalisation."""

from __future__ import annotations

from math import prod

import numpy as np

from ini_compat.cells import weighted
from ini_compat.network import Cell
from ini_compat.onnx_graph.constants import BATCH
from ini_compat.onnx_graph.file import Array
from ini_compat.onnx_graph.step import Step, Tensor
from ini_compat.onnx_graph.window import HIGHEST, read_window


def conv(step: Step) -> Tensor:
    """Convolution."""
    tensor, weights = step.tensor(rank=4), _weights(step, 4)
    groups = _groups(step, tensor, weights)
    kernel = (weights.shape[2], weights.shape[3])
    window = read_window(step, tensor, kernel)
    bias = _bias(step, weights.shape[0], 4)
    said = _said(weights.shape[0], kernel, groups)
    said |= {"StrideDims": window.stride[::-1], "DilationDims": window.dilation[::-1]}
    cell = step.cell(
        *("Conv", weighted.conv, [tensor], said),
        defaults={"NoBias": int(bias is None)},
        sides=window.sides,
    )
    step.weigh(cell, "weight", weights, (weights.shape[0], tensor.shape[0] // groups, *kernel))
    _weigh_bias(step, cell, bias)
    return step.made(cell)


def conv_transpose(step: Step) -> Tensor:
    """Transposed convolution."""
    tensor, weights = step.tensor(rank=4), _weights(step, 4)
    groups = step.integer("group", 1)
    if not 1 <= groups <= tensor.shape[0] or tensor.shape[0] % groups:
        raise step.error(f"has group={groups}, which does not divide {tensor.shape[0]} channels")
    automatic = step.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if automatic or "output_shape" in step.node.attributes:
        raise step.error("has a size that is to be found, which is not supported here: give pads")
    kernel = (weights.shape[2], weights.shape[3])
    window = read_window(step, tensor, kernel)
    outputs = weights.shape[1] * groups
    bias = _bias(step, outputs, 4)
    said = _said(outputs, kernel, groups)
    said |= {"StrideDims": window.stride[::-1], "DilationDims": window.dilation[::-1]}
    cell = step.cell(
        *("Deconv", weighted.deconv, [tensor], said), defaults={"NoBias": int(bias is None)}
    )
    _crop(step, cell, window.sides)
    step.weigh(cell, "weight", weights, (tensor.shape[0], weights.shape[1], *kernel))
    _weigh_bias(step, cell, bias)
    return step.made(cell)


def gemm(step: Step) -> Tensor:
    """Fully-connected layer."""
    tensor, weights = step.tensor(rank=2), _weights(step, 2)
    if step.integer("transA", 0):
        raise step.error("has transA=1, which is not supported here")
    if not step.integer("transB", 0):
        weights = weights.T
    bias = _bias(step, weights.shape[0], 2)
    if bias is not None and step.has(2):
        bias = bias * np.float32(step.real("beta", 1.0))
    return _linear(step, tensor, weights * np.float32(step.real("alpha", 1.0)), bias)


def matmul(step: Step) -> Tensor:
    """Fully-connected layer, whose bias a following Add may hold."""
    if step.is_constant(0):
        raise step.error("has constants as its first factor. Accepted: as its second")
    tensor, weights = step.tensor(rank=2), _weights(step, 2).T
    return _linear(step, tensor, weights, _bias(step, weights.shape[0], 2))


def batch_norm(step: Step) -> Tensor:
    """Batch normalisation."""
    tensor = step.flat(step.tensor())
    if step.integer("spatial", 1) != 1:
        raise step.error("has spatial=0, statistics for each pixel, which is not supported here")
    momentum = step.real("momentum", 0.9)
    defaults = {
        "Epsilon": step.real("epsilon", 1e-5),
        "MovingAverageMomentum": round(1 - momentum, 7),
    }
    said = {"NbOutputs": tensor.shape[0]}
    cell = step.cell("BatchNorm", weighted.batch_norm, [tensor], said, defaults)
    for index, key in enumerate(("weight", "bias", "running_mean", "running_var"), start=1):
        step.weigh(cell, key, step.constant(index, "parameters"), tensor.shape[:1])
    return step.made(cell, tensor.rank)


def _linear(step: Step, tensor: Tensor, weights: Array, bias: Array | None) -> Tensor:
    outputs = weights.shape[0]
    cell = step.cell(
        *("Fc", weighted.fc, [tensor], {"NbOutputs": outputs}),
        defaults={"NoBias": int(bias is None)},
    )
    step.weigh(cell, "weight", weights, (outputs, prod(tensor.shape)))
    _weigh_bias(step, cell, bias)
    return step.made(cell, rank=2)


def _weights(step: Step, dimensions: int) -> Array:
    weights = step.constant(1, "weights")
    if weights.ndim != dimensions or 0 in weights.shape:
        sizes = "x".join(map(str, weights.shape)) or "a single number"
        raise step.error(f"has weights of {sizes}. Accepted: {dimensions} dimensions")
    return weights


def _groups(step: Step, tensor: Tensor, weights: Array) -> int:
    outputs, channels = weights.shape[:2]
    groups, before = step.integer("group", 1), tensor.shape[0]
    if not 1 <= groups <= HIGHEST or groups * channels != before or outputs % groups:
        raise step.error(
            f"has group={groups} and weights for {channels} channels of each group and {outputs} "
            f"outputs, but its input has {before} channels"
        )
    return groups


def _said(outputs: int, kernel: tuple[int, int], groups: int) -> dict[str, object]:
    said: dict[str, object] = {"NbOutputs": outputs, "KernelDims": kernel[::-1]}
    return said | ({"Mapping.NbGroups": groups} if groups > 1 else {})


def _bias(step: Step, outputs: int, rank: int) -> Array | None:
    """Return the bias of a node: its own, or that of an Add which alone reads it."""
    if step.has(2):
        bias = step.constant(2, "biases")
        if step.node.operator == "Gemm" and bias.size in (1, outputs):
            return np.broadcast_to(bias.ravel(), (outputs,))
        return bias
    reading = step.reading
    users = reading.users.get(step.name, [])
    if len(users) != 1 or users[0].operator not in ("Add", "Sum"):
        return None
    add = users[0]
    others = [name for name in add.inputs if name != step.name]
    if step.name in reading.graph.outputs or add.name in reading.ignored or len(others) != 1:
        return None
    found = reading.graph.constants.get(others[0])
    sizes = (outputs, 1, 1) if rank == 4 else (outputs,)
    if found is None or found.shape not in (sizes, (1, *sizes)) or (found == BATCH).any():
        return None
    reading.merged[add.name] = step.name
    return found.reshape(outputs)


def _weigh_bias(step: Step, cell: Cell, bias: Array | None) -> None:
    layer = next(iter(cell.layers.values()))
    if bias is None:
        return
    if layer.get("bias", True):
        step.weigh(cell, "bias", bias, (layer["channels"],))
    else:
        step.reader.note("NoBias", "leaves out biases of the ONNX file", "ignored")


def _crop(step: Step, cell: Cell, sides: tuple[int, int, int, int]) -> None:
    """Cut the sides off the whole output of a deconvolution."""
    rows, columns = step.integers("output_padding") or (0, 0)
    top, bottom, left, right = sides
    bottom, right = bottom - rows, right - columns
    if min(rows, columns, bottom, right) < 0:
        raise step.error("has output_padding beyond its pads, which is not supported here")
    assert cell.shape is not None
    channels, height, width = cell.shape
    shape = (channels, height - top - bottom, width - left - right)
    if min(shape) < 1:
        raise step.error(f"has pads that leave nothing of {height}x{width}")
    cell.shape = shape
    layer = next(iter(cell.layers.values()))
    if (top, left) != (bottom, right):
        layer["padding"] = [top, bottom, left, right]
    elif (top, left) != (0, 0):
        layer["padding"] = [top, left]
    layer["input"] = layer.pop("input")  # stands last, as in other layers
