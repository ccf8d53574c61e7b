"""Images in folders that are their classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from qatlab.data.decode import SUFFIXES
from qatlab.data.file_sources import LabelledFiles, channels_of_files, existing, is_image, readable
from qatlab.data.splits import Shares
from qatlab.data.transforms.limits import whole_number
from qatlab.data.transforms.transform import Part
from qatlab.errors import DataError, did_you_mean, wrong

PART_FOLDERS: dict[Part, tuple[str, ...]] = {
    "training": ("train", "training"),
    "validation": ("val", "validation"),
    "test": ("test",),
}

MOST_LEVELS = 100  # of folders inside of each other
Place = tuple[int, int]  # of a folder: device and number there


class ImageFolder:
    """All images in a folder; the folder that each lies in is its class.

    A folder that holds ``train/`` (or ``training/``) and beside it ``val/`` (``validation/``) or
    ``test/`` is divided already: the folders of the classes are then expected in these. Without
    ``val/``, validation images are a share of ``train/``; without ``test/``, test images are those
    of ``val/``, or a share of ``train/`` if ``test`` says so; all others of ``train/`` are trained
    on.

    N2D2's ``DIR_Database``: DataPath, Depth, LabelDepth, Learn, Validation, Test,
    PerLabelPartitioning, EquivLabelPartitioning.

    Args:
        folder: holds the folders of the classes; these are sorted by name. What has a name that
            begins with a dot is not looked at.
        training: share of the images to train on, up to 1; a number above 1 is one of images.
        validation: likewise, to choose the best epoch.
        test: likewise, for the final evaluation; None for all that is left.
        per_label: divide the images of each class for itself, else all together.
        equal: with ``per_label``, divide as many images of each class as the smallest class has;
            the surplus goes to the test set.
        depth: how many levels of folders to look into; None for all.
        label_depth: how many levels of folders make up the name of a class.
        channels: 3 reads images as RGB, 1 as grey.
    """

    def __init__(
        self,
        folder: str,
        training: float,
        validation: float = 0.0,
        test: float | None = None,
        per_label: bool = True,
        equal: bool = True,
        depth: int | None = 1,
        label_depth: int = 1,
        channels: int = 3,
    ) -> None:
        self.folder = Path(folder)
        self.shares = Shares(training, validation, test, per_label, equal)
        self.label_depth = whole_number("data.source.label_depth", label_depth, 1)
        self.depth = None if depth is None else whole_number("data.source.depth", depth, 1)
        if self.depth is not None and self.depth < self.label_depth:
            least = f"at least data.source.label_depth={label_depth}"
            raise wrong("data.source.depth", depth, least, "Else no image would have a class.")
        self.channels = channels_of_files(channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders of the classes, sorted."""
        return self._found[0]

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        _, given = self._found
        shares = self.shares
        if len(given) > 1:  # divided already, but for what is missing
            if part == "test" and part not in given and shares.test is None:
                part = "validation"
            if part != "training" and part in given:
                return given[part]
            validation = 0.0 if "validation" in given else shares.validation
            test = 0.0 if "test" in given else shares.test
            shares = Shares(None, validation, test, shares.per_label, equal=False)
        everything = given["training"]
        return everything.select(shares.divide(everything.labels, split, seed)[part])

    def leave_out(self, name: str) -> bool:
        """Return whether a folder of a class is not looked at."""
        return False

    @cached_property
    def _found(self) -> tuple[tuple[str, ...], dict[Part, LabelledFiles]]:
        """The classes, and the files of each part that has a folder, or all as ``training``."""
        folder = existing(self.folder, "the folders of the classes are expected there")
        roots = _parts(folder) or {"training": folder}
        names = {part: list(self._walk(root, {})) for part, root in roots.items()}
        classes = sorted({self._class(name) for name in names["training"]})
        if not classes:
            raise DataError(
                f"data.source.folder is '{folder}' ({folder.resolve()}), where no folder of a "
                f"class holds images. Accepted: {', '.join(SUFFIXES)}."
            )
        label_of = {name: label for label, name in enumerate(classes)}
        files = {}
        for part, root in roots.items():
            check_known(root, {self._class(name) for name in names[part]}, classes)
            labelled = ((name, label_of[self._class(name)]) for name in names[part])
            files[part] = LabelledFiles.of(root, labelled)
        return tuple(map(readable, classes)), files

    def _walk(
        self, root: Path, seen: dict[Place, Path], inside: str = "", level: int = 0
    ) -> Iterator[str]:
        """Yield the names of all images below a root, sorted, folder by folder.

        Folders that it goes into are added to ``seen``.
        """
        if level > MOST_LEVELS:
            raise DataError(
                f"{root} holds folders inside of each other, more than {MOST_LEVELS} levels deep; "
                "set data.source.depth."
            )
        here = root / inside
        for entry in unseen(here, seen):
            name = f"{inside}{entry.name}"
            if is_folder(entry):
                if self.depth is not None and level >= self.depth:
                    continue
                if level == 0 and self.leave_out(entry.name):
                    continue
                names = list(self._walk(root, seen, f"{name}/", level + 1))
                if not names and level < self.label_depth:
                    raise without_images(entry.path)
                yield from names
            elif is_image(entry.name):
                if level < self.label_depth:
                    place = f"{'<class>/' * self.label_depth}{entry.name}"
                    raise DataError(
                        f"{entry.path} has no class, as it lies in no folder of one. Accepted in "
                        f"{root}: {place}, as data.source.label_depth is {self.label_depth}."
                    )
                yield name

    def _class(self, name: str) -> str:
        return "/".join(name.split("/")[: self.label_depth])


def without_images(folder: str | Path) -> DataError:
    """Return the error of a folder of a class that holds none."""
    return DataError(
        f"{folder} is the folder of a class, but holds no images; delete it or fill it. Accepted: "
        f"{', '.join(SUFFIXES)}."
    )


def check_known(folder: Path, found: Iterable[str], classes: Sequence[str]) -> None:
    """Raise a DataError for a class of a part of the data set that the training images lack."""
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(
            f"{folder / unknown[0]} is the folder of a class that the training images lack."
            f"{did_you_mean(unknown[0], classes)}"
        )


def _parts(folder: Path) -> dict[Part, Path]:
    """Return the folders of the parts of a data set that is divided already, else nothing."""
    inside = subfolders(folder)
    found: dict[Part, Path] = {}
    for part, names in PART_FOLDERS.items():
        for name in names:
            if name in inside:
                found.setdefault(part, folder / name)
    return found if "training" in found and (len(found) > 1 or len(inside) == 1) else {}


def subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; not those that begin with a dot."""
    return tuple(entry.name for entry in listing(folder) if is_folder(entry))


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name; not what has a name that begins with a dot.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}.") from error
    return sorted(entries, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one.

    Raises:
        DataError: for links that lead in a circle.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(f"cannot read {entry.path}: {error.strerror}.") from error


def unseen(folder: Path, seen: dict[Place, Path]) -> list[os.DirEntry[str]]:
    """Return what a folder holds that was not looked into before; see :func:`listing`.

    Raises:
        DataError: if it was, under another name: links may lead in circles.
    """
    entries = listing(folder)
    found = folder.stat()
    place = found.st_dev, found.st_ino
    if place in seen:
        raise DataError(
            f"{folder} is the folder {seen[place]} once more, through a link; remove the link."
        )
    seen[place] = folder
    return entries
