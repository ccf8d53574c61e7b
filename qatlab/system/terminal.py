"""What is printed, and where: by the first of several processes, in tables wide enough.

Of a run it is also written to a file, ``train.log``, while :func:`logged` has it open.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType

from qatlab.errors import ConfigError, plain

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of processes that train together
LOG = "train.log"  # in the folder of a run
WIDTH = 160  # characters, of tables in a file

_log: TextIO | None = None


def is_first() -> bool:
    """Tell whether this process is the first, or the only one, of those that train together."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def say(text: str) -> None:
    """Print, in the first of several processes, and write to the log of the run."""
    if is_first():
        print(plain(text), flush=True)
        note(plain(text))


def show(table: RenderableType) -> None:
    """Print a table, in the first of several processes, and write it to the log of the run."""
    if is_first():
        wide_console().print(table)
        if _log is not None:
            console = Console(width=WIDTH, file=io.StringIO())
            with console.capture() as capture:
                console.print(table)
            _write(capture.get())


def note(text: str) -> None:
    """Write a line to the log of the run only; nothing where none is open."""
    _write(f"{text}\n")


def wide_console() -> Console:
    """Return the terminal; a log file is 160 characters wide at least, so that nothing is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDTH))


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append to ``train.log`` of a run what is said, what goes to stderr, and logged warnings.

    Raises:
        ConfigError: if it cannot be written to.
    """
    global _log
    if not is_first():
        yield
        return
    stderr, handler = sys.stderr, _Handler(logging.WARNING)
    with _opened(folder / LOG) as _log:
        sys.stderr = _Both(stderr)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            sys.stderr, _log = stderr, None


def _opened(path: Path) -> TextIO:
    # Not through a link, and nothing that waits for a reader: the folder may be another user's.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"cannot write {path}: it is not a regular file")
    return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def _write(text: str) -> None:
    if _log is not None:
        with suppress(OSError):  # of a full disk: what the run needs is reported by who writes it
            _log.write(text)
            _log.flush()


class _Both:
    """Standard error that is written to the log, too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        _write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.Handler):
    """Writes what is logged by libraries, unless they write it to stderr themselves."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname}: {record.getMessage()}")


def clock(seconds: float) -> str:
    """Return ``0:20``, ``12:03`` or ``26:04:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
