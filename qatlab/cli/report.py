"""The command: ``qatlab report FOLDER [-o report.html]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qatlab.cli.parser import Parser
from qatlab.errors import ConfigError, plain, wrong
from qatlab.report.details import read_details
from qatlab.report.page import page
from qatlab.report.runs import DAMAGED, FINISHED, Run, find_runs
from qatlab.report.settings import join_seeds
from qatlab.report.tables import csv_table, markdown_table
from qatlab.results import record
from qatlab.system import files


def main(words: Sequence[str]) -> int:
    """Print the table of all finished runs below a folder, and write a page of all its runs.

    Returns:
        The exit code, 1 if any run is damaged.
    """
    parser = Parser(
        prog="qatlab report",
        description="Print a Markdown table of the finished runs below a folder.",
    )
    parser.add_argument("folder", type=Path, help="searched for runs at any depth")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="report.html",
        help="also write a page of all runs, and beside it the same as .csv and .png",
    )
    given = parser.parse_args(words)
    problems = report(given.folder, given.output)
    for problem in problems:
        print(f"Error: {plain(problem)}", file=sys.stderr)
    return 1 if problems else 0


def report(folder: Path, output: Path | None) -> list[str]:
    """Print the table of the runs below a folder, and write their page to ``output``, if any.

    Returns:
        A sentence for each run that is damaged: it has no place in the table, and where none is
        left, nothing is written.

    Raises:
        ConfigError: if there is no run to report, or the files cannot be written.
    """
    if output is not None and output.suffix != ".html":
        raise wrong("--output", output, "a file that ends in .html")
    runs = find_runs(folder)
    contents: list[dict[str, Any]] = []
    if output is not None:
        runs, contents = read_details(runs)
    problems = [run for run in runs if run.state == DAMAGED]
    finished = [run for run in runs if run.state == FINISHED]
    if not finished and (output is None or len(problems) == len(runs)):
        if not problems or len(problems) < len(runs):
            raise ConfigError(f"{folder} holds no finished run: no {record.RESULT} in it")
        return [run.reason for run in problems]
    for line in markdown_table(join_seeds(finished)):
        print(plain(line))
    if output is not None:
        write(output, folder, runs, contents)
    return [f"{run.folder} is left out: {run.reason}" for run in problems]


def write(
    output: Path, folder: Path, runs: Sequence[Run], contents: Sequence[dict[str, Any]]
) -> None:
    """Write ``output``, a page, and beside it the same runs as a table and as a picture.

    Raises:
        ConfigError: if the files cannot be written.
    """
    from qatlab.report.picture import draw  # matplotlib takes half a second; the table needs none

    settings = join_seeds(runs)
    texts = {
        output: page(folder.absolute().name, runs, contents, settings),
        output.with_suffix(".csv"): csv_table(settings),
    }
    for path, text in texts.items():
        # Names of folders are bytes; what is no UTF-8 in them is written as \\udcff.
        files.write_bytes(path, text.encode("utf-8", "backslashreplace"))
    written = [*texts]
    if draw(settings, output.with_suffix(".png")):
        written.append(output.with_suffix(".png"))
    print(f"\nwritten: {plain(', '.join(map(str, written)))}", file=sys.stderr)
