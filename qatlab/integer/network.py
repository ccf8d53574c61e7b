"""What an integer network is made of: codes of grids, accumulators, and operations on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Codes:
    """The whole numbers that stand for a tensor: ``value = step * code + offset``.

    Attributes:
        low: smallest code.
        high: largest code.
        step: distance of neighbouring values.
        offset: value of code 0: not 0 for LSQ+ and for images that are normalised.
    """

    low: int
    high: int
    step: float
    offset: float = 0.0

    @property
    def bits(self) -> int:
        """Bit width that holds all codes."""
        return (self.high - self.low).bit_length()

    @property
    def largest(self) -> int:
        """No code is larger in size."""
        return max(-self.low, self.high)


@dataclass(frozen=True)
class Operation:
    """One step of the computation.

    Attributes:
        name: of its result: path of the layer, site or pooling.
        inputs: names of what it reads.
    """

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Input(Operation):
    """The image.

    Attributes:
        codes: of its values, before the steps and offsets of its channels.
        shape: ``(C, H, W)``.
    """

    codes: Codes
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Convolve(Operation):
    """Accumulators of a convolution.

    Attributes:
        weight: codes ``(C_out, C_in / groups, kH, kW)``.
        stride: rows and columns, as are the others.
        padding: zeros on each side.
        dilation: distance of the taps.
        groups: of channels.
        largest: no accumulator is larger in size.
    """

    weight: Integers
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    largest: int


@dataclass(frozen=True)
class Multiply(Operation):
    """Accumulators of a fully-connected layer: ``weight`` has codes ``(C_out, C_in)``."""

    weight: Integers
    largest: int


@dataclass(frozen=True)
class SumPool(Operation):
    """Sums of codes over windows, of which zeros beyond the border are a part.

    Attributes:
        codes: of the result: these sums stand for averages.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    codes: Codes

    @property
    def largest(self) -> int:
        """No sum is larger in size."""
        return self.codes.largest


@dataclass(frozen=True)
class MaxPool(Operation):
    """Largest code of each window; what stands beyond the border is never the largest.

    Attributes:
        ceil_mode: whether windows that reach over the end count, too.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool = False


@dataclass(frozen=True)
class Channels(Operation):
    """The channels from ``start`` up to, but without, ``stop``."""

    start: int
    stop: int


@dataclass(frozen=True)
class Concatenate(Operation):
    """All channels of the inputs, one after the other."""


@dataclass(frozen=True)
class Flatten(Operation):
    """``(N, C, H, W)`` becomes ``(N, C * H * W)``."""


@dataclass(frozen=True)
class Subsample(Operation):
    """Every ``stride``-th row and column."""

    stride: tuple[int, int]


@dataclass(frozen=True)
class PadChannels(Operation):
    """Adds ``channels`` channels of zeros behind the others."""

    channels: int


@dataclass(frozen=True)
class Weighted(Operation):
    """Real numbers that accumulators and codes stand for.

        sum_i multipliers[i] * input_i + bias + from_offsets

    Attributes:
        multipliers: for each input one number, or one for each channel.
        bias: likewise.
        from_offsets: what the offsets of input codes come to: likewise, or ``(C, H, W)``, as zeros
            beyond the border have none.
    """

    multipliers: tuple[Reals, ...]
    bias: Reals
    from_offsets: Reals

    @property
    def offset(self) -> Reals:
        """``bias + from_offsets``."""
        return summed(self.bias, self.from_offsets)


@dataclass(frozen=True)
class Rescale(Weighted):
    """Accumulators become codes of a site: the codes nearest to a sum, ties to even.

    Attributes:
        codes: of the result; multipliers, bias and from_offsets are in their steps.
    """

    codes: Codes


@dataclass(frozen=True)
class Output(Weighted):
    """What the network answers, ``(N, classes)``."""


@dataclass(frozen=True)
class FixedPoint(Operation):
    """The same in whole numbers of 64 bits.

        sum_i multipliers[i] * input_i + offset

    Attributes:
        multipliers: for each input, one for each channel.
        offset: one for each channel, or ``(C, H, W)``.
        shift: by which the sum is larger than the number that it stands for: powers of two, one
            for each channel.
    """

    multipliers: tuple[Integers, ...]
    offset: Integers
    shift: Integers


@dataclass(frozen=True)
class FixedRescale(FixedPoint):
    """``clip((sum_i ... + offset) >> shift, low, high)``; the offset holds the half that rounds.

    Attributes:
        codes: of the result.
    """

    codes: Codes


@dataclass(frozen=True)
class FixedOutput(FixedPoint):
    """What the network answers, times ``2**shift``, which is the same for all classes."""


def along_channels(numbers: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Return numbers in a shape that broadcasts to ``(N, C, ...)``, a tensor of ``ndim``."""
    if numbers.ndim > 1:
        return numbers[None]
    return np.atleast_1d(numbers).reshape(1, -1, *(1,) * (ndim - 2))


def summed(one: Reals, other: Reals) -> Reals:
    """Return the sum of two that are one number, ``(C,)`` or ``(C, H, W)``."""
    ndim = max(one.ndim, other.ndim)
    if ndim < 2:
        return np.asarray(one + other)
    total = along_channels(one, ndim + 1) + along_channels(other, ndim + 1)
    return np.asarray(total[0])


@dataclass(frozen=True)
class IntegerNetwork:
    """Operations in the order of computation; the last one is the output."""

    operations: Sequence[Operation]

    def __getitem__(self, name: str) -> Operation:
        """Return the operation of that name."""
        return next(op for op in self.operations if op.name == name)

    def parts(self, site: str) -> tuple[str, ...]:
        """Return the names of the operations that make the codes of a site."""
        op = self[site]
        return op.inputs if isinstance(op, Concatenate) else (site,)

    @property
    def codes(self) -> dict[str, Codes]:
        """Those of all results that are codes, by the name of the operation."""
        found: dict[str, Codes] = {}
        for op in self.operations:
            if isinstance(op, (Input, SumPool, Rescale, FixedRescale)):
                found[op.name] = op.codes
            elif not isinstance(op, (Convolve, Multiply, Weighted, FixedPoint)):
                found[op.name] = found[op.inputs[0]]
        return found

    @property
    def input(self) -> Input:
        """The image."""
        (found,) = (op for op in self.operations if isinstance(op, Input))
        return found

    @property
    def accumulator_bits(self) -> dict[str, int]:
        """Width, sign included, that the accumulators of each layer need."""
        kinds = (Convolve, Multiply, SumPool)
        return {
            op.name: op.largest.bit_length() + 1 for op in self.operations if isinstance(op, kinds)
        }
