"""Statistics of a data set, for files whose transformations are computed from them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
COMPUTED = tuple(f"_GlobalValue.{value}" for value in ("minVal", "maxVal", "mean", "stdDev"))
LARGEST = 1 << 30  # bytes of a file
IDX_HEADER = b"\0\0\x08\x03"  # bytes in three dimensions
CIFAR_IMAGE = 3072


def training_pixels(database: str, folder: Path) -> Pixels | None:
    """Return all pixels of the training images; None if they are not there.

    Args:
        database: N2D2's Type.
        folder: where the files are, or the folder around it as torchvision lays it out.
    """
    if database == "MNIST_IDX_Database":
        return _idx([folder / "MNIST/raw", folder])
    if database == "Fashion_MNIST_IDX_Database":
        return _idx([folder / "FashionMNIST/raw", folder])
    if database == "CIFAR10_Database":
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        return _cifar([folder / "cifar-10-batches-bin", folder], names, 1)
    if database == "CIFAR100_Database":
        return _cifar([folder / "cifar-100-binary", folder], ["train.bin"], 2)
    return None


def measure(pixels: Pixels) -> dict[str, float]:
    """Return N2D2's ``_GlobalValue.*`` of 8-bit values, by key."""
    counts = np.bincount(pixels.ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256, dtype=np.float64)
    there = np.flatnonzero(counts)
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    values = (float(there[0]), float(there[-1]), round(mean, 6), round(variance**0.5, 6))
    return dict(zip(COMPUTED, values, strict=True))


def _idx(folders: list[Path]) -> Pixels | None:
    name = "train-images-idx3-ubyte"
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            content = _content(path)
            if len(content) > 16 and content.startswith(IDX_HEADER):
                return np.frombuffer(content, np.uint8, offset=16)
    return None


def _cifar(folders: list[Path], names: list[str], labels: int) -> Pixels | None:
    record = labels + CIFAR_IMAGE
    for folder in folders:
        contents = [_content(folder / name) for name in names]
        if all(content and len(content) % record == 0 for content in contents):
            rows = [np.frombuffer(c, np.uint8).reshape(-1, record)[:, labels:] for c in contents]
            return np.concatenate(rows)
    return None


def _content(path: Path) -> bytes:
    """Return the content of a file; nothing if it is not there or damaged."""
    if not path.is_file():
        return b""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(LARGEST)
    except (OSError, EOFError, zlib.error):
        return b""
