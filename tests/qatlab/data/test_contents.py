from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from qatlab.data import Cifar10, CsvImages, Mnist
from qatlab.data.contents import LARGEST
from qatlab.data.decode import read_image
from qatlab.data.idx import read_idx
from qatlab.errors import DataError

READERS: dict[str, Callable[[Path], object]] = {
    "image.png": lambda file: read_image(file, 3),
    "table.csv": lambda file: CsvImages(str(file.parent), file.name).class_names,
    "test_batch.bin": lambda file: Cifar10(str(file.parent)).test_set(),
    "t10k-images-idx3-ubyte": lambda file: Mnist(str(file.parent)).test_set(),
    "t10k-images-idx3-ubyte.gz": lambda file: Mnist(str(file.parent)).test_set(),
}


def make_socket(file: Path) -> None:
    here = os.getcwd()
    os.chdir(file.parent)  # the address of a socket may have 107 bytes
    with socket(AF_UNIX) as bound:
        bound.bind(file.name)
    os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": lambda file: os.mkfifo(file),
    "socket": make_socket,
    "device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_reported_and_not_waited_for(
    tmp_path: Path, kind: str, name: str
) -> None:
    KINDS[kind](tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: it is not a regular file"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_the_place_of_a_file_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}: it is a folder"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_file_is_not_read_beyond_any_bound(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(LARGEST + 1)  # takes no room on the disk
    with pytest.raises(DataError, match=r"it has 1,074 MB, and at most 1,074 MB are read"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("promised", [10, 1 << 31])
def test_an_archive_is_unpacked_no_further_than_its_header_promises(
    tmp_path: Path, promised: int
) -> None:
    zeros = gzip.compress(bytes(50 << 20))  # 50 kB
    header = bytes((0, 0, 8, 1)) + promised.to_bytes(4, "big")
    file = tmp_path / "numbers.gz"
    file.write_bytes(gzip.compress(header) + zeros)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"not a complete IDX|holds 2,147 MB, and at most 1,074 MB"):
        read_idx(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 << 20


def test_classes_with_more_digits_than_a_number_has_are_texts(tmp_path: Path) -> None:
    many = "1" * 5000  # Python refuses to read it as a number
    (tmp_path / "table.csv").write_text(f"a.png,{many}\nb.png,10\nc.png,9\n")
    assert CsvImages(str(tmp_path), "table.csv").class_names == ("9", "10", many)
