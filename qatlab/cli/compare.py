"""What runs differ in, side by side: ``qatlab compare RUN RUN ...``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from qatlab.cli.parser import Parser
from qatlab.errors import plain
from qatlab.results import limits, record
from qatlab.results.compare import ALWAYS, bits, configuration, differences, results
from qatlab.results.conditions import check_unchanged
from qatlab.system.terminal import wide_console


def main(words: Sequence[str]) -> None:
    """Print the differences of two or more runs."""
    parser = Parser(prog="qatlab compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    runs = [record.find_run(run) for run in parser.parse_args(words).runs]
    if len(runs) < 2:
        parser.error("give two runs or more")
    for run in runs:
        check_unchanged(run)
    sections = {
        "Configuration": differences([configuration(run) for run in runs]),
        "Bits of layers and sites": differences([bits(run) for run in runs]),
        "Results": differences([results(run) for run in runs], ALWAYS),
    }
    console = wide_console()
    shared = os.path.commonpath([run.absolute().parent for run in runs])
    names = [os.path.relpath(run.absolute(), shared) for run in runs]
    for title, rows in sections.items():
        if not rows:
            print(f"{title}: no difference")
            continue
        # As Text: what stands in files is no markup.
        table = Table(title=title, title_justify="left")
        for name in ("", *names):
            table.add_column(_text(name))
        for key, row in rows.items():
            table.add_row(*map(_text, (key, *row)))
        console.print(table)
    for run in runs:
        if not os.path.lexists(run / record.RESULT):
            print(f"{plain(str(run))} is not finished: no {record.RESULT}")


def _text(cell: str) -> Text:
    return Text(plain(limits.shortened(cell, limits.SHOWN_CELL)))
