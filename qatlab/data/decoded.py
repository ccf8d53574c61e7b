"""Image files of one size, decoded once and kept in memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from qatlab.data.decode import read_image
from qatlab.data.file_sources import BAD_IMAGES, BadImages, FileSource, check_few, left_out
from qatlab.data.folders import ImageFolder
from qatlab.data.sources import LabelledImages
from qatlab.data.transforms.limits import choice
from qatlab.data.transforms.transform import Part
from qatlab.errors import DataError
from qatlab.system.terminal import note

_FILES_PER_TASK = 200


class Decoded:
    """A source of images in memory, made from one of files; these must be of one size.

    Which images are held out for validation is decided by ``data.validation``, as for all images in
    memory: those that the files' source holds out come behind its training images.

    Args:
        files: tells the files and their classes.
        bad_images: what an image is that cannot be decoded: an ``error``, or left out and counted
            (``skip``).
    """

    def __init__(self, files: FileSource, bad_images: BadImages = "error") -> None:
        self.source = files
        self.bad_images = choice("data.source.bad_images", bad_images, BAD_IMAGES)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        return self.source.class_names

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.source.channels

    def training_set(self) -> LabelledImages:
        """Decode the training images, then those for validation."""
        return self._decode("training", "validation")

    def test_set(self) -> LabelledImages:
        """Decode the test images."""
        return self._decode("test")

    def _decode(self, *parts: Part) -> LabelledImages:
        """Decode all files of the parts, with a thread for each core: decoding lets others run."""
        given = [self.source.files(part, "in_order", 0) for part in parts]
        labels = torch.cat([torch.from_numpy(part.labels) for part in given])
        files = [part.file(i) for part in given for i in range(len(part.labels))]
        if not files:
            raise DataError(f"data.source has no {parts[0]} images in '{given[0].folder}'.")
        tasks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
        threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        images, bad = torch.empty(0), list[str]()
        kept = list[int]()
        try:
            decoded = chain.from_iterable(threads.map(self._read, tasks))
            for number, image in enumerate(decoded):
                if isinstance(image, DataError):
                    bad.append(str(image))
                    continue
                if not kept:
                    images = image.new_empty((len(files), *image.shape))
                if image.shape != images.shape[1:]:
                    (height, width), (h, w) = image.shape[1:], images.shape[2:]
                    raise DataError(
                        f"{files[number]} has {height}x{width} pixels, but {files[kept[0]]} has "
                        f"{h}x{w}; data=image_folder is for images of different sizes."
                    )
                images[len(kept)] = image
                kept.append(number)
        finally:
            threads.shutdown(cancel_futures=True)
        if not kept:
            raise DataError(f"none of {len(files)} images can be decoded; the first: {bad[0]}")
        check_few(bad, len(files), parts[0])
        if bad:
            line = left_out(bad, len(files), parts[0])
            print(line)
            note(line)
        return LabelledImages(images[: len(kept)], labels[kept])

    def _read(self, files: list[Path]) -> list[Tensor | DataError]:
        found: list[Tensor | DataError] = []
        for file in files:
            try:
                found.append(read_image(file, self.channels))
            except DataError as error:
                if self.bad_images == "error":
                    raise
                found.append(error)
        return found


class DecodedFolder(Decoded):
    """The images of an :class:`ImageFolder` that holds ``train/`` and ``test/``, in memory.

    Args:
        folder: holds ``train/<class>/`` and ``test/<class>/``, all images of one size.
        channels: 3 reads images as RGB, 1 as grey.
        bad_images: see :class:`Decoded`.
    """

    def __init__(self, folder: str, channels: int = 3, bad_images: BadImages = "error") -> None:
        super().__init__(ImageFolder(folder, training=1.0, channels=channels), bad_images)
