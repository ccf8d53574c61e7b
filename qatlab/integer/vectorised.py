"""Computes an integer network on many images at once.

Whole numbers are held in float32 where it is exact for all of a layer's sums, below 2**24, and in
float64 where it is not: torch convolves in these, and no accumulator of 32 bits comes near 2**53.
Sums in fixed point are of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qatlab.integer.network import (
    Channels,
    Concatenate,
    Convolve,
    FixedOutput,
    FixedPoint,
    FixedRescale,
    Flatten,
    Input,
    IntegerNetwork,
    Integers,
    MaxPool,
    Multiply,
    Operation,
    Output,
    PadChannels,
    Reals,
    Rescale,
    Subsample,
    SumPool,
    Weighted,
    along_channels,
)

EXACT = 1 << 24  # float32 holds all whole numbers up to it


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
    for op, value, position in results(network, images):
        if position is not None:
            codes[op.name], positions[op.name] = value, position
        elif isinstance(op, Concatenate) and all(name in codes for name in op.inputs):
            # A site of several parts, which have other codes than the whole.
            positions[op.name] = torch.cat([positions.pop(name) for name in op.inputs], 1)
            codes[op.name] = torch.cat([codes.pop(name) for name in op.inputs], 1)
    return Computed(value.flatten(1), codes, positions)


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
            if isinstance(op, Rescale):
                position, value = value, value.round().clamp(op.codes.low, op.codes.high).float()
        elif isinstance(op, FixedPoint):
            total, shift = _fixed(op, inputs), _like(op.shift, inputs[0])
            value = total.double() / (1 << shift).double()
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
    """Return the shape of each result for one image, ``(C, H, W)`` or ``(features,)``."""
    black = torch.zeros(1, *network.input.shape)
    return {op.name: tuple(value.shape[1:]) for op, value, _ in results(network, black)}


def _integers(op: Operation, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    if isinstance(op, (Convolve, Multiply, SumPool)):
        x = x.to(torch.float32 if op.largest < EXACT else torch.float64)
    if isinstance(op, Convolve):
        weight = torch.from_numpy(op.weight).to(x)
        return F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)
    if isinstance(op, Multiply):
        return F.linear(x, torch.from_numpy(op.weight).to(x))
    if isinstance(op, SumPool):
        return F.avg_pool2d(x, op.kernel, op.stride, op.padding, divisor_override=1)
    if isinstance(op, MaxPool):
        return F.max_pool2d(x, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode)
    if isinstance(op, Subsample):
        return x[:, :, :: op.stride[0], :: op.stride[1]]
    if isinstance(op, PadChannels):
        return F.pad(x, (0, 0, 0, 0, 0, op.channels))
    if isinstance(op, Channels):
        return x[:, op.start : op.stop]
    if isinstance(op, Concatenate):
        return torch.cat(inputs, 1)
    assert isinstance(op, Flatten)
    return x.flatten(1)


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


def _like(numbers: Reals | Integers, term: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(along_channels(numbers, term.ndim)))
