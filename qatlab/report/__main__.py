"""The command: ``python -m qatlab.report FOLDER [-o report.html]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qatlab import files, record
from qatlab.errors import ConfigError, QatlabError
from qatlab.report.page import page
from qatlab.report.runs import FINISHED, Run, find_runs
from qatlab.report.settings import join_seeds
from qatlab.report.tables import csv_table, markdown_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all finished runs below a folder, and write a page of all its runs."""
    parser = argparse.ArgumentParser(
        prog="python -m qatlab.report",
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
    given = parser.parse_args(arguments)
    try:
        if given.output is not None and given.output.suffix != ".html":
            raise ConfigError(f"-o {given.output} is wrong: the name of a page ends in .html")
        runs = find_runs(given.folder)
        finished = [run for run in runs if run.state == FINISHED]
        if not (finished or (runs and given.output)):
            raise ConfigError(f"{given.folder} holds no finished run: no {record.RESULT} in it")
        print("\n".join(markdown_table(join_seeds(finished))))
        if given.output is not None:
            write(given.output, given.folder, runs)
    except QatlabError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def write(output: Path, folder: Path, runs: Sequence[Run]) -> None:
    """Write ``output``, a page, and beside it the same runs as a table and as a picture.

    Raises:
        ConfigError: if a file of a run is damaged, or the files cannot be written.
    """
    from qatlab.report.picture import draw  # matplotlib takes half a second; the table needs none

    settings = join_seeds(runs)
    files.write_text(output, page(folder.absolute().name, runs, settings))
    files.write_text(output.with_suffix(".csv"), csv_table(settings))
    written = [output, output.with_suffix(".csv")]
    if draw(settings, output.with_suffix(".png")):
        written.append(output.with_suffix(".png"))
    print(f"\nwritten: {', '.join(map(str, written))}", file=sys.stderr)


if __name__ == "__main__":
    main()
