"""Runs as a Markdown table and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from qatlab.report.runs import Run
from qatlab.report.settings import Setting

COLUMNS = (
    *("run", "bits", "epochs", "bytes", "bit operations", "s/epoch", "seeds"),
    *("top-1, %", "deviation", "commit"),
)


def markdown_table(settings: Sequence[Setting]) -> list[str]:
    """Return the lines of a table, one for each setting: its seeds as mean and standard deviation.

    ``bits`` are those of weights and of activations, ``s/epoch`` is the median of the seeds,
    ``commit`` that of the project in which they were started, or of qatlab.
    """
    return [_line(COLUMNS), "|" + "---|" * len(COLUMNS), *(_line(_row(one)) for one in settings)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _row(setting: Setting) -> list[str]:
    run = setting.facts
    bits = [run.weight_bits, run.activation_bits]
    seconds = [
        one.seconds / count for one in setting.runs if one.seconds and (count := _count(one))
    ]
    commits = {(one.project_commit or one.commit)[:7] or "none" for one in setting.runs}
    deviation = "" if setting.deviation is None else f"{100 * setting.deviation:.2f}"
    return [
        *(setting.label, "/".join(dict.fromkeys(bits)), run.epochs),
        *("" if count is None else f"{count:,}" for count in (run.size_bytes, run.bit_operations)),
        f"{statistics.median(seconds):.0f}" if seconds else "",
        ", ".join(str(one.seed) for one in setting.runs),
        *("none" if setting.mean is None else f"{100 * setting.mean:.2f}", deviation),
        ", ".join(sorted(commits)),
    ]


def _count(run: Run) -> int:
    """Return how many epochs a run had, of ``8 clamp + 12 quantize``."""
    return sum(int(part.split()[0]) for part in run.epochs.split(" + ") if part)


def _cell(text: str) -> str:
    """Return a text that ends neither its cell nor its line."""
    return " ".join(text.split()).replace("|", "\\|")


def rows_of(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return one row for each run, with the mean of its setting; accuracies are fractions."""
    return [
        {
            "setting": setting.label,
            "folder": run.folder,
            "state": run.state,
            "seed": run.seed,
            "method": run.method,
            "weight_bits": run.weight_bits,
            "activation_bits": run.activation_bits,
            "top1": run.top1,
            "top1_mean": setting.mean,
            "top1_deviation": setting.deviation,
            "loss": run.loss,
            "tested_in_phase": run.phase,
            "size_bytes": run.tested_bytes,
            "bit_operations": run.bit_operations,
            "macs": run.macs,
            "epochs": run.epochs,
            "seconds": run.seconds,
            "commit": run.commit,
            "project_commit": run.project_commit,
            "command": run.command,
            "reason": run.reason,
        }
        for setting in settings
        for run in setting.runs
    ]


def csv_table(settings: Sequence[Setting]) -> str:
    """Return the same rows as a text."""
    text, rows = io.StringIO(), rows_of(settings)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
