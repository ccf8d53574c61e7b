"""Statistics of data sets: against N2D2's documentation, and small files made here."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ini_compat.data.statistics import measure, training_pixels

HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2])
PIXELS = bytes([0, 10, 20, 255, 7, 7, 7, 30])
IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def mnist(root: Path) -> Path:
    """The folder of MNIST."""
    if not (root / f"data/MNIST/raw/{IMAGES}.gz").is_file():
        pytest.skip("data/MNIST is not here")
    return root / "data"


def test_of_mnist_as_n2d2_reports_it(mnist: Path) -> None:
    pixels = training_pixels("MNIST_IDX_Database", mnist)
    assert pixels is not None
    measured = measure(pixels)
    # "Value range: [0, 255]  Value mean: 33.3184  Value std. dev.: 78.5675" (N2D2's documentation)
    assert [f"{value:.6g}" for value in measured.values()] == ["0", "255", "33.3184", "78.5675"]
    # and as computed straight from the file
    content = gzip.decompress((mnist / f"MNIST/raw/{IMAGES}.gz").read_bytes())[16:]
    values = np.frombuffer(content, np.uint8).astype(np.float64)
    assert measured["_GlobalValue.mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert measured["_GlobalValue.stdDev"] == pytest.approx(values.std(), abs=1e-6)


def test_a_constant_image() -> None:
    assert list(measure(np.full((4, 4), 7, np.uint8)).values()) == [7.0, 7.0, 7.0, 0.0]


@pytest.mark.parametrize(
    ("database", "name", "content"),
    [
        ("MNIST_IDX_Database", f"MNIST/raw/{IMAGES}", HEADER + PIXELS),
        ("MNIST_IDX_Database", f"MNIST/raw/{IMAGES}.gz", gzip.compress(HEADER + PIXELS, mtime=0)),
        ("MNIST_IDX_Database", IMAGES, HEADER + PIXELS),
        ("MNIST_IDX_Database", f"{IMAGES}.gz", gzip.compress(HEADER + PIXELS, mtime=0)),
        ("Fashion_MNIST_IDX_Database", f"FashionMNIST/raw/{IMAGES}", HEADER + PIXELS),
        ("Fashion_MNIST_IDX_Database", f"{IMAGES}.gz", gzip.compress(HEADER + PIXELS, mtime=0)),
    ],
)
def test_idx_files(tmp_path: Path, database: str, name: str, content: bytes) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    pixels = training_pixels(database, tmp_path)
    assert pixels is not None
    assert pixels.tobytes() == PIXELS


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-bin"])
def test_cifar_10(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for i in range(1, 6):
        record = bytes([9]) + bytes([i]) * 3072  # label, pixels
        (tmp_path / folder / f"data_batch_{i}.bin").write_bytes(record * 2)
    pixels = training_pixels("CIFAR10_Database", tmp_path)
    assert pixels is not None
    assert np.bincount(pixels.ravel()).tolist() == [0, *[2 * 3072] * 5]


@pytest.mark.parametrize("folder", [".", "cifar-100-binary"])
def test_cifar_100(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "train.bin").write_bytes((bytes([9, 9]) + bytes([3]) * 3072) * 2)
    pixels = training_pixels("CIFAR100_Database", tmp_path)
    assert pixels is not None
    assert (pixels == 3).all()


@pytest.mark.parametrize(
    ("database", "name", "content"),
    [
        ("MNIST_IDX_Database", "other", b""),
        ("MNIST_IDX_Database", IMAGES, b""),
        ("MNIST_IDX_Database", IMAGES, HEADER),
        ("MNIST_IDX_Database", IMAGES, b"\0\0\x08\x01" + HEADER[4:] + PIXELS),  # labels
        ("MNIST_IDX_Database", f"{IMAGES}.gz", b"no gzip"),
        ("MNIST_IDX_Database", f"{IMAGES}.gz", gzip.compress(HEADER + PIXELS, mtime=0)[:-9]),
        (
            "MNIST_IDX_Database",
            f"{IMAGES}.gz",
            gzip.compress(bytes(99), mtime=0)[:10] + b"\xff" * 30,
        ),
        ("CIFAR10_Database", "data_batch_1.bin", bytes(3073)),  # the other four are missing
        ("CIFAR100_Database", "train.bin", bytes(3073)),
        ("CIFAR100_Database", "train.bin", b""),
        ("ILSVRC2012_Database", "train", b""),
    ],
)
def test_what_is_not_there_or_damaged(
    tmp_path: Path, database: str, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert training_pixels(database, tmp_path) is None
    assert training_pixels(database, tmp_path / "nowhere") is None
