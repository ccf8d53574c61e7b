"""Writes files so that there is the old one or the new one, whatever ends the process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ini_compat.errors import IniError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it to the disk and rename it.

    Raises:
        IniError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise IniError(f"cannot write {path}: {error.strerror}") from None
