from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from empty_files import touched

from qatlab.data import (
    Caltech101,
    Caltech256,
    CsvImages,
    FileSource,
    Gtsrb,
    ImageFolder,
    ImageNet,
    LabelledFiles,
    VisualWakeWords,
)
from qatlab.data.transforms.transform import PARTS, Part
from qatlab.errors import ConfigError, DataError


def numbered(kind: str, count: int) -> Iterable[str]:
    return (f"{kind}/{number}.jpg" for number in range(count))


def listed(files: LabelledFiles) -> list[tuple[str, int]]:
    names = (os.path.relpath(files.file(i), files.folder) for i in range(len(files.labels)))
    return list(zip(names, files.labels.tolist(), strict=True))


def part(source: FileSource, part: Part, split: str = "in_order") -> list[tuple[str, int]]:
    return listed(source.files(part, split, seed=0))


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = touched(tmp_path, "dog/2.JPG", "dog/1.png", "cat é/3.ppm", "cat é/notes.txt")
    source = ImageFolder(folder, training=1)
    assert source.class_names == ("cat é", "dog")
    assert source.channels == 3
    assert part(source, "training") == [("cat é/3.ppm", 0), ("dog/1.png", 1)]
    assert part(source, "test") == [("dog/2.JPG", 1)]  # beyond the smallest class
    everything = ImageFolder(folder, training=1, equal=False)
    assert len(part(everything, "training")) == 3
    assert part(everything, "test") == []


def test_a_folder_is_divided_into_three_parts(tmp_path: Path) -> None:
    folder = touched(tmp_path, *numbered("a", 4), *numbered("b", 6))
    source = ImageFolder(folder, training=0.5, validation=0.25)
    assert [len(part(source, p)) for p in PARTS] == [4, 2, 4]
    assert part(source, "validation") == [("a/2.jpg", 0), ("b/2.jpg", 1)]
    together = ImageFolder(folder, training=3, validation=2, per_label=False)
    assert part(together, "validation") == [("a/3.jpg", 0), ("b/0.jpg", 1)]
    assert part(together, "training", "random") != part(together, "training")


def test_depth_is_how_far_to_look_and_how_much_of_the_path_is_a_class(tmp_path: Path) -> None:
    folder = touched(tmp_path, "a/1.jpg", "a/x/2.jpg", "a/x/y/3.jpg", "b/z/4.jpg")

    def found(**options: Any) -> tuple[tuple[str, ...], int]:
        source = ImageFolder(folder, training=1, per_label=False, **options)
        return source.class_names, len(part(source, "training"))

    with pytest.raises(DataError, match="/b is the folder of a class, but holds no images; "):
        found()  # one level deep
    assert found(depth=2) == (("a", "b"), 3)
    assert found(depth=None) == (("a", "b"), 4)
    (tmp_path / "a/1.jpg").unlink()
    assert found(depth=None, label_depth=2) == (("a/x", "b/z"), 3)
    with pytest.raises(
        ConfigError,
        match=r"data\.source\.depth=1 is wrong\. Accepted: at least data\.source\.label_depth=2",
    ):
        found(label_depth=2)


def test_an_image_outside_the_folders_of_the_classes_is_reported(tmp_path: Path) -> None:
    folder = touched(tmp_path, "a/1.jpg", "lost.jpg")
    with pytest.raises(
        DataError, match=r"lost\.jpg has no class, .* Accepted in .*: <class>/lost\.jpg"
    ):
        part(ImageFolder(folder, training=1), "training")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ImageFolder(folder, 1),
        lambda folder: CsvImages(folder, "list.csv"),
        lambda folder: Caltech101(folder, 1),
        lambda folder: ImageNet(folder),
        lambda folder: Gtsrb(folder),
    ],
)
def test_a_missing_folder_is_reported_with_its_key(tmp_path: Path, make: Any) -> None:
    source = make(str(tmp_path / "nowhere"))  # making the source reads nothing
    with pytest.raises(DataError, match=r"data\.source\.folder: '.*nowhere.* is not a folder; "):
        part(source, "training")


def test_a_folder_without_images_is_reported(tmp_path: Path) -> None:
    source = ImageFolder(touched(tmp_path, "a/readme.txt"), 1)
    with pytest.raises(DataError, match=r"/a is the folder of a class, .* Accepted: \.jpg"):
        _ = source.class_names
    source = ImageFolder(touched(tmp_path / "empty", "readme.txt"), 1)
    with pytest.raises(DataError, match=r"no folder of a class holds images. Accepted: \.jpg"):
        _ = source.class_names


def table(folder: Path, *lines: str) -> str:
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_a_table_lists_images_and_classes(tmp_path: Path) -> None:
    folder = table(tmp_path, "a.jpg,cat", "sub/b.jpg, dog", "", "c.jpg,cat")
    source = CsvImages(folder, "list.csv", training=1, validation=0, equal=False)
    assert source.class_names == ("cat", "dog")
    assert part(source, "training") == [("a.jpg", 0), ("sub/b.jpg", 1), ("c.jpg", 0)]
    assert source.files("training", "in_order", 0).file(1) == str(tmp_path / "sub/b.jpg")


def test_classes_that_are_numbers_are_sorted_as_such(tmp_path: Path) -> None:
    folder = table(tmp_path, "a.jpg,10", "b.jpg,9")
    assert CsvImages(folder, "list.csv").class_names == ("9", "10")


def test_columns_have_numbers_or_titles(tmp_path: Path) -> None:
    folder = table(tmp_path, "id;class;file", "1;cat;a.jpg", "2;dog;b.jpg")
    source = CsvImages(
        *(folder, "list.csv", 1, 0),
        path_column="file",
        label_column=1,
        has_titles=True,
        delimiter=";",
    )
    assert part(source, "training") == [("a.jpg", 0), ("b.jpg", 1)]
    wrong = CsvImages(folder, "list.csv", path_column="fill", has_titles=True, delimiter=";")
    with pytest.raises(ConfigError, match=r"path_column=fill is wrong. Did you mean 'file'\?"):
        part(wrong, "training")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path_column": -1}, r"data\.source\.path_column=-1 is wrong"),
        ({"label_column": "class"}, r"label_column=class is a title, but the table has none"),
        ({"delimiter": ""}, r"delimiter='' is wrong\. Accepted: one character"),
        ({"channels": 4}, r"data\.source\.channels=4 is wrong\. Accepted: 3 for RGB, 1 for grey"),
    ],
)
def test_impossible_columns_are_reported(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        CsvImages("nowhere", "list.csv", **options)


def test_a_table_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*list\.csv: No such file"):
        part(CsvImages(str(tmp_path), "list.csv"), "training")
    folder = table(tmp_path, "a.jpg,cat", "b.jpg")
    with pytest.raises(DataError, match=r"list\.csv, row 2: it has only 1 columns"):
        part(CsvImages(folder, "list.csv"), "training")
    folder = table(tmp_path, "")
    with pytest.raises(DataError, match=r"list\.csv lists no images"):
        part(CsvImages(folder, "list.csv"), "training")


@pytest.mark.parametrize("inside", ["", "GTSRB/"])
def test_gtsrb_has_folders_for_training_and_a_table_for_testing(
    tmp_path: Path, inside: str
) -> None:
    for label in range(43):
        touched(tmp_path / inside, *(f"Final_Training/Images/{label:05}/{i}.ppm" for i in range(3)))
    touched(tmp_path / inside, "Final_Training/Images/00000/GT-00000.csv")
    touched(tmp_path / inside, *(f"Final_Training/Images/00007/{i}.ppm" for i in range(10)))
    touched(tmp_path / inside, "Final_Test/Images/00000.ppm")
    (tmp_path / inside / "Final_Test/Images/GT-final_test.csv").write_text(
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        "00001.ppm;53;54;6;5;48;49;16\n00000.ppm;42;45;5;5;36;40;1\n"
    )
    source = Gtsrb(str(tmp_path), validation=0.3)
    assert len(source.class_names) == 43
    assert len(part(source, "training")) == 42 * 2 + 7  # of 3, 2.1; of 10, 7
    assert part(source, "validation")[1] == ("00001/2.ppm", 1)
    assert part(source, "test") == [("00001.ppm", 16), ("00000.ppm", 1)]


def test_the_table_of_gtsrb_must_hold_the_classes(tmp_path: Path) -> None:
    touched(tmp_path, "Final_Test/Images/GT-final_test.csv")
    with pytest.raises(DataError, match="must have columns 'Filename' and 'ClassId'"):
        part(Gtsrb(str(tmp_path)), "test")
    touched(tmp_path, "Final_Training/Images/00000/0.ppm")
    with pytest.raises(DataError, match=r"Images/00001 is not a folder; it should hold the images"):
        part(Gtsrb(str(tmp_path)), "training")


@pytest.mark.parametrize(
    ("kind", "inside", "clutter"),
    [
        (Caltech101, "101_ObjectCategories/", "BACKGROUND_Google"),
        (Caltech101, "", "BACKGROUND_Google"),
        (Caltech256, "256_ObjectCategories/", "257.clutter"),
    ],
)
def test_caltech_leaves_out_the_clutter_unless_asked(
    tmp_path: Path, kind: type[Caltech101], inside: str, clutter: str
) -> None:
    names = [f"{inside}{name}" for name in ("ant", clutter, "bass")]
    folder = touched(tmp_path, *(file for name in names for file in numbered(name, 4)))
    assert kind(folder, 0.5).class_names == ("ant", "bass")
    assert kind(folder, 0.5, clutter=True).class_names == tuple(sorted(("ant", clutter, "bass")))
    source = kind(folder, 0.5, 0.25)
    assert [len(part(source, p)) for p in PARTS] == [4, 2, 2]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    touched(tmp_path, *numbered("train/n01", 4), *numbered("train/n02", 6))
    touched(tmp_path, "val/n02/b.JPEG", "val/n01/a.JPEG", "val/c.JPEG")
    return tmp_path


def test_imagenet_tests_on_its_validation_images(imagenet: Path) -> None:
    source = ImageNet(str(imagenet), num_classes=2)
    assert source.class_names == ("n01", "n02")
    assert len(part(source, "training")) == 10
    held_out = [("val/n01/a.JPEG", 0), ("val/n02/b.JPEG", 1)]
    assert part(source, "validation") == part(source, "test") == held_out
    assert part(ImageNet(str(imagenet), num_classes=2, test_on_validation=False), "test") == []


def test_imagenet_tests_on_what_is_not_trained_on(imagenet: Path) -> None:
    source = ImageNet(str(imagenet), 0.8, num_classes=2)
    assert len(part(source, "training")) == 8
    rest = [("train/n02/4.jpg", 1), ("train/n02/5.jpg", 1)]
    assert part(source, "test") == [*rest, ("val/n01/a.JPEG", 0), ("val/n02/b.JPEG", 1)]
    assert (
        part(ImageNet(str(imagenet), 0.8, test_on_validation=False, num_classes=2), "test") == rest
    )


def test_imagenet_has_a_background_class_if_asked(imagenet: Path) -> None:
    source = ImageNet(str(imagenet), num_classes=2, background_class=True)
    assert source.class_names == ("background", "n01", "n02")
    assert part(source, "validation") == [("val/n01/a.JPEG", 1), ("val/n02/b.JPEG", 2)]


@pytest.mark.parametrize(("background", "label"), [(False, 1), (True, 2)])
def test_imagenet_reads_the_classes_of_its_validation_images_from_a_table(
    imagenet: Path, background: bool, label: int
) -> None:
    (imagenet / "val.txt").write_text("c.JPEG 1\nn01/a.JPEG n02\n")
    source = ImageNet(
        str(imagenet), num_classes=2, validation_labels="val.txt", background_class=background
    )
    assert part(source, "validation") == [("val/c.JPEG", label), ("val/n01/a.JPEG", label)]
    (imagenet / "val.txt").write_text("c.JPEG n03\n")
    wrong = ImageNet(str(imagenet), num_classes=2, validation_labels="val.txt")
    with pytest.raises(DataError, match=r"c\.JPEG has the class n03, .* Did you mean 'n0"):
        part(wrong, "validation")


def test_visual_wake_words_are_two_folders_of_the_archive(tmp_path: Path) -> None:
    names = (*numbered("vw_coco2014_96/person", 4), *numbered("vw_coco2014_96/non_person", 8))
    folder = touched(tmp_path, *names)
    for place in (folder, f"{folder}/vw_coco2014_96"):
        source = VisualWakeWords(place, training=0.5, validation=0.25)
        assert source.class_names == ("non_person", "person")
        assert [len(part(source, p)) for p in PARTS] == [6, 3, 3]  # of each class its share
        assert part(source, "test")[-1] == ("person/3.jpg", 1)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            (),
            r"data\.source\.folder: '.*' \(.*\) should hold .* 'non_person' is missing; .* there",
        ),
        (("person/1.jpg",), r"'non_person' is missing; MLPerf Tiny's archive 'vw_coco2014_96"),
        (("person/1.jpg", "non_person/1.jpg", "cat/1.jpg"), "'cat' is there, too; "),
    ],
)
def test_other_folders_than_those_of_visual_wake_words_are_reported(
    names: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    source = VisualWakeWords(touched(tmp_path, *names), training=1)  # making it reads nothing
    with pytest.raises(DataError, match=told):
        source.files("training", "random", 0)
