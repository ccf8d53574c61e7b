"""How far the jobs of a sweep are, or runs: ``qatlab status FOLDER``, live on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qatlab.cli.parser import Parser
from qatlab.errors import ConfigError, plain
from qatlab.results import state
from qatlab.results.record import find_run
from qatlab.results.state import BEGUN, DONE, FAILED, RUNNING, STOPPED, State
from qatlab.system.terminal import clock, wide_console

SECONDS = 1.0  # between two looks
STATES = (DONE, RUNNING, BEGUN, STOPPED, FAILED)
LONGEST_REASON = 200  # characters


def main(words: Sequence[str]) -> None:
    """Show the runs below a folder; on a terminal until all are finished, or Ctrl-C."""
    parser = Parser(
        prog="qatlab status",
        description="Show how far the jobs of a sweep, or the runs below a folder, are: live on a "
        "terminal, once elsewhere. Files are read only.",
    )
    parser.add_argument("folder", type=Path, help="of a sweep, of a run, or of runs")
    folder = find_run(parser.parse_args(words).folder)
    shown, goes_on = picture(folder, state.now())
    console = wide_console()
    if not console.is_terminal or not goes_on:
        console.print(shown)
        return
    try:
        with Live(shown, console=console, auto_refresh=False) as live:
            while goes_on:
                time.sleep(SECONDS)
                shown, goes_on = picture(folder, state.now())
                live.update(shown, refresh=True)
    except KeyboardInterrupt:  # the way to leave
        return


def picture(folder: Path, now: float) -> tuple[Group, bool]:
    """Return a table of the runs below a folder with a line on all, and whether more will come.

    Args:
        folder: of a sweep, or of runs.
        now: seconds since 1970.

    Raises:
        ConfigError: if it holds none.
    """
    runs = [state.state_of(run, now) for run in state.runs_below(folder)]
    of_all, count = state.sweep_of(folder)
    if not runs and count is None:
        raise ConfigError(f"{folder} holds no run and no sweep")
    to_come = max((count or 0) - len(runs), 0)
    words = [state.overrides_of(run.folder) for run in runs]
    table = Table("run", "state", title=str(folder), title_justify="left")
    columns = {
        "epoch": [run.place for run in runs],
        "left": ["" if run.seconds_left is None else clock(run.seconds_left) for run in runs],
        "top-1": [run.score for run in runs],
        "bytes": ["" if run.size is None else f"{run.size:,}" for run in runs],
        "time": ["" if run.seconds is None else clock(run.seconds) for run in runs],
        "reason": [run.reason[:LONGEST_REASON] for run in runs],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    for name in filled:
        table.add_column(name, justify="left" if name in ("epoch", "reason") else "right")
    for index, run in enumerate(runs):
        own = " ".join(word for word in words[index] if word not in of_all)
        name = own if count is not None and own else _name(run.folder, folder)
        cells = (name, run.state, *(column[index] for column in filled.values()))
        # As Text: what stands in files is no markup.
        table.add_row(*(Text(plain(cell)) for cell in cells))
    goes_on = to_come > 0 or any(run.state in (RUNNING, BEGUN) for run in runs)
    return Group(table, Text(summary(runs, to_come))), goes_on


def summary(runs: Sequence[State], to_come: int) -> str:
    """Return ``2 done, 1 running, 3 to come; about 1:02:03 left``.

    What is to come is taken to last as long as what is done, with as many at a time as run now.
    """
    counts = {name: sum(run.state == name for run in runs) for name in STATES}
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    parts += [f"{to_come} to come"] if to_come else []
    line = ", ".join(parts)
    lefts = [run.seconds_left for run in runs if run.state == RUNNING]
    took = [run.seconds for run in runs if run.seconds is not None]
    known = [left for left in lefts if left is not None]
    if counts[RUNNING] and len(known) == len(lefts) and (took or not to_come):
        all_left = sum(known) + to_come * (sum(took) / len(took) if took else 0.0)
        line += f"; about {clock(max(all_left / len(lefts), *known))} left"
    elif to_come and not counts[RUNNING] + counts[BEGUN]:
        line += "; none runs now: the sweep's command, given again, goes on"
    return line


def _name(run: Path, folder: Path) -> str:
    return str(run.relative_to(folder)) if run != folder else run.name
