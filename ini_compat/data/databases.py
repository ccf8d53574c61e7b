"""``[database]`` as ``data.source``: which images there are, and how many to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ini_compat.errors import Deviation, IniError, did_you_mean
from ini_compat.keys import Key, check_names, read_keys
from ini_compat.network import Node
from ini_compat.syntax.resolve import Document, Section

PLACE = "qatlab.data"
SECTION = "database"
SOME_IMAGES = 1_000_000  # stands for a number that is not known


@dataclass(frozen=True)
class DataSet:
    """A data set that is known by name.

    Attributes:
        source: class of ``qatlab.data``.
        folder: where its files are looked for, unless DataPath says it.
        channels: of the images as they are read.
        images: number of training images; None: it depends on the files.
        classes: number of classes; None: it depends on the files.
        keys: N2D2's keys that become arguments.
        in_memory: whether the training images are one set that Validation is a share of; else the
            source divides its files itself.
        own: further keys, which `read_database` looks at.
        ignored: further keys without effect, and why.
    """

    source: str
    folder: str
    channels: int
    images: int | None = None
    classes: int | None = None
    keys: tuple[Key, ...] = ()
    in_memory: bool = False
    own: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()


OF_FILES = "images are read from their files"
CALTECH = (
    Key("Learn", "share", ..., "training"),
    Key("Validation", "share", 0.0),
    Key("IncClutter", "boolean", False, "clutter"),
)
DATA_SETS = {
    "MNIST_IDX_Database": DataSet(
        "Mnist", "data", 1, 60000, 10, in_memory=True, own=("Validation",)
    ),
    "Fashion_MNIST_IDX_Database": DataSet(
        *("FashionMnist", "/usr/share/datasets/fashion-mnist", 1, 60000, 10),
        in_memory=True,
        own=("Validation",),
    ),
    "CIFAR10_Database": DataSet(
        *("Cifar10", "data", 3, 50000, 10),
        in_memory=True,
        own=("Validation", "UseTestForValidation"),
    ),
    "CIFAR100_Database": DataSet(
        *("Cifar100", "data", 3, 50000, 100, (Key("UseCoarse", "boolean", False, "coarse"),)),
        in_memory=True,
        own=("Validation", "UseTestForValidation"),
    ),
    "ILSVRC2012_Database": DataSet(
        *("ImageNet", "data/imagenet", 3, 1281167, 1000),
        (
            Key("Learn", "share", ..., "training"),
            Key("UseValidationForTest", "boolean", True, "test_on_validation"),
            Key("BackgroundClass", "boolean", False),
        ),
        ignored=(("LabelPath", "classes are the folders of train/, sorted by name"),),
    ),
    "GTSRB_DIR_Database": DataSet(
        *("Gtsrb", "data/GTSRB", 3, 39209, 43, (Key("Validation", "share", 0.0),)),
        ignored=(("ExtractROIs", "signs are not cut out of their images"),),
    ),
    "Caltech101_DIR_Database": DataSet("Caltech101", "data", 3, None, 101, CALTECH),
    "Caltech256_DIR_Database": DataSet("Caltech256", "data", 3, None, 256, CALTECH),
    "DIR_Database": DataSet(
        *("ImageFolder", "data/images", 3, None, None),
        (
            *(Key("Depth", "integer", 1), Key("LabelDepth", "integer", 1)),
            *(Key("Learn", "real", ..., "training"), Key("Validation", "real", 0.0)),
            *(Key("Test", "real", None), Key("PerLabelPartitioning", "boolean", True, "per_label")),
            Key("EquivLabelPartitioning", "boolean", True, "equal"),
        ),
        ignored=(
            ("LabelName", "classes are named after their folders"),
            ("LoadMore", "all images are looked for in one folder"),
            ("LoadInMemory", OF_FILES),
            ("ValidExtensions", "all files with the name of an image are read"),
            ("IgnoreMasks", "no folder is left out"),
        ),
    ),
}
ELSEWHERE = {  # which N2D2 has and this does not
    "CSV_Database": "its rows are the values themselves, not names of images",
    **dict.fromkeys(("Actitracker_Database", "LITISRouen_Database"), "it has no images"),
    **dict.fromkeys(
        (
            *("CKP_Database", "CaltechPedestrian_Database", "CelebA_Database", "DOTA_Database"),
            *("Cityscapes_Database", "CompositeDatabase", "Daimler_Database", "FDDB_Database"),
            *("GTSDB_DIR_Database", "IDX_Database", "IMDBWIKI_Database", "KITTI_Database"),
            *("KITTI_Object_Database", "KITTI_Road_Database", "N_MNIST_Database"),
        ),
        "",
    ),
}
COMMON = {
    "DefaultLabel": "every image has a label here",
    "ROIsMargin": "regions of interest are not read",
    "DataFileLabel": "labels come with the data set",
    "CompositeLabel": "labels come with the data set",
    "TargetDataPath": "targets that are images are not read",
    "MultiChannelMatch": "images of several files are not read",
    "MultiChannelReplace": "images of several files are not read",
}


@dataclass(frozen=True)
class Database:
    """What was understood of ``[database]``.

    Attributes:
        node: ``data`` without the environment: source, validation, split.
        images: number of images to learn from; None if it is not known.
        channels: of the images as they are stored.
        classes: number of classes; None if it is not known.
        type: N2D2's.
        in_memory: whether qatlab keeps its images in memory, else they are read from files.
    """

    node: Node
    images: int | None
    channels: int
    classes: int | None
    type: str
    in_memory: bool = True


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves up."""
    return math.floor(value + 0.5)


def round_half_down(value: float) -> int:
    """Round to the nearest whole number, halves down."""
    return math.ceil(value - 0.5)


def read_database(document: Document, note: Callable[[Deviation], None]) -> Database:
    """Read the section of the data set.

    Raises:
        IniError: for a data set that is not supported, and for unknown keys.
    """
    section = document.section(SECTION)
    word, known = _data_set(section)
    _check_names(section, word, known, note)
    _note_parts(document, note)
    source: Node = {"_target_": f"{PLACE}.{known.source}", "folder": known.folder}
    if section.has("DataPath"):
        source["folder"] = document.path(section, "DataPath") or known.folder
    source |= read_keys(section, known.keys, note)
    node: Node = {"source": source}
    images = known.images
    if known.in_memory:
        assert images is not None
        node["validation"] = _held_out(section, images, note)
        images -= node["validation"] if node["validation"] != "test" else 0
    elif known.source == "ImageFolder":
        _check_folders(section, source)
    elif known.source in ("Caltech101", "Caltech256"):
        _check_shares(section, source["training"], source.get("validation", 0.0))
    elif known.source == "ImageNet":
        assert images is not None
        images = round_half_up(images * source["training"])
    elif source.get("validation"):
        images = None  # of each class a share is held out, and classes differ in size
    if not section.boolean("RandomPartitioning", True):
        node["split"] = "in_order"
    classes = known.classes
    if classes is not None:
        more = source.get("background_class", False) or source.get("clutter", False)
        classes = 20 if source.get("coarse") else classes + int(more)
    return Database(node, images, known.channels, classes, word, known.in_memory)


def _data_set(section: Section) -> tuple[str, DataSet]:
    word = section.text("Type")
    if word not in DATA_SETS:
        hint = did_you_mean(word, DATA_SETS) if word not in ELSEWHERE else ""
        named = "is not supported here" if word in ELSEWHERE else "is not a data set"
        why = f": {ELSEWHERE[word]}" if ELSEWHERE.get(word) else ""
        raise IniError(
            f"[{SECTION}] Type={word} {named}{why}.{hint} Accepted: {', '.join(DATA_SETS)}",
            section.place("Type"),
        )
    return word, DATA_SETS[word]


def _check_names(
    section: Section, word: str, known: DataSet, note: Callable[[Deviation], None]
) -> None:
    ignored = {**COMMON, **dict(known.ignored)}
    accepted = {"Type", "DataPath", "RandomPartitioning", *known.own, *ignored}
    accepted |= {key.name for key in known.keys}
    if known.source == "ImageFolder":
        ignored |= {k: "regions of interest are not read" for k in section.prefixed("ROI").values()}
        accepted |= ignored.keys()
    check_names(section, accepted, word)
    for key in section:
        if key in ignored:
            section.mark_used(key)
            note(Deviation(section.place(key), f"[{SECTION}] {key}", "ignored", ignored[key]))


def _note_parts(document: Document, note: Callable[[Deviation], None]) -> None:
    """Note sections such as ``[database.slicing]``."""
    for name in document.sections:
        if name.startswith(f"{SECTION}."):
            part = document.section(name)
            for key in part:
                part.mark_used(key)
            reason = "images are neither added, sorted, filtered nor cut into slices here"
            note(Deviation(part.header, f"[{name}]", "ignored", reason))


def _held_out(section: Section, images: int, note: Callable[[Deviation], None]) -> int | str:
    """Return ``data.validation``."""
    share = section.real("Validation", 0.0)
    if not 0 <= share < 1:
        raise section.wrong("Validation", "a number in [0, 1)")
    count = round_half_down(images * share)
    if section.has("UseTestForValidation") and section.boolean("UseTestForValidation"):
        if count == 0:
            return "test"
        reason = "the images that are held out choose the best epoch, without the test images"
        place = section.place("UseTestForValidation")
        note(Deviation(place, f"[{SECTION}] UseTestForValidation", "approximated", reason))
    return count


def _check_folders(section: Section, source: Node) -> None:
    """Check how the images of a folder are divided; shares, or numbers of images."""
    if source.get("label_depth", 1) < 1:
        raise section.wrong("LabelDepth", "1 or more, so that images have a class")
    depth = source.get("depth", 1)
    if depth < 0:
        source["depth"] = None
    elif depth < source.get("label_depth", 1):
        raise section.wrong("Depth", "LabelDepth or more, or -1 for all")
    parts = {"Learn": "training", "Validation": "validation", "Test": "test"}
    if source.get("per_label", True):
        _check_shares(section, *(source.get(part) or 0.0 for part in parts.values()))
        return
    for key, part in parts.items():
        count = source.get(part)
        if count is None:
            continue
        if count != int(count) or count < 0 or count == 1:
            images = "0, or a number of images from 2, as PerLabelPartitioning=0"
            raise section.wrong(key, images)
        source[part] = int(count)


def _check_shares(section: Section, learn: float, validation: float, test: float = 0.0) -> None:
    shares = (learn, validation, test)
    if min(shares) < 0 or sum(shares) > 1 + 1e-9:
        raise IniError(
            f"[{SECTION}] Learn={learn:g}, Validation={validation:g} and Test={test:g} are "
            "wrong. Accepted: shares of at least 0, whose sum is at most 1",
            section.place("Learn"),
        )
