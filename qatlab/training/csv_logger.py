"""Writes ``metrics.csv``: one row per logged step, kept whole when a run is killed and resumed.

Lightning's own ``CSVLogger`` is not used: it deletes an existing file when a run resumes, and it
writes the training and the validation values of the same epoch in separate rows.
"""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat, TextIO

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from qatlab.errors import TrainingError
from qatlab.system.files import check_regular, put, temporary_of
from qatlab.system.terminal import say

FILE_NAME = "metrics.csv"
FIRST_COLUMNS = ("epoch", "step", "phase")


class CsvLogger(Logger):
    """Lightning logger of one CSV file, ``<folder>/metrics.csv``.

    Values that are logged at the same step share a row. An existing file is continued: the first
    value logged drops every old row of a later step, as the killed run wrote those after the
    checkpoint from which this one resumes. An old row of that very step gets the new values, but
    keeps those that are not logged again: from a checkpoint saved on the end of a validation,
    Lightning repeats the end of the epoch without its losses.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self._path = Path(folder) / FILE_NAME
        self._columns = list(FIRST_COLUMNS)
        self._rows: dict[int, dict[str, str]] = {}  # by step, in the order of the file
        self._read = False
        self._continues = False
        self._unsaved = False

    @property
    def name(self) -> str:
        """Empty: the run's folder already has a name, and checkpoints stand directly in it."""
        return ""

    @property
    def version(self) -> str:
        """Empty: a folder holds one run."""
        return ""

    @property
    def root_dir(self) -> str:
        return self._folder

    @property
    def log_dir(self) -> str:
        return self._folder

    @property
    def save_dir(self) -> str:
        return self._folder

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, SupportsFloat], step: int | None = None) -> None:
        """Add numbers to the row of ``step``; without one, to a new row.

        Values named ``test/...`` are left out: they belong to no step of the training (a new
        trainer logs them at step 0), and the run's ``result.json`` holds them.
        """
        numbers = {
            name: _number(value) for name, value in metrics.items() if not name.startswith("test/")
        }
        if numbers.keys() <= {"epoch", "step"}:
            return
        self._read_once()
        self._add(max(self._rows, default=-1) + 1 if step is None else step, numbers)

    @rank_zero_only
    def note(self, step: int, **texts: str) -> None:
        """Add texts, such as the phase, to the row of ``step``: Lightning logs numbers only."""
        self._add(step, texts)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Write nothing: the run's ``config.yaml`` holds what was asked for."""

    @rank_zero_only
    def check(self, epochs: int, steps: int) -> None:
        """Print a remark if the file lacks rows of the run that is going to be resumed.

        Args:
            epochs: that are done.
            steps: that are done; later rows are those of a killed process.

        Raises:
            TrainingError: if the file is damaged.
        """
        there = os.path.lexists(self._path)
        rows = [row for row in read_rows(self._path) if int(row["step"]) < steps] if there else []
        known = [row for row in rows if row.get("epoch", "").isdecimal()]
        last = int(known[-1]["epoch"]) + 1 if known else 0  # from 1, as in reports
        if last >= epochs:
            return
        found = f"ends at step {known[-1]['step']}, in epoch {last}" if known else "has no rows"
        lacks = f"epoch {last + 1}" + (f" to {epochs}" if epochs > last + 1 else "")
        say(
            f"{self._path} {found if there else 'is missing'}: the run goes on, and its curves "
            f"lack {lacks}."
        )

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew under a temporary name and rename it, if anything was added."""
        self._read_once()
        if not self._unsaved:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_of(self._path)
        temporary.unlink(missing_ok=True)  # a link there is not followed
        with temporary.open("x", encoding="utf-8", newline="") as file:
            # A site's or a layer's own, such as quant/relu1/clipped, come behind those of the run.
            columns = sorted(self._columns, key=lambda name: name.count("/") > 1)
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())
        put(temporary, self._path)
        self._unsaved = False

    def _read_once(self) -> None:
        """Read what there is: not before the training starts, as it may be brought until then."""
        if self._read:
            return
        self._read = True
        if os.path.lexists(self._path):
            for row in read_rows(self._path):
                self._columns = list(row)
                self._rows[int(row["step"])] = row
        self._continues = bool(self._rows)

    def _add(self, step: int, cells: Mapping[str, str]) -> None:
        self._read_once()
        if self._continues:
            self._rows = {old: row for old, row in self._rows.items() if old <= step}
            self._continues = False
        self._columns += [name for name in cells if name not in self._columns]
        # "step" last: a metric of that name is Lightning's way to choose the step itself.
        self._rows.setdefault(step, {}).update({**cells, "step": str(step)})
        self._unsaved = True


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv`` as texts.

    A last line without an end is left out: the file was cut there, also where the cell looks whole.

    Raises:
        ConfigError: if it is not a regular file.
        TrainingError: naming the first row that is damaged.
    """
    check_regular(Path(path))
    rows: dict[int, dict[str, str]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(_complete_lines(file))
            columns = next(reader, None)
            if columns is None:
                return []
            if "step" not in columns or len(set(columns)) != len(columns):
                raise TrainingError(
                    f"{path}:1: this is not the header of a metrics file; delete it."
                )
            for cells in reader:
                row = dict(zip(columns, cells, strict=False))
                step = row.get("step", "")
                if len(cells) != len(columns) or not step.isdecimal() or int(step) in rows:
                    raise TrainingError(
                        f"{path}:{reader.line_num}: this row does not hold {len(columns)} values "
                        "with a step of its own, so the run cannot be continued before it is "
                        "deleted."
                    )
                for name, cell in row.items():
                    if name != "phase" and cell and not _is_number(cell):
                        raise TrainingError(
                            f"{path}:{reader.line_num}: {name} is {cell[:40]!r}, which is no "
                            "number, so the run cannot be continued before the row is deleted."
                        )
                rows[int(step)] = row
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8 text; delete it.") from error
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise TrainingError(f"cannot read {path}: {error} (line {reader.line_num}).") from error
    return list(rows.values())


def _complete_lines(file: TextIO) -> Iterator[str]:
    return (line for line in file if line.endswith(("\n", "\r")))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(value: SupportsFloat) -> str:
    """Return the shortest text that reads back as exactly this number."""
    return str(value) if isinstance(value, int) else repr(float(value))
