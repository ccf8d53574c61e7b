"""How products of two tensors are lowered: gates, and squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import Codes
from qatlab.deploy.integer.state import State, names_of
from qatlab.deploy.integer.values import Coded, Linear, Parts, Value
from qatlab.deploy.integer.views import aligned
from qatlab.deploy.integer.weights import LARGEST
from qatlab.errors import ConfigError


def product_of_two(state: State, name: str, node: fx.Node, input: Any, other: Any) -> Parts:
    """Lower a product of two tensors of codes, of one shape or with sides of 1.

    Raises:
        ConfigError: if one of them is no codes, or they have other numbers of dimensions.
    """
    one, two = (_codes_of(state, node, factor) for factor in (input, other))
    shapes = [state.shapes[factor] for factor in (input, other)]
    if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) not in (2, 4):
        raise ConfigError(
            f"{state.called(node)} multiplies tensors of shapes {shapes[0]} and {shapes[1]}, which "
            "has an integer form for maps (N, C, H, W), or features (N, C), of both."
        )
    if one.channels == two.channels:
        one, two = aligned(state, name, [one, two])
        pairs = list(zip(one.values, two.values, strict=True))
    elif one.channels == 1:
        pairs = [(one.values[0], value) for value in two.values]
    else:
        pairs = [(value, two.values[0]) for value in one.values]
    order = one.order if one.channels > 1 else two.order
    values: list[Value] = []
    for own, (first, second) in zip(names_of(name, pairs), pairs, strict=True):
        assert isinstance(first, Coded)
        assert isinstance(second, Coded)
        values.append(_multiplied(state, own, first, second))
    return Parts(tuple(values), order)


def _codes_of(state: State, node: fx.Node, factor: Any) -> Parts:
    """Return a factor, all of whose parts are codes that stand for the same values everywhere."""
    parts = state.parts(factor)
    for part in parts.values:
        if not isinstance(part, Coded):
            raise ConfigError(
                f"{state.called(node)} multiplies {state.paths[factor]}, which is no codes, so it "
                "has no integer form: set quant.inputs_of_functions=true for a site in front of "
                "it, and let no rule take its bits away."
            )
        if part.offsets is not None:
            raise ConfigError(
                f"{state.called(node)} multiplies {state.paths[factor]}, whose codes stand for "
                "other values in each place, which has no integer form."
            )
    return parts


def _multiplied(state: State, name: str, first: Coded, second: Coded) -> Linear:
    """Return ``(a s + b) (c t + d)``, where s and t are codes.

    It is ``a c s t + d (a s + b) + b (c t + d) - b d``: offsets add the tensors themselves.
    """
    one, two = first.codes, second.codes
    shape = np.broadcast_shapes(first.shape, second.shape)
    op = ops.Product(state.free(name), (first.name, second.name), _largest(name, one, two))
    terms = [(state.add(op), np.array(one.step * two.step))]
    for part, factor in ((first, two.offset), (second, one.offset)):
        if factor:
            wide = _spread(state, name, part, shape)
            terms.append((wide, np.array(part.codes.step * factor)))
    both = np.array(one.offset * two.offset)
    return Linear(tuple(terms), -both, 2 * both, shape)


def _largest(name: str, one: Codes, two: Codes) -> int:
    largest = one.largest * two.largest
    if largest > LARGEST:
        raise ConfigError(
            f"{name}: a product can become {largest:,}, which 32 bits do not hold; give what it "
            "multiplies fewer bits."
        )
    return largest


def _spread(state: State, name: str, part: Coded, shape: tuple[int, ...]) -> str:
    """Return the name of the codes of a part, in each place for which they are one number."""
    found = part.name
    if part.shape[0] != shape[0]:
        found = state.add(ops.Pick(state.free(f"{name}_spread"), (found,), (0,) * shape[0]))
    if part.shape[1:] != shape[1:]:
        rows, columns = (
            tuple(range(size)) if own == size else (0,) * size
            for own, size in zip(part.shape[1:], shape[1:], strict=True)
        )
        found = state.add(ops.Gather(state.free(f"{name}_spread"), (found,), rows, columns))
    return found
