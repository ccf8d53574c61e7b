"""What an integer network is made of: codes of grids, accumulators, and operations on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
Sides = tuple[tuple[int, int], tuple[int, int]]  # above and below, left and right
NO_SIDES: Sides = ((0, 0), (0, 0))


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
    padding: Sides
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
    """Sums over windows, of which zeros beyond the border are a part.

    Attributes:
        codes: of the result, where sums of codes stand for averages; None for sums of accumulators.
        largest: no sum is larger in size.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    codes: Codes | None
    largest: int


@dataclass(frozen=True)
class MaxPool(Operation):
    """Largest code of each window; what stands beyond the border is never the largest."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Slice(Operation):
    """A part of the codes: ``start:stop:step`` of each axis of ``(C, H, W)``, or of features."""

    slices: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Pick(Operation):
    """Some of the channels, or of the features, in an order of their own.

    Attributes:
        channels: their numbers in the input.
    """

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Concatenate(Operation):
    """All channels of the inputs, one after the other.

    Attributes:
        order: numbers of the channels in the order of the result; None as they are.
    """

    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reshape(Operation):
    """The same codes in another shape, ``(C, H, W)`` or ``(features,)``.

    Or accumulators, of which there is one for each channel.
    """

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permute(Operation):
    """Codes in another order: seen as an array of more axes, these exchanged, and in a new shape.

    Attributes:
        split: shape of the array.
        axes: of it, in the new order.
        shape: of the result.
    """

    split: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pad(Operation):
    """Adds channels, rows and columns.

    Attributes:
        amounts: in front and behind, of ``(C, H, W)``.
        mode: ``constant``: code 0; ``reflect``, ``replicate``, ``circular``: copies, as torch does.
        value: the real number that is put there in the mode ``constant``.
    """

    amounts: tuple[tuple[int, int], ...]
    mode: str = "constant"
    value: float = 0.0


@dataclass(frozen=True)
class Reinterpret(Operation):
    """The same codes, which stand for other values: a tensor times a number, plus a number.

    Attributes:
        codes: what they stand for now.
        factor: of the values.
        shift: added to them.
    """

    codes: Codes
    factor: float
    shift: float


@dataclass(frozen=True)
class Weighted(Operation):
    """Real numbers that accumulators and codes stand for.

        sum_i multipliers[i] * input_i + bias + from_offsets

    Attributes:
        multipliers: for each input one number, or one for each channel, or ``(C, H, W)``.
        bias: likewise.
        from_offsets: what the offsets of input codes come to: likewise, as zeros beyond the border
            have none.
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
        slope: what values below 0 are multiplied by first, one number or one for each channel;
            None for 1.
    """

    codes: Codes
    slope: Reals | None = None

    @property
    def zero(self) -> float:
        """The sum that stands for 0."""
        return -self.codes.offset / self.codes.step

    @property
    def below(self) -> Rescale | None:
        """What is computed instead where the sum is below :attr:`zero`."""
        if self.slope is None:
            return None
        multipliers = tuple(product(m, self.slope) for m in self.multipliers)
        bias = np.asarray(product(self.bias - self.zero, self.slope) + self.zero)
        from_offsets = product(self.from_offsets, self.slope)
        return Rescale(self.name, self.inputs, multipliers, bias, from_offsets, self.codes)


@dataclass(frozen=True)
class Output(Weighted):
    """What the network answers.

    Attributes:
        shape: of the answer to one image in the network; () for one number for each class.
        function: a last ``softmax`` or ``log_softmax``, which only files of floats compute.
        places: for each number of the answer, its number among those that are computed here, all
            of which are answers; None where they are in this order.
    """

    shape: tuple[int, ...] = ()
    function: str = ""
    places: Integers | None = None


@dataclass(frozen=True)
class FixedPoint(Operation):
    """The same in whole numbers of 64 bits.

        sum_i multipliers[i] * input_i + offset

    Attributes:
        multipliers: for each input, one for each channel, or ``(C, H, W)``.
        offset: likewise.
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
        below: what is computed instead where the sum is less than ``zero``; None for nothing.
        zero: one for each channel.
    """

    codes: Codes
    below: FixedRescale | None = None
    zero: Integers | None = None


@dataclass(frozen=True)
class FixedOutput(FixedPoint):
    """What the network answers, times ``2**shift``, which is the same for all classes.

    Attributes:
        shape: see :class:`Output`.
        function: likewise.
        places: likewise.
    """

    shape: tuple[int, ...] = ()
    function: str = ""
    places: Integers | None = None


def largest_sizes(operations: Sequence[Operation], codes: Mapping[str, Codes]) -> dict[str, int]:
    """Return, by the name of each result of whole numbers, the size that none of it exceeds."""
    found: dict[str, int] = {}
    for op in operations:
        if isinstance(op, (Convolve, Multiply, SumPool)):
            found[op.name] = op.largest
        elif op.name in codes:
            found[op.name] = codes[op.name].largest
        elif isinstance(op, Reshape):
            found[op.name] = found[op.inputs[0]]
    return found


def along_channels(numbers: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Return numbers in a shape that broadcasts to ``(N, C, ...)``, a tensor of ``ndim``."""
    if numbers.ndim > 1:
        return numbers[None]
    return np.atleast_1d(numbers).reshape(1, -1, *(1,) * (ndim - 2))


def summed(one: Reals, other: Reals) -> Reals:
    """Return the sum of two that are one number, ``(C,)`` or ``(C, H, W)``."""
    return np.asarray(np.add(*_aligned(one, other)))


def product(one: Reals, other: Reals) -> Reals:
    """Return the product of two that are one number, ``(C,)`` or ``(C, H, W)``."""
    return np.asarray(np.multiply(*_aligned(one, other)))


def _aligned(one: Reals, other: Reals) -> tuple[Reals, Reals]:
    ndim = max(one.ndim, other.ndim)
    if ndim < 2:
        return one, other
    return along_channels(one, ndim + 1)[0], along_channels(other, ndim + 1)[0]


def note_codes(op: Operation, known: dict[str, Codes]) -> None:
    """Add which values the codes of an operation stand for, if its results are codes.

    Args:
        op: the operation.
        known: those of the operations in front of it, by their names.
    """
    own = getattr(op, "codes", None)
    if isinstance(own, Codes):
        known[op.name] = own
    elif not isinstance(op, (Convolve, Multiply, Weighted, FixedPoint, SumPool)):
        if not all(name in known for name in op.inputs):
            return  # accumulators in another shape
        inputs = [known[name] for name in op.inputs]
        low, high = min(codes.low for codes in inputs), max(codes.high for codes in inputs)
        if isinstance(op, Pad) and op.mode == "constant":
            low, high = min(low, 0), max(high, 0)
        known[op.name] = replace(inputs[0], low=low, high=high)


@dataclass(frozen=True)
class IntegerNetwork:
    """Operations in the order of computation; the last one is the output.

    Attributes:
        operations: all of them.
        sites: by the name of a site, the operations whose results, one after the other, are its
            codes.
    """

    operations: Sequence[Operation]
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Operation:
        """Return the operation of that name."""
        return next(op for op in self.operations if op.name == name)

    @property
    def codes(self) -> dict[str, Codes]:
        """Those of all results that are codes, by the name of the operation."""
        found: dict[str, Codes] = {}
        for op in self.operations:
            note_codes(op, found)
        return found

    @property
    def input(self) -> Input:
        """The image."""
        (found,) = (op for op in self.operations if isinstance(op, Input))
        return found

    @property
    def output(self) -> Output | FixedOutput:
        """The answer."""
        last = self.operations[-1]
        assert isinstance(last, (Output, FixedOutput))
        return last

    @property
    def accumulator_bits(self) -> dict[str, int]:
        """Width, sign included, that the accumulators of each layer need."""
        kinds = (Convolve, Multiply, SumPool)
        return {
            op.name: op.largest.bit_length() + 1 for op in self.operations if isinstance(op, kinds)
        }
