"""Computes an integer network number by number, in Python's whole numbers: slow and obvious.

What :mod:`qatlab.deploy.integer.vectorised` computes has to be the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from operator import mul
from typing import Any

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Integers

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
        if type(op) in NUMBERS:
            found = {place: NUMBERS[type(op)](op, inputs, place) for place in inputs[0]}
        elif inputs:
            found = COMPUTED[type(op)](op, *inputs)
        else:
            found = {place: int(code) for place, code in np.ndenumerate(image)}
        if (order := getattr(op, "places", None)) is not None:
            numbers = [found[place] for place in sorted(found)]
            found = {(i,): numbers[place] for i, place in enumerate(order)}
        values[op.name] = found
    return values


def _rescaled(op: ops.Rescale, inputs: list[Values], place: Place) -> Any:
    total = _total(op, inputs, place)
    if op.below is not None and total < op.zero:
        total = _total(op.below, inputs, place)
    return max(op.codes.low, min(op.codes.high, round(total)))


def _fixed(op: ops.FixedRescale, inputs: list[Values], place: Place) -> Any:
    total = _total(op, inputs, place)
    if op.below is not None and total < _of(op.zero, place):
        return _fixed(op.below, inputs, place)
    code, rest = divmod(total, 1 << _of(op.shift, place[:1]))
    if op.to_even and rest == 0 and code % 2:
        code -= 1
    return max(op.codes.low, min(op.codes.high, code))


def _looked_up(op: ops.Table, inputs: list[Values], place: Place) -> int:
    (x,) = inputs
    return int(op.entries[x[place] - op.lowest])


def _real(op: ops.FixedOutput, inputs: list[Values], place: Place) -> Any:
    return _total(op, inputs, place) / (1 << _of(op.shift, place[:1]))


def _total(op: ops.Weighted | ops.FixedPoint, inputs: list[Values], place: Place) -> Any:
    total = _of(op.offset, place)
    for multiplier, value in zip(op.multipliers, inputs, strict=True):
        total = total + _of(multiplier, place) * value[place]
    return total


def _of(numbers: Any, place: Place) -> Any:
    """Return the number of a place: there may be one for all, for each channel, or for a map."""
    if numbers.size == 1:
        return numbers.item()
    where = zip(place[: numbers.ndim], numbers.shape, strict=True)
    return numbers[tuple(0 if size == 1 else at for at, size in where)].item()


def _concatenated(op: ops.Concatenate, *inputs: Values) -> Values:
    joined: Values = {}
    for part in inputs:
        first = 1 + max((place[0] for place in joined), default=-1)
        joined |= {(first + place[0], *place[1:]): value for place, value in part.items()}
    return joined if op.order is None else _picked(joined, op.order)


def _permuted(op: ops.Permute, x: Values) -> Values:
    numbers = [x[place] for place in sorted(x)]
    places = list(product(*map(range, op.split)))
    places.sort(key=lambda place: [place[axis] for axis in op.axes])
    strides = [math.prod(op.split[axis + 1 :]) for axis in range(len(op.split))]
    numbers = [numbers[sum(map(mul, place, strides))] for place in places]
    return dict(zip(product(*map(range, op.shape)), numbers, strict=True))


def _reshaped(op: ops.Reshape, x: Values) -> Values:
    return {
        place: x[of] for place, of in zip(product(*map(range, op.shape)), sorted(x), strict=True)
    }


def _multiplied(op: ops.Multiply, x: Values) -> Values:
    return {
        (row,): sum(int(w) * x[(i,)] for i, w in enumerate(op.weight[row]))
        for row in range(len(op.weight))
    }


def _products(op: ops.Product, x: Values, y: Values) -> Values:
    factors = [(given, [1 + max(sizes) for sizes in zip(*given, strict=True)]) for given in (x, y)]
    shape = [max(sizes) for sizes in zip(*(sizes for _, sizes in factors), strict=True)]

    def number(given: Values, sizes: list[int], place: Place) -> int:
        own = (at if size > 1 else 0 for at, size in zip(place, sizes, strict=True))
        return int(given[tuple(own)])

    return {
        place: math.prod(number(given, sizes, place) for given, sizes in factors)
        for place in product(*map(range, shape))
    }


def _convolved(op: ops.Convolve, x: Values) -> Values:
    per_group, out_per_group = op.weight.shape[1], len(op.weight) // op.groups

    def accumulate(c: int, inside: dict[Place, Place]) -> int:
        first = c // out_per_group * per_group
        return sum(
            int(op.weight[(c, i, *tap)]) * x[(first + i, *at)]
            for i in range(per_group)
            for tap, at in inside.items()
        )

    return _over_windows(op, x, accumulate, len(op.weight))


def _largest(op: ops.MaxPool, x: Values) -> Values:
    return _over_windows(op, x, lambda c, inside: max(x[(c, *at)] for at in inside.values()))


def _summed(op: ops.SumPool, x: Values) -> Values:
    return _over_windows(op, x, lambda c, inside: sum(x[(c, *at)] for at in inside.values()))


def _over_windows(
    op: ops.Windowed,
    x: Values,
    made: Callable[[int, dict[Place, Place]], int],
    channels: int | None = None,
) -> Values:
    """Return what is made of the taps ``(a, b)`` of each window that lie inside, at ``(y, x)``."""
    axes = zip(map(len, _sides(x)), op.padding, op.dilation, op.kernel, op.stride, strict=True)
    sizes = [
        (size + before + behind - spread * (taps - 1) - 1) // stride + 1
        for size, (before, behind), spread, taps, stride in axes
    ]
    found: Values = {}
    for c, i, j in product(range(channels or 1 + max(place[0] for place in x)), *map(range, sizes)):
        taps: dict[Place, Place] = {
            (a, b): (
                i * op.stride[0] - op.padding[0][0] + a * op.dilation[0],
                j * op.stride[1] - op.padding[1][0] + b * op.dilation[1],
            )
            for a, b in product(*map(range, op.kernel))
        }
        inside = {tap: at for tap, at in taps.items() if (0, *at) in x}
        found[c, i, j] = made(c, inside)
    return found


def _picked(x: Values, channels: Sequence[int]) -> Values:
    inner = sorted({place[1:] for place in x})
    return {(c, *at): x[(own, *at)] for c, own in enumerate(channels) for at in inner}


def _gathered(op: ops.Gather, x: Values) -> Values:
    places = product(sorted({place[0] for place in x}), enumerate(op.rows), enumerate(op.columns))
    return {(c, i, j): x[c, row, column] for c, (i, row), (j, column) in places}


def _sliced(op: ops.Slice, x: Values) -> Values:
    slices, found = op.slices, Values()
    for place, value in x.items():
        ends = zip(place, slices, strict=False)
        if all(start <= at < stop and (at - start) % step == 0 for at, (start, stop, step) in ends):
            cut = [(at - s[0]) // s[2] for at, s in zip(place, slices, strict=False)]
            found[(*cut, *place[len(cut) :])] = value
    return found


def _padded(op: ops.Pad, x: Values) -> Values:
    sizes = [1 + max(place[axis] for place in x) for axis in range(len(op.amounts))]
    wider = [size + sum(more) for size, more in zip(sizes, op.amounts, strict=True)]
    found: Values = {}
    for place in product(*map(range, wider)):
        own = [at - more[0] for at, more in zip(place, op.amounts, strict=True)]
        if op.mode == "constant":
            found[place] = x.get(tuple(own), 0)
        else:
            own = [_inside(op.mode, at, size) for at, size in zip(own, sizes, strict=True)]
            found[place] = x[tuple(own)]
    return found


def _inside(mode: str, at: int, size: int) -> int:
    """Return the place of which a place beyond the border is a copy."""
    if mode == "circular":
        return at % size
    if mode == "replicate":
        return min(max(at, 0), size - 1)
    at = abs(at)  # reflect: the border itself is not repeated
    return at if at < size else 2 * (size - 1) - at


def _sides(x: Values) -> list[range]:
    """Return the rows and columns of ``(C, H, W)``."""
    return [range(1 + max(place[axis] for place in x)) for axis in (1, 2)]


# What makes one number of each place, and what makes all.
NUMBERS: dict[type[ops.Operation], Callable[[Any, list[Values], Place], Any]] = {
    ops.Rescale: _rescaled,
    ops.FixedRescale: _fixed,
    ops.Table: _looked_up,
    ops.Output: _total,
    ops.FixedOutput: _real,
}
COMPUTED: dict[type[ops.Operation], Callable[..., Values]] = {
    ops.Convolve: _convolved,
    ops.Multiply: _multiplied,
    ops.SumPool: _summed,
    ops.Product: _products,
    ops.MaxPool: _largest,
    ops.Slice: _sliced,
    ops.Pick: lambda op, x: _picked(x, op.channels),
    ops.Gather: _gathered,
    ops.Concatenate: _concatenated,
    ops.Reshape: _reshaped,
    ops.Permute: _permuted,
    ops.Pad: _padded,
    ops.Reinterpret: lambda op, x: x,
}
