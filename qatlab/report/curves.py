"""Curves of a run: ``metrics.csv`` read in one pass, and no more of it kept than a screen shows."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from qatlab.errors import ConfigError
from qatlab.results.limits import (
    BYTES,
    LONGEST_LINE,
    LONGEST_PHASE,
    LONGEST_TEXT,
    METRICS,
    MOST_BUCKETS,
    MOST_BUCKETS_OF_A_RUN,
    MOST_CELLS,
    MOST_PHASES,
    MOST_QUANTIZER_COLUMNS,
)
from qatlab.system import files

CURVES = ("train/acc", "val/acc", "train/loss", "val/loss")
LEARNED = ("alpha", "step_size")
PIECE = 1 << 20  # characters that are read at a time
ROWS_AT_ONCE = 4096  # that are added to the curves: with thousands of these, few take long
CELLS_AT_ONCE = 4_000_000
LAST_EPOCH = float(1 << 53)  # there are whole numbers above that no float is

Array = NDArray[np.float64]
Values = list[float | None]


class Curves:
    """Curves over the same epochs that come piece by piece; of many rows only some are kept.

    Kept are the first and the last value of each curve, and the lowest and the highest one of each
    bucket, which is a number of rows in succession: so no peak is lost. A row is kept for all of
    the curves.

    Args:
        count: of curves.
        buckets: the most there are; more than twice as many rows are thinned.
    """

    def __init__(self, count: int, buckets: int) -> None:
        self._buckets = buckets
        self._rows = 0  # that were added
        self._kept: Array = np.empty((0, 2 + count))  # number of the row, its epoch, its values

    def add(self, epochs: Array, values: Array) -> None:
        """Add ``epochs``, shape (rows,), and ``values``, shape (rows, curves), NaN where none."""
        numbers = np.arange(self._rows, self._rows + len(epochs))
        self._rows += len(epochs)
        self._kept = np.concatenate([self._kept, np.column_stack([numbers, epochs, values])])
        if len(self._kept) > 4 * self._buckets:
            self._thin()

    @property
    def thinned(self) -> bool:
        """Whether there are too many rows to keep all."""
        return self._rows > 2 * self._buckets

    def points(self) -> tuple[Array, Array]:
        """Return what is kept: epochs, shape (rows,), and values, shape (curves, rows)."""
        if self.thinned:
            self._thin()
        return self._kept[:, 1], self._kept[:, 2:].T

    def _thin(self) -> None:
        width = 1
        while self._rows > width * self._buckets:
            width *= 2  # buckets are joined whole, so the extremes of both are those of the new one
        bucket = self._kept[:, 0] // width
        keep = np.zeros(len(bucket), bool)
        for values in self._kept[:, 2:].T:
            known = np.flatnonzero(np.isfinite(values))
            if known.size:
                keep[known[_extremes(bucket[known], values[known])]] = True
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        keep[starts[~np.logical_or.reduceat(keep, starts)]] = True  # without any value: a gap
        self._kept = self._kept[keep]


def _extremes(bucket: Array, values: Array) -> NDArray[np.intp]:
    """Return the places of the first and the last value, and of the extremes of each bucket."""
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    sizes = np.diff(starts, append=len(values))
    found = [np.array([0, len(values) - 1])]
    for extreme in (np.minimum, np.maximum):
        hits = np.flatnonzero(values == np.repeat(extreme.reduceat(values, starts), sizes))
        found.append(hits[np.diff(bucket[hits], prepend=-1) > 0])  # the first of equal ones
    return np.concatenate(found)


def read_curves(file: Path) -> dict[str, Any]:
    """Return what the page draws of a ``metrics.csv``, as JSON.

    Returns:
        ``curves``: epochs (from 1), first and last epoch of each phase, and accuracies and losses;
        empty where there are none. ``quantizers``: epochs, and for each learned value its name,
        what it is, the values, and the clipped shares. Where these are thinned, each has epochs of
        its own behind them, and ``epochs`` are the first and the last one.

    Raises:
        ConfigError: if the file is damaged.
    """
    files.check_regular(file, BYTES[METRICS])
    try:
        with file.open(encoding="utf-8") as stream:
            return _Reader(file, stream).read()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {file}: it is not UTF-8 text") from error


class _Reader:
    """Reads one file."""

    def __init__(self, file: Path, stream: TextIO) -> None:
        self.file, self.stream = file, stream
        self.line = 1  # number of the first of the lines at work
        self.columns: list[str] = []
        self.places: dict[str, int] = {}  # of the columns
        self.cells = 0  # that were read
        self.phases: list[list[Any]] = []  # name, first and last epoch of each

    def read(self) -> dict[str, Any]:
        """Return the content for the page."""
        pieces = self._pieces()
        first = next(pieces, [])
        self.columns = self._header(first)
        self.places = {name: place for place, name in enumerate(self.columns)}
        series = [name for name in CURVES if name in self.places]
        learned = [x for x in self.columns if x.startswith("quant/") and _last(x) in LEARNED]
        clipped = {_clipped(x) for x in learned} & set(self.columns)
        if len(learned) + len(clipped) > MOST_QUANTIZER_COLUMNS:
            raise ConfigError(
                f"{self.file} has {len(learned) + len(clipped):,} columns of quantizers, and at "
                f"most {MOST_QUANTIZER_COLUMNS:,} are read."
            )
        groups = [series, *([column] for column in (*learned, *clipped))]
        buckets = min(MOST_BUCKETS, max(2, MOST_BUCKETS_OF_A_RUN // len(groups)))
        curves = [Curves(len(group), buckets) for group in groups]
        names = ["epoch", *chain.from_iterable(groups)]
        self.line = 2
        waiting: list[Array] = []
        for lines in chain([first[1:]], pieces):
            self._count(lines)
            waiting.append(self._rows(lines, names))
            self.line += len(lines)
            rows = sum(map(len, waiting))
            if rows >= ROWS_AT_ONCE or rows * len(names) >= CELLS_AT_ONCE:
                _add(waiting, groups, curves)
        _add(waiting, groups, curves)
        return {
            "curves": self._learning(series, curves[0]),
            "quantizers": _quantizers(
                learned,
                {group[0]: curve for group, curve in list(zip(groups, curves, strict=True))[1:]},
            ),
        }

    def _pieces(self) -> Iterator[list[str]]:
        """Yield lines without their ends."""
        rest = ""
        while block := self.stream.read(PIECE):
            lines = (rest + block).split("\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                words = f"{self.file} has a line of more than {LONGEST_LINE:,} characters."
                raise ConfigError(words)
            if lines:
                yield lines
        if rest:
            yield [rest]

    def _header(self, lines: Sequence[str]) -> list[str]:
        try:
            columns = next(csv.reader(lines, strict=True), [])
        except csv.Error:
            columns = []
        if "epoch" not in columns or len(set(columns)) != len(columns):
            raise ConfigError(f"{self.file}:1: this is not the header of a metrics file.")
        if max(map(len, columns)) > LONGEST_TEXT:
            words = f"{self.file}:1: a column has a name of more than {LONGEST_TEXT:,} characters."
            raise ConfigError(words)
        return columns

    def _count(self, lines: Sequence[str]) -> None:
        self.cells += len(lines) * len(self.columns)
        if self.cells > MOST_CELLS:
            raise ConfigError(
                f"{self.file} has more than {MOST_CELLS:,} cells (rows times columns), which is "
                "the most that is read."
            )

    def _rows(self, lines: list[str], names: Sequence[str]) -> Array:
        """Return the values of columns, of which the first is the epoch, where that is known."""
        lines = self._whole(lines)
        if not lines:
            return np.empty((0, len(names)))
        numbers = self._numbers(lines, names)
        known = ~np.isnan(numbers[:, 0])
        epochs = numbers[known, 0]
        if not ((epochs >= 0) & (epochs < LAST_EPOCH) & (epochs == np.floor(epochs))).all():
            raise ConfigError(f"{self.file} has an epoch that is not a whole number.")
        if "phase" in self.places:
            place = self.places["phase"]
            phases = [line.split(",", place + 1)[place] for line in lines]
            self._note_phases([x for x, at in zip(phases, known, strict=True) if at], epochs)
        return numbers[known]

    def _whole(self, lines: list[str]) -> list[str]:
        """Return rows that are known to have a cell for each column, without quotes."""
        commas = len(self.columns) - 1
        as_usual = {line.count(",") for line in lines} <= {commas} and (commas or all(lines))
        if as_usual and '"' not in "".join(lines):
            return lines
        try:
            rows = [row for row in csv.reader(lines, strict=True) if row]
        except csv.Error as error:
            words = f"cannot read {self.file}: {error} (behind line {self.line - 1})"
            raise ConfigError(words) from error
        for i, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise ConfigError(f"{self.file}:{self.line + i}: this row is incomplete.")
        return [",".join(cell.replace(",", " ") for cell in row) for row in rows]

    def _numbers(self, lines: Sequence[str], names: Sequence[str]) -> Array:
        """Return the values of columns, shape (rows, columns); NaN where a cell is empty."""
        places = [self.places[name] for name in names]
        ways: tuple[Callable[[Sequence[str]], list[str]], ...] = (list, _filled)
        for prepared in ways:  # often, no cell is empty
            with suppress(ValueError):
                rows = prepared(lines)
                return np.loadtxt(rows, delimiter=",", usecols=places, comments=None, ndmin=2)
        return self._one_by_one(lines, places)

    def _one_by_one(self, lines: Sequence[str], places: Sequence[int]) -> Array:
        """Do as `_numbers`, slowly, to find what is not a number."""
        numbers = np.full((len(lines), len(places)), math.nan)
        for i, line in enumerate(lines):
            cells = line.split(",")
            for k, place in enumerate(places):
                try:
                    numbers[i, k] = float(cells[place].strip() or math.nan)
                except ValueError as error:
                    raise ConfigError(
                        f"{self.file}:{self.line + i}: {self.columns[place]:.40} is "
                        f"{cells[place][:40]!r}, not a number."
                    ) from error
        return numbers

    def _note_phases(self, phases: Sequence[str], epochs: Array) -> None:
        """Note where phases begin and end."""
        row = 0
        for phase, group in groupby(phases):
            first = int(epochs[row]) + 1
            row += sum(1 for _ in group)
            last = int(epochs[row - 1]) + 1
            if self.phases and phase in ("", self.phases[-1][0]):
                self.phases[-1][2] = last
            elif phase:
                self.phases.append([phase, first, last])
            if len(self.phases) > MOST_PHASES or len(phase) > LONGEST_PHASE:
                raise ConfigError(
                    f"{self.file} has more than {MOST_PHASES} phases, or one with a name of more "
                    f"than {LONGEST_PHASE} characters."
                )

    def _learning(self, series: Sequence[str], curves: Curves) -> dict[str, Any]:
        epochs, values = curves.points()
        known = {
            name: _json(curve)
            for name, curve in zip(series, values, strict=True)
            if np.isfinite(curve).any()
        }
        return {"epochs": _from_1(epochs), "phases": self.phases, "series": known} if known else {}


def _add(waiting: list[Array], groups: Sequence[Sequence[str]], curves: Sequence[Curves]) -> None:
    """Add the rows that wait to all curves."""
    if not waiting:
        return
    numbers = np.concatenate(waiting)
    waiting.clear()
    start = 1
    for group, curve in zip(groups, curves, strict=True):
        curve.add(numbers[:, 0], numbers[:, start : start + len(group)])
        start += len(group)


def _filled(lines: Sequence[str]) -> list[str]:
    """Return rows with ``nan`` in empty cells."""
    text = "\n" + "\n".join(lines) + "\n"
    for _ in range(2):  # of two empty cells in succession, the first time finds one
        text = text.replace(",,", ",nan,")
    return text.replace("\n,", "\nnan,").replace(",\n", ",nan\n").split("\n")[1:-1]


def _quantizers(learned: Sequence[str], curves: Mapping[str, Curves]) -> dict[str, Any]:
    points = {name: curve.points() for name, curve in curves.items()}
    if any(curve.thinned for curve in curves.values()):
        return _thinned_quantizers(learned, points)
    values = [points[name][1][0] for name in learned]
    known = np.isfinite(values).any(axis=0) if values else np.empty(0, bool)
    rows = []
    for name, curve in zip(learned, values, strict=True):
        clipped = points[_clipped(name)][1][0] if _clipped(name) in points else np.empty(0)
        shown = _json(clipped[known]) if np.isfinite(clipped).any() else []
        rows.append([_name(name), _last(name), _json(curve[known]), shown])
    return {"epochs": _from_1(points[learned[0]][0][known]) if learned else [], "rows": rows}


def _thinned_quantizers(
    learned: Sequence[str], points: Mapping[str, tuple[Array, Array]]
) -> dict[str, Any]:
    rows = []
    ends: set[int] = set()
    for name in learned:
        pair = [_cut(*points[x]) if x in points else ([], []) for x in (name, _clipped(name))]
        rows.append([_name(name), _last(name), *(y for _, y in pair), *(x for x, _ in pair)])
        ends |= {epoch for x, _ in pair for epoch in (*x[:1], *x[-1:])}
    return {"epochs": sorted({min(ends), max(ends)}) if ends else [], "rows": rows}


def _cut(epochs: Array, values: Array) -> tuple[list[int], Values]:
    """Return a curve from its first to its last value."""
    known = np.flatnonzero(np.isfinite(values[0]))
    part = slice(known[0], known[-1] + 1) if known.size else slice(0)
    return _from_1(epochs[part]), _json(values[0][part])


def _name(column: str) -> str:
    """Return the site or layer of a column such as ``quant/<site>/alpha``."""
    return column.removeprefix("quant/").rpartition("/")[0]


def _last(column: str) -> str:
    return column.rpartition("/")[2]


def _clipped(column: str) -> str:
    return f"{column.rpartition('/')[0]}/clipped"


def _from_1(epochs: Array) -> list[int]:
    return [int(epoch) + 1 for epoch in epochs]


def _json(values: Array) -> Values:
    """Return numbers as far as a screen can show them, None for what JSON cannot hold."""
    return [float(f"{x:.5g}") if math.isfinite(x) else None for x in values.tolist()]
