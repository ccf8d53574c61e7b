"""How operations that hand on values are lowered: views, slices, padding with channels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx, nn

from qatlab.integer.network import Flatten, PadChannels, Subsample
from qatlab.integer.state import Parts, State
from qatlab.integer.values import Coded, Linear, linear


def padded(state: State, node: fx.Node, channels: int) -> Parts:
    """Lower a tensor with channels of zeros behind the others."""
    *others, last = state.coded(node.args[0], node.name)
    padded = Coded(
        state.add(PadChannels(node.name, (last.name,), channels)),
        replace(last.codes, offset=0.0),
        last.channels + channels,
    )
    if last.codes.offset == 0:
        return (*others, padded)
    # No code stands for 0 there, so the new channels are no codes of that tensor.
    offsets = np.repeat([last.codes.offset, 0.0], [last.channels, channels])
    return (*others, replace(linear(padded), from_offsets=offsets))


def subsampled(state: State, node: fx.Node, stride: tuple[int, int]) -> Parts:
    """Lower ``x[:, :, ::a, ::b]``."""
    return state.each(node.name, node.args[0], lambda own, x: Subsample(own, (x.name,), stride))


def is_flat(state: State, node: fx.Node) -> bool:
    """Tell whether a tensor has become ``(N, features)``."""
    before: Any = node.args[0]
    return state.shapes[node] == (1, math.prod(state.shapes[before]))


def flatten(state: State, name: str, module: Any, node: Any) -> Parts:
    """Lower ``(N, C, H, W)`` that becomes ``(N, C * H * W)``."""
    shape, given = state.shapes[node], state.parts(node)
    area = math.prod(shape[2:])
    if len(shape) == 2:
        return given  # it is flat
    if area == 1 and any(isinstance(part, Linear) for part in given):
        return given  # the output is made flat anyway
    parts = state.each(name, node, lambda own, part: Flatten(own, (part.name,)))
    return tuple(replace(part, channels=part.channels * area) for part in parts)


def same(state: State, name: str, module: nn.Module, node: Any) -> Parts:
    """Lower what does nothing in evaluation."""
    return state.parts(node)


def stride_of(index: Any) -> tuple[int, int] | None:
    """Return the strides of ``x[:, :, ::a, ::b]``, or None for another index."""
    if not (isinstance(index, tuple) and len(index) == 4):
        return None
    if not all(
        isinstance(part, slice) and (part.start, part.stop) == (None, None) for part in index
    ):
        return None
    steps = [part.step or 1 for part in index]
    return (steps[2], steps[3]) if steps[:2] == [1, 1] else None


def is_whole_map(node: fx.Node) -> bool:
    """Tell whether a mean is that of all rows and columns, without keeping them as dimensions."""
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
    dims: Any = given.get("dim")
    is_map = isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]
    return is_map and not given.get("keepdim")


def added_channels(node: fx.Node) -> int:
    """Return how many channels of zeros ``F.pad`` adds behind the others, 0 if it does more."""
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    sizes: Any = given["pad"]
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    return int(sizes[5]) if zeros and len(sizes) == 6 and not any(sizes[:5]) else 0
