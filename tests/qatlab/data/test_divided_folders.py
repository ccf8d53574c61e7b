from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from empty_files import touched

from qatlab.data import FileSource, Gtsrb, ImageFolder, ImageNet
from qatlab.data.transforms.transform import Part
from qatlab.errors import DataError


def numbered(kind: str, count: int) -> Iterable[str]:
    return (f"{kind}/{number:02}.jpg" for number in range(count))


def names(source: FileSource, part: Part, split: str = "in_order", seed: int = 0) -> list[str]:
    files = source.files(part, split, seed)
    root = Path(source.folder)  # type: ignore[attr-defined]
    return [os.path.relpath(files.file(i), root) for i in range(len(files.labels))]


def test_parts_that_have_a_folder_are_taken_from_there(tmp_path: Path) -> None:
    kinds = ("train/dog", "train/cat", "val/dog", "val/cat", "test/dog")
    folder = touched(tmp_path, *(name for kind in kinds for name in numbered(kind, 3)))
    source = ImageFolder(folder, training=0.5, validation=0.5)
    assert source.class_names == ("cat", "dog")
    assert names(source, "training") == [*numbered("train/cat", 3), *numbered("train/dog", 3)]
    assert names(source, "validation") == [*numbered("val/cat", 3), *numbered("val/dog", 3)]
    assert names(source, "test") == [*numbered("test/dog", 3)]
    assert source.files("test", "random", 0).labels.tolist() == [1, 1, 1]


def test_folders_may_be_called_training_and_validation(tmp_path: Path) -> None:
    folder = touched(tmp_path, "training/a/1.jpg", "validation/a/2.jpg")
    source = ImageFolder(folder, training=1)
    assert names(source, "training") == ["training/a/1.jpg"]
    assert names(source, "validation") == names(source, "test") == ["validation/a/2.jpg"]


def test_without_a_folder_for_validation_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    kinds = {"train/a": 20, "train/b": 10, "test/a": 2, "test/b": 1}
    folder = touched(tmp_path, *(name for kind, n in kinds.items() for name in numbered(kind, n)))
    source = ImageFolder(folder, training=0.8, validation=0.1)
    held_out = names(source, "validation", "random", seed=1)
    assert [name[:7] for name in held_out] == ["train/a", "train/a", "train/b"]
    trained_on = names(source, "training", "random", seed=1)
    assert len(trained_on) == 27  # all others, whatever share `training` is
    assert not set(trained_on) & set(held_out)
    assert names(source, "validation", "random", seed=2) != held_out
    assert len(names(source, "test")) == 3


def test_without_a_folder_for_testing_a_share_is_split_off_if_it_is_said(tmp_path: Path) -> None:
    folder = touched(tmp_path, *numbered("train/a", 10), *numbered("val/a", 4))
    source = ImageFolder(folder, training=0.6, validation=0.1, test=0.3)
    assert [len(names(source, part)) for part in ("training", "validation", "test")] == [7, 4, 3]
    source = ImageFolder(folder, training=0.8, validation=0.1)
    assert names(source, "test") == names(source, "validation") == [*numbered("val/a", 4)]


def test_train_may_be_all_there_is(tmp_path: Path) -> None:
    folder = touched(tmp_path, *numbered("train/a", 10), "readme.txt")
    source = ImageFolder(folder, training=0.5, validation=0.2)
    assert source.class_names == ("a",)
    assert [len(names(source, part)) for part in ("training", "validation", "test")] == [5, 2, 3]


def test_a_train_may_be_a_class(tmp_path: Path) -> None:
    folder = touched(tmp_path, "train/1.jpg", "tractor/1.jpg")
    assert ImageFolder(folder, training=1).class_names == ("tractor", "train")


def test_what_begins_with_a_dot_is_no_image_and_no_class(tmp_path: Path) -> None:
    folder = touched(tmp_path, "a/1.jpg", "a/._1.jpg", ".trash/2.jpg", ".empty/x")
    assert names(ImageFolder(folder, training=1), "training") == ["a/1.jpg"]


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_without_training_images_is_reported_at_once(tmp_path: Path, part: str) -> None:
    folder = touched(tmp_path, "train/zebra/1.jpg", "train/dog/1.jpg", f"{part}/zebras/1.jpg")
    source = ImageFolder(folder, training=1)
    expected = rf"/{part}/zebras is the folder of a class that the .* Did you mean 'zebra'\?"
    with pytest.raises(DataError, match=expected):
        _ = source.class_names


def test_an_empty_class_is_reported_wherever_it_is(tmp_path: Path) -> None:
    folder = touched(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg")
    (tmp_path / "test" / "b").mkdir()
    with pytest.raises(DataError, match="/test/b is the folder of a class, but holds no images"):
        _ = ImageFolder(folder, training=1).class_names


def imagenet(folder: Path, **options: Any) -> ImageNet:
    touched(folder, "train/n01/1.JPEG", "train/n02/2.JPEG", "val/n01/3.JPEG", "val/n02/4.JPEG")
    return ImageNet(str(folder), **options)


def test_imagenet_must_have_all_its_classes_unless_a_subset_is_meant(tmp_path: Path) -> None:
    expected = r"/train holds 2 folders of classes, not 1000 as data\.source\.num_classes says"
    with pytest.raises(DataError, match=expected):
        _ = imagenet(tmp_path).class_names
    assert imagenet(tmp_path, num_classes=2).class_names == ("n01", "n02")
    assert imagenet(tmp_path, num_classes=None).class_names == ("n01", "n02")
    planned = ImageNet(str(tmp_path / "nowhere"), num_classes=7)
    assert len(planned.class_names) == 7


def test_imagenet_tells_what_is_wrong_with_a_folder_of_a_class(tmp_path: Path) -> None:
    touched(tmp_path, "val/n03/5.JPEG")
    with pytest.raises(DataError, match="/val/n03 is the folder of a class that the training"):
        names(imagenet(tmp_path, num_classes=2), "validation")
    (tmp_path / "train" / "n03").mkdir()
    with pytest.raises(DataError, match="/train/n03 is the folder of a class, but holds no images"):
        names(imagenet(tmp_path, num_classes=3), "training")


def test_imagenet_that_is_not_there_says_where_it_comes_from_and_how_it_lies(
    tmp_path: Path,
) -> None:
    source = ImageNet(str(tmp_path / "nowhere"))
    expected = r"image-net\.org gives .* account, .* 'train/<class>/', .* 'val/<class>/'"
    with pytest.raises(DataError, match=expected):
        names(source, "training")


@pytest.mark.parametrize("row", ["0.ppm;43", "0.ppm;stop", "0.ppm"])
def test_gtsrb_tells_a_row_without_a_class(tmp_path: Path, row: str) -> None:
    touched(tmp_path, "Final_Test/Images/0.ppm")
    table = tmp_path / "Final_Test/Images/GT-final_test.csv"
    table.write_text(f"Filename;ClassId\n1.ppm;42\n{row}\n")
    with pytest.raises(DataError, match=rf"row 3: a name and a class from 0 to 42 .* says {row}\."):
        names(Gtsrb(str(tmp_path)), "test")
