"""A bar for what takes minutes and is no training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qatlab.system.terminal import wide_console


class Advance:
    """Moves a bar: a call moves it by one."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def __call__(self) -> None:
        self._progress.advance(self._task)

    def to(self, done: int, total: int) -> None:
        """Set how far it is, and how far there is to go."""
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show a bar with the time that is left, on a terminal."""
    console = wide_console()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as shown:
        yield Advance(shown, shown.add_task(what, total=total or None))
