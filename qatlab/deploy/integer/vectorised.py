"""Computes an integer network on many images at once.

Whole numbers are held in float32 where it is exact for all of a layer's sums, below 2**24, and in
float64 where it is not: torch convolves in these, and no accumulator of 32 bits comes near 2**53.
Sums in fixed point are of 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import NO_SIDES, Sides, along_channels

EXACT = 1 << 24  # float32 holds all whole numbers up to it
Rounded = tuple[Tensor, Callable[[], Tensor]]  # codes, and what returns what was rounded to them
WHOLE = 1e-9  # nearer to a whole number than that is one, up to the errors of float64


@dataclass(frozen=True)
class Computed:
    """What a network has computed.

    Attributes:
        outputs: real numbers ``(N, classes)``, float64.
        codes: of each site, by its name.
        positions: of each site, what was rounded: in steps, before it was clipped; empty where it
            was not asked for.
    """

    outputs: Tensor
    codes: dict[str, Tensor]
    positions: dict[str, Tensor]


def compute(network: IntegerNetwork, images: Tensor, shows_positions: bool = True) -> Computed:
    """Compute a network.

    Args:
        network: the operations.
        images: codes of the image, whole numbers ``(N, C, H, W)``.
        shows_positions: whether to tell what was rounded, which takes time in fixed point.
    """
    codes: dict[str, Tensor] = {}
    positions: dict[str, Tensor] = {}
    kept = {name: site for site, names in network.sites.items() for name in names}
    for op, value, position in results(network, images):
        if shows_positions and position is not None:
            positions[op.name] = position()
        if op.name in kept:
            codes[op.name] = value
    operations = {op.name: op for op in network.operations}

    def position_of(name: str) -> Tensor:
        """Return what has been rounded, moved as its code was."""
        op = operations[name]
        if _reverses(op, operations):
            positions[name] = _total(op, [position_of(op.inputs[0])], torch.double)
        elif name not in positions:
            positions[name] = COMPUTED[type(op)](op, *map(position_of, op.inputs))
        return positions[name]

    return Computed(
        value,
        {name: _joined([codes[part] for part in parts]) for name, parts in network.sites.items()},
        {
            name: _joined([position_of(part) for part in parts])
            for name, parts in network.sites.items()
            if shows_positions
        },
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _reverses(op: ops.Operation, operations: Mapping[str, ops.Operation]) -> TypeGuard[ops.Rescale]:
    """Tell whether an operation reverses the order of a site's codes."""
    return (
        isinstance(op, ops.Rescale)
        and op.slope is None
        and any(np.any(m == -1) for m in op.multipliers)
        and operations[op.inputs[0]].group in (ops.Group.MOVED, ops.Group.SITE)
        and bool(np.all(abs(op.offset - np.round(op.offset)) < WHOLE))
        and all(np.all(abs(m) == 1) for m in op.multipliers)
        and len(op.inputs) == 1
    )


def results(
    network: IntegerNetwork, images: Tensor
) -> Iterator[tuple[ops.Operation, Tensor, Callable[[], Tensor] | None]]:
    """Yield each operation with its result and, at a site, with what returns what was rounded."""
    last = {name: op.name for op in network.operations for name in op.inputs}
    values: dict[str, Tensor] = {}
    for op in network.operations:
        inputs = [values[name] for name in op.inputs] or [images]
        if op.group is ops.Group.SITE:
            value, position = ROUNDED[type(op)](op, *inputs)
        else:
            value, position = COMPUTED[type(op)](op, *inputs), None
        yield op, value, position
        values[op.name] = value
        for name in op.inputs:
            if last[name] == op.name:
                values.pop(name, None)


def _exact(op: ops.Sums, x: Tensor) -> Tensor:
    return x.to(torch.float32 if op.largest < EXACT else torch.float64)


def _around(x: Tensor, sides: Sides, value: float = 0.0) -> Tensor:
    return x if sides == NO_SIDES else F.pad(x, (*sides[1], *sides[0]), value=value)


def _convolve(op: ops.Convolve, x: Tensor) -> Tensor:
    x = _around(_exact(op, x), op.padding)
    weight = torch.from_numpy(op.weight).to(x)
    return F.conv2d(x, weight, None, op.stride, 0, op.dilation, op.groups)


def _multiply(op: ops.Multiply, x: Tensor) -> Tensor:
    x = _exact(op, x)
    return F.linear(x, torch.from_numpy(op.weight).to(x))


def _sum_pool(op: ops.SumPool, x: Tensor) -> Tensor:
    x = _around(_exact(op, x), op.padding)
    return F.avg_pool2d(x, op.kernel, op.stride, divisor_override=1)


def _max_pool(op: ops.MaxPool, x: Tensor) -> Tensor:
    x = _around(x, op.padding, -math.inf)
    return F.max_pool2d(x, op.kernel, op.stride, 0, op.dilation)


def _pad(op: ops.Pad, x: Tensor) -> Tensor:
    amounts = [n for pair in reversed(op.amounts) for n in pair]
    return F.pad(x, amounts) if op.fill is not None else F.pad(x, amounts[:4], op.mode)


def _concatenate(op: ops.Concatenate, *inputs: Tensor) -> Tensor:
    joined = torch.cat(inputs, 1)
    return joined if op.order is None else joined[:, list(op.order)]


def _permute(op: ops.Permute, x: Tensor) -> Tensor:
    axes = (0, *(axis + 1 for axis in op.axes))
    return x.reshape(len(x), *op.split).permute(axes).reshape(len(x), *op.shape)


def _total(op: ops.Weighted | ops.FixedPoint, terms: Sequence[Tensor], kind: torch.dtype) -> Tensor:
    total: Tensor | None = None
    for term, multiplier in zip(terms, op.multipliers, strict=True):
        product = _like(multiplier, term) * term.to(kind)
        total = _added(product, _like(op.offset, term) if total is None else total)
    assert total is not None
    return total


def _added(total: Tensor, other: Tensor) -> Tensor:
    """Return a sum, in the memory of the first one where that has its shape."""
    if np.broadcast_shapes(total.shape, other.shape) == total.shape:
        return total.add_(other)
    return total + other


def _shifted(total: Tensor, shift: Tensor) -> Tensor:
    """Return the real numbers that sums in fixed point stand for."""
    return total.double() / (1 << shift).double()


def _rescale(op: ops.Rescale, *inputs: Tensor) -> Rounded:
    position = _total(op, inputs, torch.double)
    if (below := op.below) is not None:
        instead = _total(below, inputs, torch.double)
        position = torch.where(position < op.zero, instead, position)
    codes = position.round().clamp_(op.codes.low, op.codes.high)
    return codes.float(), lambda: position


def _fixed_rescale(op: ops.FixedRescale, *inputs: Tensor) -> Rounded:
    if not op.codes.largest < EXACT:
        raise ValueError(f"{op.name} has codes beyond float32")
    codes, position, total = _fixed_codes(op, inputs)
    found = position
    if op.below is not None:
        assert op.zero is not None
        other = total < _like(op.zero, inputs[0])
        below, position_below, _ = _fixed_codes(op.below, inputs)
        codes = torch.where(other, below, codes)

        def found() -> Tensor:
            return torch.where(other, position_below(), position())

    return codes.clamp_(op.codes.low, op.codes.high).float(), found


def _fixed_codes(
    op: ops.FixedRescale, inputs: Sequence[Tensor]
) -> tuple[Tensor, Callable[[], Tensor], Tensor]:
    """Return codes that are not clipped, what is rounded to them, and the sums."""
    total, shift = _total(op, inputs, torch.long), _like(op.shift, inputs[0])
    codes = total >> shift
    if op.to_even:
        codes = (total - (codes & 1)) >> shift
    return codes, partial(_shifted, total, shift), total


def _looked_up(op: ops.Table, x: Tensor) -> Rounded:
    at = (x - op.lowest).long()
    return torch.from_numpy(op.entries).float()[at], lambda: torch.from_numpy(op.positions)[at]


def _output(op: ops.Output, *inputs: Tensor) -> Tensor:
    return _answered(op, _total(op, inputs, torch.double))


def _fixed_output(op: ops.FixedOutput, *inputs: Tensor) -> Tensor:
    total = _total(op, inputs, torch.long)
    return _answered(op, _shifted(total, _like(op.shift, inputs[0])))


def _answered(op: ops.Output | ops.FixedOutput, value: Tensor) -> Tensor:
    flat = value.flatten(1)
    return flat if op.places is None else flat[:, torch.from_numpy(op.places)]


def _like(numbers: NDArray[Any], term: Tensor) -> Tensor:
    shaped = np.ascontiguousarray(along_channels(numbers, term.ndim))
    return torch.from_numpy(shaped).to(term.device)


COMPUTED: dict[type[ops.Operation], Callable[..., Tensor]] = {
    ops.Input: lambda op, x: x.float(),
    ops.Convolve: _convolve,
    ops.Multiply: _multiply,
    ops.Product: lambda op, x, y: _exact(op, x) * _exact(op, y),
    ops.SumPool: _sum_pool,
    ops.MaxPool: _max_pool,
    ops.Slice: lambda op, x: x[(slice(None), *(slice(*ends) for ends in op.slices))],
    ops.Pick: lambda op, x: x[:, list(op.channels)],
    ops.Gather: lambda op, x: x[:, :, list(op.rows)][..., list(op.columns)],
    ops.Concatenate: _concatenate,
    ops.Reshape: lambda op, x: x.reshape(len(x), *op.shape),
    ops.Permute: _permute,
    ops.Pad: _pad,
    ops.Reinterpret: lambda op, x: x,
    ops.Output: _output,
    ops.FixedOutput: _fixed_output,
}
# Codes of sites, and what was rounded to them.
ROUNDED: dict[type[ops.Operation], Callable[..., Rounded]] = {
    ops.Rescale: _rescale,
    ops.FixedRescale: _fixed_rescale,
    ops.Table: _looked_up,
}
