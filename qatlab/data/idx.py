"""Reader of IDX, the file format of MNIST and of the data sets made to replace it."""

from __future__ import annotations

import gzip
import math
import zlib
from hashlib import md5
from pathlib import Path

import torch
from torch import Tensor

from qatlab.errors import DataError

_UNSIGNED_BYTE = 0x08  # the only element type that these data sets use


def read_idx(path: Path, checksum: str | None = None) -> Tensor:
    """Read a file of unsigned bytes, packed (``.gz``) or not.

    An IDX file is two zero bytes, the element type, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the elements in C order.

    Args:
        path: the file.
        checksum: MD5 of the unpacked content, as hexadecimal digits; not checked if None.

    Returns:
        uint8, of the dimensions the file states.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if checksum is not None and md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise DataError(f"{path} is damaged or another file: the MD5 of its content is wrong.")
    n_dimensions = content[3] if content[:3] == bytes((0, 0, _UNSIGNED_BYTE)) else 0
    header = 4 + 4 * n_dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if not shape or len(content) != header + math.prod(shape):
        raise DataError(f"{path} is no complete IDX file of unsigned bytes.")
    # Torch wants memory it may write to, which `bytes` is not.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)
