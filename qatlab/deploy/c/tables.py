"""The constants of a program: arrays, of which no number is kept twice where one is enough."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.c.packing import Packed
from qatlab.deploy.c.words import Identifiers, integer_type, number, scaled, size_of

COLUMNS = 96  # of a line of numbers


class Tables:
    """Collects the constant arrays of a program.

    Args:
        identifiers: names of operations in C.

    Attributes:
        sizes: bytes, by the name of the operation that they belong to.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers
        self.sizes: defaultdict[str, int] = defaultdict(int)
        self._declared: list[Callable[[], str]] = []  # made when all else has been written
        self._weights: list[tuple[Packed, str]] = []
        self._names: dict[tuple[str, str], str] = {}  # by what they hold and its owner
        self._words: list[tuple[NDArray[np.uint32], str]] = []

    def declarations(self) -> list[str]:
        """Return C of each array."""
        return [declared() for declared in self._declared]

    def weights(self, owner: str, numbers: Packed) -> str:
        """Add the weights of a layer, and return the name of their array.

        Those of a layer that is called several times are kept once.
        """
        for other, name in self._weights:
            if other.equals(numbers):
                return name
        name = self._name("weights", owner)
        self._weights.append((numbers, name))
        self.sizes[owner] += numbers.size
        self._declared.append(lambda: _declaration("uint8_t", name, numbers.data))
        return name

    def words(self, owner: str, what: str, numbers: NDArray[np.uint32]) -> str:
        """Add words, likewise.

        Args:
            owner: the operation.
            what: the first word of the name of their array.
            numbers: the words.
        """
        for other, name in self._words:
            if np.array_equal(other, numbers):
                return name
        name = self._name(what, owner)
        self._words.append((numbers, name))
        self.sizes[owner] += numbers.nbytes
        self._declared.append(lambda: _declaration("uint32_t", name, numbers))
        return name

    def array(self, what: str, owner: str, numbers: NDArray[Any], kind: str = "") -> str:
        """Add an array, and return its name.

        Args:
            what: the first word of its name.
            owner: the operation.
            numbers: whole or real ones, of any shape.
            kind: C type; the narrowest that holds them, if it is left out.
        """
        flat = numbers.reshape(-1)
        if kind:
            pass
        elif flat.dtype.kind == "f":
            kind = "double"
        else:
            found = integer_type(int(flat.min()), int(flat.max()))
            kind = "int64_t" if found in (None, "uint64_t") else str(found)
        if (what, owner) in self._names:  # asked for again
            return self._names[what, owner]
        name = self._name(what, owner)
        self._declared.append(lambda: _declaration(kind, name, flat))
        self.sizes[owner] += len(flat) * size_of(kind)
        return name

    def _name(self, what: str, owner: str) -> str:
        """Return a name of its own: ``a_b`` of ``c`` is another array than ``a`` of ``b_c``."""
        base = found = f"{what}_{self.identifiers[owner]}"
        number = 2
        while found in self._names.values():
            found, number = f"{base}_{number}", number + 1
        self._names[what, owner] = found
        return found

    def of_place(self, what: str, owner: str, numbers: NDArray[Any], kind: str = "") -> str:
        """Return C for the number of the place ``c, y, x``.

        Args:
            what: the first word of the names of arrays.
            owner: the operation.
            numbers: one, or one for each channel, or ``(C, H, W)``: of these, rows and columns that
                are equal are kept once, as a map differs from its middle only near its border.
            kind: C type; left out, the narrowest for an array, and that of sums for one number.
        """
        if numbers.ndim < 2:
            numbers = np.reshape(numbers, (-1, 1, 1))
        exact = np.ascontiguousarray(numbers).view(np.int64)  # 0.0 and -0.0 are two numbers
        index, stride = [], 1
        for axis, variable, words in ((2, "x", "columns"), (1, "y", "rows"), (0, "c", "channels")):
            _, first, inverse = np.unique(exact, return_index=True, return_inverse=True, axis=axis)
            place, count = variable, exact.shape[axis]
            if len(first) == 1 or (len(first) < count and variable != "c"):
                count = len(first)
                exact, numbers = exact.take(first, axis), numbers.take(first, axis)
                if count > 1:
                    table = self.array(f"{words}_of_{what}", owner, inverse.reshape(-1))
                    place = f"{table}[{variable}]"
            if count > 1:
                index.append(scaled(place, stride))
            stride *= count
        if not index:
            return f"({numbers.item()})" if kind else number(numbers.item())
        return f"{self.array(what, owner, numbers, kind)}[{' + '.join(reversed(index))}]"


def _declaration(kind: str, name: str, flat: NDArray[Any]) -> str:
    if kind == "double":
        words = [value.hex() for value in flat.tolist()]
    elif kind == "uint32_t":
        words = [f"{value:#x}" for value in flat.tolist()]
    else:
        wide = size_of(kind) == 8
        words = [number(value) if wide else str(value) for value in flat.tolist()]
        if kind == "int32_t":  # C has no literal for the smallest one
            words = [word.replace("-2147483648", "-2147483647 - 1") for word in words]
    each = max(COLUMNS // (max(map(len, words)) + 2), 1)
    lines = [", ".join(words[i : i + each]) for i in range(0, len(words), each)]
    body = ",\n    ".join(lines)
    return f"static QATLAB_FLASH const {kind} {name}[{len(words)}] = {{\n    {body}}};"
