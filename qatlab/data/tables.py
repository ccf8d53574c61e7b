"""Images that a table lists with their classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from qatlab.data.contents import check_file
from qatlab.data.file_sources import LabelledFiles, channels_of_files, existing, readable
from qatlab.data.splits import Shares
from qatlab.data.transforms.limits import whole_number
from qatlab.data.transforms.transform import Part
from qatlab.errors import ConfigError, DataError, wrong

_MOST_DIGITS = 20  # of the number of a class; Python reads 4300


class CsvImages:
    """Images that a table lists with their classes, such as ``cats/1.jpg,cat``.

    Args:
        folder: what the names in the table are relative to.
        file: the table, relative to the folder; values separated by commas.
        training: see :class:`ImageFolder`.
        validation: see there.
        test: see there.
        per_label: see there.
        equal: see there.
        path_column: which column holds the name of the file: its number, from 0, or its title.
        label_column: likewise, of the class. Classes are sorted, as numbers if all are.
        has_titles: whether the first row holds titles.
        delimiter: what separates the values.
        channels: 3 reads images as RGB, 1 as grey.
    """

    def __init__(
        self,
        folder: str,
        file: str,
        training: float = 0.6,
        validation: float = 0.2,
        test: float | None = None,
        per_label: bool = True,
        equal: bool = True,
        path_column: int | str = 0,
        label_column: int | str = 1,
        has_titles: bool = False,
        delimiter: str = ",",
        channels: int = 3,
    ) -> None:
        self.folder = Path(folder)
        self.file = file
        self.shares = Shares(training, validation, test, per_label, equal)
        self.columns = {"path_column": path_column, "label_column": label_column}
        for key, column in self.columns.items():
            if not isinstance(column, str):
                whole_number(f"data.source.{key}", column, 0)
            elif not has_titles:
                raise ConfigError(
                    f"data.source.{key}={column} is a title, but the table has none; set "
                    "data.source.has_titles=true, or give the number of the column."
                )
        self.has_titles = has_titles
        if len(delimiter) != 1:
            raise wrong("data.source.delimiter", delimiter, "one character")
        self.delimiter = delimiter
        self.channels = channels_of_files(channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the table, sorted."""
        return self._found[0]

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        everything = self._found[1]
        return everything.select(self.shares.divide(everything.labels, split, seed)[part])

    @cached_property
    def _found(self) -> tuple[tuple[str, ...], LabelledFiles]:
        """The classes and all files."""
        table = existing(self.folder, f"'{self.file}' is expected there") / self.file
        rows = read_table(table, self.delimiter)
        titles = next(rows, []) if self.has_titles else []
        path, label = (self._place(key, titles) for key in self.columns)
        pairs = []
        for number, row in enumerate(rows, 2 if self.has_titles else 1):
            if len(row) <= max(path, label):
                raise DataError(f"{table}, row {number}: it has only {len(row)} columns.")
            pairs.append((row[path].strip(), row[label].strip()))
        if not pairs:
            raise DataError(f"{table} lists no images.")
        classes = sorted({name for _, name in pairs}, key=_numbers_first)
        label_of = {name: label for label, name in enumerate(classes)}
        files = ((name, label_of[of]) for name, of in pairs)
        return tuple(map(readable, classes)), LabelledFiles.of(self.folder, files)

    def _place(self, key: str, titles: Sequence[str]) -> int:
        column = self.columns[key]
        if not isinstance(column, str):
            return column
        if column not in titles:
            raise wrong(f"data.source.{key}", column, titles, f"These are in {self.file}.")
        return titles.index(column)


def read_table(file: Path, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows of a table that are not empty.

    Raises:
        DataError: if it cannot be read.
    """
    check_file(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            yield from (row for row in csv.reader(lines, delimiter=delimiter) if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error


def _numbers_first(name: str) -> tuple[int, int, str]:
    is_number = name.isdecimal() and len(name) <= _MOST_DIGITS
    return (0, int(name), "") if is_number else (1, 0, name)
