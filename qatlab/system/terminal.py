"""What is printed, and where: by the first of several processes, in tables wide enough."""

from __future__ import annotations

import os

from rich.console import Console

from qatlab.errors import plain

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of processes that train together


def is_first() -> bool:
    """Tell whether this process is the first, or the only one, of those that train together."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def say(text: str) -> None:
    """Print, in the first of several processes."""
    if is_first():
        print(plain(text))


def wide_console() -> Console:
    """Return the terminal; a log file is 160 characters wide at least, so that nothing is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))
