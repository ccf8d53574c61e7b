"""Reader of IDX, the file format of MNIST and of the data sets made to replace it."""

from __future__ import annotations

import math
from hashlib import md5
from pathlib import Path

import torch
from torch import Tensor

from qatlab.data.contents import LARGEST, read_start
from qatlab.errors import DataError

_UNSIGNED_BYTE = 0x08  # the only element type that these data sets use
_MOST_DIMENSIONS = 8


def read_idx(path: Path, checksum: str | None = None, largest: int = LARGEST) -> Tensor:
    """Read a file of unsigned bytes, packed (``.gz``) or not.

    An IDX file is two zero bytes, the element type, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the elements in C order.

    Args:
        path: the file.
        checksum: MD5 of the unpacked content, as hexadecimal digits; not checked if None.
        largest: bytes of the unpacked content that are read.

    Returns:
        uint8, of the dimensions the file states.

    Raises:
        DataError: if it is no such file, or states more bytes than are read.
    """
    shape = _shape(read_start(path, 4 + 4 * _MOST_DIMENSIONS))
    length = 4 + 4 * len(shape) + math.prod(shape)
    if length > largest:
        raise DataError(
            f"{path} says that it holds {length / 1e6:,.0f} MB, and at most {largest / 1e6:,.0f} "
            "MB are read."
        )
    content = read_start(path, length + 1)  # one byte more than there may be
    if checksum is not None and md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise DataError(f"{path} is damaged or another file: its MD5 checksum is wrong.")
    if not shape or len(content) != length:
        raise DataError(f"{path} is not a complete IDX file of unsigned bytes.")
    return torch.frombuffer(content, dtype=torch.uint8)[4 + 4 * len(shape) :].view(shape)


def _shape(start: bytearray) -> tuple[int, ...]:
    """Return the dimensions that the start of a file states; none if it is no such file."""
    if len(start) < 4 or start[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        return ()
    header = 4 + 4 * start[3]
    if start[3] > _MOST_DIMENSIONS or len(start) < header:
        return ()
    return tuple(int.from_bytes(start[i : i + 4], "big") for i in range(4, header, 4))
