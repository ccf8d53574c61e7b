"""What a page shows of a single run: configuration, curves, quantizers, layers, confusion."""

from __future__ import annotations

import os
from typing import Any

from qatlab import files, record
from qatlab.errors import ConfigError
from qatlab.report.curves import METRICS, read_curves
from qatlab.report.runs import Run

MOST_CLASSES = 100  # with more, the matrix of one run would be megabytes
NO_CURVES: dict[str, Any] = {"curves": {}, "quantizers": {"epochs": [], "rows": []}}
LONGEST_CONFIG = 1 << 20  # bytes; those of runs have some thousands


def details(run: Run) -> dict[str, Any]:
    """Return what the page shows of a run when it is opened, as JSON; what is missing is empty.

    Raises:
        ConfigError: if one of its files is damaged.
    """
    config, metrics = run.path / record.CONFIG, run.path / METRICS
    return {
        "config": files.read_text(config, LONGEST_CONFIG) if os.path.lexists(config) else "",
        "overrides": run.overrides,
        **(read_curves(metrics) if os.path.lexists(metrics) else NO_CURVES),
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
    n = len(matrix) if isinstance(matrix, list) else 0
    if not n or not all(isinstance(row, list) and len(row) == n for row in matrix):
        raise ConfigError(f"{run.path / record.RESULT} holds a confusion matrix that is not square")
    return {"confusion": matrix if n <= MOST_CLASSES else [], "classes": n}
