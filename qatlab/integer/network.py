"""What an integer network is made of: codes of grids, accumulators, and operations on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Codes:
    """The whole numbers that stand for the values of a tensor: ``value = step * code``.

    Attributes:
        low: smallest code.
        high: largest code.
        step: distance of neighbouring values.
    """

    low: int
    high: int
    step: float

    @property
    def bits(self) -> int:
        """Bit width that holds all codes."""
        return (self.high - self.low).bit_length()


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
    """The image, ``(N, C, H, W)``."""

    codes: Codes


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
    """Sums of codes over windows, of which zeros beyond the border are a part."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    largest: int


@dataclass(frozen=True)
class MaxPool(Operation):
    """Largest code of each window; what stands beyond the border is never the largest."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


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
class Rescale(Operation):
    """Accumulators become codes of a site.

        code = clip(round(sum_i multipliers[i] * input_i + offset), low, high)

    Attributes:
        multipliers: for each input one number, or one for each channel.
        offset: likewise.
        codes: of the result.
    """

    multipliers: tuple[Reals, ...]
    offset: Reals
    codes: Codes


@dataclass(frozen=True)
class Output(Operation):
    """What the network answers, as real numbers: ``sum_i multipliers[i] * input_i + offset``."""

    multipliers: tuple[Reals, ...]
    offset: Reals


@dataclass(frozen=True)
class IntegerNetwork:
    """Operations in the order of computation; the last one is the output."""

    operations: Sequence[Operation]

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
