"""Published data sets of image files in the folders they are published in."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from qatlab.data.file_sources import LabelledFiles, channels_of_files, existing, is_image, readable
from qatlab.data.folders import (
    ImageFolder,
    check_known,
    listing,
    subfolders,
    without_images,
)
from qatlab.data.splits import Shares
from qatlab.data.tables import read_table
from qatlab.data.transforms.limits import MOST_CLASSES, number, whole_number
from qatlab.data.transforms.transform import Part
from qatlab.errors import DataError, did_you_mean


class Gtsrb:
    """The German Traffic Sign Recognition Benchmark: 43 classes, 39,209 and 12,630 images.

    N2D2's ``GTSRB_DIR_Database``: DataPath, Validation. Signs are not cut out (ExtractROIs=0).

    Args:
        folder: holds ``Final_Training/Images/`` and ``Final_Test/Images/``, or ``GTSRB/`` that
            holds them; ``Final_Test/Images/GT-final_test.csv`` is the table with the classes.
        validation: share of the training images of each class that is held out.
        channels: 3 reads images as RGB, 1 as grey.
    """

    class_names: tuple[str, ...] = tuple(f"{label:05d}" for label in range(43))

    def __init__(self, folder: str, validation: float = 0.0, channels: int = 3) -> None:
        self.folder = Path(folder)
        share = number("data.source.validation", validation, 0, 1)
        self.shares = Shares(1 - share, share, 0.0, per_label=True, equal=False)
        self.channels = channels_of_files(channels)

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        if part == "test":
            return self._test
        return self._training.select(self.shares.divide(self._training.labels, split, seed)[part])

    @property
    def _root(self) -> Path:
        """The folder that holds the two."""
        inside = self.folder / "GTSRB"
        return inside if inside.is_dir() else self.folder

    @cached_property
    def _training(self) -> LabelledFiles:
        folder = existing(self._root / "Final_Training" / "Images", _GTSRB)
        names = (
            (f"{name}/{file}", label)
            for label, name in enumerate(self.class_names)
            for file in images_in(folder / name)
        )
        return LabelledFiles.of(folder, names)

    @cached_property
    def _test(self) -> LabelledFiles:
        folder = existing(self._root / "Final_Test" / "Images", _GTSRB)
        table = folder / "GT-final_test.csv"
        rows = list(read_table(table, ";"))
        titles = rows[0] if rows else []
        if not {"Filename", "ClassId"} <= set(titles):
            raise DataError(
                f"{table} must have columns 'Filename' and 'ClassId', separated by ';'."
            )
        name, label = titles.index("Filename"), titles.index("ClassId")
        known = {str(label): label for label in range(len(self.class_names))}
        pairs = []
        for line, row in enumerate(rows[1:], 2):
            if len(row) <= max(name, label) or row[label] not in known:
                raise DataError(
                    f"{table}, row {line}: a name and a class from 0 to {len(known) - 1} are "
                    f"needed, but it says {';'.join(row)}."
                )
            pairs.append((row[name], known[row[label]]))
        return LabelledFiles.of(folder, pairs)


class Caltech101(ImageFolder):
    """Caltech-101: 101 classes of 31 to 800 images of different sizes.

    N2D2's ``Caltech101_DIR_Database``: DataPath, Learn, Validation.

    Args:
        folder: holds the folders of the classes, or ``101_ObjectCategories/`` that holds them.
        training: share of the images of each class, or a number of images above 1.
        validation: likewise; what is left is the test set.
        clutter: take the images that show none of the objects as one more class.
        equal: divide as many images of each class as the smallest class has.
        channels: 3 reads images as RGB, 1 as grey.
    """

    _subfolder: ClassVar[str] = "101_ObjectCategories"
    _clutter: ClassVar[str] = "BACKGROUND_Google"

    def __init__(
        self,
        folder: str,
        training: float,
        validation: float = 0.0,
        clutter: bool = False,
        equal: bool = True,
        channels: int = 3,
    ) -> None:
        inside = Path(folder) / self._subfolder
        chosen = str(inside) if inside.is_dir() else folder
        super().__init__(chosen, training, validation, equal=equal, channels=channels)
        self.clutter = clutter

    def leave_out(self, name: str) -> bool:
        """Return whether a folder is not looked at: that of the clutter, unless it is a class."""
        return name == self._clutter and not self.clutter


class Caltech256(Caltech101):
    """Caltech-256: 256 classes of 80 to 827 images; see :class:`Caltech101`."""

    _subfolder = "256_ObjectCategories"
    _clutter = "257.clutter"


class VisualWakeWords(ImageFolder):
    """Visual Wake Words of MLPerf Tiny: 109,619 photographs, 96x96, with and without a person.

    Source: Chowdhery et al. 2019, arXiv:1906.05721, of COCO; the archive ``vw_coco2014_96`` that
    the benchmark's scripts fetch.

    Args:
        folder: holds ``vw_coco2014_96/`` as the archive unpacks, or its folders ``person/`` and
            ``non_person/`` themselves.
        training: share of the images of each class, or a number of images above 1.
        validation: likewise; what is left is the test set.
        channels: 3 reads images as RGB, 1 as grey.
    """

    _subfolder: ClassVar[str] = "vw_coco2014_96"
    class_names: tuple[str, ...] = ("non_person", "person")

    def __init__(
        self, folder: str, training: float, validation: float = 0.0, channels: int = 3
    ) -> None:
        inside = Path(folder) / self._subfolder
        chosen = str(inside) if inside.is_dir() else folder
        super().__init__(chosen, training, validation, equal=False, channels=channels)

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        folder = existing(self.folder, _VISUAL_WAKE_WORDS)
        if wrong := {*self.class_names} ^ {*subfolders(folder)}:
            first = min(wrong)
            what = "is missing" if first in self.class_names else "is there, too"
            raise DataError(
                f"data.source.folder: '{folder}' ({folder.resolve()}) should hold the folders "
                f"'non_person' and 'person' and no other, but '{first}' {what}; "
                f"{_VISUAL_WAKE_WORDS}."
            )
        return super().files(part, split, seed)


class ImageNet:
    """ImageNet of the challenge of 2012: 1000 classes, 1,281,167 and 50,000 images.

    N2D2's ``ILSVRC2012_Database``: DataPath, LabelPath, Learn, UseValidationForTest,
    BackgroundClass.

    Args:
        folder: holds ``train/<class>/`` and ``val/``.
        training: share of the training images to train on; the others are test images.
        num_classes: how many folders ``train/`` must hold, or a part of the data set would go
            unnoticed; None for a subset of any size.
        validation_labels: table of the images in ``val/``, relative to the folder, such as
            ``ILSVRC2012_val_00000001.JPEG 65``; a class is its name, or its number in the order of
            the sorted names, from 0. None if they lie in ``val/<class>/``.
        test_on_validation: the validation images are the test images, too.
        background_class: put a class without images, 'background', in front of the others.
        channels: 3 reads images as RGB, 1 as grey.
    """

    def __init__(
        self,
        folder: str,
        training: float = 1.0,
        validation_labels: str | None = None,
        test_on_validation: bool = True,
        background_class: bool = False,
        channels: int = 3,
        num_classes: int | None = 1000,
    ) -> None:
        self.folder = Path(folder)
        if num_classes is not None:
            whole_number("data.source.num_classes", num_classes, 1, MOST_CLASSES)
        self.num_classes = num_classes
        share = number("data.source.training", training, 0, 1)
        self.shares = Shares(share, 0.0, None, per_label=False)
        self.validation_labels = validation_labels
        self.test_on_validation = test_on_validation
        self.first = int(background_class)  # label of the first class of the folder
        self.channels = channels_of_files(channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders in ``train/``, sorted; without it, 1000 numbers to plan with."""
        return ("background",) * self.first + tuple(map(readable, self._classes))

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        if part == "validation":
            return self._validation
        if part == "test" and self.shares.training == 1:
            return self._validation if self.test_on_validation else self._nothing()
        divided = self._training.select(
            self.shares.divide(self._training.labels, split, seed)[part]
        )
        if part == "test" and self.test_on_validation:
            return _joined(self.folder, divided, self._validation)
        return divided

    def _nothing(self) -> LabelledFiles:
        return LabelledFiles.of(self.folder, ())

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        train = self.folder / "train"
        if not train.is_dir():  # reported where an image is asked for
            return tuple(f"{number:04d}" for number in range(self.num_classes or 1000))
        classes = subfolders(train)
        if self.num_classes not in (None, len(classes)):
            raise DataError(
                f"{train} holds {len(classes)} folders of classes, not {self.num_classes} as "
                "data.source.num_classes says; unpack what is missing, or set it to null for a "
                "subset."
            )
        return classes

    @cached_property
    def _training(self) -> LabelledFiles:
        existing(self.folder / "train", _IMAGENET)
        return LabelledFiles.of(self.folder, self._in_folders("train"))

    @cached_property
    def _validation(self) -> LabelledFiles:
        existing(self.folder / "val", _IMAGENET)
        if self.validation_labels is None:
            check_known(self.folder / "val", subfolders(self.folder / "val"), self._classes)
            return LabelledFiles.of(self.folder, self._in_folders("val"))
        table = self.folder / self.validation_labels
        label_of = {name: label for label, name in enumerate(self._classes, self.first)}
        label_of |= {str(label): label + self.first for label in range(len(self._classes))}
        pairs = []
        for row in read_table(table, " "):
            name, label = row[0], row[-1]
            if label not in label_of:
                hint = did_you_mean(label, self._classes)
                raise DataError(f"{table}: {name} has the class {label}, which is unknown.{hint}")
            pairs.append((f"val/{name}", label_of[label]))
        return LabelledFiles.of(self.folder, pairs)

    def _in_folders(self, part: str) -> list[tuple[str, int]]:
        return [
            (f"{part}/{name}/{file}", label)
            for label, name in enumerate(self._classes, self.first)
            for file in images_in(self.folder / part / name)
        ]


_IMAGENET = (
    "ImageNet, which image-net.org gives to those with an account, is expected there: the training "
    "images in 'train/<class>/', those for validation in 'val/<class>/' or, with "
    "data.source.validation_labels, in 'val/'"
)
_VISUAL_WAKE_WORDS = (
    "MLPerf Tiny's archive 'vw_coco2014_96.tar.gz' is expected there, unpacked: "
    "'vw_coco2014_96/person/' and 'vw_coco2014_96/non_person/'"
)
_GTSRB = "GTSRB has 'Final_Training/Images/' and 'Final_Test/Images/GT-final_test.csv'"


def images_in(folder: Path) -> list[str]:
    """Return the names of the images of a class, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold the images of a class.")
    images = [entry.name for entry in listing(folder) if is_image(entry.name)]
    if not images:
        raise without_images(folder)
    return images


def _joined(folder: Path, *parts: LabelledFiles) -> LabelledFiles:
    """Return the files of several parts of the same folder."""
    pairs = (
        (os.fsdecode(bytes(name)), int(label))
        for part in parts
        for name, label in zip(part.names, part.labels, strict=True)
    )
    return LabelledFiles.of(folder, pairs)
