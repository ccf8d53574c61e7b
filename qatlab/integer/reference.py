"""Computes an integer network number by number, in Python's whole numbers: slow and obvious.

What :mod:`qatlab.integer.vectorised` computes has to be the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

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
    Rescale,
    Subsample,
    SumPool,
    Weighted,
)

Place = tuple[int, ...]
Values = dict[Place, Any]  # a number for each (c, y, x), or for each (feature,)


def compute_one(network: IntegerNetwork, image: Integers) -> dict[str, Values]:
    """Compute all results of a network for one image.

    Args:
        network: the operations.
        image: codes ``(C, H, W)``.

    Returns:
        By the name of the operation, numbers by their place.
    """
    values: dict[str, Values] = {}
    for op in network.operations:
        inputs = [values[name] for name in op.inputs]
        if isinstance(op, Input):
            values[op.name] = {place: int(code) for place, code in np.ndenumerate(image)}
        elif isinstance(op, (Weighted, FixedPoint)):
            values[op.name] = {place: _number(op, inputs, place) for place in inputs[0]}
        else:
            values[op.name] = _result(op, inputs)
    return values


def _number(op: Weighted | FixedPoint, inputs: list[Values], place: Place) -> Any:
    channel = place[0]
    total = _of(op.offset, place)
    for multiplier, value in zip(op.multipliers, inputs, strict=True):
        total = total + _of(multiplier, (channel,)) * value[place]
    if isinstance(op, Rescale):
        return max(op.codes.low, min(op.codes.high, round(total)))
    if isinstance(op, FixedRescale):
        return max(op.codes.low, min(op.codes.high, total >> _of(op.shift, (channel,))))
    if isinstance(op, FixedOutput):
        return total / (1 << _of(op.shift, (channel,)))
    assert isinstance(op, Output)
    return total


def _of(numbers: Any, place: Place) -> Any:
    """Return the number of a place, where there may be one for all, or one for each channel."""
    return numbers.item() if numbers.size == 1 else numbers[place[: numbers.ndim]].item()


def _result(op: Operation, inputs: list[Values]) -> Values:
    x = inputs[0]
    channels = 1 + max(place[0] for place in x)
    if isinstance(op, Concatenate):
        joined: Values = {}
        for part in inputs:
            first = 1 + max((place[0] for place in joined), default=-1)
            joined |= {(first + place[0], *place[1:]): value for place, value in part.items()}
        return joined
    if isinstance(op, Channels):
        return {
            (place[0] - op.start, *place[1:]): value
            for place, value in x.items()
            if op.start <= place[0] < op.stop
        }
    if isinstance(op, PadChannels):
        zeros = product(range(channels, channels + op.channels), *_sides(x))
        return x | dict.fromkeys(zeros, 0)
    if isinstance(op, Flatten):
        return {(i,): x[place] for i, place in enumerate(sorted(x))}
    if isinstance(op, Multiply):
        return {
            (row,): sum(int(w) * x[(i,)] for i, w in enumerate(op.weight[row]))
            for row in range(len(op.weight))
        }
    if isinstance(op, Subsample):
        down, right = op.stride
        return {
            (c, i // down, j // right): value
            for (c, i, j), value in x.items()
            if i % down == 0 and j % right == 0
        }
    assert isinstance(op, (Convolve, SumPool, MaxPool))
    kernel = op.weight.shape[2:] if isinstance(op, Convolve) else op.kernel
    dilation = (1, 1) if isinstance(op, SumPool) else op.dilation
    made = _window(op, x, channels)
    places = zip(map(len, _sides(x)), op.padding, dilation, kernel, op.stride, strict=True)
    ceil_mode = isinstance(op, MaxPool) and op.ceil_mode
    sizes = [_windows(*place, ceil_mode) for place in places]
    out = len(op.weight) if isinstance(op, Convolve) else channels
    found: Values = {}
    for c, i, j in product(range(out), *map(range, sizes)):
        taps: dict[Place, Place] = {
            (a, b): (
                i * op.stride[0] - op.padding[0] + a * dilation[0],
                j * op.stride[1] - op.padding[1] + b * dilation[1],
            )
            for a, b in product(*map(range, kernel))
        }
        inside = {tap: at for tap, at in taps.items() if (0, *at) in x}
        found[c, i, j] = made(c, inside)
    return found


def _windows(
    size: int, padding: int, dilation: int, taps: int, stride: int, ceil_mode: bool
) -> int:
    """Return how many windows there are along an axis."""
    beyond = size + 2 * padding - dilation * (taps - 1) - 1
    if not ceil_mode:
        return beyond // stride + 1
    count = -(-beyond // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count  # begins beyond the end


def _window(
    op: Convolve | SumPool | MaxPool, x: Values, channels: int
) -> Callable[[int, dict[Place, Place]], int]:
    """Return what makes one number of the taps ``(a, b)`` that lie inside, at ``(y, x)``."""
    if isinstance(op, MaxPool):
        return lambda c, inside: max(x[(c, *at)] for at in inside.values())
    if isinstance(op, SumPool):
        return lambda c, inside: sum(x[(c, *at)] for at in inside.values())
    per_group, out_per_group = channels // op.groups, len(op.weight) // op.groups

    def accumulate(c: int, inside: dict[Place, Place]) -> int:
        first = c // out_per_group * per_group
        return sum(
            int(op.weight[(c, i, *tap)]) * x[(first + i, *at)]
            for i in range(per_group)
            for tap, at in inside.items()
        )

    return accumulate


def _sides(x: Values) -> list[range]:
    """Return the rows and columns of ``(C, H, W)``."""
    return [range(1 + max(place[axis] for place in x)) for axis in (1, 2)]
