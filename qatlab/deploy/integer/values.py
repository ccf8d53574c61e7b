"""What lowering knows of a tensor: which accumulators and codes it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.integer.operations import Codes, Integers, MaxPool, Reals, Sides, product, summed

NOTHING = np.array(0.0)


@dataclass(frozen=True)
class Coded:
    """A tensor of codes: the result of an operation.

    Attributes:
        name: of the operation.
        codes: which values they stand for.
        shape: ``(C, H, W)``, or ``(features,)``.
        offsets: what code 0 stands for, where that is not the same everywhere: ``(C, H, W)``.
        border: rows and columns around it that are never the largest of a window.
    """

    name: str
    codes: Codes
    shape: tuple[int, ...]
    offsets: Reals | None = None
    border: Sides | None = None

    @property
    def offset(self) -> Reals:
        """What code 0 stands for: one number, or ``(C, H, W)``."""
        return np.array(self.codes.offset) if self.offsets is None else self.offsets

    def moved(self, name: str, shape: tuple[int, ...], move: Callable[[Reals], Reals]) -> Coded:
        """Return the same codes in other places, as the operation ``name`` puts them there."""
        offsets = self.offsets
        if offsets is not None:
            offsets = move(np.broadcast_to(offsets, self.shape))
        return replace(self, name=name, shape=shape, offsets=offsets)


@dataclass(frozen=True)
class Linear:
    """A tensor that is ``sum_i terms[i] * result i + bias + from_offsets``.

    Attributes:
        terms: names of results, each with one number, one for each channel, or ``(C, H, W)``.
        bias: likewise.
        from_offsets: see :class:`~qatlab.deploy.integer.operations.Weighted`.
        shape: ``(C, H, W)``, or ``(features,)``.
    """

    terms: tuple[tuple[str, Reals], ...]
    bias: Reals
    from_offsets: Reals
    shape: tuple[int, ...]

    def scaled(self, factor: Reals, shift: Reals) -> Linear:
        """Return ``factor * self + shift``, one number or one for each channel."""
        terms = tuple((name, product(number, factor)) for name, number in self.terms)
        bias = summed(product(self.bias, factor), shift)
        from_offsets = product(self.from_offsets, factor)
        return replace(self, terms=terms, bias=bias, from_offsets=from_offsets)


Value = Coded | Linear


@dataclass(frozen=True)
class Function:
    """What a tensor still has to pass, as only a site or an output can do it.

    Attributes:
        kind: its name, see :mod:`qatlab.quant.ops`.
        slope: of values below 0, one number or one for each channel of the tensor, for a PReLU.
    """

    kind: str
    slope: Reals | None = None


@dataclass(frozen=True)
class Parts:
    """A tensor: the channels of its parts, one after the other, in an order of their own.

    Parts have steps of their own, so a concatenation stays apart in them, and the channels of a
    shuffled one are those of its parts in another order.

    Attributes:
        values: the parts, with equal rows and columns.
        order: for each channel of the tensor, its number among those of the parts.
        function: what the values still have to pass.
        pools: windows of which the largest value is still to be taken, when it is codes: poolings
            without a name.
        lowest: for each channel of the parts, whether it is the smallest value instead.
        index: for each place of the tensor its number among all places of the parts, where these
            lie in another order than channels do; with one axis in front for the image.
    """

    values: tuple[Value, ...]
    order: tuple[int, ...] | None = None
    function: Function | None = None
    pools: tuple[MaxPool, ...] = ()
    lowest: NDArray[np.bool_] | None = None
    index: Integers | None = None

    @property
    def bordered(self) -> bool:
        """Whether there are rows or columns around it that are never the largest."""
        return any(isinstance(v, Coded) and v.border is not None for v in self.values)

    @property
    def channels(self) -> int:
        """How many channels, or features, all parts have."""
        return sum(value.shape[0] for value in self.values)

    def split(self, numbers: Reals) -> list[Reals]:
        """Return the numbers of each part: one for all, or those of its channels.

        Args:
            numbers: one, or one for each channel of the tensor, or ``(C, H, W)``.
        """
        if numbers.ndim == 0:
            return [numbers] * len(self.values)
        if self.order is not None:
            numbers = numbers[np.argsort(self.order)]
        ends = np.cumsum([value.shape[0] for value in self.values])[:-1]
        return [np.asarray(own) for own in np.split(numbers, ends)]


def linear(value: Value) -> Linear:
    """Return a tensor of codes as a sum with one term."""
    if isinstance(value, Linear):
        return value
    terms = ((value.name, np.array(value.codes.step)),)
    return Linear(terms, NOTHING, value.offset, value.shape)


def added(values: Iterable[Linear]) -> Linear:
    """Return the sum of tensors of one shape."""
    total, *others = values
    for other in others:
        total = Linear(
            (*total.terms, *other.terms),
            summed(total.bias, other.bias),
            summed(total.from_offsets, other.from_offsets),
            total.shape,
        )
    return total


def settled(numbers: NDArray[Any]) -> Reals:
    """Return ``(C, H, W)`` as one number for each channel, or for all, where they are equal."""
    if numbers.ndim > 1:
        flat = numbers.reshape(len(numbers), -1)
        if not np.all(flat == flat[:, :1]):
            return numbers
        numbers = flat[:, 0]
    if numbers.ndim == 1 and np.all(numbers == numbers[0]):
        numbers = numbers[0]
    return np.asarray(numbers, dtype=np.float64)
