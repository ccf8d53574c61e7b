"""The page: one HTML file that holds runs, the plotting library and the page's own scripts."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # ships no types

from qatlab.report.marks import marks
from qatlab.report.runs import Run
from qatlab.report.settings import Setting

ASSETS = files("qatlab.report") / "assets"
# Later ones use earlier ones.
SCRIPTS = (
    *("data.js", "charts.js", "parallel.js", "ranges.js", "overview.js"),
    *("run_charts.js", "run.js", "compare.js", "table.js", "live.js", "main.js"),
)


def page(
    title: str,
    runs: Sequence[Run],
    details: Sequence[dict[str, Any]],
    settings: Sequence[Setting],
    base: str = "",
    version: str = "",
) -> str:
    """Return the page of runs as HTML.

    Args:
        title: of the page.
        runs: of any state.
        details: what is shown of each; see :func:`~qatlab.report.details.read_details`.
        settings: the runs joined.
        base: address of the folder of all runs, for links to their files; seen from the page.
        version: of what is shown, where the page is served: it is loaded again when the address
            ``version`` beside it answers another one. Empty for a page that is a file.
    """
    parts = {
        "connect": "; connect-src 'self'" if version else "",
        "title": html.escape(title),
        "style": _asset("page.css"),
        "plotly": get_plotlyjs(),
        "data": _data(title, runs, details, settings, {"base": base, "version": version}),
        "script": "\n".join(_asset(name) for name in SCRIPTS),
    }
    # In one pass, so that nothing inside of a part is taken for the place of another.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _data(
    title: str,
    runs: Sequence[Run],
    details: Sequence[dict[str, Any]],
    settings: Sequence[Setting],
    place: dict[str, str],
) -> str:
    """Return all that is shown as JSON that may stand in a script element.

    What belongs to a single run is JSON inside a string: a browser skips that quickly, and takes it
    apart when the run is opened.
    """
    places = {run.folder: i for i, run in enumerate(runs)}
    content = {
        "title": title,
        **place,
        "marks": {
            method: {"color": mark.color, "symbol": mark.symbol}
            for method, mark in marks(run.method for run in runs).items()
        },
        "runs": [_facts(run) for run in runs],
        "settings": [
            {
                "label": setting.label,
                "runs": [places[run.folder] for run in setting.runs],
                "mean": setting.mean,
                "deviation": setting.deviation,
            }
            for setting in settings
        ],
        "details": [_json(content) for content in details],
    }
    # "<" could end the element, or begin a comment in it.
    return _json(content).replace("<", "\\u003c")


def bytes_of(content: Any) -> int:
    """Return what a part of a run takes on a page, in bytes."""
    text = _json(_json(content)).replace("<", "\\u003c")
    return len(text.encode("utf-8", "backslashreplace"))


def address_of(path: str) -> str:
    """Return a relative path, with slashes, as a part of an address."""
    return "" if path == "." else quote(os.fsencode(path))


def _facts(run: Run) -> dict[str, Any]:
    """Return what all runs are compared by."""
    return {
        "folder": run.folder,
        "link": address_of(run.folder),
        "files": run.files,
        "overrides": run.overrides,
        "state": run.state,
        "reason": run.reason,
        "name": run.name,
        "seed": run.seed,
        "top1": run.top1,
        "loss": run.loss,
        "phase": run.phase,
        "epochs": run.epochs,
        "bytes": run.tested_bytes,
        "operations": run.bit_operations,
        "macs": run.macs,
        "weightBits": run.weight_bits,
        "activationBits": run.activation_bits,
        "method": run.method,
        "seconds": run.seconds,
        "commit": run.commit,
        "projectCommit": run.project_commit,
        "device": run.device,
        "command": run.command,
    }


def _json(value: Any) -> str:
    return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return the value with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
