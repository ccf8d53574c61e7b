"""``[database]``: each type with all of its keys, as qatlab's source takes it (section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ini_compat.data.databases import DATA_SETS, ELSEWHERE, Database, read_database
from ini_compat.errors import IniError
from ini_compat.syntax.resolve import Document
from qatlab.data.splits import counts

Read = Callable[..., Document]
Lines = Callable[..., tuple[Database, list[str]]]


@pytest.fixture
def database(document: Read) -> Lines:
    """Return a function that reads lines of ``[database]``."""

    def read(
        *lines: str, more: str = "", environment: dict[str, str] | None = None
    ) -> tuple[Database, list[str]]:
        text = "\n".join(["[database]", *lines]) + f"\n{more}"
        losses: list[Any] = []
        made = read_database(document(text, environment=environment), losses.append)
        return made, [f"{item.key} {item.kind}: {item.reason}" for item in losses]

    return read


SHARES = {"per_label": True, "equal": True, "training": 0.5, "validation": 0.0, "test": None}
CASES: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = [
    ("MNIST_IDX_Database", (), "Mnist", {"channels": 1}),
    ("Fashion_MNIST_IDX_Database", (), "FashionMnist", {"channels": 1}),
    ("CIFAR10_Database", (), "Cifar10", {"channels": 3}),
    ("CIFAR100_Database", (), "Cifar100", {"_label": 1}),  # the fine one
    ("CIFAR100_Database", ("UseCoarse=1",), "Cifar100", {"_label": 0}),
    (
        "ILSVRC2012_Database",
        ("Learn=1.0",),
        "ImageNet",
        {"test_on_validation": True, "first": 0, "shares.training": 1.0},
    ),
    (
        "ILSVRC2012_Database",
        ("Learn=0.9", "UseValidationForTest=0", "BackgroundClass=1"),
        "ImageNet",
        {"test_on_validation": False, "first": 1, "shares.training": 0.9},
    ),
    ("GTSRB_DIR_Database", (), "Gtsrb", {"shares.validation": 0.0}),
    ("GTSRB_DIR_Database", ("Validation=0.25",), "Gtsrb", {"shares.validation": 0.25}),
    *(
        (
            f"Caltech{number}_DIR_Database",
            ("Learn=0.5", "Validation=0.25", f"IncClutter={int(clutter)}"),
            f"Caltech{number}",
            {"shares.training": 0.5, "shares.validation": 0.25, "clutter": clutter},
        )
        for number in (101, 256)
        for clutter in (False, True)
    ),
    (
        "DIR_Database",
        ("Learn=0.5",),
        "ImageFolder",
        {"depth": 1, "label_depth": 1, **{f"shares.{key}": v for key, v in SHARES.items()}},
    ),
    (
        "DIR_Database",
        (
            *("Learn=0.5", "Validation=0.25", "Test=0.125", "Depth=3", "LabelDepth=2"),
            *("EquivLabelPartitioning=0", "PerLabelPartitioning=1"),
        ),
        "ImageFolder",
        {
            **{"depth": 3, "label_depth": 2, "shares.equal": False, "shares.training": 0.5},
            **{"shares.validation": 0.25, "shares.test": 0.125},
        },
    ),
    (
        "DIR_Database",
        ("Learn=1000", "Validation=200", "Test=0", "PerLabelPartitioning=0", "Depth=-1"),
        "ImageFolder",
        {
            **{"depth": None, "shares.per_label": False, "shares.training": 1000},
            **{"shares.validation": 200, "shares.test": 0},
        },
    ),
]


@pytest.mark.parametrize(("kind", "lines", "source", "attributes"), CASES)
def test_qatlab_makes_what_the_section_says(
    database: Lines,
    kind: str,
    lines: tuple[str, ...],
    source: str,
    attributes: dict[str, Any],
) -> None:
    made, losses = database(f"Type={kind}", "DataPath=/somewhere/else", *lines)
    assert losses == []
    instance = instantiate(made.node["source"])
    assert type(instance).__name__ == source
    assert str(instance.folder) == "/somewhere/else"
    for path, expected in attributes.items():
        value = instance
        for name in path.split("."):
            value = getattr(value, name)
        assert value == expected, path
    if made.channels is not None:
        assert instance.channels == made.channels
    if made.in_memory and made.classes is not None:
        assert len(instance.class_names) == made.classes


def test_each_type_with_each_key_is_tested() -> None:
    for kind, known in DATA_SETS.items():
        tested = " ".join(" ".join(lines) for name, lines, *_ in CASES if name == kind)
        assert [key.name for key in known.keys if f"{key.name}=" not in tested] == []


@pytest.mark.parametrize("kind", DATA_SETS)
def test_without_a_path_files_lie_where_conf_says(database: Lines, root: Path, kind: str) -> None:
    learn = [] if DATA_SETS[kind].in_memory or "GTSRB" in kind else ["Learn=0.5"]
    made, _ = database(f"Type={kind}", *learn)
    option = {
        **{"Mnist": "mnist", "FashionMnist": "fashion_mnist", "ImageNet": "imagenet"},
        **{"Caltech256": "caltech101", "ImageFolder": "image_folder"},
    }.get(DATA_SETS[kind].source, DATA_SETS[kind].source.lower())
    stated = OmegaConf.load(root / f"conf/data/{option}.yaml").source.folder
    assert made.node["source"]["folder"] == stated


def test_a_path_may_name_the_environment(database: Lines) -> None:
    kind = "Type=MNIST_IDX_Database"
    made, _ = database(kind, "DataPath=${N2D2_DATA}/mnist", environment={"N2D2_DATA": "/d"})
    assert made.node["source"]["folder"] == "/d/mnist"
    made, _ = database(kind, "DataPath=${N2D2_DATA}/mnist")  # which is then empty
    assert made.node["source"]["folder"] == "/mnist"
    made, _ = database(kind, "DataPath=${N2D2_DATA}")
    assert made.node["source"]["folder"] == "data"


@pytest.mark.parametrize(
    ("share", "held_out"),
    # nVT = round_half_down(N (V + T)), nVal = round_half_up(nVT)
    [
        ("0", 0),
        ("0.2", 12000),
        ("0.1", 6000),
        ("0.000025", 1),
        ("0.00002501", 2),
        ("0.99999", 59999),
    ],
)
def test_validation_is_rounded_as_n2d2_does(database: Lines, share: str, held_out: int) -> None:
    made, _ = database("Type=MNIST_IDX_Database", f"Validation={share}")
    assert made.node["validation"] == held_out
    assert made.images == 60000 - held_out
    expected = counts(60000, 1 - float(share), float(share), 0.0)
    assert (made.images, held_out) == expected[:2]


@pytest.mark.parametrize(("learn", "images"), [("1", 1281167), ("0.5", 640584), ("0.1", 128117)])
def test_learn_of_imagenet_is_rounded_as_n2d2_does(
    database: Lines, learn: str, images: int
) -> None:
    made, _ = database("Type=ILSVRC2012_Database", f"Learn={learn}")
    assert made.images == images  # round_half_up(N Learn)


def test_what_is_known_of_numbers_of_images_and_classes(database: Lines) -> None:
    def known(*lines: str) -> tuple[int | None, int | None]:
        made, _ = database(*lines)
        return made.images, made.classes

    assert known("Type=CIFAR10_Database") == (50000, 10)
    assert known("Type=CIFAR100_Database") == (50000, 100)
    assert known("Type=CIFAR100_Database", "UseCoarse=1") == (50000, 20)
    assert known("Type=ILSVRC2012_Database", "Learn=1", "BackgroundClass=1") == (1281167, 1001)
    assert known("Type=GTSRB_DIR_Database") == (39209, 43)
    assert known("Type=GTSRB_DIR_Database", "Validation=0.2") == (None, 43)
    assert known("Type=Caltech101_DIR_Database", "Learn=0.5") == (None, 101)
    assert known("Type=Caltech256_DIR_Database", "Learn=0.5", "IncClutter=1") == (None, 257)
    assert known("Type=DIR_Database", "Learn=0.5") == (None, None)


@pytest.mark.parametrize("kind", DATA_SETS)
def test_random_partitioning(database: Lines, kind: str) -> None:
    learn = [] if DATA_SETS[kind].in_memory or "GTSRB" in kind else ["Learn=0.5"]
    for line, split in (("0", "in_order"), ("1", None)):
        made, _ = database(f"Type={kind}", *learn, f"RandomPartitioning={line}")
        assert made.node.get("split") == split
    made, _ = database(f"Type={kind}", *learn)
    assert "split" not in made.node


def test_the_test_images_choose_the_best_epoch(database: Lines) -> None:
    made, losses = database("Type=CIFAR10_Database", "UseTestForValidation=1")
    assert made.node["validation"] == "test"
    assert made.images == 50000
    assert losses == []
    made, losses = database("Type=CIFAR10_Database", "UseTestForValidation=1", "Validation=0.1")
    assert made.node["validation"] == 5000
    assert "UseTestForValidation approximated: the images that are held out choose" in losses[0]
    made, losses = database("Type=CIFAR100_Database", "UseTestForValidation=0")
    assert (made.node["validation"], losses) == (0, [])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("DefaultLabel=x",), "DefaultLabel ignored: every image has a label"),
        (("ROIsMargin=3",), "ROIsMargin ignored: regions of interest"),
        (("DataFileLabel=0",), "DataFileLabel ignored: labels come"),
        (("CompositeLabel=None",), "CompositeLabel ignored: labels come"),
        (("TargetDataPath=x",), "TargetDataPath ignored: targets that are images"),
        (("MultiChannelMatch=x",), "MultiChannelMatch ignored: images of several"),
        (("MultiChannelReplace=x",), "MultiChannelReplace ignored: images of several"),
    ],
)
def test_keys_without_effect(database: Lines, lines: tuple[str, ...], told: str) -> None:
    _, losses = database("Type=MNIST_IDX_Database", *lines)
    assert len(losses) == 1
    assert told in losses[0]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ILSVRC2012_Database", "LabelPath=synsets.txt"),
        ("GTSRB_DIR_Database", "ExtractROIs=1"),
        *(
            ("DIR_Database", line)
            for line in (
                *("LabelName=x", "LoadMore=database.more", "LoadInMemory=1", "ROIFile=x"),
                *("ValidExtensions=png", "IgnoreMasks=*x*", "ROIDir=x"),
            )
        ),
    ],
)
def test_keys_without_effect_of_one_type(database: Lines, kind: str, line: str) -> None:
    learn = [] if "GTSRB" in kind else ["Learn=0.5"]
    _, losses = database(f"Type={kind}", *learn, line)
    assert len(losses) == 1
    assert f"[database] {line.partition('=')[0]} ignored:" in losses[0]


@pytest.mark.parametrize("name", ["slicing", "filterROIs", "sortAndDropLabels", "more"])
def test_post_processing_is_reported(database: Lines, name: str) -> None:
    _, losses = database("Type=MNIST_IDX_Database", more=f"[database.{name}]\nWidth=3\n")
    assert losses == [
        f"[database.{name}] ignored: images are neither added, sorted, filtered nor cut into "
        "slices here"
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "needs the key Type"),
        ("Type=MNIST", "Type=MNIST is not a data set."),
        ("Type=CIFAR10_Databas", "Did you mean 'CIFAR10_Database'? Accepted: MNIST_IDX_Database,"),
        ("Type=CSV_Database", "its rows are the values themselves, not names of images."),
        *((f"Type={kind}", f"Type={kind} is not supported here") for kind in ELSEWHERE),
        (
            "Type=MNIST_IDX_Database Validation=1",
            "Validation=1 is wrong. Accepted: a number in [0, 1",
        ),
        ("Type=MNIST_IDX_Database Validation=-0.1", "Validation=-0.1 is wrong"),
        ("Type=MNIST_IDX_Database Learn=1", "MNIST_IDX_Database has no key Learn, and N2D2 does"),
        ("Type=MNIST_IDX_Database Validatoin=1", "Did you mean 'Validation'?"),
        ("Type=MNIST_IDX_Database UseTestForValidation=1", "has no key UseTestForValidation"),
        ("Type=MNIST_IDX_Database RandomPartitioning=yes", "Accepted: 0 or 1"),
        ("Type=MNIST_IDX_Database ROIFile=x", "has no key ROIFile"),
        ("Type=ILSVRC2012_Database", "needs the key Learn"),
        ("Type=ILSVRC2012_Database Learn=2", "Learn=2 is wrong. Accepted: a number in"),
        ("Type=ILSVRC2012_Database Learn=1 Validation=0.1", "has no key Validation"),
        ("Type=GTSRB_DIR_Database Validation=2", "Accepted: a number in [0, 1]"),
        ("Type=Caltech101_DIR_Database", "needs the key Learn"),
        ("Type=Caltech101_DIR_Database Learn=0.9 Validation=0.2", "Validation=0.2 and Test=0 are"),
        ("Type=DIR_Database", "needs the key Learn"),
        ("Type=DIR_Database Learn=0.9 Test=0.2", "Learn=0.9, Validation=0 and Test=0.2 are wrong"),
        ("Type=DIR_Database Learn=-1", "Learn=-1, Validation=0 and Test=0 are wr"),
        ("Type=DIR_Database Learn=1 PerLabelPartitioning=0", "Learn=1 is wrong. Accepted: 0,"),
        ("Type=DIR_Database Learn=2.5 PerLabelPartitioning=0", "Learn=2.5 is wrong"),
        ("Type=DIR_Database Learn=9 Test=1 PerLabelPartitioning=0", "Test=1 is wrong"),
        ("Type=DIR_Database Learn=1 LabelDepth=0", "LabelDepth=0 is wrong. Accepted: 1 or mo"),
        ("Type=DIR_Database Learn=1 LabelDepth=-1 Depth=-1", "LabelDepth=-1 is wrong. Accepted"),
        ("Type=DIR_Database Learn=1 Depth=0", "Depth=0 is wrong. Accepted: LabelDepth o"),
        ("Type=DIR_Database Learn=1 Depth=1 LabelDepth=2", "Accepted: LabelDepth or more, or -1"),
    ],
)
def test_mistakes(database: Lines, lines: str, told: str) -> None:
    with pytest.raises(IniError) as error:
        database(*lines.split())
    assert told in str(error.value)
    assert str(error.value).startswith("model.ini:")
