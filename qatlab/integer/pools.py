"""How pooling layers are lowered."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from qatlab.errors import ConfigError
from qatlab.integer.network import Codes, Flatten, MaxPool, SumPool
from qatlab.integer.state import Parts, State, names_of, pair
from qatlab.integer.values import Coded
from qatlab.integer.weights import LARGEST


def max_pool(state: State, name: str, pool: nn.MaxPool2d, node: Any) -> Parts:
    """Lower the largest values of windows, of each part by itself."""
    if pool.return_indices:
        raise ConfigError(f"{name}: MaxPool2d with indices has no integer form.")
    stride = pool.kernel_size if pool.stride is None else pool.stride
    settings = map(pair, (pool.kernel_size, stride, pool.padding, pool.dilation))
    kernel, stride, padding, dilation = settings
    ceil_mode = bool(pool.ceil_mode)
    if ceil_mode:  # where windows fit, it means nothing
        spans = (dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1))
        sizes = state.shapes[node][2:]
        rests = [
            (size + 2 * pad - span) % step
            for size, pad, span, step in zip(sizes, padding, spans, stride, strict=True)
        ]
        ceil_mode = any(rests)
    where = (kernel, stride, padding, dilation, ceil_mode)
    return state.each(name, node, lambda own, x: MaxPool(own, (x.name,), *where))


def adaptive_max_pool(state: State, name: str, pool: nn.AdaptiveMaxPool2d, node: Any) -> Parts:
    """Lower a pooling whose windows tile the map."""
    kernel = adaptive(state, name, pool, node)
    if kernel == (1, 1):
        return state.parts(node)
    where = (kernel, kernel, (0, 0), (1, 1))
    return state.each(name, node, lambda own, x: MaxPool(own, (x.name,), *where))


def adaptive(
    state: State, name: str, pool: nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d, node: Any
) -> tuple[int, int]:
    """Return the kernel, which is the stride, too.

    Raises:
        ConfigError: if windows would overlap.
    """
    size = state.shapes[node][-2:]
    asked: Any = pool.output_size
    both = (asked, asked) if isinstance(asked, int) else asked
    given = [own if side is None else side for side, own in zip(both, size, strict=True)]
    if any(s % g for s, g in zip(size, given, strict=True)):
        kind = type(pool).__name__
        raise ConfigError(
            f"{name}: {kind} has an integer form only where its outputs divide its inputs, "
            f"not for {given[0]}x{given[1]} of {size[0]}x{size[1]}."
        )
    return size[0] // given[0], size[1] // given[1]


def average(state: State, name: str, pool: nn.AvgPool2d, node: Any) -> Parts:
    """Lower averages of windows."""
    if pool.ceil_mode or not (pool.count_include_pad or pool.padding in (0, (0, 0))):
        raise ConfigError(f"{name}: this AvgPool2d has no integer form.")
    stride = pool.kernel_size if pool.stride is None else pool.stride
    where = [pair(part) for part in (pool.kernel_size, stride, pool.padding)]
    count = pool.divisor_override or math.prod(where[0])
    return sums(state, name, node, where, count)


def whole_map(
    state: State, name: str, pool: nn.AdaptiveAvgPool2d, node: Any, flat: bool = False
) -> Parts:
    """Lower averages of windows that tile the map; ``flat`` drops rows and columns."""
    kernel = adaptive(state, name, pool, node)
    if kernel == (1, 1):
        parts = state.parts(node)
    else:
        parts = sums(state, name, node, [kernel, kernel, (0, 0)], math.prod(kernel))
    if flat:
        return state.each(f"{name}_flat", parts, lambda own, x: Flatten(own, (x.name,)))
    return parts


def sums(state: State, name: str, node: Any, where: list[tuple[int, int]], count: int) -> Parts:
    """Return averages over windows of ``where``: kernel, stride, padding."""
    kernel, stride, padding = where
    results, parts = [], state.coded(node, name)
    for own, part in zip(names_of(name, parts), parts, strict=True):
        codes, area = part.codes, math.prod(kernel)
        if codes.offset and any(padding):
            raise ConfigError(
                f"{name}: an average over zeros beyond the border has no integer form behind "
                "a site with an offset (LSQ+)."
            )
        lowest = min(codes.low, 0) if any(padding) else codes.low
        total = Codes(
            area * lowest, area * codes.high, codes.step / count, codes.offset * area / count
        )
        if total.largest > LARGEST:
            raise ConfigError(f"{name}: a sum of {area} codes may not fit into 32 bits.")
        state.add(SumPool(own, (part.name,), kernel, stride, padding, total))
        results.append(Coded(own, total, part.channels))
    return tuple(results)
