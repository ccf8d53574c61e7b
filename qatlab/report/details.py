"""What a page shows of a single run: configuration, curves, quantizers, layers, confusion."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from qatlab import record
from qatlab.errors import ConfigError
from qatlab.report.runs import Run

METRICS = "metrics.csv"  # as in qatlab.training.csv_logger, which imports Lightning
CURVES = ("train/acc", "val/acc", "train/loss", "val/loss")
LEARNED = ("alpha", "step_size")
MOST_CLASSES = 100  # with more, the matrix of one run would be megabytes
Values = list[float | None]


def details(run: Run) -> dict[str, Any]:
    """Return what the page shows of a run when it is opened, as JSON; what is missing is empty.

    Raises:
        ConfigError: if one of its files is damaged.
    """
    config = run.path / record.CONFIG
    try:
        text = config.read_text(encoding="utf-8") if config.exists() else ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {config}: {error}") from error
    rows = _read_metrics(run)
    return {
        "config": text,
        "overrides": run.overrides,
        "curves": _curves(rows),
        "quantizers": _quantizers(rows),
        "layers": [
            [x.name, x.part, x.type, x.bits, x.parameters, x.macs, x.method] for x in run.layers
        ],
        **_confusion(run),
    }


def _read_metrics(run: Run) -> list[dict[str, str]]:
    """Return the rows of an epoch each; none where there is no file."""
    file = run.path / METRICS
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise ConfigError(f"{file}:{reader.line_num}: this row is not whole.")
                rows.append(row)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    try:
        for row in rows:
            for name, value in row.items():
                if name != "phase" and value:
                    float(value)
    except ValueError as error:
        raise ConfigError(f"{file} holds something that is no number: {error}") from error
    return [row for row in rows if row.get("epoch")]


def _curves(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return accuracy and loss by epoch (from 1), and first and last epoch of each phase."""
    epochs = [int(float(row["epoch"])) + 1 for row in rows]
    phases: list[list[Any]] = []
    for row, epoch in zip(rows, epochs, strict=True):
        phase = row.get("phase", "")
        if phases and phase in ("", phases[-1][0]):
            phases[-1][2] = epoch
        elif phase:
            phases.append([phase, epoch, epoch])
    series = {name: _column(rows, name) for name in CURVES}
    known = {name: values for name, values in series.items() if _any(values)}
    return {"epochs": epochs, "phases": phases, "series": known} if known else {}


def _quantizers(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return learned value and clipped share of each site and weight layer by epoch."""
    columns = list(rows[0]) if rows else []
    quantizers = []
    for column in columns:
        name, _, learned = column.removeprefix("quant/").rpartition("/")
        if column.startswith("quant/") and learned in LEARNED:
            clipped = _column(rows, f"quant/{name}/clipped")
            values = _column(rows, column)
            quantizers.append([name, learned, values, clipped if _any(clipped) else []])
    known = [i for i, _ in enumerate(rows) if any(x[2][i] is not None for x in quantizers)]
    return {
        "epochs": [int(float(rows[i]["epoch"])) + 1 for i in known],
        "rows": [
            [*x[:2], *([v[i] for i in known] if v else [] for v in x[2:])] for x in quantizers
        ],
    }


def _confusion(run: Run) -> dict[str, Any]:
    """Return the confusion matrix, or only the number of classes where these are many."""
    matrix = (run.test or {}).get("confusion")
    if matrix is None:
        return {"confusion": [], "classes": 0}
    n = len(matrix) if isinstance(matrix, list) else 0
    if not n or not all(isinstance(row, list) and len(row) == n for row in matrix):
        raise ConfigError(f"{run.path / record.RESULT} holds a confusion matrix that is not square")
    return {"confusion": matrix if n <= MOST_CLASSES else [], "classes": n}


def _column(rows: Sequence[Mapping[str, str]], name: str) -> Values:
    return [_short(row.get(name) or "nan") for row in rows]


def _short(text: str) -> float | None:
    """Return a number as far as a screen can show it, None for what JSON cannot hold."""
    value = float(text)
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _any(values: Values) -> bool:
    return any(value is not None for value in values)
