"""Computes an integer network on many images at once.

Whole numbers are held in float64, in which torch convolves, and which is exact for them: no
accumulator of 32 bits comes near 2**53.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qatlab.integer.network import (
    Convolve,
    Flatten,
    Input,
    IntegerNetwork,
    MaxPool,
    Multiply,
    Operation,
    Output,
    PadChannels,
    Reals,
    Rescale,
    Subsample,
    SumPool,
)


@dataclass(frozen=True)
class Computed:
    """What a network has computed.

    Attributes:
        outputs: real numbers ``(N, classes)``.
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
    values: dict[str, Tensor] = {}
    codes, positions = {}, {}
    for op in network.operations:
        if isinstance(op, Input):
            values[op.name] = images.double()
        elif isinstance(op, (Rescale, Output)):
            position = _weighted(op, values)
            values[op.name] = position
            if isinstance(op, Rescale):
                positions[op.name] = position
                rounded = position.round().clamp(op.codes.low, op.codes.high)
                values[op.name] = codes[op.name] = rounded
        else:
            values[op.name] = _integers(op, values[op.inputs[0]])
    return Computed(values[network.operations[-1].name], codes, positions)


def _integers(op: Operation, x: Tensor) -> Tensor:
    if isinstance(op, Convolve):
        weight = torch.from_numpy(op.weight).double()
        return F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)
    if isinstance(op, Multiply):
        return F.linear(x, torch.from_numpy(op.weight).double())
    if isinstance(op, SumPool):
        return F.avg_pool2d(x, op.kernel, op.stride, op.padding, divisor_override=1)
    if isinstance(op, MaxPool):
        return F.max_pool2d(x, op.kernel, op.stride, op.padding, op.dilation)
    if isinstance(op, Subsample):
        return x[:, :, :: op.stride[0], :: op.stride[1]]
    if isinstance(op, PadChannels):
        return F.pad(x, (0, 0, 0, 0, 0, op.channels))
    assert isinstance(op, Flatten)
    return x.flatten(1)


def _weighted(op: Rescale | Output, values: dict[str, Tensor]) -> Tensor:
    terms = [values[name] for name in op.inputs]
    total = _along_channels(op.offset, terms[0])
    for term, multiplier in zip(terms, op.multipliers, strict=True):
        total = total + _along_channels(multiplier, term) * term
    return total


def _along_channels(numbers: Reals, like: Tensor) -> Tensor:
    found = torch.from_numpy(np.atleast_1d(numbers))
    return found.reshape(1, -1, *(1,) * (like.ndim - 2))
