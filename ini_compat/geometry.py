"""Sizes: kernels, strides, channel connectivity, and the shapes that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from ini_compat.errors import IniError
from ini_compat.network import Shape
from ini_compat.resolve import Section

Pair = tuple[int, int]  # height, width: N2D2 writes X Y, width first

FUNCTION_KEYS = (
    *("Size", "SizeX", "SizeY", "Stride", "StrideX", "StrideY"),
    *("Offset", "OffsetX", "OffsetY", "NbIterations"),
)
MOST_CONNECTIONS = 1 << 24  # of a mapping; more is no network


def pair(
    section: Section, word: str, default: Pair | None, stem: str | None = None, lowest: int = 1
) -> Pair:
    """Read ``KernelDims``, ``KernelSize`` or ``KernelWidth`` and ``KernelHeight``, and the like.

    Args:
        section: of the cell.
        word: what all keys begin with, such as ``Kernel``.
        default: where none is given; None: one has to be.
        stem: the key for one number that holds for both; None: ``word`` itself, as in ``Stride``.
        lowest: smallest number accepted.

    Raises:
        IniError: for three dimensions, numbers that are too small, or none at all.
    """
    ends = ("Width", "Height", "Depth") if stem else ("X", "Y", "Z")
    single = stem or word
    keys = [f"{word}Dims", single, *(word + end for end in ends)]
    found = next((key for key in keys[:2] if section.has(key)), None)
    if found is not None:
        numbers = section.integers(found)
        if len(numbers) == 1:
            numbers = [numbers[0], numbers[0]] if found == single else [*numbers, 1]
    elif any(section.has(key) for key in keys[2:]):
        found = next(key for key in keys[2:] if section.has(key))
        missing = None if default is None else default[0]
        x = section.integer(keys[2], missing) if missing is not None else section.integer(keys[2])
        y = section.integer(keys[3], missing) if missing is not None else section.integer(keys[3])
        numbers = [x, y]
        if section.has(keys[4]):
            numbers.append(section.integer(keys[4]))
    elif default is not None:
        return default
    else:
        raise IniError(
            f"[{section.name}] has no {keys[0]}. Accepted: {keys[0]}, {single}, or {keys[2]} and "
            f"{keys[3]}",
            section.header,
        )
    place = section.place(found)
    extra = numbers[2:]
    if len(numbers) < 2 or any(n != (0 if lowest == 0 else 1) for n in extra):
        raise IniError(
            f"[{section.name}] {found} has {len(numbers)} dimensions; images have two", place
        )
    if min(numbers[:2]) < lowest:
        raise IniError(f"[{section.name}] {found}: {min(numbers[:2])} is below {lowest}", place)
    return numbers[1], numbers[0]


def conv_size(size: int, kernel: int, stride: int, padding: int, dilation: int, sub: int) -> int:
    """Return the output size of a convolution along one axis; may be 0 or less."""
    return ceil(((size + 2 * padding - (dilation * (kernel - 1) + 1) + stride) // stride) / sub)


def pool_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the output size of a pooling along one axis."""
    return (size + 2 * padding - kernel + stride) // stride


def deconv_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the output size of a transposed convolution along one axis."""
    return size * stride + dilation * (kernel - 1) + 1 - 2 * padding - stride


def check_size(section: Section, shape: Shape, before: Shape) -> Shape:
    """Return ``shape`` if all its sides are above 0.

    Raises:
        IniError: otherwise, with the shape that came in.
    """
    if min(shape) < 1:
        raise IniError(
            f"[{section.name}] would have outputs of {text(shape)} for inputs of {text(before)}; "
            "its kernel does not fit",
            section.header,
        )
    return shape


def text(shape: Shape | None) -> str:
    """Return ``6x28x28``."""
    return "?" if shape is None else "x".join(map(str, shape))


class Mapping:
    """Which input channels each output of a cell sees.

    Attributes:
        rows: for each input channel, over all parents, a text of 0 and 1, one for each output.
    """

    def __init__(self, rows: tuple[str, ...]) -> None:
        self.rows = rows

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.rows)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.rows[0])

    @property
    def full(self) -> bool:
        """Whether every output sees every channel."""
        return all("0" not in row for row in self.rows)

    @property
    def identity(self) -> bool:
        """Whether output i sees channel i only."""
        return self.outputs == self.channels and all(
            row.count("1") == 1 and row[i] == "1" for i, row in enumerate(self.rows)
        )

    @property
    def groups(self) -> int:
        """Number of equal, consecutive groups that it consists of; 0 if it does not."""
        width = self.rows[0].count("1")
        if width == 0 or self.outputs % width:
            return 0
        groups = self.outputs // width
        if self.channels % groups:
            return 0
        size = self.channels // groups
        regular = all(
            row
            == "0" * (i // size * width)
            + "1" * width
            + "0" * (self.outputs - (i // size + 1) * width)
            for i, row in enumerate(self.rows)
        )
        return groups if regular else 0


def read_mapping(
    section: Section, parents: Sequence[str], channels: Sequence[int], outputs: int
) -> Mapping:
    """Read the connectivity of a cell (all-to-all where nothing is said).

    Args:
        section: of the cell.
        parents: names of its inputs.
        channels: of each of them.
        outputs: of the cell.

    Raises:
        IniError: for a matrix of another size, groups that do not divide, a channel count that is
            too large.
    """
    if (
        sum(channels) * outputs > MOST_CONNECTIONS
        and any(key.startswith("Mapping") for key in section.keys())
        and not _grouped(section, parents)
    ):
        raise IniError(
            f"[{section.name}] maps {sum(channels)} channels to {outputs} outputs, more than "
            f"{MOST_CONNECTIONS} connections",
            section.header,
        )
    rows: list[str] = []
    for parent, count in zip(parents, channels, strict=True):
        rows += _rows(section, parent, count, outputs)
    return Mapping(tuple(rows))


def _grouped(section: Section, parents: Sequence[str]) -> bool:
    keys = ("NbGroups", "ChannelsPerGroup")
    return any(_key(section, parent, key) for parent in parents for key in keys)


def _key(section: Section, parent: str, name: str) -> str | None:
    """Return ``Mapping(parent).name`` or ``Mapping.name``, whichever is there."""
    for key in (f"Mapping({parent}).{name}", f"Mapping.{name}"):
        if section.has(key):
            return key
    return None


def _rows(section: Section, parent: str, channels: int, outputs: int) -> list[str]:
    groups = _groups(section, parent, channels, outputs)
    if groups:
        # Outputs are split as evenly as possible: the first groups get one more.
        ends = [outputs * (g + 1) // groups for g in range(groups)]
        if outputs % groups:
            small, larger = divmod(outputs, groups)
            ends = [(g + 1) * small + min(g + 1, larger) for g in range(groups)]
        size = channels // groups
        starts = [0, *ends[:-1]]
        return [
            "0" * starts[c // size]
            + "1" * (ends[c // size] - starts[c // size])
            + "0" * (outputs - ends[c // size])
            for c in range(channels)
        ]
    if section.has(f"Mapping({parent})"):
        return _matrix(section, f"Mapping({parent})", channels, outputs)
    if any(_key(section, parent, word) for word in FUNCTION_KEYS):
        return _function(section, parent, channels, outputs)
    return ["1" * outputs] * channels


def _groups(section: Section, parent: str, channels: int, outputs: int) -> int:
    by_count, by_size = (_key(section, parent, k) for k in ("NbGroups", "ChannelsPerGroup"))
    if by_count and by_size:
        raise IniError(
            f"[{section.name}] has both {by_count} and {by_size}. Accepted: one of them",
            section.place(by_size),
        )
    key = by_count or by_size
    if key is None:
        return 0
    number = section.unsigned(key)
    if number == 0 and key == by_count:
        return 0
    if number == 0 or channels % number:
        raise IniError(
            f"[{section.name}] {key}={number} does not divide the {channels} channels of {parent}",
            section.place(key),
        )
    groups = number if key == by_count else channels // number
    if groups > outputs:
        raise IniError(
            f"[{section.name}] {key}={number} makes {groups} groups of {outputs} outputs",
            section.place(key),
        )
    return groups


def _matrix(section: Section, key: str, channels: int, outputs: int) -> list[str]:
    words = section.words(key)
    if len(words) != channels * outputs or set(words) - {"0", "1"}:
        odd = sorted(set(words) - {"0", "1"})
        raise IniError(
            f"[{section.name}] {key} has {len(words)} values"
            + (f", among them '{odd[0]}'" if odd else "")
            + f". Accepted: {channels} rows of {outputs} values 0 or 1",
            section.place(key),
        )
    flat = "".join(words)
    return [flat[c * outputs : (c + 1) * outputs] for c in range(channels)]


def _function(section: Section, parent: str, channels: int, outputs: int) -> list[str]:
    def both(word: str, default: int, read: Callable[[str], int]) -> Pair:
        key = _key(section, parent, word)
        if key is not None:
            numbers = section.integers(key)
            if len(numbers) not in (1, 2) or min(numbers) < 0:
                raise IniError(
                    f"[{section.name}] {key} is wrong. Accepted: one or two numbers from 0 on",
                    section.place(key),
                )
            return numbers[0], numbers[-1]
        x, y = (_key(section, parent, word + end) for end in "XY")
        return (read(x) if x else default, read(y) if y else default)

    size = both("Size", 1, section.unsigned)
    stride = both("Stride", 1, section.unsigned)
    offset = both("Offset", 0, section.unsigned)
    size_x, size_y = size[0] or outputs, size[1] or channels
    key = _key(section, parent, "NbIterations")
    iterations = (section.unsigned(key) if key else 0) or max(outputs, channels)
    if iterations * min(size_x, outputs) * min(size_y, channels) > MOST_CONNECTIONS:
        raise IniError(
            f"[{section.name}]: the mapping of {parent} has too many connections",
            section.header,
        )
    grid = [[False] * outputs for _ in range(channels)]
    for i in range(iterations):
        first_x, first_y = offset[0] + i * stride[0], offset[1] + i * stride[1]
        for y in range(first_y, first_y + min(size_y, channels)):
            for x in range(first_x, first_x + min(size_x, outputs)):
                grid[y % channels][x % outputs] = True
    return ["".join("1" if on else "0" for on in row) for row in grid]
