from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
import torch

from qatlab.data import FashionMnist, LabelledImages, Mnist
from qatlab.data.idx import read_idx
from qatlab.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_mnist_is_the_published_data_set(
    mnist_training: LabelledImages, mnist_test: LabelledImages
) -> None:
    assert mnist_training.images.shape == (60_000, 1, 28, 28)
    assert mnist_test.images.shape == (10_000, 1, 28, 28)
    assert mnist_training.images.dtype == torch.uint8
    assert mnist_training.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist_test.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    pixels = mnist_training.images.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3081, abs=1e-4)


def test_mnist_reads_files_that_are_unpacked_or_lie_in_the_folder_itself(
    tmp_path: Path, repository: Path, mnist_test: LabelledImages
) -> None:
    unpacked = tmp_path / "unpacked" / "MNIST" / "raw"
    unpacked.mkdir(parents=True)
    for name in TEST_FILES:
        packed = repository / "data" / "MNIST" / "raw" / f"{name}.gz"
        shutil.copy(packed, tmp_path)
        (unpacked / name).write_bytes(gzip.decompress(packed.read_bytes()))
    for folder in (tmp_path, tmp_path / "unpacked"):
        found = Mnist(str(folder)).test_set()
        assert torch.equal(found.images, mnist_test.images)
        assert torch.equal(found.labels, mnist_test.labels)


def test_reading_writes_nothing_into_the_folder(tmp_path: Path, repository: Path) -> None:
    for name in TEST_FILES:
        shutil.copy(repository / "data" / "MNIST" / "raw" / f"{name}.gz", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    Mnist(str(tmp_path)).test_set()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_is_read_from_the_debian_package() -> None:
    source = FashionMnist(str(FASHION))
    images, labels = source.test_set()
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10
    assert source.class_names[int(labels[0])] == "Ankle boot"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Mnist, r"data\.source\.folder is .*'MNIST/raw/train-images-idx3-ubyte\.gz'.*'data'"),
        (FashionMnist, r"data\.source\.folder is .*'FashionMNIST/raw/.*dataset-fashion-mnist"),
    ],
)
def test_missing_files_are_named_with_the_folder_and_the_remedy(
    tmp_path: Path, source: type[Mnist], expected: str
) -> None:
    missing = source(str(tmp_path / "nowhere"))  # making the source reads nothing
    with pytest.raises(DataError, match=expected):
        missing.training_set()


def test_another_file_under_the_name_of_an_archive_is_refused(
    tmp_path: Path, repository: Path
) -> None:
    raw = repository / "data" / "MNIST" / "raw"
    shutil.copy(raw / "train-labels-idx1-ubyte.gz", tmp_path / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged or another file"):
        Mnist(str(tmp_path)).test_set()


def test_idx_dimensions_are_big_endian_and_elements_in_c_order(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]))
    assert read_idx(file).tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"some text",
        bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]),  # one element short
        bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]),  # floats
        bytes([0, 0, 8, 2, 0, 0]),  # ends inside the dimensions
    ],
)
def test_what_is_no_complete_idx_file_of_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(content)
    with pytest.raises(DataError, match="not a complete IDX file"):
        read_idx(file)


@pytest.mark.parametrize("damage", ["cut", "changed", "no archive"])
def test_a_damaged_archive_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 100]) + bytes(range(100)), mtime=0)
    changed = bytes([packed[60] ^ 0xFF])
    content = {
        "cut": packed[:-20],
        "changed": packed[:60] + changed + packed[61:],
        "no archive": b"<html>not found</html>",
    }
    file = tmp_path / "numbers.gz"
    file.write_bytes(content[damage])
    with pytest.raises(DataError, match=r"numbers\.gz cannot be read"):
        read_idx(file)
