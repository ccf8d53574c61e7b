"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console


def wide_console() -> Console:
    """Return the terminal; a log file is 160 characters wide at least, so that nothing is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))
