"""Computes an integer network on many images at once.

Whole numbers are held in float32 where it is exact for all of a layer's sums, below 2**24, and in
float64 where it is not: torch convolves in these, and no accumulator of 32 bits comes near 2**53.
Sums in fixed point are of 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qatlab.deploy.integer.network import (
    NO_SIDES,
    Concatenate,
    Convolve,
    FixedOutput,
    FixedPoint,
    FixedRescale,
    Input,
    IntegerNetwork,
    Integers,
    MaxPool,
    Multiply,
    Operation,
    Output,
    Pad,
    Permute,
    Pick,
    Reals,
    Reinterpret,
    Rescale,
    Reshape,
    Sides,
    Slice,
    SumPool,
    Weighted,
    along_channels,
)

EXACT = 1 << 24  # float32 holds all whole numbers up to it
WHOLE = 1e-9  # nearer to a whole number than that is one, up to the errors of float64


@dataclass(frozen=True)
class Computed:
    """What a network has computed.

    Attributes:
        outputs: real numbers ``(N, classes)``, float64.
        codes: of each site, by its name.
        positions: of each site, what was rounded: in steps, before it was clipped.
    """

    outputs: Tensor
    codes: dict[str, Tensor]
    positions: dict[str, Tensor]


def compute(network: IntegerNetwork, images: Tensor) -> Computed:
    """Compute a network.

    Args:
        network: the operations.
        images: codes of the image, whole numbers ``(N, C, H, W)``.
    """
    codes: dict[str, Tensor] = {}
    positions: dict[str, Tensor] = {}
    kept = {name: site for site, names in network.sites.items() for name in names}
    for op, value, position in results(network, images):
        if position is not None:
            positions[op.name] = position
        if op.name in kept:
            codes[op.name] = value
    operations = {op.name: op for op in network.operations}

    def position_of(name: str) -> Tensor:
        """Return what has been rounded, moved as its code was."""
        op = operations[name]
        if name not in positions or _reverses(op, operations):
            moved = [position_of(of) for of in op.inputs]
            positions[name] = (
                _weighted(op, moved) if isinstance(op, Weighted) else _integers(op, moved)
            )
        return positions[name]

    sites = {name: parts for name, parts in network.sites.items() if parts[0] in codes}
    return Computed(
        value,
        {name: torch.cat([codes[part] for part in parts], 1) for name, parts in sites.items()},
        {name: torch.cat([position_of(p) for p in parts], 1) for name, parts in sites.items()},
    )


def _reverses(op: Operation, operations: Mapping[str, Operation]) -> bool:
    """Tell whether an operation reverses the order of a site's codes."""
    of = operations[op.inputs[0]] if op.inputs else op
    return (
        isinstance(op, Rescale)
        and op.slope is None
        and any(np.any(m == -1) for m in op.multipliers)
        and not isinstance(of, (Convolve, Multiply, SumPool, Input))
        and bool(np.all(abs(op.offset - np.round(op.offset)) < WHOLE))
        and all(np.all(abs(m) == 1) for m in op.multipliers)
        and len(op.inputs) == 1
    )


def results(
    network: IntegerNetwork, images: Tensor
) -> Iterator[tuple[Operation, Tensor, Tensor | None]]:
    """Yield each operation with its result and, at a site, with what was rounded."""
    last = {name: op.name for op in network.operations for name in op.inputs}
    values: dict[str, Tensor] = {}
    for op in network.operations:
        position = None
        inputs = [values[name] for name in op.inputs]
        if isinstance(op, Input):
            value = images.float()
        elif isinstance(op, Weighted):
            value = _weighted(op, inputs)
            if isinstance(op, Output):
                value = _answered(op, value)
            if isinstance(op, Rescale):
                if (below := op.below) is not None:
                    value = torch.where(value < op.zero, _weighted(below, inputs), value)
                position, value = value, value.round().clamp(op.codes.low, op.codes.high).float()
        elif isinstance(op, FixedPoint):
            total, shift = _fixed(op, inputs), _like(op.shift, inputs[0])
            if isinstance(op, FixedRescale) and op.below is not None:
                assert op.zero is not None
                other = total < _like(op.zero, inputs[0])
                instead = _fixed(op.below, inputs)
                scale = _like(op.below.shift, inputs[0])
                total = torch.where(other, instead, total)
                shift = torch.where(other, scale, shift)
            value = total.double() / (1 << shift).double()
            if isinstance(op, FixedOutput):
                value = _answered(op, value)
            if isinstance(op, FixedRescale):
                position = value
                value = (total >> shift).clamp(op.codes.low, op.codes.high).float()
                if not op.codes.largest < EXACT:
                    raise ValueError(f"{op.name} has codes beyond float32")
        else:
            value = _integers(op, inputs)
        yield op, value, position
        values[op.name] = value
        for name in op.inputs:
            if last[name] == op.name:
                values.pop(name, None)


def shapes(network: IntegerNetwork) -> dict[str, tuple[int, ...]]:
    """Return the shape of each result for one image, ``(C, H, W)`` or ``(features,)``.

    That of the output is the shape in which it is computed.
    """
    black = torch.zeros(1, *network.input.shape, device="meta")  # nothing is computed
    found: dict[str, tuple[int, ...]] = {}
    for op, value, _ in results(network, black):
        answers = isinstance(op, (Output, FixedOutput))
        found[op.name] = found[op.inputs[0]] if answers else tuple(value.shape[1:])
    return found


def _integers(op: Operation, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    if isinstance(op, (Convolve, Multiply, SumPool)):
        x = x.to(torch.float32 if op.largest < EXACT else torch.float64)
    if isinstance(op, Convolve):
        weight, x = torch.from_numpy(op.weight).to(x), _around(x, op.padding)
        return F.conv2d(x, weight, None, op.stride, 0, op.dilation, op.groups)
    if isinstance(op, Multiply):
        return F.linear(x, torch.from_numpy(op.weight).to(x))
    if isinstance(op, SumPool):
        return F.avg_pool2d(_around(x, op.padding), op.kernel, op.stride, divisor_override=1)
    if isinstance(op, MaxPool):
        x = _around(x, op.padding, -math.inf)
        return F.max_pool2d(x, op.kernel, op.stride, 0, op.dilation)
    if isinstance(op, Slice):
        return x[(slice(None), *(slice(*ends) for ends in op.slices))]
    if isinstance(op, Pick):
        return x[:, list(op.channels)]
    if isinstance(op, Pad):
        amounts = [n for pair in reversed(op.amounts) for n in pair]
        if op.mode == "constant":
            return F.pad(x, amounts)
        return F.pad(x, amounts[:4], op.mode)
    if isinstance(op, Concatenate):
        joined = torch.cat(inputs, 1)
        return joined if op.order is None else joined[:, list(op.order)]
    if isinstance(op, Reshape):
        return x.reshape(len(x), *op.shape)
    if isinstance(op, Permute):
        axes = (0, *(axis + 1 for axis in op.axes))
        return x.reshape(len(x), *op.split).permute(axes).reshape(len(x), *op.shape)
    assert isinstance(op, Reinterpret)
    return x


def _around(x: Tensor, sides: Sides, value: float = 0.0) -> Tensor:
    return x if sides == NO_SIDES else F.pad(x, (*sides[1], *sides[0]), value=value)


def _weighted(op: Rescale | Output | Weighted, terms: list[Tensor]) -> Tensor:
    total = _like(op.offset, terms[0])
    for term, multiplier in zip(terms, op.multipliers, strict=True):
        total = total + _like(multiplier, term) * term.double()
    return total


def _fixed(op: FixedPoint | FixedRescale | FixedOutput, terms: list[Tensor]) -> Tensor:
    total = _like(op.offset, terms[0])
    for term, multiplier in zip(terms, op.multipliers, strict=True):
        total = total + _like(multiplier, term) * term.long()
    return total


def _answered(op: Output | FixedOutput, value: Tensor) -> Tensor:
    flat = value.flatten(1)
    return flat if op.places is None else flat[:, torch.from_numpy(op.places)]


def _like(numbers: Reals | Integers, term: Tensor) -> Tensor:
    shaped = np.ascontiguousarray(along_channels(numbers, term.ndim))
    return torch.from_numpy(shaped).to(term.device)
