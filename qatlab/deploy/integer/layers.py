"""How layers, norms, sums and sites are lowered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.folding import folded, jump_of, reals, site_codes, table_of
from qatlab.deploy.integer.operations import NO_SIDES, Codes, Reals, Sides, product, summed
from qatlab.deploy.integer.pools import padded, pooled_codes
from qatlab.deploy.integer.state import State, both_sides, names_of, pair
from qatlab.deploy.integer.values import (
    NOTHING,
    Coded,
    Function,
    Linear,
    Parts,
    Value,
    added,
    linear,
    settled,
)
from qatlab.deploy.integer.vectorised import COMPUTED, EXACT
from qatlab.deploy.integer.views import aligned, apart, in_order, resolved
from qatlab.deploy.integer.weights import integer_weight, largest_accumulator
from qatlab.errors import ConfigError
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.ops import KIND_OF, Affine, is_table, settings_of

LARGEST_TABLE = 1 << 16  # entries


def layer(state: State, name: str, layer: QuantConv2d | QuantLinear, node: fx.Node) -> Parts:
    """Lower a layer: accumulators for each part that it reads, summed up, and its bias.

    Raises:
        ConfigError: if it reads floats, or a group of it reads several parts.
    """
    if not isinstance(layer, QuantConv2d) and len(state.shapes[node]) != 2:
        raise ConfigError(
            f"{name} is a Linear that reads a tensor of shape {state.shapes[node]}; integers have "
            "it for (N, features) only: flatten it, or use a convolution of 1x1."
        )
    weight, step = integer_weight(layer)
    given = state.parts(node)
    state.coded(node, name)
    if isinstance(layer, QuantConv2d) and layer.groups > 1:
        if weight.shape[1] > 1:  # a group has to lie in one piece
            given = in_order(state, f"{name}_input", given)
        result = _grouped(state, name, layer, weight, step, given)
    else:
        result = _dense(state, name, layer, weight, step, given)
    if layer.bias is None:
        return result
    biases = result.split(reals(layer.bias))
    values = tuple(
        linear(part).scaled(np.array(1.0), bias)
        for part, bias in zip(result.values, biases, strict=True)
    )
    return replace(result, values=values)


def _dense(
    state: State,
    name: str,
    layer: QuantConv2d | QuantLinear,
    weight: Any,
    step: Reals,
    given: Parts,
) -> Parts:
    """Return the sum of what all parts of the input add."""
    parts: Any = given.values
    if given.order is not None:
        weight = weight[:, np.argsort(given.order)]
    results, first = [], 0
    for own, part in zip(names_of(name, parts), parts, strict=True):
        part_of = slice(first, first + part.shape[0])
        first = part_of.stop
        results.append(accumulators(state, own, layer, part, weight[:, part_of], step, 1))
    return Parts((added(results),))


def _grouped(
    state: State,
    name: str,
    layer: QuantConv2d,
    weight: Any,
    step: Reals,
    given: Parts,
) -> Parts:
    """Return what each part of the input makes: channels of its own."""
    parts: Any = given.values
    channels, each = given.channels, len(weight) // layer.groups
    width = channels // layer.groups
    inputs = np.arange(channels) if given.order is None else np.argsort(given.order)
    results, first, rows_of_all = [], 0, []
    for own, part in zip(names_of(name, parts), parts, strict=True):
        of_part = inputs[first : first + part.shape[0]]  # channels of the tensor
        first += part.shape[0]
        groups = of_part[::width] // width
        if len(of_part) % width or np.any(
            of_part != (groups[:, None] * width + np.arange(width)).ravel()
        ):
            raise ConfigError(
                f"{name}: a group reads across the parts of a concatenation, which has "
                "no integer form."
            )
        rows = (groups[:, None] * each + np.arange(each)).ravel()
        rows_of_all.append(rows)
        own_step = step[rows] if step.ndim else step
        results.append(accumulators(state, own, layer, part, weight[rows], own_step, len(groups)))
    order = np.argsort(np.concatenate(rows_of_all))
    in_order = np.array_equal(order, np.arange(len(order)))
    return Parts(tuple(results), None if in_order else tuple(order.tolist()))


def accumulators(
    state: State,
    name: str,
    layer: QuantConv2d | QuantLinear,
    part: Coded,
    weight: Any,
    step: Reals,
    groups: int,
) -> Linear:
    """Return what a layer, or what of it reads one part, makes of codes."""
    op: ops.Convolve | ops.Multiply
    shape: tuple[int, ...]
    if isinstance(layer, QuantConv2d):
        part, padding = _padding(state, name, layer, part)
        largest = largest_accumulator(weight, part.codes, name)
        where = (pair(layer.stride), padding, pair(layer.dilation), groups)
        op = ops.Convolve(state.free(name), (part.name,), weight, *where, largest)
        shape = (len(weight), *ops.inner(op, part.shape))
    else:
        largest = largest_accumulator(weight, part.codes, name)
        op = ops.Multiply(state.free(name), (part.name,), weight, largest)
        shape = (len(weight),)
    offsets = NOTHING
    if part.offset.any():
        full = torch.from_numpy(np.broadcast_to(part.offset, part.shape).copy())
        made = COMPUTED[type(op)](replace(op, largest=EXACT), full[None])  # in float64
        own = np.reshape(step, (-1, *(1,) * (len(shape) - 1)))
        offsets = settled(made[0].numpy() * own)
    terms = ((state.add(op), np.asarray(step * part.codes.step)),)
    return Linear(terms, NOTHING, offsets, shape)


def _padding(state: State, name: str, layer: QuantConv2d, part: Coded) -> tuple[Coded, Sides]:
    """Return what a convolution reads, and the zeros that it puts around it."""
    if layer.padding == "valid":
        padding = NO_SIDES
    elif isinstance(layer.padding, str):  # same: the odd one is added behind
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = ((totals[0] // 2, -(-totals[0] // 2)), (totals[1] // 2, -(-totals[1] // 2)))
    else:
        padding = both_sides(layer.padding)
    if layer.padding_mode == "zeros":
        if part.name in state.zeros:
            inner, around = state.zeros[part.name]
            ((top, bottom), (left, right)), ((above, below), (before, behind)) = around, padding
            return inner, ((above + top, below + bottom), (before + left, behind + right))
        return part, padding
    if padding != NO_SIDES:
        part = padded(state, f"{name}_padded", part, ((0, 0), *padding), layer.padding_mode)
    return part, NO_SIDES


def float_layer(state: State, name: str, layer: nn.Module, node: Any) -> Parts:
    """Raise a ConfigError."""
    raise ConfigError(f"{name} has float weights, and so no integer form: give it bits.")


def norm(state: State, name: str, norm: _BatchNorm, node: Any) -> Parts:
    """Lower a batch norm: a factor and a shift for each channel."""
    return scaled(state, name, _before_scaling(state, node), *folded(name, norm))


def _before_scaling(state: State, node: Any) -> Parts:
    """Return the parts of a tensor: a number may be multiplied before its largest is taken."""
    raw = state.raw(node)
    return raw if raw.pools and raw.function is None and raw.index is None else state.parts(node)


def scaled(state: State, name: str, parts: Parts, factor: Reals, shift: Reals) -> Parts:
    """Return ``factor * tensor + shift``, one number or one for each channel."""
    factors, shifts = parts.split(factor), parts.split(shift)
    values: tuple[Value, ...] = tuple(
        linear(part).scaled(own, moved)
        for part, own, moved in zip(parts.values, factors, shifts, strict=True)
    )
    if not parts.pools:
        return replace(parts, values=values)
    each = [
        np.broadcast_to(own, part.shape[:1]) < 0
        for part, own in zip(parts.values, factors, strict=True)
    ]
    lowest = np.concatenate(each)
    if parts.lowest is not None:
        lowest = lowest ^ parts.lowest
    return replace(parts, values=values, lowest=lowest)


def moved(state: State, name: str, node: fx.Node, moved: Affine) -> Parts:
    """Lower a sum or a product with numbers, or with a number for each channel.

    Raises:
        ConfigError: for numbers that are others in each place, or that are not finite.
    """
    shape = state.shapes[moved.x]
    if state.shapes[node] != shape:
        raise ConfigError(f"{state.called(node)} makes a tensor of another shape of {shape}.")
    factor, shift = (_of_channels(state, node, n, shape) for n in (moved.factor, moved.shift))
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        raise ConfigError(f"{state.called(node)} has numbers that are not finite.")
    if factor.ndim > 1:
        raise ConfigError(
            f"{state.called(node)} multiplies by other numbers in each place, which has no integer "
            "form; one for each channel has."
        )
    parts = _before_scaling(state, moved.x)
    coded = all(isinstance(part, Coded) for part in parts.values)
    if parts.pools and shift.ndim > 1:
        raise ConfigError(
            f"{state.called(node)} adds other numbers in each place to largest values that are not "
            "yet quantized, which has no integer form."
        )
    if not coded or shift.ndim > 1 or not factor.all():
        return scaled(state, name, parts, factor, shift)
    if max(factor.ndim, shift.ndim) == 1:  # a channel is a part of its own
        if state.is_image(moved.x):
            parts = apart(state, name, parts)
        else:
            return scaled(state, name, parts, factor, shift)
    factors, shifts = (np.broadcast_to(n, shape[1]) for n in (factor, shift))
    given = zip(parts.values, parts.split(factors), parts.split(shifts), strict=True)
    values = []
    for i, (part, own, more) in enumerate(given):
        assert isinstance(part, Coded)
        values.append(reinterpreted(state, names_of(name, parts.values)[i], part, own[0], more[0]))
    return replace(parts, values=tuple(values))


def reinterpreted(state: State, name: str, part: Coded, factor: float, shift: float) -> Coded:
    """Return codes that stand for ``factor * value + shift``."""
    factor, shift = float(factor), float(shift)
    if (factor, shift) == (1.0, 0.0):
        return part
    codes = replace(
        part.codes, step=part.codes.step * factor, offset=part.codes.offset * factor + shift
    )
    name = state.free(name)
    state.add(ops.Reinterpret(name, (part.name,), codes, factor, shift))
    offsets = None if part.offsets is None else part.offsets * factor + shift
    return Coded(name, codes, part.shape, offsets)


def _of_channels(
    state: State, node: fx.Node, number: float | Tensor, shape: tuple[int, ...]
) -> Reals:
    """Return a number, one for each channel or ``(C, H, W)``, of what is added or multiplied."""
    if not isinstance(number, Tensor):
        return np.array(float(number))
    full = np.broadcast_to(reals(number), shape)
    if full.shape[0] != 1:
        raise ConfigError(f"{state.called(node)} has other numbers for each image.")
    return settled(full[0])


def site(state: State, name: str, quantizer: ActivationQuantizer, node: Any) -> Parts:
    """Lower a site, and the batch norm that it has absorbed."""
    codes = site_codes(name, quantizer)
    if is_table(quantizer.activation):
        return looked_up(state, name, quantizer, node, codes)
    parts = state.raw(node)
    if parts.bordered:
        state.parts(node)  # which tells why not
    slopes: list[Reals | None] = [None] * len(parts.values)
    if parts.function is not None:
        if parts.function.slope is None:
            state.parts(node)  # which tells why not
            raise AssertionError("a function without a slope has no integer form")
        slopes = list(parts.split(parts.function.slope))
    if isinstance(quantizer.activation, nn.LeakyReLU):
        slopes = [np.array(float(quantizer.activation.negative_slope))] * len(parts.values)
    if quantizer.norm is not None:
        parts = scaled(state, name, _before_scaling(state, node), *folded(name, quantizer.norm))
    if isinstance(quantizer.activation, nn.Hardsigmoid):  # what is left is to clip to 0 and 1
        before = parts if quantizer.norm is not None else _before_scaling(state, node)
        parts = scaled(state, name, before, np.array(1 / 6), np.array(0.5))
    several = len(parts.values) > 1 or parts.order is not None or parts.index is not None
    base = f"{name}_each" if parts.pools and not several else name
    names = [base] if not several else [f"{base}[{i}]" for i in range(len(parts.values))]
    if parts.pools and any(slope is not None and np.any(slope < 0) for slope in slopes):
        raise ConfigError(f"{name}: a slope below 0 behind a largest value has no integer form.")
    signs = _signs(parts)
    values: list[Value] = []
    for own, part, slope, sign in zip(names, map(linear, parts.values), slopes, signs, strict=True):
        if own != name:
            own = state.free(own)
        inputs, numbers = zip(*part.terms, strict=True)
        in_steps = tuple(number / codes.step for number in numbers)
        bias, offsets = (part.bias - codes.offset) / codes.step, part.from_offsets / codes.step
        if sign is not None:  # the smallest is the largest of the codes in reversed order
            if slope is not None:
                raise ConfigError(
                    f"{name}: a largest value, a norm with a factor below 0 and then a slope have "
                    "no integer form; put the norm in front of the pooling."
                )
            in_steps = tuple(product(number, sign) for number in in_steps)
            bias = summed(product(bias, sign), _reversed(sign, codes))
            offsets = product(offsets, sign)
        state.add(ops.Rescale(own, inputs, in_steps, bias, offsets, codes, slope))
        values.append(Coded(own, codes, part.shape))
    result = replace(parts, values=tuple(values), function=None, pools=(), lowest=None)
    for window in parts.pools:
        result = pooled_codes(state, f"{name}_pool", result, window)
    values = list(result.values)
    for i, sign in enumerate(signs):
        value = values[i]
        if sign is not None and isinstance(value, Coded):
            own = state.free(f"{name}_again") if several else name
            offsets = sign * codes.offset / codes.step  # of what it reads
            bias = _reversed(sign, codes) - offsets
            state.add(ops.Rescale(own, (value.name,), (sign,), bias, offsets, codes))
            values[i] = Coded(own, codes, value.shape)
    result = replace(result, values=tuple(values))
    if result.index is not None:
        result = resolved(state, name, result.values, result.index)
        if result.index is not None or result.pools:
            raise ConfigError(f"{name} is in an order that has no integer form.")
    return _whole(state, name, result, codes)


def looked_up(
    state: State, name: str, quantizer: ActivationQuantizer, node: fx.Node, codes: Codes
) -> Parts:
    """Lower a site whose activation function is a table of codes.

    Raises:
        ConfigError: if it reads what is no codes, or whose codes stand for other values in each
            place.
    """
    function, parts = quantizer.activation, state.parts(node)
    described = f"{name} ({type(function).__name__})"
    several = len(parts.values) > 1 or parts.order is not None
    values: list[Value] = []
    for i, part in enumerate(parts.values):
        if not isinstance(part, Coded) or quantizer.norm is not None:
            behind = "" if quantizer.norm is None else "the batch norm behind "
            raise ConfigError(
                f"{described} reads {behind}{state.paths[node]}, which is no codes, so whole "
                "numbers have no table of it: set quant.inputs_of_functions=true for a site in "
                "front of it, and let no rule take its bits away."
            )
        offset = settled(part.offset)
        read = replace(part.codes, offset=float(offset)) if offset.ndim == 0 else None
        if read is None or read.high - read.low >= LARGEST_TABLE:
            reason = "more values than a table has" if read else "other values in each place"
            raise ConfigError(
                f"{described} reads {state.paths[node]}, whose codes stand for {reason}, which has "
                "no integer form."
            )
        if (jump := jump_of(quantizer, read)) is not None:
            raise ConfigError(
                f"{described} jumps at {jump:.6g}, a value that it reads, so the last bit decides "
                "there; move the place of the jump between two values."
            )
        own = state.free(f"{name}[{i}]") if several else name
        entries, positions = table_of(quantizer, read)
        kind = KIND_OF[type(function)]
        state.add(
            ops.Table(
                *(own, (part.name,), read.low, entries, positions, codes, kind),
                settings_of(function),
            )
        )
        values.append(Coded(own, codes, part.shape))
    return _whole(state, name, replace(parts, values=tuple(values)), codes)


def _whole(state: State, name: str, parts: Parts, codes: Codes) -> Parts:
    """Return a site as one tensor of codes, and note which operations make it."""
    if len(parts.values) > 1 or parts.order is not None:
        names = [value.name for value in parts.values if isinstance(value, Coded)]
        shape = (parts.channels, *parts.values[0].shape[1:])
        state.sites[name] = tuple(names) if parts.order is None else (name,)
        state.add(ops.Concatenate(name, tuple(names), parts.order))
        return Parts((Coded(name, codes, shape),))
    (value,) = parts.values
    assert isinstance(value, Coded)
    state.sites[name] = (value.name,)
    return Parts((value,))


def _signs(parts: Parts) -> list[Reals | None]:
    """Return 1 or -1 for each channel of each part of which the smallest value is taken."""
    if parts.lowest is None or not parts.lowest.any():
        return [None] * len(parts.values)
    each = replace(parts, order=None).split(np.where(parts.lowest, -1.0, 1.0))
    return [sign if (sign < 0).any() else None for sign in each]


def _reversed(sign: Reals, codes: Codes) -> Reals:
    """Return what makes ``low ... high`` of ``-high ... -low``, where the sign is -1."""
    return np.where(sign < 0, float(codes.low + codes.high), 0.0)


def prelu(state: State, name: str, node: Any, weight: Any) -> Parts:
    """Lower a PReLU, which the site behind it computes."""
    slope = settled(reals(weight))
    return replace(state.parts(node), function=Function("prelu", slope))


def total(state: State, name: str, node: fx.Node, nodes: Sequence[Any], signs: Reals) -> Parts:
    """Lower a weighted sum of two tensors.

    Args:
        state: what has been made.
        name: of what it makes besides.
        node: the sum.
        nodes: the two tensors.
        signs: the number by which each of them is multiplied.

    Raises:
        ConfigError: if they have other shapes.
    """
    shapes = [state.shapes[n] if isinstance(n, fx.Node) else () for n in nodes]
    if any(shape != state.shapes[node] for shape in shapes):
        raise ConfigError(
            f"{state.called(node)} adds tensors of shapes {shapes[0]} and {shapes[1]}, which has "
            "an integer form for equal shapes only."
        )
    terms = aligned(state, name, [state.parts(n) for n in nodes])
    order = terms[0].order
    values = []
    for pieces in zip(*(term.values for term in terms), strict=True):
        values.append(
            added(linear(v).scaled(s, NOTHING) for v, s in zip(pieces, signs, strict=True))
        )
    return Parts(tuple(values), order)
