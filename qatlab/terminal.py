"""Where tables are printed."""

from __future__ import annotations

import re

from rich.console import Console

# Of terminals, of the direction of writing, and what stands for a byte that is no UTF-8.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return a text of one line that a terminal only shows: controls in it are written out."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def wide_console() -> Console:
    """Return the terminal; a log file is 160 characters wide at least, so that nothing is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))
