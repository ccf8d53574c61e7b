"""Where the codes of a network lie in memory: one array of bytes, parts of which are used again.

All channels of a place lie behind each other (rows, columns, channels), so that those of a row of a
window do; the image is given channel by channel. Codes of 0 to 15, and of -8 to 7 as two's
complement, lie two to a byte, the first in its lower half, if there is an even number of channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from qatlab.deploy.c.words import INTEGERS, integer_type, scaled, size_of
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.errors import ConfigError

IMAGE = "image"  # parameter of the program
ARENA = "arena"  # what holds everything else: its bytes are "codes"
WINDOWS = "windows"  # its words: codes of windows, unpacked
ROWS = "rows"  # bytes: rows of codes that a pooling reads at once
WORD = 4  # bytes at whose multiples everything begins
HALVES = ((0, 15), (-8, 7))  # codes of which two lie in a byte
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Tensor:
    """Codes in memory.

    Attributes:
        name: of the operation that makes them.
        kind: C type of a code.
        shape: ``(C, H, W)``; ``(features, 1, 1)`` where it is flat.
        strides: from a channel, a row and a column to the next one, in codes.
        bits: of a code in memory: 4 where two lie in a byte.
    """

    name: str
    kind: str
    shape: Shape
    strides: Shape
    bits: int

    @property
    def pointed(self) -> str:
        """C type that a pointer to the codes points to: bytes, where a code takes more or less."""
        return self.kind if self.bits == 8 else "uint8_t"

    @property
    def is_signed(self) -> bool:
        """Whether codes may be negative."""
        return self.kind.startswith("int")

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
        if self.bits == 4:
            return self.of_half(f"qatlab_get_half({pointer}, {index})")
        wide = self.pointed != self.kind
        return f"qatlab_get_{self.kind}({pointer}, {index})" if wide else f"{pointer}[{index}]"

    def store(self, pointer: str, index: str, code: str) -> str:
        """Return the statement that writes a code: a call or a name, of type ``int32_t``."""
        if self.bits == 4:
            return f"qatlab_put_half({pointer}, {index}, {self._to_half(code)});"
        if self.pointed != self.kind:
            return f"qatlab_put_{8 * size_of(self.kind)}({pointer}, {index}, {code});"
        return f"{pointer}[{index}] = ({self.kind}){code};"

    def of_half(self, bits: str) -> str:
        """Return the code that 4 bits stand for, in C."""
        return f"qatlab_signed_half({bits})" if self.is_signed else bits

    def of_byte(self, byte: str) -> list[str]:
        """Return the two codes that lie in a byte, in C."""
        return [self.of_half(f"({byte} & 15)"), self.of_half(f"({byte} >> 4)")]

    def in_byte(self, first: str, second: str) -> str:
        """Return the byte in which two codes lie, in C."""
        # A negative code must not be shifted; what is beyond the byte is cut off.
        upper = f"{second} * 16" if self.is_signed else f"{second} << 4"
        return f"(uint8_t)({self._to_half(first)} | {upper})"

    def _to_half(self, code: str) -> str:
        return f"({code} & 15)" if self.is_signed else code


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


class Used(NamedTuple):
    """A part of the arena, and when it is needed.

    Attributes:
        name: of what lies there.
        start: byte at which it begins.
        size: bytes.
        first: operation that writes to it first.
        last: operation that reads it last.
    """

    name: str
    start: int
    size: int
    first: str
    last: str


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


def in_words(size: int) -> int:
    """Return a number of bytes, filled up to whole words."""
    return -(-size // WORD) * WORD


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
        image_by_place: whether the channels of a place of the image lie together, too.

    Attributes:
        tensors: by the name of the operation.
        in_place: what is written over another tensor, by its name.

    Raises:
        ConfigError: for codes that 32 bits do not hold.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        shapes: Mapping[str, Sequence[int]],
        image_by_place: bool = False,
    ) -> None:
        self._network, self._image_by_place = network, image_by_place
        self._shapes = {name: three_sides(shape) for name, shape in shapes.items()}
        self._kinds: dict[str, str] = {}
        # Of which tensor it is a part, from which of its channels on.
        self._inside: dict[str, tuple[str, int]] = {}
        self._scratch: dict[tuple[str, str], int] = {}  # by the operation, and what it is for
        self._fused: set[str] = set()
        self.in_place: dict[str, str] = {}  # what lies where another tensor did, by its name
        for name, codes in network.codes.items():
            low, high = codes.low, codes.high
            kind = integer_type(low, high)
            if kind is None or not INTEGERS["int32_t"][0] <= low <= high <= INTEGERS["int32_t"][1]:
                raise ConfigError(f"{name} has codes from {low} to {high}, beyond 32 bits.")
            self._kinds[name] = "int32_t" if kind == "uint32_t" else kind
        for op in network.operations:
            self._share(op)
        halved = self._halved()
        self.tensors = {
            name: Tensor(
                name,
                kind,
                self._shapes[name],
                self._strides(name),
                4 if self._root(name) in halved else 8 * size_of(kind),
            )
            for name, kind in self._kinds.items()
        }

    def reserve(self, name: str, size: int, what: str = WINDOWS) -> None:
        """Keep some bytes for an operation while it runs.

        Args:
            name: of the operation.
            size: the bytes.
            what: they are for: :data:`WINDOWS` or :data:`ROWS`.
        """
        self._scratch[name, what] = in_words(size)

    def fuse(self, name: str) -> None:
        """Let the codes of an operation be made where they are read: they are not stored."""
        self._fused.add(name)

    def overwrite(self, name: str, other: str) -> bool:
        """Let codes lie where others do that nobody needs any more, if they take the same bytes.

        Args:
            name: the operation that makes them, place by place.
            other: the operation whose codes it reads at the same place, and nobody later.

        Returns:
            Whether they do.
        """
        one, two = self.tensors[name], self.tensors[other]
        last = [op.name for op in self._network.operations if other in self._read_by(op)][-1]
        free = name not in self._inside and other not in self._inside
        whole = all(root not in (name, other) for root, _ in self._inside.values())
        alike = (one.shape, one.bits) == (two.shape, two.bits)
        if last != name or not (free and whole and alike) or other == self._network.input.name:
            return False
        self._inside[name] = (other, 0)
        self.in_place[name] = other
        return True

    def is_alone(self, name: str) -> bool:
        """Tell whether codes share no memory with others."""
        return name not in self._inside and all(root != name for root, _ in self._inside.values())

    @property
    def size(self) -> int:
        """Bytes of the arena."""
        return self._plan[1]

    def used(self) -> tuple[Used, ...]:
        """Return what lies in the arena."""
        names, starts = [op.name for op in self._network.operations], self._plan[0]
        return tuple(
            Used(name, starts[name], block.size, names[block.first], names[block.last])
            for name, block in self._blocks.items()
        )

    @property
    def has_windows(self) -> bool:
        """Whether anything is kept in words."""
        return bool(self._scratch)

    def address(self, tensor: Tensor) -> str:
        """Return where the codes of a tensor begin, in C; all has been reserved and fused."""
        root, within = self._place(tensor.name)
        if root == self._network.input.name:
            at = f"{IMAGE} + {within}" if within else IMAGE
        else:
            start = within * tensor.bits // 8 + self._plan[0][root]
            at = f"{ARENA}.codes + {start}" if start else f"{ARENA}.codes"
        return at if tensor.pointed == "uint8_t" else f"({tensor.pointed} *)({at})"

    def address_of_scratch(self, name: str, what: str, pointed: str = "") -> str:
        """Return where the bytes that are reserved for an operation begin; likewise.

        Args:
            name: of the operation.
            what: they are for.
            pointed: C type that the pointer points to, if they are no windows.
        """
        start = self._plan[0][_scratch_of(name, what)]
        member, start = (what, start // WORD) if what == WINDOWS else ("codes", start)
        at = f"{ARENA}.{member} + {start}" if start else f"{ARENA}.{member}"
        return f"({pointed} *)({at})" if pointed not in ("", "uint8_t") else at

    def written_in_place(self, name: str, reader: str) -> bool:
        """Return whether a tensor lies where the operation that reads it wants it."""
        return self._inside.get(name, ("", 0))[0] == reader

    @cached_property
    def _plan(self) -> tuple[dict[str, int], int]:
        """Where what is kept begins, by its name, and the bytes that all takes."""
        starts, size = planned(list(self._blocks.values()))
        return dict(zip(self._blocks, starts, strict=True)), size

    @cached_property
    def _blocks(self) -> dict[str, Block]:
        """What is kept, by its name."""
        spans: dict[str, list[int]] = {}  # first and last step of each block
        for step, op in enumerate(self._network.operations):
            stored = op.name in self._kinds and op.name not in self._fused
            for name in (*([op.name] if stored else []), *self._read_by(op)):
                spans.setdefault(self._root(name), [step, step])[1] = step
        spans.pop(self._network.input.name, None)
        found = {root: Block(in_words(self._bytes(root)), *span) for root, span in spans.items()}
        steps = {op.name: step for step, op in enumerate(self._network.operations)}
        for (name, what), size in self._scratch.items():
            found[_scratch_of(name, what)] = Block(size, steps[name], steps[name])
        return found

    def _read_by(self, op: ops.Operation) -> Iterator[str]:
        """Yield the tensors that a step reads: what is not stored is computed by its reader."""
        kinds = {other.name: other for other in self._network.operations}

        def stored(name: str) -> Iterator[str]:
            kept = name in self._kinds and name not in self._fused
            if kept or not kinds[name].inputs:
                yield name
            else:
                for term in kinds[name].inputs:
                    yield from stored(term)

        for name in op.inputs:
            yield from stored(name)

    def _halved(self) -> set[str]:
        """Return the blocks in which two codes lie in a byte."""
        fits = {
            name: any(low <= codes.low and codes.high <= high for low, high in HALVES)
            and self._shapes[name][0] % 2 == 0
            for name, codes in self._network.codes.items()
        }
        roots = {self._root(name) for name in self._kinds} - {self._network.input.name}
        for name, (_, first) in self._inside.items():
            fits[name] &= first % 2 == 0
        return roots - {self._root(name) for name, own in fits.items() if not own}

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
        is_image = self._place(name)[0] == self._network.input.name
        if source == shape or (is_image and not self._image_by_place):
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
        planar = is_image and not self._image_by_place
        return in_order(shape) if planar else by_place(shape)

    def _place(self, name: str) -> tuple[str, int]:
        """Return the tensor that this one is a part of, and the first of its codes there."""
        start = 0
        while name in self._inside:
            name, channel = self._inside[name]
            start += channel * self._strides(name)[0]
        return name, start

    def _root(self, name: str) -> str:
        return self._place(name)[0]

    def _bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * self.tensors[name].bits // 8


def _scratch_of(name: str, what: str) -> str:
    return f"{what} of {name}"
