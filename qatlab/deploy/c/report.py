"""What each layer of a program costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qatlab.deploy.c.sites import Layer, Products
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork


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
    layers: Mapping[str, Layer | Products],
    flash: Mapping[str, int],
) -> tuple[LayerSize, ...]:
    """Return a row for each operation.

    Args:
        network: its operations.
        shapes: of their results.
        layers: convolutions, fully-connected layers and products.
        flash: bytes of constants, by the name of the operation.
    """
    rows = []
    for op in network.operations:
        if op.group is ops.Group.IMAGE:
            continue
        what, products = WORDS.get(type(op), lambda op: "moves codes")(op), 0
        layer = layers.get(op.name)
        if isinstance(layer, Products) and layer.op is op:
            products = layer.shape[0] * _computed(op.name, network, shapes)
        elif isinstance(layer, Layer) and layer.op.name == op.name:
            what += f", weights of {layer.weights.bits} bits"
            products = layer.op.weight.size * _computed(op.name, network, shapes)
        rows.append(LayerSize(op.name, what, flash.get(op.name, 0), products))
    return tuple(rows)


def _computed(name: str, network: IntegerNetwork, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return in how many places accumulators are computed: anew for each reader."""
    pools = {op.name: op for op in network.of(ops.SumPool)}
    count = 0
    for op in network.operations:
        if name in op.inputs and op.name in pools:
            count += math.prod(pools[op.name].kernel) * _computed(op.name, network, shapes)
        else:
            count += op.inputs.count(name) * math.prod(shapes[name][1:])
    return count


def _site(op: Any) -> str:
    return f"codes of {op.codes.bits} bits"


# What operations do, in a few words.
WORDS: dict[type[ops.Operation], Callable[[Any], str]] = {
    ops.Convolve: lambda op: f"convolution {op.kernel[0]}x{op.kernel[1]}",
    ops.Multiply: lambda op: "fully connected",
    ops.Product: lambda op: "products of codes",
    ops.SumPool: lambda op: f"sums of {op.kernel[0]}x{op.kernel[1]} codes",
    ops.MaxPool: lambda op: f"largest of {op.kernel[0]}x{op.kernel[1]} codes",
    ops.Rescale: _site,
    ops.FixedRescale: _site,
    ops.Table: lambda op: f"table of {len(op.entries)} codes",
    ops.Output: lambda op: "outputs",
    ops.FixedOutput: lambda op: "outputs",
}
