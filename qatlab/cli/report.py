"""The command: ``qatlab report FOLDER [-o report.html | --serve]``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qatlab.cli.parser import Parser
from qatlab.errors import ConfigError, plain, wrong
from qatlab.report.details import read_details
from qatlab.report.page import address_of, page
from qatlab.report.runs import DAMAGED, FINISHED, Run, find_runs
from qatlab.report.serve import HOST, PORT, server_of
from qatlab.report.settings import join_seeds
from qatlab.report.tables import csv_table, markdown_table
from qatlab.results import record
from qatlab.system import files

LAST_PORT = 65535


def main(words: Sequence[str]) -> int:
    """Print the table of all finished runs below a folder, and write or serve a page of all runs.

    Returns:
        The exit code, 1 if any run is damaged.
    """
    parser = Parser(
        prog="qatlab report",
        description="Print a Markdown table of the finished runs below a folder.",
    )
    parser.add_argument("folder", type=Path, help="searched for runs at any depth")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="report.html",
        help="also write a page of all runs, and beside it the same as .csv and .png",
    )
    way.add_argument(
        "--serve",
        action="store_true",
        help="show the page of all runs to browsers of this machine, and again when runs change",
    )
    parser.add_argument(
        "--port", metavar="N", help=f"of --serve, 0 for any that is free (default: {PORT})"
    )
    given = parser.parse_args(words)
    if given.port is not None and not given.serve:
        raise ConfigError(f"--port={given.port} is of --serve, which is not given; see --help.")
    if given.serve:
        serve(given.folder, PORT if given.port is None else _port(given.port))
        return 0
    problems = report(given.folder, given.output)
    for problem in problems:
        print(f"Error: {plain(problem)}", file=sys.stderr)
    return 1 if problems else 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= LAST_PORT):
        raise wrong("--port", text, "a whole number from 1024 to 65535, or 0 for any that is free")
    return int(text)


def serve(folder: Path, port: int) -> None:
    """Serve the page of the runs below a folder to browsers of this machine, until Ctrl-C.

    Raises:
        ConfigError: if the folder cannot be read, or the port cannot be used.
    """
    with server_of(folder, port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        print(f"The page of {plain(str(folder))} is at {address} (end with Ctrl-C).", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    print("\nEnded.", file=sys.stderr)


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


def _seen_from(output: Path, folder: Path) -> str:
    """Return the address of a folder for a page that is written to ``output``."""
    here, there = output.absolute().parent, folder.absolute()
    try:
        return address_of(Path(os.path.relpath(there, here)).as_posix())
    except ValueError:  # another drive
        return there.as_uri()


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
        output: page(folder.absolute().name, runs, contents, settings, _seen_from(output, folder)),
        output.with_suffix(".csv"): csv_table(settings),
    }
    for path, text in texts.items():
        # Names of folders are bytes; what is no UTF-8 in them is written as \\udcff.
        files.write_bytes(path, text.encode("utf-8", "backslashreplace"))
    written = [*texts]
    if draw(settings, output.with_suffix(".png")):
        written.append(output.with_suffix(".png"))
    print(f"\nwritten: {plain(', '.join(map(str, written)))}", file=sys.stderr)
