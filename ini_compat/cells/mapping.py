"""``Mapping``: which input channels each output of a cell sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from ini_compat.errors import IniError, did_you_mean
from ini_compat.network import ENVIRONMENTS, IMAGE
from ini_compat.syntax.resolve import Section

FUNCTION = (
    *("Size", "SizeX", "SizeY", "Stride", "StrideX", "StrideY"),
    *("Offset", "OffsetX", "OffsetY", "NbIterations"),
)
GROUPS = ("NbGroups", "ChannelsPerGroup")
MOST_CONNECTIONS = 1 << 24  # of a mapping that is written out; more is no network
MOST_STEPS, MOST_COPIED = 1 << 20, 1 << 30  # of a mapping function: rows, and pairs in them
KEY = re.compile(r"Mapping(?:\((?P<parent>.*)\))?(?:\.(?P<name>[^.)]*))?", re.DOTALL)


@dataclass(frozen=True)
class Mapping:
    """Which input channels each output of a cell sees.

    Attributes:
        channels: number of input channels, over all parents.
        outputs: number of outputs.
        groups: number of equal, consecutive groups that it consists of; 1: every output sees every
            channel; 0: it is none of these.
        irregular: for each input channel a text of 0 and 1, one for each output; if groups is 0.
    """

    channels: int
    outputs: int
    groups: int = 1
    irregular: tuple[str, ...] = ()

    @property
    def identity(self) -> bool:
        """Whether output i sees channel i only."""
        return self.groups == self.channels == self.outputs

    @property
    def connections(self) -> int:
        """Number of pairs of a channel and an output that sees it."""
        if self.groups:
            return self.channels * self.outputs // self.groups
        return sum(row.count("1") for row in self.irregular)

    @property
    def rows(self) -> tuple[str, ...]:
        """For each input channel a text of 0 and 1, one for each output."""
        if not self.groups:
            return self.irregular
        return tuple(_grouped(self.channels, self.outputs, self.groups))

    @property
    def blind(self) -> bool:
        """Whether an output sees no channel."""
        if self.groups:
            return False
        seen = reduce(or_, (int(row, 2) for row in self.irregular))
        return seen != (1 << self.outputs) - 1


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
        IniError: for unknown keys, a matrix of another size, groups that do not divide, and
            mappings that are too large.
    """
    _check_keys(section)
    names = [_environment(section) if parent == IMAGE else parent for parent in parents]
    groups = [_groups(section, *given) for given in zip(names, channels, strict=True)]
    if len(names) == 1 and groups[0] and outputs % groups[0] == 0:
        return Mapping(channels[0], outputs, groups[0])
    if not any(groups) and not any(_says(section, name) for name in names):
        return Mapping(sum(channels), outputs)
    if len(names) == 1 and channels[0] == outputs and _is_plain(section, names[0]):
        return Mapping(outputs, outputs, outputs)
    check_written_out(section, sum(channels), outputs)
    rows: list[str] = []
    for name, count, number in zip(names, channels, groups, strict=True):
        if number and outputs % number:
            raise IniError(
                f"[{section.name}] has {number} groups for the {count} channels of {name}, which "
                f"do not divide its {outputs} outputs: write which output sees which channel as "
                f"Mapping({name})",
                section.header,
            )
        if number:
            rows += _grouped(count, outputs, number)
        elif section.has(f"Mapping({name})"):
            rows += _matrix(section, f"Mapping({name})", count, outputs)
        elif _says(section, name):
            rows += _function(section, name, count, outputs)
        else:
            rows += ["1" * outputs] * count
    regular = _groups_of(rows)
    return Mapping(len(rows), outputs, regular, () if regular else tuple(rows))


def _environment(section: Section) -> str:
    """Return the name that the section's mapping has for the network's input."""
    used = (name for name in ENVIRONMENTS for key in section if key.startswith(f"Mapping({name})"))
    return next(used, ENVIRONMENTS[0])


def check_written_out(section: Section, channels: int, outputs: int) -> None:
    """Raise an IniError for a mapping that is too large to be written out."""
    if channels * outputs > MOST_CONNECTIONS:
        raise IniError(
            f"[{section.name}] maps {channels} channels to {outputs} outputs, which are more than "
            f"{MOST_CONNECTIONS:,} pairs",
            section.header,
        )


def _check_keys(section: Section) -> None:
    for key in section:
        found = KEY.fullmatch(key)
        if found is None or found["name"] is None:
            continue
        accepted = FUNCTION if found["parent"] is not None else (*FUNCTION, *GROUPS)
        if found["name"] not in accepted:
            raise IniError(
                f"[{section.name}] {key} is not a key of a mapping."
                f"{did_you_mean(found['name'], accepted)} Accepted: {', '.join(accepted)}",
                section.place(key),
            )


def _says(section: Section, parent: str) -> bool:
    """Tell whether the section maps the outputs to a parent, other than by groups."""
    names = [f"{prefix}.{name}" for prefix in _prefixes(parent) for name in FUNCTION]
    return any(section.has(key) for key in (f"Mapping({parent})", *names))


def _prefixes(parent: str) -> tuple[str, str]:
    """Return what the keys of a mapping function begin with; the second one counts more."""
    return "Mapping", f"Mapping({parent})"


def _groups(section: Section, parent: str, channels: int) -> int:
    """Return the number of groups, 0 if nothing is said of groups."""
    given = [f"Mapping.{name}" for name in GROUPS if section.has(f"Mapping.{name}")]
    if len(given) == 2:
        raise IniError(
            f"[{section.name}] {given[1]} cannot be combined with {given[0]}",
            section.place(given[1]),
        )
    if not given:
        return 0
    number = section.unsigned(given[0])
    if number == 0 or channels % number:
        raise section.wrong(given[0], f"a divisor of the {channels} channels of {parent}")
    return number if given[0].endswith("NbGroups") else channels // number


def _grouped(channels: int, outputs: int, groups: int) -> list[str]:
    """Return the rows of groups of equal size."""
    width = outputs // groups
    rows: list[str] = []
    for group in range(groups):
        row = "0" * (group * width) + "1" * width + "0" * (outputs - (group + 1) * width)
        rows += [row] * (channels // groups)
    return rows


def _matrix(section: Section, key: str, channels: int, outputs: int) -> list[str]:
    words = section.words(key)
    odd = sorted(set(words) - {"0", "1"})
    if len(words) != channels * outputs or odd:
        raise IniError(
            f"[{section.name}] {key} has {len(words)} values"
            + (f", among them {odd[0]!r:.40}" if odd else "")
            + f". Accepted: {channels} rows of {outputs} values 0 or 1",
            section.place(key),
        )
    flat = "".join(words)
    return [flat[c * outputs : (c + 1) * outputs] for c in range(channels)]


def _both(section: Section, parent: str, word: str, default: int) -> tuple[int, int]:
    """Return ``SizeX`` and ``SizeY``, or the like; ``Mapping(parent)`` overrides ``Mapping``."""
    x = y = default
    for prefix in _prefixes(parent):
        key = f"{prefix}.{word}"
        if section.has(key):
            x = y = section.unsigned(key)
        else:
            x, y = section.unsigned(f"{key}X", x), section.unsigned(f"{key}Y", y)
    return x, y


def _is_plain(section: Section, parent: str) -> bool:
    """Tell whether a function has its defaults: output i sees channel i."""
    plain = {"Size": 1, "Stride": 1, "Offset": 0}
    return (
        not section.has(f"Mapping({parent})")
        and not any(section.has(f"{prefix}.NbIterations") for prefix in _prefixes(parent))
        and all(_both(section, parent, word, n) == (n, n) for word, n in plain.items())
    )


def _function(section: Section, parent: str, channels: int, outputs: int) -> list[str]:
    size_x, size_y = _both(section, parent, "Size", 1)
    stride_x, stride_y = _both(section, parent, "Stride", 1)
    x, y = _both(section, parent, "Offset", 0)
    iterations = 0
    for prefix in _prefixes(parent):
        iterations = section.unsigned(f"{prefix}.NbIterations", iterations)
    iterations = iterations or max(outputs, channels)
    width, height = min(size_x or outputs, outputs), min(size_y or channels, channels)
    if (width, height) == (outputs, channels):
        return ["1" * outputs] * channels
    steps = iterations * height
    if steps > MOST_STEPS or steps * width > MOST_COPIED:
        raise IniError(f"[{section.name}] maps {parent} in too many steps", section.header)
    grid = [bytearray(b"0" * outputs) for _ in range(channels)]
    for i in range(iterations):
        left, top = (x + i * stride_x) % outputs, y + i * stride_y
        inside = min(width, outputs - left)
        for row in range(top, top + height):
            line = grid[row % channels]
            line[left : left + inside] = b"1" * inside
            line[: width - inside] = b"1" * (width - inside)
    return [row.decode() for row in grid]


def _groups_of(rows: Sequence[str]) -> int:
    """Return the number of equal, consecutive groups that rows consist of; 0 if they do not."""
    channels, outputs, width = len(rows), len(rows[0]), rows[0].count("1")
    if width == 0 or outputs % width or channels % (outputs // width):
        return 0
    groups = outputs // width
    return groups if list(rows) == _grouped(channels, outputs, groups) else 0
