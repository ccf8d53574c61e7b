"""Images in folders that are their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from qatlab.data.decode import SUFFIXES
from qatlab.data.file_sources import LabelledFiles, channels_of_files, existing, is_image
from qatlab.data.limits import whole_number
from qatlab.data.splits import Shares
from qatlab.data.transforms.transform import Part
from qatlab.errors import ConfigError, DataError


class ImageFolder:
    """All images in a folder; the folder that each lies in is its class.

    N2D2's ``DIR_Database``: DataPath, Depth, LabelDepth, Learn, Validation, Test,
    PerLabelPartitioning, EquivLabelPartitioning.

    Args:
        folder: holds the folders of the classes; these are sorted by name.
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
            raise ConfigError(
                f"data.source.depth is {depth}; it must be at least {label_depth}, which is "
                "data.source.label_depth, or no image would have a class."
            )
        self.channels = channels_of_files(channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders of the classes, sorted."""
        return self._found[0]

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        everything = self._found[1]
        return everything.select(self.shares.divide(everything.labels, split, seed)[part])

    def leave_out(self, name: str) -> bool:
        """Return whether a folder of a class is not looked at."""
        return False

    @cached_property
    def _found(self) -> tuple[tuple[str, ...], LabelledFiles]:
        """The classes and all files."""
        folder = existing(self.folder, "the folders of the classes are expected there")
        names = list(self._walk(folder, 0))
        classes = sorted({self._class(name) for name in names})
        if not classes:
            raise DataError(
                f"data.source.folder is '{folder}' ({folder.resolve()}), where no folder of a "
                f"class holds images; accepted: {', '.join(SUFFIXES)}."
            )
        label_of = {name: label for label, name in enumerate(classes)}
        files = ((name, label_of[self._class(name)]) for name in names)
        return tuple(classes), LabelledFiles.of(folder, files)

    def _walk(self, folder: Path, level: int) -> Iterator[str]:
        """Yield the names of all images, sorted, folder by folder."""
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.is_dir():
                if self.depth is None or level < self.depth:
                    if level == 0 and self.leave_out(entry.name):
                        continue
                    yield from self._walk(Path(entry.path), level + 1)
            elif is_image(entry.name):
                if level < self.label_depth:
                    raise DataError(
                        f"{entry.path} has no class: it lies {level} folders deep, and "
                        f"data.source.label_depth is {self.label_depth}."
                    )
                yield str(Path(entry.path).relative_to(self.folder))

    def _class(self, name: str) -> str:
        return "/".join(Path(name).parts[: self.label_depth])
