"""Where image files come from: the interface of a source of files, and what sources share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from qatlab.data.decode import SUFFIXES
from qatlab.data.splits import Indices
from qatlab.data.transforms.transform import Part
from qatlab.errors import DataError, wrong

BadImages = Literal["error", "skip"]
MOST_BAD = 0.05  # of the images of a part, which may be left out
BAD_IMAGES: tuple[BadImages, ...] = get_args(BadImages)


class LabelledFiles(NamedTuple):
    """Image files and their classes; names are bytes, or millions of them would fill the memory."""

    folder: Path
    names: NDArray[np.bytes_]  # (N,), relative to the folder, in the encoding of the file system
    labels: Indices  # int64, (N,), index into the class names

    @classmethod
    def of(cls, folder: Path, files: Iterable[tuple[str, int]]) -> LabelledFiles:
        """Return files from their names and labels."""
        pairs = list(files)
        names = np.array([os.fsencode(name) for name, _ in pairs], dtype=np.bytes_)
        return cls(folder, names, np.array([label for _, label in pairs], dtype=np.int64))

    def select(self, index: Indices) -> LabelledFiles:
        """Return the files at ``index``, in that order."""
        return LabelledFiles(self.folder, self.names[index], self.labels[index])

    def file(self, index: int) -> str:
        """Return the path of one of the files."""
        return os.path.join(self.folder, os.fsdecode(self.names[index].item()))


class FileSource(Protocol):
    """A data set of image files; making the object reads nothing."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        ...

    @property
    def channels(self) -> int:
        """C of the images: 3 for RGB, 1 for grey."""
        ...

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part, which may be none.

        Args:
            part: training, validation or test.
            split: ``random`` or ``in_order``, where the source divides files itself.
            seed: of the random choice.
        """
        ...


def existing(folder: Path, expected: str) -> Path:
    """Return a folder, or raise a DataError naming the key it comes from."""
    if not folder.is_dir():
        raise DataError(
            f"data.source.folder: '{folder}' ({folder.resolve()}) is not a folder; {expected}."
        )
    return folder


def is_image(name: str) -> bool:
    """Return whether a file is one by its name."""
    return name.lower().endswith(SUFFIXES)


def readable(name: str) -> str:
    """Return the name of a class as text that can be written and printed.

    Names of files are any bytes; those that are not UTF-8, or move a cursor, become ``\\xff``.
    """
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def left_out(bad: Sequence[str], n_images: int, part: Part) -> str:
    """Return what to tell of images that cannot be decoded."""
    return (
        f"{len(bad):,} of {n_images:,} {part} images could not be decoded and were left out; the "
        f"first: {bad[0]}"
    )


def check_few(bad: Sequence[str], n_images: int, part: Part) -> None:
    """Raise a DataError if so many images are left out that it is not these that are wrong."""
    if len(bad) > MOST_BAD * n_images:
        raise DataError(
            f"{len(bad):,} of {n_images:,} {part} images cannot be decoded, more than the "
            f"{MOST_BAD:.0%} that bad_images=skip leaves out; the first: {bad[0]}"
        )


def channels_of_files(channels: int) -> int:
    """Check ``data.source.channels``."""
    if channels not in (1, 3) or isinstance(channels, bool):
        raise wrong("data.source.channels", channels, "3 for RGB, 1 for grey")
    return channels
