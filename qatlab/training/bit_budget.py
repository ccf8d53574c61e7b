"""What the bits of layers and sites cost together, and how they are held to a budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.errors import ConfigError, wrong
from qatlab.quant import ModelTable
from qatlab.quant.table import FLOAT_BITS

Array = NDArray[np.float64]
KEY = "callbacks.learned_bits"
UNITS = {"size": "bytes", "bops": "bit operations", "mean_bits": "bits"}
NEAR = 0.02  # whole bits cost at most the budget, and less than this share of it below
HALVINGS = 50


class BitBudget:
    """The cost of a network by the bits of what may have others, and its limit.

    It is a sum of products: of the bits of a layer's weights and, for bit operations, the most bits
    that the layer reads in a call.

    Args:
        table: of the network.
        kind: ``size``: bytes as deployed; ``mean_bits``: of all weights that are quantized;
            ``bops``: multiply-accumulates, each times the bits of both factors.
        limit: the budget, in these units.
        kept: names of layers and sites that keep their bits.
        lowest: bits of each at least.
        highest: bits of each at most.

    Attributes:
        names: layers and, for ``bops``, sites whose bits are free, in the order of all arrays here.

    Raises:
        ConfigError: for a budget that no bits meet, or that asks for nothing.
    """

    def __init__(
        self,
        table: ModelTable,
        kind: str,
        limit: float,
        kept: Collection[str],
        lowest: int,
        highest: int,
    ) -> None:
        self.kind, self.limit, self.lowest, self.highest = kind, float(limit), lowest, highest
        weights = [row for row in table.layers if row.part == "weight"]
        free = {row.name for row in table.layers if row.bits is not None} - {*kept}
        # Each term: its factor, whose bits, and of whose bits the most are the other factor.
        terms: list[tuple[float, str | int, tuple[str | int, ...]]] = []
        self._constant = 0.0
        bits_of = {row.name: row.bits or FLOAT_BITS for row in table.layers}
        if kind == "bops":
            assert table.costs is not None  # a converted network's table has them
            self._constant = float(table.float_macs * FLOAT_BITS**2)
            for row in weights:
                terms += [(macs, row.name, read) for read, macs in table.costs.reads(row.name)]
        else:
            quantized = sum(row.parameters for row in weights if row.bits is not None)
            share = 1 / 8 if kind == "size" else 1 / max(quantized, 1)
            for row in weights:
                if row.name in free:
                    terms.append((row.parameters * share, row.name, (1,)))
                    # Each layer begins with a byte of its own.
                    self._constant += 7 / 8 if kind == "size" and row.parameters % 8 else 0.0
                elif kind == "size":
                    self._constant += row.size_bytes
                elif row.bits is not None:
                    self._constant += row.parameters * row.bits * share
            self._constant += table.bias_bytes if kind == "size" else 0.0
        used = {name for _, left, read in terms for name in (left, *read)}
        self.names = [row.name for row in table.layers if row.name in free & used]
        place: dict[str | int, int] = {name: i for i, name in enumerate(self.names)}
        fixed: list[float] = []
        for name in dict.fromkeys(x for _, left, read in terms for x in (left, *read)):
            if name not in place:
                place[name] = len(self.names) + len(fixed)
                fixed.append(bits_of[name] if isinstance(name, str) else name)
        widest = max((len(read) for _, _, read in terms), default=1)
        self._fixed = np.array(fixed)
        self._factors = np.array([factor for factor, _, _ in terms])
        self._left = np.array([place[left] for _, left, _ in terms], dtype=int)
        self._read = np.array(
            [[place[(*read, *[read[0]] * widest)[i]] for i in range(widest)] for *_, read in terms],
            dtype=int,
        )
        self._check()

    def cost(self, bits: Array) -> float:
        """Return what these bits cost, whole or not; they are in the order of ``names``."""
        left, read, _ = self._values(bits)
        return self._constant + float(self._factors @ (left * read))

    def slopes(self, bits: Array) -> Array:
        """Return the derivatives of the cost."""
        left, read, most = self._values(bits)
        found = np.zeros(len(bits) + len(self._fixed))
        np.add.at(found, self._left, self._factors * read)
        np.add.at(found, most, self._factors * left)
        return found[: len(bits)]

    def uniform(self) -> Array:
        """Return the same width for all, with which they cost the budget."""
        ones = np.ones(len(self.names))
        return self.held(self.lowest * ones, ones)

    def held(self, bits: Array, direction: Array) -> Array:
        """Return bits within the range that cost the budget, moved along a direction.

        Args:
            bits: any.
            direction: how far each moves beside others; at least 0, of some above it.
        """
        direction = direction / direction.max()
        reach = self.highest - self.lowest + float(np.ptp(bits)) + abs(bits - self.lowest).max()
        below = -reach / direction[direction > 0].min()
        above = -below
        for _ in range(HALVINGS):
            middle = (below + above) / 2
            if self.cost(self._within(bits + middle * direction)) > self.limit:
                above = middle
            else:
                below = middle
        return self._within(bits + below * direction)

    def rounded(self, widths: Array) -> list[int]:
        """Return whole bits that cost at most the budget, and within 2 % of it where any do.

        A search from the nearest whole numbers, which changes those of one layer or site at a time,
        or of two where one does not do: towards the budget, and as near to the widths as may be.
        """
        bits = self._within(widths.round())
        for strict in (False, True):
            while (better := self._nearer(bits, widths, strict)) is not None:
                bits = better
        return [int(own) for own in bits]

    def _nearer(self, bits: Array, widths: Array, strict: bool) -> Array | None:
        """Return the best neighbour of whole bits that is better than these."""

        def price(own: Array) -> tuple[float, float]:
            off = self.cost(own) / self.limit - 1
            beyond = max(off, -NEAR - off, 0.0)
            beyond += strict and off > 1e-12
            return (beyond if beyond > 1e-12 else 0.0), float(np.square(own - widths).sum())

        others = [
            (i, other)
            for i, own in enumerate(bits)
            for other in range(self.lowest, self.highest + 1)
            if other != own
        ]
        now = price(bits)
        for count in (1, 2):
            best, found = now, None
            for change in itertools.combinations(others, count):
                own = bits.copy()
                for i, other in change:
                    own[i] = other
                if (its := price(own)) < best:
                    best, found = its, own
            if found is not None:
                return found
            if now[0] == 0:
                break
        return None

    def _within(self, bits: Array) -> Array:
        return bits.clip(self.lowest, self.highest)

    def _values(self, bits: Array) -> tuple[Array, Array, NDArray[Any]]:
        """Return both factors of each term, and the place of what the second one is."""
        values = np.concatenate([bits, self._fixed])
        read = values[self._read]
        most = self._read[np.arange(len(read)), read.argmax(1)]
        return values[self._left], values[most], most

    def _check(self) -> None:
        key = f"{KEY}.budget.{self.kind}"
        if not self.names:
            raise ConfigError(
                f"{key}: no bits can be learned, as rules give the bits of each layer, or keep it "
                "in float; leave out such a rule, as ~quant.rules.first does."
            )
        ends = [self.cost(np.full(len(self.names), float(n))) for n in (self.lowest, self.highest)]
        if not ends[0] <= self.limit < ends[1]:
            least, most = self.shown(ends[0], math.ceil), self.shown(ends[1], math.floor)
            raise wrong(
                key,
                int(self.limit) if self.limit.is_integer() else self.limit,
                f"a number from {least} {UNITS[self.kind]} (lowest={self.lowest} everywhere) to "
                f"below {most} (highest={self.highest} everywhere); layers and sites whose bits "
                "rules give keep these",
            )

    def shown(self, cost: float, whole: Any = round) -> str:
        """Return a cost in its digits: mean bits have three behind the point."""
        if self.kind == "mean_bits":
            return f"{whole(cost * 1000) / 1000:.3f}"
        return f"{whole(cost):,}"


def budget_of(key: str, budget: Any) -> tuple[str, float]:
    """Return kind and limit of a budget in a configuration.

    Args:
        key: where it stands.
        budget: a mapping from one of ``UNITS`` to a number; None for the others.

    Raises:
        ConfigError: for anything else.
    """
    accepted = f"one of {', '.join(UNITS)}, as in {key}.mean_bits=3"
    if not isinstance(budget, dict) or not all(isinstance(name, str) for name in budget):
        raise wrong(key, budget, accepted)
    for name in budget:
        if name not in UNITS:
            raise wrong(key, name, list(UNITS))
    given = {name: limit for name, limit in budget.items() if limit is not None}
    if len(given) != 1:
        names: Sequence[str] = list(given)
        found = " and ".join(names) if names else "none"
        raise ConfigError(f"{key} has {found}. Accepted: exactly {accepted}.")
    ((kind, limit),) = given.items()
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < math.inf:
        raise wrong(f"{key}.{kind}", limit, f"a number above 0, of {UNITS[kind]}")
    return kind, float(limit)
