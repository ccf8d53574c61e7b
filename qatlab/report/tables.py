"""Runs as a Markdown table and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from qatlab.report.settings import Setting


def markdown_table(settings: Sequence[Setting]) -> list[str]:
    """Return the lines of a table: seeds joined to mean, minimum, maximum; accuracy in percent."""
    lines = [
        "| run | epochs | bytes | seeds | top-1 mean | minimum | maximum | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setting in settings:
        run = setting.facts
        percents = [100 * accuracy for accuracy in setting.accuracies]
        mean = sum(percents) / max(len(percents), 1)
        numbers = [mean, min(percents), max(percents)] if percents else []
        scores = " | ".join(f"{number:.2f}" for number in numbers) or "none | none | none"
        seeds = ", ".join(str(run.seed) for run in setting.runs)
        commits = ", ".join(sorted({run.commit[:7] or "none" for run in setting.runs}))
        label, epochs = _cell(setting.label), _cell(run.epochs)
        size = f"{run.size_bytes:,}"
        lines.append(f"| {label} | {epochs} | {size} | {seeds} | {scores} | {_cell(commits)} |")
    return lines


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
