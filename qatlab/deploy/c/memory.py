"""Where the codes of a network lie in memory: one array of bytes, parts of which are used again.

All channels of a place lie behind each other (rows, columns, channels), so that those of a row of a
window do; the image is given channel by channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qatlab.deploy.c.words import INTEGERS, integer_type, scaled, size_of
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.errors import ConfigError

IMAGE = "image"  # parameter of the program
ARENA = "arena"  # the array of bytes
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Tensor:
    """Codes in memory.

    Attributes:
        kind: C type of a code.
        shape: ``(C, H, W)``; ``(features, 1, 1)`` where it is flat.
        array: :data:`IMAGE` or :data:`ARENA`.
        start: byte of the array at which they begin.
        strides: from a channel, a row and a column to the next one, in codes.
    """

    kind: str
    shape: Shape
    array: str
    start: int
    strides: Shape

    @property
    def pointed(self) -> str:
        """C type that a pointer to the codes points to: bytes, where a code takes several."""
        return self.kind if size_of(self.kind) == 1 else "uint8_t"

    @property
    def address(self) -> str:
        """Where the codes begin, in C."""
        at = f"{self.array} + {self.start}" if self.start else self.array
        return at if self.pointed == "uint8_t" else f"({self.pointed} *)({at})"

    def index(self, c: str, y: str, x: str) -> str:
        """Return C for the index of a place; those along an axis of one are all the same."""
        axes = zip((c, y, x), self.shape, strict=True)
        return self.index_in(*("0" if size == 1 else place for place, size in axes))

    def index_in(self, c: str, y: str, x: str) -> str:
        """Return C for the index of a place, along each axis that is not ``0``."""
        channel, row, column = self.strides
        parts = [
            scaled(f"({place})" if " " in place and stride != 1 else place, stride)
            for place, stride in ((y, row), (x, column), (c, channel))
            if place != "0"
        ]
        return " + ".join(parts) or "0"

    def flat(self, number: str) -> str:
        """Return C for the index of a code by its number in the order channels, rows, columns."""
        channels, height, width = self.shape
        if self.strides == in_order(self.shape) or (height * width == 1 and self.strides[0] == 1):
            return number
        c = f"({number}) / {height * width}" if channels > 1 else "0"
        return self.index(c, f"({number}) / {width} % {height}", f"({number}) % {width}")

    def load(self, pointer: str, index: str) -> str:
        """Return the code at an index behind a pointer, in C."""
        wide = self.pointed != self.kind
        return f"qatlab_get_{self.kind}({pointer}, {index})" if wide else f"{pointer}[{index}]"

    def store(self, pointer: str, index: str, code: str) -> str:
        """Return the statement that writes a code: a call or a name, of type ``int32_t``."""
        if self.pointed != self.kind:
            return f"qatlab_put_{8 * size_of(self.kind)}({pointer}, {index}, {code});"
        return f"{pointer}[{index}] = ({self.kind}){code};"


@dataclass(frozen=True)
class Block:
    """A part of the memory, and the steps of the computation that it is needed for.

    Attributes:
        size: bytes.
        first: step that writes to it first.
        last: step that reads it last.
    """

    size: int
    first: int
    last: int


def planned(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Return where each block starts, and the bytes that all take; the largest is placed first."""
    starts = dict.fromkeys(range(len(blocks)), -1)
    for at in sorted(starts, key=lambda i: (-blocks[i].size, i)):
        block, start = blocks[at], 0
        taken = sorted(
            (starts[i], starts[i] + other.size)
            for i, other in enumerate(blocks)
            if starts[i] >= 0 and other.first <= block.last and block.first <= other.last
        )
        for begin, end in taken:
            if start + block.size <= begin:
                break
            start = max(start, end)
        starts[at] = start
    total = max((starts[i] + block.size for i, block in enumerate(blocks)), default=0)
    return [starts[i] for i in range(len(blocks))], total


def three_sides(shape: Sequence[int]) -> Shape:
    """Return ``(C, H, W)`` of a shape that may be flat."""
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def in_order(shape: Shape) -> Shape:
    """Return the strides of codes that lie channel by channel."""
    _, height, width = shape
    return height * width, width, 1


def by_place(shape: Shape) -> Shape:
    """Return the strides of codes of which all channels of a place lie together."""
    channels, _, width = shape
    return 1, width * channels, channels


def read_by(network: IntegerNetwork, op: ops.Operation) -> Iterator[str]:
    """Yield the tensors of codes that a step reads: accumulators are computed by their reader."""
    kinds, codes = {other.name: other for other in network.operations}, network.codes

    def codes_of(name: str) -> Iterator[str]:
        if name in codes or not kinds[name].inputs:
            yield name
        else:
            for term in kinds[name].inputs:
                yield from codes_of(term)

    for name in op.inputs:
        yield from codes_of(name)


# Operations whose result lies within what they read, and the first of its channels there; None for
# those whose result lies elsewhere.
VIEWS: dict[type[ops.Operation], Callable[[Any], int | None]] = {
    ops.Reinterpret: lambda op: 0,
    ops.Slice: lambda op: op.slices[0][0] if len(op.slices) == 1 and op.slices[0][2] == 1 else None,
}
# Operations that only put channels behind each other, and how many lie in front of all; likewise.
JOINS: dict[type[ops.Operation], Callable[[Any], int | None]] = {
    ops.Concatenate: lambda op: 0 if op.order is None else None,
    ops.Pad: lambda op: (
        None if op.fill is None or any(map(any, op.amounts[1:])) else op.amounts[0][0]
    ),
}


def channels_in_front(table: Mapping[type[ops.Operation], Any], op: ops.Operation) -> int | None:
    """Return what :data:`VIEWS` or :data:`JOINS` says of an operation."""
    found: int | None = table[type(op)](op) if type(op) in table else None
    return found


class Memory:
    """The tensors of a network.

    Args:
        network: its operations.
        shapes: of their results.

    Attributes:
        tensors: by the name of the operation.
        size: bytes of the arena.

    Raises:
        ConfigError: for codes that 32 bits do not hold.
    """

    def __init__(self, network: IntegerNetwork, shapes: Mapping[str, Sequence[int]]) -> None:
        self._network = network
        self._shapes = {name: three_sides(shape) for name, shape in shapes.items()}
        self._kinds: dict[str, str] = {}
        # Of which tensor it is a part, from which of its channels on.
        self._inside: dict[str, tuple[str, int]] = {}
        for name, codes in network.codes.items():
            low, high = codes.low, codes.high
            kind = integer_type(low, high)
            if kind is None or not INTEGERS["int32_t"][0] <= low <= high <= INTEGERS["int32_t"][1]:
                raise ConfigError(f"{name} has codes from {low} to {high}, beyond 32 bits.")
            self._kinds[name] = "int32_t" if kind == "uint32_t" else kind
        for op in network.operations:
            self._share(op)
        image = network.input.name
        spans: dict[str, list[int]] = {}  # first and last step of each block
        for step, op in enumerate(network.operations):
            for name in (*([op.name] if op.name in self._kinds else []), *read_by(network, op)):
                spans.setdefault(self._place(name)[0], [step, step])[1] = step
        spans.pop(image, None)
        blocks = [Block(self._bytes(root), *span) for root, span in spans.items()]
        starts, self.size = planned(blocks)
        places = dict(zip(spans, starts, strict=True))
        self.tensors: dict[str, Tensor] = {}
        for name, kind in self._kinds.items():
            root, within = self._place(name)
            start = within * size_of(kind) + places.get(root, 0)
            array = IMAGE if root == image else ARENA
            self.tensors[name] = Tensor(kind, self._shapes[name], array, start, self._strides(name))

    def written_in_place(self, name: str, reader: str) -> bool:
        """Return whether a tensor lies where the operation that reads it wants it."""
        return self._inside.get(name, ("", 0))[0] == reader

    def _share(self, op: ops.Operation) -> None:
        """Let what hands on codes as they are take no memory of its own."""
        if op.name not in self._kinds:
            return
        if type(op) is ops.Reshape:
            if self._keeps_order(op.inputs[0], self._shapes[op.name]):
                self._inside[op.name] = (op.inputs[0], 0)
        elif (first := channels_in_front(VIEWS, op)) is not None:
            self._inside[op.name] = (op.inputs[0], first)
        elif (first := channels_in_front(JOINS, op)) is not None:
            for name in op.inputs:
                once = op.inputs.count(name) == 1
                free = once and name not in self._inside and name != self._network.input.name
                if free and self._kinds[name] == self._kinds[op.name]:
                    self._inside[name] = (op.name, first)
                first += self._shapes[name][0]

    def _keeps_order(self, name: str, shape: Shape) -> bool:
        """Tell whether codes lie in the order of another shape, too."""
        source = self._shapes[name]
        if source == shape or self._place(name)[0] == self._network.input.name:
            return True
        flat = math.prod(source[1:]) == 1 or (source[0] == 1 and name not in self._inside)
        return flat and (shape[0] == 1 or math.prod(shape[1:]) == 1)

    def _strides(self, name: str) -> Shape:
        """Return from a channel, a row and a column to the next one, in codes."""
        shape = self._shapes[name]
        if name in self._inside:
            whole = self._inside[name][0]
            if self._shapes[whole][1:] == shape[1:]:
                return self._strides(whole)
        is_image = self._place(name)[0] == self._network.input.name
        return in_order(shape) if is_image else by_place(shape)

    def _place(self, name: str) -> tuple[str, int]:
        """Return the tensor that this one is a part of, and the first of its codes there."""
        start = 0
        while name in self._inside:
            name, channel = self._inside[name]
            start += channel * self._strides(name)[0]
        return name, start

    def _bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * size_of(self._kinds[name])
