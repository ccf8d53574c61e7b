from __future__ import annotations

import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qatlab.errors import CheckpointError
from qatlab.training.torch_files import read

CONTENT = {
    "state_dict": {"conv1.weight": torch.arange(200.0), "relu1.alpha": torch.tensor(8.0)},
    "epoch": 3,
    "optimizer_states": [{"state": {0: torch.ones(3)}}],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save(CONTENT, path)
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def flip(content: bytearray, place: int, bit: int) -> None:
    content[place] ^= 1 << bit


def flipped_in_weights(content: bytearray) -> bytearray:
    flip(content, content.index(torch.arange(200.0).numpy().tobytes()) + 402, 6)
    return content


def without_a_part(content: bytearray) -> bytearray:
    """Call a part a folder: torch then gives whatever the memory held."""
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/0"))
    flip(content, entry + 38, 4)
    return content


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (flipped_in_weights, r"is damaged: the checksum of its part 'last/data/0' is wrong"),
        (without_a_part, "is damaged: its part 'last/data/0' is a folder"),
        (lambda content: content[:-1], "is truncated or no checkpoint: its end is missing"),
        (lambda content: content[:2000], "is truncated or no checkpoint: its end is missing"),
        (lambda content: b"\0" * len(content), "is truncated or no checkpoint"),
    ],
)
def test_damage_is_reported(
    damage: Callable[[bytearray], bytes | bytearray], fault: str, file: Path
) -> None:
    file.write_bytes(damage(bytearray(file.read_bytes())))
    with pytest.raises(CheckpointError, match=f"^{file} {fault}"):
        read(file)


def test_random_damage_is_reported_or_changes_nothing(file: Path) -> None:
    draw, sound, messages = random.Random(1), file.read_bytes(), []
    for _ in range(500):
        content = bytearray(sound)
        first = draw.choice([0, len(sound) - 1500])  # parts, and the directory at the end
        for _ in range(draw.choice([1, 1, 5])):
            flip(content, draw.randrange(first, len(sound)), draw.randrange(8))
        cut = draw.choice([len(sound)] * 4 + [draw.randrange(len(sound))])
        file.write_bytes(content[:cut])
        try:
            assert same(read(file), CONTENT)
        except CheckpointError as error:
            messages.append(str(error))
    assert all(re.match(rf"{file} is (damaged|truncated)[^\n]*$", text) for text in messages)
    assert len(messages) > 250  # of the others, nobody reads what was changed


def test_an_archive_without_checksums_is_read(file: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, file)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read(file), CONTENT)


def test_an_archive_that_fills_the_memory_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data.pkl", b"")
        archive.writestr("last/data/0", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="it unpacks to more than 100 times its size"):
        read(file)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (Path.mkdir, "it is a folder"),
        (os.mkfifo, "it is not a regular file, but a pipe or a device"),  # reading would not end
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_reported(
    make: Callable[[Path], None], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    make(path)
    with pytest.raises(CheckpointError, match=f"^cannot read {path}: {fault}"):
        read(path)
