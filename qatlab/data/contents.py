"""The content of data files, which anyone may have made: regular files of bounded size only."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from qatlab.errors import ConfigError, DataError
from qatlab.system.files import check_regular

LARGEST = 1 << 30  # bytes of a file, packed or not


def check_file(file: str | Path, largest: int = LARGEST) -> None:
    """Raise a DataError unless ``file`` is a regular file of at most ``largest`` bytes."""
    try:
        check_regular(Path(file), largest)
    except ConfigError as error:
        raise DataError(str(error)) from error


def read_file(file: str | Path, largest: int = LARGEST) -> bytearray:
    """Return the whole content of a file.

    Raises:
        DataError: if it is missing, too large or no regular file.
    """
    check_file(file, largest)
    try:
        with open(file, "rb", buffering=0) as opened:
            content = bytearray(os.fstat(opened.fileno()).st_size)
            opened.readinto(content)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    return content


def read_start(file: Path, length: int) -> bytearray:
    """Return the first ``length`` bytes of a file, or fewer if it has no more.

    What is packed (``.gz``) is unpacked as far as that only: a small file may hold anything.

    Raises:
        DataError: if it cannot be read.
    """
    check_file(file)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            return bytearray(opened.read(length))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
