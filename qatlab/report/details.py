"""What a page shows of a single run: configuration, curves, quantizers, layers, confusion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from qatlab.errors import ConfigError
from qatlab.report.curves import read_curves
from qatlab.report.page import bytes_of
from qatlab.report.runs import DAMAGED, Run, damaged
from qatlab.results import limits, record
from qatlab.results.limits import LAYERS, METRICS, shortened

NOTHING: dict[str, Any] = {
    **{"config": "", "curves": {}, "quantizers": {"epochs": [], "rows": []}},
    **{"layers": [], "confusion": [], "classes": 0, "classNames": ()},
}

OF = {  # the file that each part comes from
    "config": record.CONFIG,
    **{"curves": METRICS, "quantizers": METRICS, "layers": LAYERS},
    **{"confusion": record.RESULT, "classes": record.RESULT},
    "classNames": record.RESULT,
}


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
    text = limits.read_text(config) if os.path.lexists(config) else ""
    content = {
        **NOTHING,
        "config": shortened(text, limits.SHOWN_CONFIG),
        **(read_curves(metrics) if os.path.lexists(metrics) else {}),
        "layers": [
            [x.name, x.part, x.type, x.bits, x.parameters, x.macs, x.method] for x in run.layers
        ],
        "confusion": run.confusion,
        "classes": run.classes,
        "classNames": run.class_names,
    }
    _check_size(run, content)
    return content


def _check_size(run: Run, content: dict[str, Any]) -> None:
    """Raise a ConfigError that names the largest file if a page had too much of a run."""
    sizes = {key: bytes_of(part) for key, part in content.items()}
    if sum(sizes.values()) > limits.SHOWN_RUN:
        file = OF[max(sizes, key=sizes.__getitem__)]
        raise ConfigError(
            f"{run.path / file} is too large for a page, which would have "
            f"{sum(sizes.values()) / 1e6:,.1f} MB of this run; at most "
            f"{limits.SHOWN_RUN / 1e6:,.0f} MB are shown"
        )
