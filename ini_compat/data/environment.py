"""``[sp]`` or ``[env]`` with its transformations as ``data``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ini_compat.cells.config import Config
from ini_compat.data.databases import SECTION as DATABASE
from ini_compat.data.databases import SOME_IMAGES, Database, read_database
from ini_compat.data.statistics import COMPUTED, measure, training_pixels
from ini_compat.data.transformations import channels_after, from_rgb, read_transformation
from ini_compat.errors import Deviation, IniError
from ini_compat.keys import check_names, snake_case
from ini_compat.names import unique_key
from ini_compat.network import ENVIRONMENTS, Data, Node, Shape
from ini_compat.syntax.resolve import Document, Section

KINDS = ("Transformation", "OnTheFlyTransformation")  # in the order in which they are applied
CHANNEL_KINDS = (
    *("ChannelTransformation", "ChannelOnTheFlyTransformation"),
    *("ChannelsTransformation", "ChannelsOnTheFlyTransformation"),
)
STATISTICS = "StimuliData"
WITHOUT_EFFECT = {
    "CachePath": "images are prepared in memory at the start of a run",
    "CompositeStimuli": "targets that are images are not read",
    "TargetSize": "targets that are images are not read",
    "TargetSizeX": "targets that are images are not read",
    "TargetSizeY": "targets that are images are not read",
    # Of the section [env], for spiking cells, which are refused.
    "StimulusType": "images are not spikes",
    "DiscardedLateStimuli": "images are not spikes",
    "PeriodMeanMin": "images are not spikes",
    "PeriodMeanMax": "images are not spikes",
    "PeriodRelStdDev": "images are not spikes",
    "PeriodMin": "images are not spikes",
}
KEYS = (
    *("Size", "SizeX", "SizeY", "SizeD", "NbChannels", "BatchSize", "ConfigSection"),
    *WITHOUT_EFFECT,
)
PARAMETERS = {
    "DataSignedMapping": False,
    "QuantizationLevels": 0,
    "QuantizationMin": 0.0,
    "QuantizationMax": 1.0,
    "StreamTensor": False,
    "StreamLabel": False,
}
LARGEST_SIDE = 1 << 16


def find_environment(document: Document) -> Section:
    """Return the section of the network's input.

    Raises:
        IniError: if there is none.
    """
    for name in ENVIRONMENTS:
        if document.has(name):
            return document.section(name)
    raise IniError(
        "the file has no environment: N2D2 needs a section [sp] or [env], which says the size of "
        "the network's input",
        document.globals.header,
    )


def read_data(
    document: Document, note: Callable[[Deviation], None], images: int | None, folder: Path | None
) -> Data:
    """Read database, environment and transformations, and set what N2D2 computes of them.

    Args:
        document: the file.
        note: notes what is not taken over.
        images: number of training images, where the user says it.
        folder: where the user says that the data set is, to be measured if the file needs it.

    Raises:
        IniError: for anything that N2D2, or this, does not accept.
    """
    section = find_environment(document)
    shape, batch_size = _shape(section), section.unsigned("BatchSize", 1)
    if batch_size < 1:
        raise section.wrong("BatchSize", "1 or more")
    _check_parameters(document, section, note)
    database = _database(document, section, shape, note)
    known = database.images if images is None else images
    for name in ENVIRONMENTS:
        if document.has(name):
            document.set_computed(name, "_EpochSize", str(known or SOME_IMAGES))
    transforms = _transforms(document, section, database, folder, note)
    if _fit_channels(section, database, transforms, shape[0]) == 3:
        transforms = {"bgr": from_rgb(), **transforms}
    node: Node = {
        **database.node,
        "image_size": [shape[1], shape[2]],
        "batch_size": batch_size,
        "transforms": transforms,
    }
    return Data(node, shape, batch_size, known, database.classes)


def _shape(section: Section) -> Shape:
    if section.has("Size"):
        sizes = section.integers("Size")
    else:
        sizes = [section.unsigned("SizeX"), section.unsigned("SizeY")]
        if section.has("SizeD"):
            sizes.append(section.unsigned("SizeD"))
    if len(sizes) == 3 and sizes[2] == 1:
        sizes = sizes[:2]
    channels = section.unsigned("NbChannels", 1)
    if len(sizes) != 2 or not all(1 <= s <= LARGEST_SIDE for s in (*sizes, channels)):
        numbers = "x".join(map(str, sizes))
        raise IniError(
            f"[{section.name}] has a size of {numbers} with {channels} channels. Accepted: width "
            f"and height from 1 to {LARGEST_SIDE}, and 1 channel or more",
            section.header,
        )
    return channels, sizes[1], sizes[0]


def _check_parameters(
    document: Document, section: Section, note: Callable[[Deviation], None]
) -> None:
    check_names(section, KEYS, f"[{section.name}]")
    for key, reason in WITHOUT_EFFECT.items():
        if section.has(key):
            section.mark_used(key)
            note(Deviation(section.place(key), f"[{section.name}] {key}", "ignored", reason))
    config = Config.of(document, section, "")
    unknown = config.unknown(PARAMETERS)
    if unknown:
        raise unknown[0]
    for key, default in PARAMETERS.items():
        owner = config.owner(key)
        if owner is not None and owner.real(key) != float(default):
            reason = "inputs are float32 in [0, 1], or what the transformations make of them"
            note(Deviation(owner.place(key), f"[{owner.name}] {key}", "ignored", reason))


def _database(
    document: Document, section: Section, shape: Shape, note: Callable[[Deviation], None]
) -> Database:
    if document.has(DATABASE):
        return read_database(document, note)
    name = "Mnist" if shape[0] == 1 else "Cifar10"
    reason = f"there is no [{DATABASE}]: data.source has to be chosen; {name} stands there"
    note(Deviation(section.header, f"[{section.name}]", "approximated", reason))
    node: Node = {"source": {"_target_": f"qatlab.data.{name}", "folder": "data"}, "validation": 0}
    return Database(node, None, 1 if shape[0] == 1 else 3, None, name)


def _fit_channels(section: Section, database: Database, transforms: Node, wanted: int) -> int:
    """Return how many channels the images are read with; files of one say so in the source.

    Raises:
        IniError: if the network wants another number than it gets.
    """
    after = channels_after(transforms.values(), database.channels)
    if after == wanted:
        return database.channels
    if not database.in_memory and channels_after(transforms.values(), 1) == wanted:
        database.node["source"]["channels"] = 1  # they are read as grey
        return 1
    raise IniError(
        f"[{section.name}] NbChannels={wanted}, but the images of {database.type} come out of the "
        f"transformations with {after}",
        section.place("NbChannels"),
    )


def _transforms(
    document: Document,
    section: Section,
    database: Database,
    folder: Path | None,
    note: Callable[[Deviation], None],
) -> Node:
    """Return ``data.transforms``: cacheable ones first, then those on the fly, in file order."""
    found: dict[str, list[Section]] = {kind: [] for kind in KINDS}
    prefix = f"{section.name}."
    for name in document.sections:
        if not name.startswith(prefix):
            continue
        part, rest = document.section(name), name.removeprefix(prefix)
        kind = next((kind for kind in KINDS if rest.startswith(kind)), None)
        if kind is not None:
            found[kind].append(part)
        elif rest.startswith(STATISTICS):
            _statistics(document, part, bool(found[KINDS[0]]), database, folder)
        elif rest.startswith(CHANNEL_KINDS):
            raise IniError(
                f"[{name}]: transformations of single channels are not supported here. Accepted: "
                f"{', '.join(prefix + kind for kind in KINDS)}",
                part.header,
            )
        elif not _is_used(document, section, name):
            reason = "is neither a transformation nor statistics of the images"
            note(Deviation(part.header, f"[{name}]", "ignored", reason))
    nodes: Node = {}
    for kind in KINDS:
        for part in found[kind]:
            node = read_transformation(part, note)
            nodes[unique_key(snake_case(node["_target_"].rpartition(".")[2]), nodes)] = node
    return nodes


def _is_used(document: Document, section: Section, name: str) -> bool:
    """Tell whether a section is the configuration of the environment, or others inherit it."""
    heirs = any(name in other.parents for other in document.sections.values())
    return heirs or name in section.text("ConfigSection", "").split(",")


def _statistics(
    document: Document, section: Section, changed: bool, database: Database, folder: Path | None
) -> None:
    """Let ``_GlobalValue.*`` of a section be known: measured, or as what has to be measured.

    Args:
        document: the file.
        section: ``[sp.StimuliData...]``.
        changed: whether transformations stand before it.
        database: whose images they are.
        folder: of its files; None: they are not looked at.
    """
    of_training = section.text("ApplyTo", "LearnOnly") == "LearnOnly"
    for key in section:
        section.mark_used(key)
    pixels = None
    if folder is not None and of_training and not changed:
        pixels = training_pixels(database.type, folder)
        if pixels is None:
            text = f"--data {folder} holds no training images of {database.type}"
            document.notices.append(f"{text} for [{section.name}]")
    if pixels is not None:
        for key, measured in measure(pixels).items():
            document.set_computed(section.name, key, repr(measured))
        text = f"[{section.name}] was measured on all {database.type} training images in {folder}"
        document.notices.append(text)
        return
    which = "training images" if of_training else f"images of {section.text('ApplyTo')}"
    made = "after the transformations before it" if changed else "as they are stored"
    advice = "" if changed or not of_training else "; --data DIR measures them"
    for key in COMPUTED:
        value = key.rpartition(".")[2]
        document.set_unknown(section.name, key, f"the {value} of the {which} {made}{advice}")
    for key in ("_MeanData", "_StdDevData"):
        document.set_unknown(section.name, key, f"an image made of all {which}")
