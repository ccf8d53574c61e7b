"""What integer networks are made of: codes of grids, accumulators, and operations on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from qatlab.errors import ConfigError

T = TypeVar("T")
Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
Shape = tuple[int, ...]
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

    def in_units(self, unit: float) -> Codes:
        """Return the same codes for the same values in another unit."""
        return replace(self, step=self.step / unit, offset=self.offset / unit)


AS_GIVEN = Codes(0, 255, 1 / 255)  # of images that a file takes in float: whatever they are


class Group(Enum):
    """What operations make: walkers that treat kinds alike ask for it."""

    IMAGE = "bytes"
    SUMS = "sums of 32 bits: accumulators, and sums over windows"
    MOVED = "what is read, in another place or with another meaning"
    SITE = "codes that are the nearest to real numbers"
    ANSWER = "real numbers"


@dataclass(frozen=True)
class Operation:
    """One step of the computation.

    Each kind is a class, which knows its codes and its group. What is done with it is an entry of
    a table from kinds to functions, for each target that it has: ``COMPUTED`` of ``vectorised``,
    ``MOVES`` or ``WRITERS`` of ONNX files, ``COPIES`` or ``WRITERS`` of C.

    Attributes:
        name: of its result: path of the layer, site or pooling.
        inputs: names of what it reads.
        group: what it makes.
    """

    name: str
    inputs: tuple[str, ...]
    group: ClassVar[Group]

    def codes_of(self, known: Mapping[str, Codes]) -> Codes | None:
        """Return which values the codes of the result stand for; None if it is no codes.

        Args:
            known: those of the operations in front of it, by their names.
        """
        own: Codes | None = getattr(self, "codes", None)
        return own

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return the shape of the result for one image, by those of what is read.

        Shapes are ``(C, H, W)`` or ``(features,)``. That of an answer is the one in which it is
        computed.
        """
        return np.broadcast_shapes(*inputs)


class Sums(Operation):
    """What adds up products or codes.

    Attributes:
        largest: no sum is larger in size.
    """

    group = Group.SUMS
    largest: int


class Move(Operation):
    """What hands on codes, or accumulators, as they are."""

    group = Group.MOVED

    @property
    def fill(self) -> float | None:
        """The real number in places that nothing is handed on to; None if there are none."""
        return None

    def codes_of(self, known: Mapping[str, Codes]) -> Codes | None:
        """Return codes that hold those of all inputs, and code 0 where something is filled."""
        if not all(name in known for name in self.inputs):
            return None  # accumulators in another shape
        inputs = [known[name] for name in self.inputs]
        ends = [end for codes in inputs for end in (codes.low, codes.high)]
        ends += [] if self.fill is None else [0]
        return replace(inputs[0], low=min(ends), high=max(ends))


@dataclass(frozen=True)
class Input(Operation):
    """The image.

    Attributes:
        codes: of its values, before the steps and offsets of its channels.
        shape: ``(C, H, W)``.
    """

    group = Group.IMAGE
    codes: Codes
    shape: tuple[int, int, int]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return that of the image."""
        return self.shape


@dataclass(frozen=True)
class Convolve(Sums):
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

    @property
    def kernel(self) -> tuple[int, int]:
        """Rows and columns of the taps."""
        rows, columns = self.weight.shape[2:]
        return rows, columns

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return an accumulator for each place of each output channel."""
        return (len(self.weight), *inner(self, inputs[0]))


@dataclass(frozen=True)
class Multiply(Sums):
    """Accumulators of a fully-connected layer: ``weight`` has codes ``(C_out, C_in)``."""

    groups: ClassVar[int] = 1
    weight: Integers
    largest: int

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return an accumulator for each output."""
        return (len(self.weight),)


@dataclass(frozen=True)
class Product(Sums):
    """Products of the codes of two tensors, one of which may be one number for many places.

    A side of 1 is broadcast: gates of shape ``(C, 1, 1)`` multiply each place of their channel.
    """

    largest: int


@dataclass(frozen=True)
class SumPool(Sums):
    """Sums over windows, of which zeros beyond the border are a part.

    Attributes:
        codes: of the result, where sums of codes stand for averages; None for sums of accumulators.
        largest: no sum is larger in size.
    """

    dilation: ClassVar[tuple[int, int]] = (1, 1)
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    codes: Codes | None
    largest: int

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return a sum for each window."""
        return (inputs[0][0], *inner(self, inputs[0]))


@dataclass(frozen=True)
class MaxPool(Move):
    """Largest code of each window; what stands beyond the border is never the largest."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    dilation: tuple[int, int]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return a code for each window."""
        return (inputs[0][0], *inner(self, inputs[0]))


Windowed = Convolve | SumPool | MaxPool


@dataclass(frozen=True)
class Slice(Move):
    """A part of the codes: ``start:stop:step`` of the first axes of ``(C, H, W)``, or features."""

    slices: tuple[tuple[int, int, int], ...]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return what is left of each axis."""
        left = (len(range(*part)) for part in self.slices)
        return (*left, *inputs[0][len(self.slices) :])


@dataclass(frozen=True)
class Pick(Move):
    """Some of the channels, or of the features, in an order of their own.

    Attributes:
        channels: their numbers in the input.
    """

    channels: tuple[int, ...]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return as many channels as were picked."""
        return (len(self.channels), *inputs[0][1:])


@dataclass(frozen=True)
class Gather(Move):
    """Rows and columns in an order of their own: some left out, others several times.

    Attributes:
        rows: their numbers in the input.
        columns: likewise.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return as many rows and columns as there are numbers."""
        return (inputs[0][0], len(self.rows), len(self.columns))


@dataclass(frozen=True)
class Concatenate(Move):
    """All channels of the inputs, one after the other.

    Attributes:
        order: numbers of the channels in the order of the result; None as they are.
    """

    order: tuple[int, ...] | None = None

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return the channels of all inputs together."""
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True)
class Reshape(Move):
    """The same codes in another shape, ``(C, H, W)`` or ``(features,)``.

    Or accumulators, of which there is one for each channel.
    """

    shape: tuple[int, ...]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return the new shape."""
        return self.shape


@dataclass(frozen=True)
class Permute(Move):
    """Codes in another order: seen as an array of more axes, these exchanged, and in a new shape.

    Attributes:
        split: shape of the array.
        axes: of it, in the new order.
        shape: of the result.
    """

    split: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return the new shape."""
        return self.shape


@dataclass(frozen=True)
class Pad(Move):
    """Adds channels, rows and columns.

    Attributes:
        amounts: in front and behind, of ``(C, H, W)``.
        mode: ``constant``: code 0; ``reflect``, ``replicate``, ``circular``: copies, as torch does.
        value: the real number that is put there in the mode ``constant``.
    """

    amounts: tuple[tuple[int, int], ...]
    mode: str = "constant"
    value: float = 0.0

    def shape_of(self, *inputs: Shape) -> Shape:
        """Return each axis with what is added to it."""
        axes = zip(inputs[0], self.amounts, strict=True)
        return tuple(size + sum(amounts) for size, amounts in axes)

    @property
    def fill(self) -> float | None:
        """The real number that is put there, if it is no copy."""
        return self.value if self.mode == "constant" else None


@dataclass(frozen=True)
class Reinterpret(Operation):
    """The same codes, which stand for other values: a tensor times a number, plus a number.

    Attributes:
        codes: what they stand for now.
        factor: of the values.
        shift: added to them.
    """

    group = Group.MOVED
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

    whole: ClassVar[bool] = False
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

    group = Group.SITE
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
class Table(Operation):
    """Codes of a site that is an activation function of codes: one for each of these.

    Attributes:
        lowest: the code that the first entry is for.
        entries: codes of the result.
        positions: what was rounded to them, in their steps.
        codes: of the result.
        function: name of the activation function, see :mod:`qatlab.quant.ops`.
        settings: its arguments.
    """

    group = Group.SITE
    lowest: int
    entries: Integers
    positions: Reals
    codes: Codes
    function: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Output(Weighted):
    """What the network answers.

    Attributes:
        shape: of the answer to one image in the network; () for one number for each class.
        function: a last ``softmax`` or ``log_softmax``, which only files of floats compute.
        places: for each number of the answer, its number among those that are computed here, all
            of which are answers; None where they are in this order.
        unit: see :class:`FixedOutput`.
    """

    group = Group.ANSWER
    unit: ClassVar[int] = 0
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

    whole: ClassVar[bool] = True
    multipliers: tuple[Integers, ...]
    offset: Integers
    shift: Integers


@dataclass(frozen=True)
class FixedRescale(FixedPoint):
    """``clip((sum_i ... + offset) >> shift, low, high)``; the offset holds the half that rounds.

    Attributes:
        codes: of the result.
        to_even: whether a sum that lies half way between two codes becomes the even one, not the
            upper one: 1 is subtracted from it in front of the shift where its code would be odd,
            which changes no code but that of a tie. No shift is 0 then.
        below: what is computed instead where the sum is less than ``zero``; None for nothing.
        zero: one for each channel.
    """

    group = Group.SITE
    codes: Codes
    to_even: bool = False
    below: FixedRescale | None = None
    zero: Integers | None = None


@dataclass(frozen=True)
class FixedOutput(FixedPoint):
    """What the network answers, times ``2**unit``, the shift of all classes.

    Attributes:
        shape: see :class:`Output`.
        function: likewise.
        places: likewise.
    """

    group = Group.ANSWER
    shape: tuple[int, ...] = ()
    function: str = ""
    places: Integers | None = None

    @property
    def unit(self) -> int:
        """Answers are that power of two larger than the numbers that they stand for."""
        return int(self.shift.flat[0])


def inner(op: Windowed, shape: Sequence[int]) -> tuple[int, ...]:
    """Return rows and columns of what is made of the windows of ``(C, H, W)``."""
    sizes = zip(shape[1:], op.padding, op.dilation, op.kernel, op.stride, strict=True)
    return tuple(
        (size + sum(around) - spread * (taps - 1) - 1) // step + 1
        for size, around, spread, taps, step in sizes
    )


def of_kind(table: Mapping[type[Operation], T], op: Operation, target: str) -> T:
    """Return what a table of a target has for the kind of an operation.

    Raises:
        ConfigError: if it has none.
    """
    if type(op) not in table:
        raise ConfigError(f"{op.name} is a {type(op).__name__}, which has no form in {target}.")
    return table[type(op)]


def largest_sizes(operations: Iterable[Operation], codes: Mapping[str, Codes]) -> dict[str, int]:
    """Return, by the name of each result of whole numbers, the size that none of it exceeds."""
    found: dict[str, int] = {}
    for op in operations:
        if isinstance(op, Sums):
            found[op.name] = op.largest
        elif op.name in codes:
            found[op.name] = codes[op.name].largest
        elif op.group is Group.MOVED:
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
