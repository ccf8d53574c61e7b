"""How poolings, means, sums and paddings are lowered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.nn import functional as F

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import NO_SIDES, Codes, Reals, Sides, largest_sizes, product
from qatlab.deploy.integer.state import State, both_sides, names_of, pair
from qatlab.deploy.integer.values import (
    NOTHING,
    Coded,
    Linear,
    Parts,
    Value,
    linear,
    settled,
)
from qatlab.deploy.integer.vectorised import COMPUTED, EXACT
from qatlab.deploy.integer.views import in_order, in_shape
from qatlab.deploy.integer.weights import LARGEST
from qatlab.errors import ConfigError
from qatlab.quant.ops import kind_of


def max_pool(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Parts:
    """Lower the largest values of windows, of each part by itself."""
    if return_indices:
        raise ConfigError(f"{state.called(node)}: indices have no integer form.")
    kernel, dilation = pair(kernel_size), pair(dilation)
    stride = pair(kernel if stride in (None, ()) else stride)
    spans = [(d * (k - 1) + 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = _sides(state, node, input, spans, stride, padding)
    return _largest(state, name, input, ops.MaxPool("", (), kernel, stride, sides, dilation))


def _sides(
    state: State,
    node: fx.Node,
    input: fx.Node,
    spans: Sequence[int],
    stride: tuple[int, int],
    padding: Any,
) -> Sides:
    """Return what lies beyond the border; with ceil_mode, as far as windows reach."""
    found = []
    sizes = zip(_plane(state, input), _plane(state, node), spans, stride, strict=True)
    for (size, count, span, step), (before, _) in zip(sizes, both_sides(padding), strict=True):
        found.append((before, max((count - 1) * step + span - size - before, 0)))
    return found[0], found[1]


def _plane(state: State, node: fx.Node) -> tuple[int, ...]:
    """Return rows and columns of a tensor."""
    shape = state.shapes[node]
    if len(shape) != 4:
        raise ConfigError(
            f"{state.called(node)} has an integer form for tensors (N, C, H, W) only, not for "
            f"shape {shape}."
        )
    return shape[2:]


def _largest(state: State, name: str, input: fx.Node, window: ops.MaxPool) -> Parts:
    """Return the largest values; of sums, when they have become codes."""
    raw = state.raw(input)
    if raw.pools and raw.lowest is None and raw.function is None:
        return replace(raw, pools=(*raw.pools, window))
    parts = raw if raw.bordered else state.parts(input)
    if all(isinstance(part, Coded) for part in parts.values):
        return pooled_codes(state, name, parts, window)
    values: list[Value] = [linear(part) for part in parts.values]
    return replace(parts, values=tuple(values), pools=(window,))


def pooled_codes(state: State, name: str, parts: Parts, window: ops.MaxPool) -> Parts:
    """Return the largest codes of windows.

    Raises:
        ConfigError: where the largest code does not stand for the largest value.
    """
    values: list[Value] = []
    for own, part in zip(names_of(name, parts.values), parts.values, strict=True):
        assert isinstance(part, Coded)
        if part.codes.step <= 0 or (part.offsets is not None and settled(part.offsets).ndim > 1):
            raise ConfigError(
                f"{name}: largest values have no integer form behind a factor below 0, or behind "
                "zeros that are added around codes with an offset."
            )
        (top, left), (bottom, right) = zip(*window.padding, strict=True)
        if part.border is not None:
            (above, below), (before, behind) = part.border
            top, bottom, left, right = top + above, bottom + below, left + before, right + behind
        sides = ((top, bottom), (left, right))
        op = replace(window, name=state.free(own), inputs=(part.name,), padding=sides)
        shape = (part.shape[0], *ops.inner(op, part.shape))
        offsets = None if part.offsets is None else np.broadcast_to(part.offsets[:, :1, :1], shape)
        values.append(Coded(state.add(op), part.codes, shape, offsets))
    return replace(parts, values=tuple(values))


def pad(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Parts:
    """Lower what adds rows, columns or channels around a tensor."""
    shape, given = state.shapes[input], [int(n) for n in pad]
    pairs = [(given[i], given[i + 1]) for i in range(0, len(given), 2)]
    pairs += [(0, 0)] * (len(shape) - len(pairs))
    amounts = tuple(reversed(pairs))
    if amounts[0] != (0, 0) or min(given) < 0:
        raise ConfigError(f"{state.called(node)}: only rows, columns and channels can be added.")
    parts = state.parts(input)
    coded = state.coded(input, name)
    own = list(amounts[1:])
    if not any(map(any, own)):
        return parts
    if value == -math.inf and not any(own[0]):
        border = own[1], own[2]
        return replace(parts, values=tuple(replace(part, border=border) for part in coded))
    if any(own[0]):
        parts = in_order(state, f"{name}_input", parts)
        if parts.order is not None:
            raise ConfigError(
                f"{state.called(node)} adds channels to a shuffled concatenation, which has no "
                "integer form."
            )
    values: list[Value] = []
    last = len(parts.values) - 1
    for i, part in enumerate(parts.values):
        assert isinstance(part, Coded)
        channels = (own[0][0] if i == 0 else 0, own[0][1] if i == last else 0)
        each = (channels, *own[1:])
        more = names_of(name, parts.values)[i]
        values.append(padded(state, more, part, each, mode, float(value or 0.0)))
    return replace(parts, values=tuple(values))


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def padded(
    state: State,
    name: str,
    part: Coded,
    amounts: tuple[tuple[int, int], ...],
    mode: str,
    value: float = 0.0,
) -> Coded:
    """Return codes with more around them; see :class:`~qatlab.deploy.integer.operations.Pad`."""
    if mode not in MODES or not math.isfinite(value):
        raise ConfigError(f"{name}: padding with {mode}, {value} has no integer form.")
    shape = tuple(size + sum(more) for size, more in zip(part.shape, amounts, strict=True))
    name = state.free(name)
    state.add(ops.Pad(name, (part.name,), amounts, mode, value))
    if (mode, value, amounts[0]) == ("constant", 0.0, (0, 0)):
        state.zeros[name] = part, (amounts[1], amounts[2])
    codes = state.codes[name]
    if mode == "constant" and value == part.codes.offset and part.offsets is None:
        return Coded(name, codes, shape)
    full = np.broadcast_to(part.offset, part.shape)
    if mode == "constant":
        offsets = np.pad(full, amounts, constant_values=value)
    elif part.offsets is None:
        return Coded(name, codes, shape)
    else:
        offsets = np.pad(full, amounts, mode=MODES[mode])  # type: ignore[call-overload]
    return Coded(name, codes, shape, offsets)


def adaptive_max_pool(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    output_size: Any,
    return_indices: bool = False,
) -> Parts:
    """Lower a pooling whose windows tile the map."""
    if return_indices:
        raise ConfigError(f"{state.called(node)}: indices have no integer form.")
    kernel = _tiles(state, node, input)
    if kernel == (1, 1):
        return state.raw(input)
    return _largest(state, name, input, ops.MaxPool("", (), kernel, kernel, NO_SIDES, (1, 1)))


def _tiles(state: State, node: fx.Node, input: fx.Node) -> tuple[int, int]:
    """Return the window of an adaptive pooling, by which it also moves.

    Raises:
        ConfigError: if windows would overlap.
    """
    size, given = _plane(state, input), _plane(state, node)
    if any(s % g for s, g in zip(size, given, strict=True)):
        raise ConfigError(
            f"{state.called(node)} has an integer form only where its outputs divide its inputs, "
            f"not for {given[0]}x{given[1]} of {size[0]}x{size[1]}."
        )
    return size[0] // given[0], size[1] // given[1]


def average(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Parts:
    """Lower averages of windows."""
    kernel = pair(kernel_size)
    stride = pair(kernel if stride in (None, ()) else stride)
    sides = _sides(state, node, input, kernel, stride, padding)
    settings = (kernel, stride, pair(padding), ceil_mode, count_include_pad, divisor_override)
    ones = torch.ones(1, 1, *_plane(state, input), dtype=torch.double)
    inside = F.avg_pool2d(F.pad(ones, (*sides[1], *sides[0])), kernel, stride, divisor_override=1)
    share = (F.avg_pool2d(ones, *settings) / inside)[0].numpy()
    window = ops.SumPool("", (), kernel, stride, sides, None, 0)
    return averages(state, name, state.parts(input), window, share)


def adaptive_average(
    state: State, name: str, node: fx.Node, input: fx.Node, output_size: Any
) -> Parts:
    """Lower averages of windows that tile the map."""
    kernel = _tiles(state, node, input)
    if kernel == (1, 1):
        return state.raw(input)
    share = np.full((1, 1, 1), 1 / math.prod(kernel))
    return averages(state, name, state.parts(input), _tiling(kernel), share)


def _tiling(kernel: tuple[int, int]) -> ops.SumPool:
    return ops.SumPool("", (), kernel, kernel, NO_SIDES, None, 0)


def over_the_map(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    dim: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> Parts:
    """Lower the mean or the sum over rows, columns or both."""
    parts = state.parts(input)
    kernel = _kernel_of(state, node, input, parts, dim)
    if kernel != (1, 1):
        divisor = math.prod(kernel) if kind_of(node, state.modules) == "mean" else 1
        share = np.full((1, 1, 1), 1 / divisor)
        parts = averages(state, name, parts, _tiling(kernel), share)
    return _with_shape(state, name, parts, state.shapes[node])


def _kernel_of(
    state: State, node: fx.Node, input: fx.Node, parts: Parts, dim: Any
) -> tuple[int, int]:
    """Return the window that takes all of some dimensions, which are rows and columns."""
    count = len(state.shapes[input])
    dims = dim if isinstance(dim, (list, tuple)) else (dim,)
    if any(not isinstance(d, int) or d % count < 2 for d in dims) or not dims:
        raise ConfigError(
            f"{state.called(node)} has an integer form over rows and columns only: dim=(2, 3)."
        )
    height, width = (*parts.values[0].shape[1:], 1, 1)[:2]
    over = {d % count - 2 for d in dims}
    if count == 3:  # rows and columns, one of which is 1
        return height, width
    return (height if 0 in over else 1), (width if 1 in over else 1)


def _with_shape(state: State, name: str, parts: Parts, shape: tuple[int, ...]) -> Parts:
    """Return a tensor with the shape that it has in the network: without dimensions of 1.

    Of three dimensions, the last stands for rows and columns, one of which is 1.
    """
    inner = shape[2:] if len(shape) != 3 else parts.values[0].shape[1:]
    values = [
        in_shape(state, f"{name}_flat", part, (part.shape[0], *inner)) for part in parts.values
    ]
    if None in values:
        raise ConfigError(
            f"{name}: sums that are not yet quantized cannot be put into the shape {shape[1:]}; "
            "keep their dimensions with keepdim=True."
        )
    return replace(parts, values=tuple(value for value in values if value is not None))


def largest_of_map(
    state: State, name: str, node: fx.Node, input: fx.Node, dim: Any = None, keepdim: bool = False
) -> Parts:
    """Lower the largest value of rows, columns or both."""
    parts = state.raw(input)
    kernel = _kernel_of(state, node, input, parts, dim)
    if parts.pools or not all(isinstance(part, Coded) for part in parts.values):
        state.coded(input, name)  # which tells why not
    if kernel != (1, 1):
        window = ops.MaxPool("", (), kernel, kernel, NO_SIDES, (1, 1))
        parts = pooled_codes(state, name, state.parts(input), window)
    return _with_shape(state, name, parts, state.shapes[node])


def averages(state: State, name: str, parts: Parts, window: ops.SumPool, share: Reals) -> Parts:
    """Return averages over windows.

    Args:
        state: what has been made.
        name: of what has to be made.
        parts: of the tensor.
        window: what it does, without a name.
        share: by which the sum of a window is multiplied, ``(1, H, W)``.
    """
    share = settled(share)
    values = [
        _averaged(state, own, part, window, share)
        for own, part in zip(names_of(name, parts.values), parts.values, strict=True)
    ]
    return replace(parts, values=tuple(values))


def _averaged(state: State, name: str, part: Value, window: ops.SumPool, share: Reals) -> Value:
    def summed(numbers: Reals) -> Reals:
        """Return the sums over windows of what is added in each place of the map."""
        if not numbers.any():
            return NOTHING
        if numbers.ndim < 2:
            numbers = numbers.reshape(-1, 1, 1)
        full = torch.from_numpy(np.broadcast_to(numbers, part.shape).copy())
        (sums,) = COMPUTED[ops.SumPool](replace(window, largest=EXACT), full[None]).numpy()
        return settled(product(sums, np.broadcast_to(share, sums.shape)))

    shape = (part.shape[0], *ops.inner(window, part.shape))
    if isinstance(part, Coded) and share.ndim == 0:
        step, offset = part.codes.step * float(share), summed(part.offset)
        one = float(offset) if offset.ndim == 0 else 0.0
        own, codes = _sum_of_codes(state, name, part.name, window, step, one)
        if offset.ndim == 1:
            offset = offset.reshape(-1, 1, 1)
        return Coded(own, codes, shape, np.broadcast_to(offset, shape) if offset.ndim else None)
    value = linear(part)
    terms = []
    for i, (term, number) in enumerate(value.terms):
        if number.ndim > 1:
            raise ConfigError(f"{name}: an average of such averages has no integer form.")
        own = name if len(value.terms) == 1 else f"{name}[{i}]"
        made = _sum_of(state, own, term, window)
        terms.append((made, product(number, share)))
    return Linear(tuple(terms), summed(value.bias), summed(value.from_offsets), shape)


def _sum_of(state: State, name: str, term: str, window: ops.SumPool) -> str:
    """Add sums over windows of codes or of accumulators; return their name."""
    if term in state.codes:
        return _sum_of_codes(state, name, term, window, state.codes[term].step)[0]
    sizes = largest_sizes(state.operations.values(), state.codes)
    largest = _checked(name, sizes[term] * math.prod(window.kernel))
    return state.add(replace(window, name=state.free(name), inputs=(term,), largest=largest))


def _sum_of_codes(
    state: State, name: str, of: str, window: ops.SumPool, step: float, offset: float = 0.0
) -> tuple[str, Codes]:
    """Add sums of codes; return their name, and what they stand for."""
    area, codes = math.prod(window.kernel), state.codes[of]
    low, high = codes.low, codes.high
    if window.padding != NO_SIDES:
        low, high = min(low, 0), max(high, 0)
    total = Codes(area * low, area * high, step, offset)
    largest = _checked(name, total.largest)
    made = replace(window, name=state.free(name), inputs=(of,), codes=total, largest=largest)
    return state.add(made), total


def _checked(name: str, largest: int) -> int:
    if largest > LARGEST:
        raise ConfigError(
            f"{name}: a sum can become {largest:,}, which 32 bits do not hold; give what it reads "
            "fewer bits."
        )
    return largest
