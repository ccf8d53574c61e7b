"""What a run tells of the images of each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qatlab.data import ImageFiles, ImageFolder
from qatlab.run.images import described, image_counts


def folder(place: Path, **classes: int) -> Path:
    for name, count in classes.items():
        for i in range(count):
            file = place / name / f"{i}.png"
            file.parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(file)
    return place


def data(place: Path, equal: bool = False) -> ImageFiles:
    source = ImageFolder(str(place), training=0.5, validation=0.25, equal=equal)
    given = {"image_size": (2, 2), "batch_size": 4, "eval_batch_size": 4, "workers": 0}
    return ImageFiles(source, split="in_order", split_seed=0, shuffle_seed=0, **given)  # type: ignore[arg-type]


def test_images_of_each_class_are_counted(tmp_path: Path) -> None:
    images = data(folder(tmp_path, cat=40, dog=8))
    images.setup("fit")
    counts = image_counts(images, "training", "validation", "test")
    assert counts == {
        "training": {"cat": 20, "dog": 4},
        "validation": {"cat": 10, "dog": 2},
        "test": {"cat": 10, "dog": 2},
    }
    assert described({part: counts[part] for part in ("training", "validation")}) == [
        "24 training and 12 validation images of 2 classes; of 'dog' 4 are trained on, of 'cat' 20"
    ]


def test_even_classes_are_not_named_and_missing_ones_are() -> None:
    assert described({"training": {"a": 2, "b": 3}, "validation": {"a": 0, "b": 0}}) == [
        "5 training images of 2 classes"
    ]
    missing = {f"c{i}": 0 for i in range(7)}
    _, warning = described({"training": {"a": 2, **missing}})
    assert warning == ("Warning: no image is trained on of 'c0', 'c1', 'c2', 'c3', 'c4' and 2 more")


@pytest.mark.parametrize(("dogs", "warned"), [(4, True), (12, False)])
def test_most_images_left_out_for_equal_classes_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dogs: int, warned: bool
) -> None:
    images = data(folder(tmp_path, cat=30, dog=dogs), equal=True)
    images.setup("fit")
    images.setup("test")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == warned
    if warned:
        assert "divides 4 images of each class" in told[0]
        assert "26 of 34 go to the test set" in told[0]
        assert image_counts(images, "test") == {"test": {"cat": 27, "dog": 1}}
