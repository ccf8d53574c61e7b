"""What each layer of a program costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qatlab.deploy.c.sites import Layer
from qatlab.deploy.integer.network import (
    Convolve,
    FixedPoint,
    Input,
    IntegerNetwork,
    MaxPool,
    Multiply,
    Operation,
    SumPool,
    Weighted,
)

MOVES = "moves codes"


class LayerSize(NamedTuple):
    """A row of the table of a program's layers.

    Attributes:
        name: of the operation.
        what: it does.
        flash: bytes of its constants.
        multiply_accumulates: of one image; those of a layer count for each site that reads it.
    """

    name: str
    what: str
    flash: int
    multiply_accumulates: int


def layer_sizes(
    network: IntegerNetwork,
    shapes: Mapping[str, Sequence[int]],
    layers: Mapping[str, Layer],
    flash: Mapping[str, int],
) -> tuple[LayerSize, ...]:
    """Return a row for each operation.

    Args:
        network: its operations.
        shapes: of their results.
        layers: convolutions and fully-connected layers.
        flash: bytes of constants, by the name of the operation.
    """
    rows = []
    for op in network.operations:
        if isinstance(op, Input):
            continue
        products = 0
        if isinstance(op, (Convolve, Multiply)):
            places = _computed(op.name, network, shapes)
            products = layers[op.name].op.weight.size * places
        rows.append(LayerSize(op.name, _what(op, layers), flash.get(op.name, 0), products))
    return tuple(rows)


def _computed(name: str, network: IntegerNetwork, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return in how many places accumulators are computed: anew for each reader."""
    count = 0
    for op in network.operations:
        if name in op.inputs and isinstance(op, SumPool):
            count += math.prod(op.kernel) * _computed(op.name, network, shapes)
        else:
            count += op.inputs.count(name) * math.prod(shapes[name][1:])
    return count


def _what(op: Operation, layers: Mapping[str, Layer]) -> str:
    """Return in a few words what an operation does."""
    if isinstance(op, (Convolve, Multiply)):
        of_bits = f"weights of {layers[op.name].weights.bits} bits"
        if isinstance(op, Convolve):
            return f"convolution {op.weight.shape[2]}x{op.weight.shape[3]}, {of_bits}"
        return f"fully connected, {of_bits}"
    if isinstance(op, (Weighted, FixedPoint)):
        codes = getattr(op, "codes", None)
        return f"codes of {codes.bits} bits" if codes else "outputs"
    if isinstance(op, (MaxPool, SumPool)):
        kind = "largest" if isinstance(op, MaxPool) else "sums"
        return f"{kind} of {op.kernel[0]}x{op.kernel[1]} codes"
    return MOVES
