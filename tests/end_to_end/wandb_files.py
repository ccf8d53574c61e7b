"""Reads what wandb keeps of a run on disk: a log in LevelDB's format, of wandb's own messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_HEADER, BLOCK = 7, 32768
HEADER = struct.Struct("<IHB")  # checksum, length, part of a message
LAST_PARTS = (1, 4)  # the whole of a message, or the last part of one


def messages(run: Path) -> Iterator[Any]:
    """Return the messages of a run's folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = run.glob("*.wandb")
    data, at, message = file.read_bytes(), FILE_HEADER, b""
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:  # a block's rest that has no room for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, part = HEADER.unpack_from(data, at)
        at += HEADER.size
        message += data[at : at + length]
        at += length
        if part in LAST_PARTS:
            yield Record.FromString(message)
            message = b""


def items(update: Any) -> dict[str, Any]:
    """Return keys and values of a message's updates."""
    return {x.key or "/".join(x.nested_key): json.loads(x.value_json) for x in update}
