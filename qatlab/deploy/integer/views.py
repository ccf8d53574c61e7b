"""How operations that only move values are lowered: views, slices, shuffles, concatenations.

What such an operation does is found by doing it to the numbers of places. Where channels stay
channels nothing is computed: a layer reads them in another order. Where rows and columns are cut or
moved, too, there is an operation that does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import Integers, Reals
from qatlab.deploy.integer.state import Made, State
from qatlab.deploy.integer.values import Coded, Linear, Parts, Value
from qatlab.errors import ConfigError
from qatlab.quant.ops import kind_of, target_of

PIECES = 64  # of a sum of two tensors that are made of other parts
Reference = tuple[int, int]  # a part, and one of its channels


def rearranged(state: State, name: str, node: fx.Node) -> Made:
    """Lower what puts values into another order, leaves some out, or puts tensors together."""
    values: list[Value] = []
    places: dict[fx.Node, Any] = {}
    read = [made for n in node.all_input_nodes for made in _each(state.values.get(n, ()))]
    pools = {made.pools for made in read}
    start = 0

    def numbered(made: Made, shape: tuple[int, ...] | None) -> Any:
        nonlocal start
        if isinstance(made, tuple):
            return tuple(numbered(one, None) for one in made)
        if made.pools and shape is not None:  # its rows and columns are those behind the pooling
            made = replace(
                made, values=tuple(replace(v, shape=(v.shape[0], *shape[2:])) for v in made.values)
            )
        index = index_of(made, shape) + start
        start += sum(math.prod(value.shape) for value in made.values)
        values.extend(made.values)
        return torch.from_numpy(np.ascontiguousarray(index))

    def place(argument: fx.Node) -> Any:
        if argument in places:
            return places[argument]
        if argument not in state.values:
            known: dict[fx.Node, Any] = state.measures.others | state.measures.constants
            return known.get(argument, argument)
        places[argument] = numbered(state.values[argument], state.shapes.get(argument))
        return places[argument]

    args: Any = fx.map_arg(node.args, place)
    kwargs: Any = fx.map_arg(node.kwargs, place)
    if any(made.function or made.bordered for made in read) or (
        any(pools) and (len(pools) > 1 or any(made.lowest is not None for made in read))
    ):
        raise ConfigError(
            f"{state.called(node)} has an integer form only behind a site: quantize first what it "
            "reads."
        )
    made = _made(state, name, tuple(values), _moved_places(state, node, args, kwargs))
    if not any(pools):
        return made
    inner = next(v.shape[1:] for made in read for v in made.values)
    return _behind_pools(state, node, made, next(iter(pools)), inner)


def _each(made: Made) -> Iterator[Parts]:
    if isinstance(made, Parts):
        yield made
    else:
        for one in made:
            yield from _each(one)


def _moved_places(state: State, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Return what a node makes of numbers of places."""
    upsampling = target_of(node, state.modules) is nn.UpsamplingNearest2d
    if upsampling or kind_of(node, state.modules) == "interpolate":  # which moves no whole numbers
        args = [arg.double() if isinstance(arg, Tensor) else arg for arg in args]
        kwargs = {k: v.double() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    if node.op == "call_module":
        return state.modules[str(node.target)](*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    function: Any = node.target
    return function(*args, **kwargs)


def _made(state: State, name: str, values: tuple[Value, ...], moved: Any) -> Made:
    if not isinstance(moved, Tensor):
        return tuple(_made(state, f"{name}_{i}", values, one) for i, one in enumerate(moved))
    return resolved(state, name, values, moved.long().numpy())


def _behind_pools(
    state: State, node: fx.Node, made: Made, pools: tuple[ops.MaxPool, ...], inner: tuple[int, ...]
) -> Made:
    """Return channels whose largest values are still to be taken."""
    if isinstance(made, tuple):
        return tuple(_behind_pools(state, node, one, pools, inner) for one in made)
    if made.index is not None or len(state.shapes.get(node, (1,) * 4)) != 4:
        raise ConfigError(
            f"{state.called(node)} has an integer form only behind a site: quantize first what it "
            "reads."
        )
    values = tuple(replace(value, shape=(value.shape[0], *inner)) for value in made.values)
    return replace(made, values=values, pools=pools)


def index_of(parts: Parts, shape: tuple[int, ...] | None) -> Integers:
    """Return, for each place of a tensor, its number among all places of its parts.

    Args:
        parts: of the tensor.
        shape: of the tensor, with one axis in front for the image; None: as its parts have it.
    """
    if parts.index is not None:
        return parts.index
    inner = parts.values[0].shape[1:]
    area = math.prod(inner)
    order = np.arange(parts.channels) if parts.order is None else np.asarray(parts.order)
    places = order[:, None] * area + np.arange(area)
    return np.asarray(places.reshape(shape or (1, len(order), *inner)))


def resolved(state: State, name: str, values: tuple[Value, ...], index: Integers) -> Parts:
    """Return a tensor whose places are those of parts, in another order.

    Args:
        state: what has been made.
        name: of what has to be made for it.
        values: the parts.
        index: for each place of the tensor, with one axis in front for the image, its number among
            all places of the parts.

    Returns:
        Its parts; with the index in them where no operation does it (yet).
    """
    pending = Parts(values, index=index)
    if index.ndim < 2 or len(index) != 1 or index.ndim > 4:
        return pending
    shape = index.shape[1:]
    rows = index[0].reshape(shape[0], -1)
    starts = np.cumsum([0, *(math.prod(value.shape) for value in values)])
    part_of = np.searchsorted(starts, rows, side="right") - 1
    turned = _turned(values, index)
    if np.all(part_of == part_of[:, :1]):
        parts, within = part_of[:, 0], rows - starts[part_of[:, :1]]
        areas = np.array([math.prod(value.shape[1:]) for value in values])[parts]
        if len(shape) == 1:
            return _features(state, name, values, shape, parts, within[:, 0]) or pending
        channels = within // areas[:, None]
        if np.all(channels == channels[:, :1]):
            places = within - channels * areas[:, None]
            if turned is None or np.all(places == places[:1]):
                found = _by_channels(state, name, values, shape, parts, channels[:, 0], places)
                if found is not None:
                    return found
    if turned is None:
        return pending
    value, split, axes = turned
    whole = (*shape, 1)[:3] if len(shape) == 2 else shape
    own = state.free(name)
    state.add(ops.Permute(own, (value.name,), split, axes, whole))
    return Parts((Coded(own, value.codes, whole),))


def _turned(
    values: Sequence[Value], index: Integers
) -> tuple[Coded, tuple[int, ...], tuple[int, ...]] | None:
    """Return the only part, and what puts it into an order as a whole; None if nothing does."""
    (value, *others) = values
    if others or not isinstance(value, Coded) or not _plain(value):
        return None
    found = permutation(index.ravel(), math.prod(value.shape))
    return None if found is None else (value, *found)


def _features(
    state: State,
    name: str,
    values: tuple[Value, ...],
    shape: tuple[int, ...],
    parts: Integers,
    places: Integers,
) -> Parts | None:
    """Return features that are single places of maps; None where a map is no codes."""
    flat: list[Value] = []
    for i, value in enumerate(values):
        if len(value.shape) > 1 and i in parts:
            made = in_shape(state, name, value, (math.prod(value.shape),))
            if made is None:
                return None
            flat.append(made)
        else:
            flat.append(value)
    references = list(zip(parts.tolist(), places.tolist(), strict=True))
    return selected(state, name, tuple(flat), references, shape[1:])


def _by_channels(
    state: State,
    name: str,
    values: tuple[Value, ...],
    shape: tuple[int, ...],
    parts: Integers,
    channels: Integers,
    places: Integers,
) -> Parts | None:
    """Return a tensor whose channels are channels of parts, with places moved."""
    inner = (*shape[1:], 1)[:2] if len(shape) == 2 else shape[1:]
    moved: list[Value] = []
    number: dict[tuple[int, bytes], int] = {}  # of a part whose places are moved in one way
    references = []
    for part, channel, own in zip(parts.tolist(), channels.tolist(), places, strict=True):
        key = (part, own.tobytes())
        if key not in number:
            made = _moved(state, name, values[part], own, inner)
            if made is None:
                return None
            number[key] = len(moved)
            moved.append(made)
        references.append((number[key], channel))
    return selected(state, name, tuple(moved), references, inner)


def _moved(
    state: State, name: str, value: Value, places: Integers, inner: tuple[int, ...]
) -> Value | None:
    """Return a part with the places of each channel moved; None if no operation does it."""
    area = math.prod(value.shape[1:])
    if len(places) == area and np.array_equal(places, np.arange(area)):
        return in_shape(state, name, value, (value.shape[0], *inner))
    if not isinstance(value, Coded):
        return None
    mapped = len(inner) == 2 and len(value.shape) == 3
    lines = _lines(places.reshape(inner), value.shape[1:]) if mapped else None
    cut = lines and [ends for ends in map(_ends, lines) if ends is not None]
    turned = permutation(places, area) if _plain(value) else None
    if not (lines or turned):
        return None
    name = state.free(name)
    if cut and len(cut) == 2:
        state.add(ops.Slice(name, (value.name,), ((0, value.shape[0], 1), *cut)))
    elif turned:
        split, axes = (value.shape[0], *turned[0]), (0, *(axis + 1 for axis in turned[1]))
        state.add(ops.Permute(name, (value.name,), split, axes, (value.shape[0], *inner)))
    elif lines:
        state.add(ops.Gather(name, (value.name,), *lines))
    shape = (value.shape[0], *inner)
    return value.moved(name, shape, lambda x: x[:, lines[0]][:, :, lines[1]] if lines else x)


def _plain(value: Coded) -> bool:
    return value.offsets is None


def in_shape(state: State, name: str, value: Value, shape: tuple[int, ...]) -> Value | None:
    """Return a part in another shape, in the same order; None if no operation does it."""
    if value.shape == shape:
        return value
    if isinstance(value, Coded):
        own = _reshaped(state, name, value.name, shape)
        return value.moved(own, shape, lambda x: x.reshape(shape))
    if math.prod(value.shape[1:]) > 1:
        return None
    terms = tuple(
        (_reshaped(state, name, term, shape), _flat(number)) for term, number in value.terms
    )
    return Linear(terms, _flat(value.bias), _flat(value.from_offsets), shape)


def _flat(numbers: Reals) -> Reals:
    """Return numbers of channels that have one place each."""
    return numbers if numbers.ndim < 2 else np.ravel(numbers)


def _reshaped(state: State, name: str, of: str, shape: tuple[int, ...]) -> str:
    """Add a Reshape; return its name."""
    return state.add(ops.Reshape(state.free(name), (of,), shape))


def _lines(
    places: Integers, size: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the numbers of rows and of columns that meet in places; None if no lines do."""
    rows, columns = places[:, 0] // size[1], places[0] % size[1]
    if not np.array_equal(rows[:, None] * size[1] + columns, places):
        return None
    return tuple(rows.tolist()), tuple(columns.tolist())


def _ends(at: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return start, stop and step of numbers, if they are those of a slice."""
    step = at[1] - at[0] if len(at) > 1 else 1
    found = step > 0 and at == tuple(range(at[0], at[-1] + 1, step))
    return (at[0], at[-1] + 1, step) if found else None


def permutation(places: Integers, count: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shape and the order of its axes that put places into an order; None if none do.

    Args:
        places: numbers of places, in their new order.
        count: of places that there were.
    """
    if len(places) != count or places[0] != 0:
        return None
    digits: list[tuple[int, int]] = []  # how many, and how far apart; the innermost first
    inner = 1
    while inner < count:
        stride, most = int(places[inner]), count // inner
        runs = places[::inner][:most]
        right = runs == stride * np.arange(most)
        run = most if right.all() else int(np.argmin(right))
        while most % run:
            run -= 1
        if run < 2:
            return None
        digits.append((run, stride))
        inner *= run
    digits.reverse()
    strides = [stride for _, stride in digits]
    order = sorted(range(len(digits)), key=lambda i: -strides[i])
    split = tuple(digits[i][0] for i in order)
    axes = tuple(order.index(i) for i in range(len(digits)))
    again = np.arange(count).reshape(split).transpose(axes).ravel()
    return (split, axes) if np.array_equal(again, places) else None


def selected(
    state: State,
    name: str,
    values: Sequence[Value],
    references: Sequence[Reference],
    inner: tuple[int, ...],
) -> Parts:
    """Return a tensor of some channels of parts.

    Args:
        state: what has been made.
        name: of what has to be made for it.
        values: the parts.
        references: for each channel of the tensor, its part and its number there.
        inner: rows and columns.
    """
    pieces: dict[tuple[int, int], list[int]] = {}  # of a part; again where a channel comes again
    seen: dict[Reference, int] = {}
    where: list[tuple[tuple[int, int], int]] = []
    for part, channel in references:
        again = seen[part, channel] = seen.get((part, channel), -1) + 1
        pieces.setdefault((part, again), []).append(channel)
        where.append(((part, again), channel))
    made, start = [], 0
    number: dict[tuple[tuple[int, int], int], int] = {}
    for key, channels in pieces.items():
        ascending = sorted(channels)
        number |= {(key, channel): start + i for i, channel in enumerate(ascending)}
        start += len(ascending)
        made.append(of_channels(state, name, values[key[0]], ascending))
    order = [number[place] for place in where]
    in_order = order == list(range(len(order)))
    return Parts(tuple(made), None if in_order else tuple(order))


def of_channels(state: State, name: str, value: Value, channels: Sequence[int]) -> Value:
    """Return some channels of a part, in ascending order."""
    if len(channels) == value.shape[0]:
        return value
    shape = (len(channels), *value.shape[1:])
    if isinstance(value, Coded):
        own = _take(state, name, value.name, channels)
        return value.moved(own, shape, lambda x: x[list(channels)])

    def taken(numbers: Reals) -> Reals:  # of which one may stand for all channels
        return numbers[list(channels)] if numbers.ndim and len(numbers) > 1 else numbers

    terms = tuple(
        (_of_term(state, name, term, channels), taken(number)) for term, number in value.terms
    )
    return Linear(terms, taken(value.bias), taken(value.from_offsets), shape)


def _take(state: State, name: str, of: str, channels: Sequence[int]) -> str:
    """Add the operation that keeps some channels of codes; return its name."""
    own, first, last = state.free(name), channels[0], channels[-1]
    made: ops.Operation = ops.Pick(own, (of,), tuple(channels))
    if list(channels) == list(range(first, last + 1)):
        made = ops.Slice(own, (of,), ((first, last + 1, 1),))
    return state.add(made)


def _of_term(state: State, name: str, term: str, channels: Sequence[int]) -> str:
    """Return the name of what makes some channels of a result, codes or accumulators."""
    if term in state.codes:
        return _take(state, name, term, channels)
    op = state.operations[term]
    return SOME_CHANNELS[type(op)](state, name, op, list(channels))


def _of_reshape(state: State, name: str, op: ops.Reshape, rows: list[int]) -> str:
    inner = _of_term(state, name, op.inputs[0], rows)
    return _reshaped(state, name, inner, (len(rows), *op.shape[1:]))


def _of_sums(state: State, name: str, op: ops.SumPool, rows: list[int]) -> str:
    inner = _of_term(state, name, op.inputs[0], rows)
    return state.add(replace(op, name=state.free(name), inputs=(inner,)))


def _of_dense(state: State, name: str, op: ops.Convolve | ops.Multiply, rows: list[int]) -> str:
    return state.add(replace(op, name=state.free(name), weight=op.weight[rows]))


def _of_convolution(state: State, name: str, op: ops.Convolve, rows: list[int]) -> str:
    if op.groups == 1:
        return _of_dense(state, name, op, rows)
    each, width = len(op.weight) // op.groups, op.weight.shape[1]
    groups = sorted({row // each for row in rows})
    if rows != [group * each + i for group in groups for i in range(each)]:
        raise ConfigError(
            f"{op.name}: channels of a part of a group have no integer form; take whole groups."
        )
    inputs = [group * width + i for group in groups for i in range(width)]
    source = _take(state, f"{name}_input", op.inputs[0], inputs)
    taken = replace(op, inputs=(source,), groups=len(groups))
    return _of_dense(state, name, taken, rows)


def _of_product(state: State, name: str, op: ops.Product, rows: list[int]) -> str:
    """Take channels of what is multiplied, but of what is one number for all of them."""
    channels = [state.channels_of(term) for term in op.inputs]
    inputs = tuple(
        _of_term(state, f"{name}_input", term, rows) if count == max(channels) else term
        for term, count in zip(op.inputs, channels, strict=True)
    )
    return state.add(replace(op, name=state.free(name), inputs=inputs))


# What makes some channels of accumulators.
SOME_CHANNELS: dict[type[ops.Operation], Callable[[State, str, Any, list[int]], str]] = {
    ops.Reshape: _of_reshape,
    ops.SumPool: _of_sums,
    ops.Multiply: _of_dense,
    ops.Convolve: _of_convolution,
    ops.Product: _of_product,
}


def apart(state: State, name: str, parts: Parts) -> Parts:
    """Return a tensor each channel of which is a part of its own."""
    references = _references(parts)
    values = [
        of_channels(state, f"{name}[{i}]", parts.values[part], [channel])
        for i, (part, channel) in enumerate(references)
    ]
    return Parts(tuple(values))


def in_order(state: State, name: str, parts: Parts) -> Parts:
    """Return a tensor of one part with its channels in their order, any other one as it is."""
    if parts.order is None or len(parts.values) > 1:
        return parts
    (value,) = parts.values
    assert isinstance(value, Coded)
    order = list(parts.order)
    own = state.add(ops.Pick(state.free(name), (value.name,), parts.order))
    return Parts((value.moved(own, value.shape, lambda x: x[order]),))


def _references(parts: Parts) -> list[Reference]:
    """Return part and number there of each channel of a tensor."""
    all_of = [(i, k) for i, value in enumerate(parts.values) for k in range(value.shape[0])]
    return all_of if parts.order is None else [all_of[number] for number in parts.order]


def aligned(state: State, name: str, tensors: Sequence[Parts]) -> list[Parts]:
    """Return tensors of equal shape with parts of the same channels.

    Raises:
        ConfigError: if these would be too many.
    """
    layouts = {(tuple(value.shape[0] for value in parts.values), parts.order) for parts in tensors}
    if len(layouts) == 1:
        return list(tensors)
    references = [_references(parts) for parts in tensors]
    runs: list[list[int]] = []
    for channel in range(len(references[0])):
        follows = runs and all(
            own[channel] == (own[channel - 1][0], own[channel - 1][1] + 1) for own in references
        )
        if follows:
            runs[-1].append(channel)
        else:
            runs.append([channel])
    if len(runs) > PIECES:
        raise ConfigError(
            f"{name} adds tensors whose channels are mixed in {len(runs)} pieces, more than the "
            f"{PIECES} that have an integer form."
        )
    found = []
    for parts, own in zip(tensors, references, strict=True):
        values = [
            of_channels(state, name, parts.values[own[run[0]][0]], [own[c][1] for c in run])
            for run in runs
        ]
        found.append(Parts(tuple(values)))
    return found
