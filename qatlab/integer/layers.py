"""How layers, norms, additions and sites are lowered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.integer.folding import folded, reals, site_codes
from qatlab.integer.network import Concatenate, Convolve, Multiply, Reals, Rescale
from qatlab.integer.state import Parts, State, names_of, pair, split
from qatlab.integer.values import NOTHING, Coded, Linear, added, linear
from qatlab.integer.weights import integer_weight, largest_accumulator
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.learned import ActivationQuantizer


def layer(state: State, name: str, layer: QuantConv2d | QuantLinear, node: Any) -> Parts:
    """Lower a layer: accumulators for each part that it reads, summed up, and its bias.

    Raises:
        ConfigError: if it reads floats, or a group of it reads several parts.
    """
    parts = state.coded(node, name)
    weight, step = integer_weight(layer)
    groups = layer.groups if isinstance(layer, QuantConv2d) else 1
    channels = sum(part.channels for part in parts)
    results, first = [], 0
    for own, part in zip(names_of(name, parts), parts, strict=True):
        part_of = slice(first, first + part.channels)
        first = part_of.stop
        if groups == 1:  # the sum over all parts
            taken, scale, own_groups = weight[:, part_of], step, 1
        else:  # each part makes channels of its own
            own_groups, rest = divmod(part.channels * groups, channels)
            if rest or part_of.start * groups % channels:
                raise ConfigError(
                    f"{name}: a group reads across the parts of a concatenation, which has no "
                    "integer form."
                )
            of = slice(*(at * len(weight) // channels for at in (part_of.start, first)))
            taken, scale = weight[of], step[of] if step.ndim else step
        results.append(accumulators(state, own, layer, part, taken, scale, own_groups, node))
    parts_of_result = results if groups > 1 else [added(results)]
    if layer.bias is None:
        return tuple(parts_of_result)
    biases = split(reals(layer.bias), parts_of_result)
    return tuple(
        replace(part, bias=part.bias + bias)
        for part, bias in zip(parts_of_result, biases, strict=True)
    )


def accumulators(
    state: State,
    name: str,
    layer: QuantConv2d | QuantLinear,
    part: Coded,
    weight: Any,
    step: Reals,
    groups: int,
    node: fx.Node,
) -> Linear:
    """Return what a layer, or what of it reads one part, makes of codes."""
    largest = largest_accumulator(weight, part.codes, name)
    if isinstance(layer, QuantConv2d):
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ConfigError(f"{name}: padding={layer.padding!r} has no integer form.")
        where = (pair(layer.stride), pair(layer.padding), pair(layer.dilation))
        state.add(Convolve(name, (part.name,), weight, *where, groups, largest))
        ones = torch.ones(1, part.channels, *state.shapes[node][2:], dtype=torch.double)
        sums = F.conv2d(ones, torch.from_numpy(weight).double(), None, *where, groups)[0]
        inside = sums.numpy() if any(where[1]) else sums[:, 0, 0].numpy()
    else:
        state.add(Multiply(name, (part.name,), weight, largest))
        inside = weight.sum(1).astype(np.float64)
    own = np.asarray(step).reshape(-1, *(1,) * (inside.ndim - 1))
    offsets = inside * own * part.codes.offset if part.codes.offset else NOTHING
    terms = ((name, np.asarray(step * part.codes.step)),)
    return Linear(terms, NOTHING, offsets, len(weight))


def float_layer(state: State, name: str, layer: nn.Module, node: Any) -> Parts:
    """Raise a ConfigError."""
    raise ConfigError(f"{name} has float weights, and so no integer form: give it bits.")


def norm(state: State, name: str, norm: nn.BatchNorm2d, node: Any) -> Parts:
    """Lower a batch norm: a factor and a shift for each channel."""
    parts = [linear(part) for part in state.parts(node)]
    numbers = zip(*(split(all_of, parts) for all_of in folded(name, norm)), strict=True)
    return tuple(
        part.scaled(factor, shift) for part, (factor, shift) in zip(parts, numbers, strict=True)
    )


def site(state: State, name: str, quantizer: ActivationQuantizer, node: Any) -> Parts:
    """Lower a site, and the batch norm that it has absorbed."""
    codes = site_codes(name, quantizer)
    parts = state.parts(node)
    if quantizer._norm:
        parts = norm(state, name, quantizer._norm[0], node)
    names, channels = names_of(name, parts), sum(part.channels for part in parts)
    for own, part in zip(names, parts, strict=True):
        value = linear(part)
        inputs, numbers = zip(*value.terms, strict=True)
        in_steps = tuple(number / codes.step for number in numbers)
        bias = (value.bias - codes.offset) / codes.step
        state.add(Rescale(own, inputs, in_steps, bias, value.from_offsets / codes.step, codes))
    if len(parts) > 1:
        state.add(Concatenate(name, tuple(names)))
    return (Coded(name, codes, channels),)


def total(state: State, node: fx.Node) -> Parts:
    """Lower an addition of two tensors.

    Raises:
        ConfigError: if only one is a concatenation.
    """
    terms = [state.parts(n) for n in node.args]
    splits = {tuple(part.channels for part in parts) for parts in terms}
    if len(splits) > 1:
        raise ConfigError(f"{node.name} adds to a concatenation, which has no integer form.")
    return tuple(added(map(linear, pair)) for pair in zip(*terms, strict=True))
