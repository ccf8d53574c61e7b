"""A folder of runs as a table: ``python -m qatlab.report outputs/runs``."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qatlab import record
from qatlab.errors import ConfigError, QatlabError


@dataclass(frozen=True)
class RunRow:
    """What the table needs of one finished run; ``top1`` is a fraction, None without classes."""

    name: str
    seed: int
    top1: float | None
    size_bytes: int
    epochs: str
    commit: str


def read_run(folder: Path) -> RunRow:
    """Read the ``result.json`` of a run.

    Raises:
        ConfigError: if it is damaged.
    """
    result = record.read_json(folder / record.RESULT)
    try:
        return RunRow(
            name=result["name"],
            seed=result["seed"],
            top1=result["test"].get("top1"),
            size_bytes=result["size_bytes"],
            epochs=" + ".join(f"{n} {phase}" for phase, n in result["epochs"].items()),
            commit=str(result["environment"]["commit"])[:7],
        )
    except (KeyError, TypeError, AttributeError) as error:
        file = folder / record.RESULT
        raise ConfigError(f"{file} is not the result of a run: no {error}") from error


def table(runs: Sequence[RunRow]) -> list[str]:
    """Return a Markdown table: one row for each name, seeds joined to mean, minimum, maximum."""
    groups: dict[tuple[str, int, str], list[RunRow]] = defaultdict(list)
    for run in runs:
        groups[run.name, run.size_bytes, run.epochs].append(run)
    lines = [
        "| run | epochs | bytes | seeds | top-1 mean | minimum | maximum | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, size, epochs), members in sorted(groups.items()):
        accuracies = [100 * run.top1 for run in members if run.top1 is not None]
        mean = sum(accuracies) / max(len(accuracies), 1)
        numbers = [mean, min(accuracies), max(accuracies)] if accuracies else []
        scores = " | ".join(f"{number:.2f}" for number in numbers) or "none | none | none"
        seeds = ", ".join(str(seed) for seed in sorted(run.seed for run in members))
        commits = ", ".join(sorted({run.commit for run in members}))
        lines.append(f"| {name} | {epochs} | {size:,} | {seeds} | {scores} | {commits} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all finished runs below a folder."""
    parser = argparse.ArgumentParser(prog="python -m qatlab.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="searched for result.json at any depth")
    folder = parser.parse_args(arguments).folder
    try:
        runs = [read_run(path.parent) for path in sorted(folder.rglob(record.RESULT))]
        if not runs:
            raise ConfigError(f"{folder} holds no finished run: no {record.RESULT} in it")
    except QatlabError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
