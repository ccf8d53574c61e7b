"""What a page shows of a single run: configuration, curves, quantizers, layers, confusion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from qatlab import files
from qatlab.errors import ConfigError
from qatlab.report.curves import METRICS, read_curves
from qatlab.report.runs import DAMAGED, Run, damaged
from qatlab.results import record
from qatlab.results.values import MOST

MOST_CLASSES = 100  # with more, the matrix of one run would be megabytes
NOTHING: dict[str, Any] = {
    **{"config": "", "overrides": None, "curves": {}, "quantizers": {"epochs": [], "rows": []}},
    **{"layers": [], "confusion": [], "classes": 0},
}
LONGEST_CONFIG = 1 << 20  # bytes; those of runs have some thousands


def read_details(runs: Iterable[Run]) -> tuple[list[Run], list[dict[str, Any]]]:
    """Return runs, those that turn out to be damaged as such, and what the page shows of each."""
    known, contents = [], []
    for run in runs:
        content = NOTHING
        if run.state != DAMAGED:
            try:
                content = details(run)
            except ConfigError as error:
                run = damaged(run.path, run.folder, str(error))
        known.append(run)
        contents.append(content)
    return known, contents


def details(run: Run) -> dict[str, Any]:
    """Return what the page shows of a run when it is opened, as JSON; what is missing is empty.

    Raises:
        ConfigError: if one of its files is damaged.
    """
    config, metrics = run.path / record.CONFIG, run.path / METRICS
    return {
        **NOTHING,
        "config": files.read_text(config, LONGEST_CONFIG) if os.path.lexists(config) else "",
        "overrides": run.overrides,
        **(read_curves(metrics) if os.path.lexists(metrics) else {}),
        "layers": [
            [x.name, x.part, x.type, x.bits, x.parameters, x.macs, x.method] for x in run.layers
        ],
        **_confusion(run),
    }


def _confusion(run: Run) -> dict[str, Any]:
    """Return the confusion matrix, or only the number of classes where these are many."""
    matrix = (run.test or {}).get("confusion")
    if matrix is None:
        return {"confusion": [], "classes": 0}
    file = run.path / record.RESULT
    n = len(matrix) if isinstance(matrix, list) else 0
    if not n or not all(isinstance(row, list) and len(row) == n for row in matrix):
        raise ConfigError(f"{file} holds a confusion matrix that is not square")
    if n > MOST_CLASSES:
        return {"confusion": [], "classes": n}
    if not all(type(count) is int and 0 <= count < MOST for row in matrix for count in row):
        raise ConfigError(f"{file} holds a confusion matrix of something else than counts")
    return {"confusion": matrix, "classes": n}
