"""What lowering knows of a tensor: which accumulators and codes it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from qatlab.integer.network import Codes, Reals, summed

NOTHING = np.array(0.0)


@dataclass(frozen=True)
class Coded:
    """A tensor of codes: the result of an operation.

    Attributes:
        name: of the operation.
        codes: which values they stand for.
        channels: C, or the features of ``(N, features)``.
    """

    name: str
    codes: Codes
    channels: int


@dataclass(frozen=True)
class Linear:
    """A tensor that is ``sum_i terms[i] * result i + bias + from_offsets``.

    Attributes:
        terms: names of results, each with one number or one for each channel.
        bias: likewise.
        from_offsets: see :class:`~qatlab.integer.network.Weighted`.
        channels: C, or the features of ``(N, features)``.
    """

    terms: tuple[tuple[str, Reals], ...]
    bias: Reals
    from_offsets: Reals
    channels: int

    def scaled(self, factor: Reals, shift: Reals) -> Linear:
        """Return ``factor * self + shift``, one number or one for each channel."""
        terms = tuple((name, number * factor) for name, number in self.terms)
        constant = self.from_offsets
        wide = np.asarray(factor).reshape(-1, *(1,) * (constant.ndim - 1))
        from_offsets = constant * (wide if constant.ndim > 1 else factor)
        return replace(
            self, terms=terms, bias=self.bias * factor + shift, from_offsets=from_offsets
        )


def linear(value: Coded | Linear) -> Linear:
    """Return a tensor of codes as a sum with one term."""
    if isinstance(value, Linear):
        return value
    codes = value.codes
    terms = ((value.name, np.array(codes.step)),)
    return Linear(terms, NOTHING, np.array(codes.offset), value.channels)


def added(values: Iterable[Linear]) -> Linear:
    """Return the sum of tensors."""
    total, *others = values
    for other in others:
        total = Linear(
            (*total.terms, *other.terms),
            total.bias + other.bias,
            summed(total.from_offsets, other.from_offsets),
            total.channels,
        )
    return total
