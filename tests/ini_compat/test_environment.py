"""``[sp]``: sizes, channels, the order of transformations, statistics (section 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_statistics import HEADER, IMAGES, PIXELS

from ini_compat.data.environment import KINDS, read_data
from ini_compat.errors import IniError
from ini_compat.network import Data
from ini_compat.syntax.resolve import Document

Read = Callable[..., Document]

MNIST = "[database]\nType=MNIST_IDX_Database\n"
CIFAR = "[database]\nType=CIFAR10_Database\n"
FOLDER = "[database]\nType=DIR_Database\nLearn=0.5\n"
SP = "[sp]\nSizeX=32\nSizeY=24\n"
FLIP = "[sp.{}]\nType=FlipTransformation\n"


class Environment:
    """What was read, and what was lost."""

    def __init__(
        self, document: Document, images: int | None = None, folder: Path | None = None
    ) -> None:
        losses: list[Any] = []
        self.document = document
        self.data: Data = read_data(document, losses.append, images, folder)
        self.node = self.data.node
        self.deviations = [f"{item.key} {item.kind}: {item.reason}" for item in losses]

    def names(self) -> list[str]:
        """Return the names of the transforms, and the parts that the second and later have."""
        return list(self.node["transforms"])


def refused(document: Document) -> str:
    with pytest.raises(IniError) as error:
        Environment(document)
    return str(error.value)


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        ("SizeX=32\nSizeY=24\n", (1, 24, 32)),
        ("Size=32 24\n", (1, 24, 32)),
        ("Size=32 24 1\n", (1, 24, 32)),
        ("SizeX=32\nSizeY=24\nSizeD=1\n", (1, 24, 32)),
        ("SizeX=$(16 * 2)\nSizeY=[sp]SizeX\n", (1, 32, 32)),
    ],
)
@pytest.mark.parametrize("name", ["sp", "env"])
def test_size(document: Read, lines: str, shape: tuple[int, ...], name: str) -> None:
    text = f"{MNIST}[{name}]\n{lines}BatchSize=7\n".replace("[sp]SizeX", f"[{name}]SizeX")
    made = Environment(document(text))
    assert made.data.shape == shape
    assert made.node["image_size"] == list(shape[1:])
    assert made.data.batch_size == made.node["batch_size"] == 7


def test_what_n2d2_takes_where_nothing_is_said(document: Read) -> None:
    made = Environment(document(MNIST + SP))
    assert made.node == {
        "source": {"_target_": "qatlab.data.Mnist", "folder": "data"},
        "validation": 0,
        "image_size": [24, 32],
        "batch_size": 1,
        "transforms": {},  # not null, which would resize; bytes become [0, 1] by themselves
    }
    assert made.data.training_images == 60000
    assert made.deviations == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("SizeX=32\n", "the section [sp] needs the key SizeY"),
        (
            "SizeX=0\nSizeY=3\n",
            "[sp] has a size of 0x3 with 1 channels. Accepted: width and height",
        ),
        ("Size=3\n", "has a size of 3 with"),
        ("Size=3 3 3\n", "has a size of 3x3x3 with"),
        ("SizeX=70000\nSizeY=3\n", "from 1 to 65536"),
        ("SizeX=3\nSizeY=3\nNbChannels=0\n", "with 0 channels"),
        ("SizeX=3\nSizeY=3\nBatchSize=0\n", "[sp] BatchSize=0 is wrong. Accepted: 1 or more"),
        (
            "SizeX=3\nSizeY=3\nBatchsize=3\n",
            "has no key Batchsize, and N2D2 does not load the file.",
        ),
        ("SizeX=3\nSizeY=3\nBatchsize=3\n", "Did you mean 'BatchSize'?"),
        (
            "SizeX=3\nSizeY=3\nConfigSection=c\n[c]\nDataSigned=1\n",
            "[c] DataSigned is not a parameter",
        ),
        ("SizeX=3\nSizeY=3\nConfigSection=d\n", "there is no section [d]"),
    ],
)
def test_mistakes(document: Read, lines: str, told: str) -> None:
    assert told in refused(document(f"{MNIST}[sp]\n{lines}"))


def test_an_environment_is_needed(document: Read) -> None:
    assert "N2D2 needs a section [sp] or [env]" in refused(document(MNIST))


@pytest.mark.parametrize(
    "line", ["CachePath=/tmp/x", "CompositeStimuli=1", "TargetSize=1 1", "TargetSizeX=3"]
)
def test_keys_without_effect(document: Read, line: str) -> None:
    made = Environment(document(MNIST + SP + line + "\n"))
    assert len(made.deviations) == 1
    assert made.deviations[0].startswith(f"[sp] {line.partition('=')[0]} ignored: ")


@pytest.mark.parametrize("line", ["DataSignedMapping=1", "QuantizationLevels=255", "StreamLabel=1"])
def test_parameters_without_effect(document: Read, line: str) -> None:
    made = Environment(document(f"{MNIST}{SP}ConfigSection=sp.config\n[sp.config]\n{line}\n"))
    assert len(made.deviations) == 1
    assert made.deviations[0].startswith(f"[sp.config] {line.partition('=')[0]} ignored: ")
    default = line.partition("=")[0] + "=0"
    made = Environment(document(f"{MNIST}{SP}ConfigSection=sp.config\n[sp.config]\n{default}\n"))
    assert made.deviations == []


# -- transformations --------------------------------------------------------------------------


def test_cacheable_ones_come_first_then_those_on_the_fly_in_file_order(document: Read) -> None:
    text = MNIST + SP
    for number, kind in enumerate(("OnTheFlyTransformation", "Transformation") * 3):
        text += f"[sp.{kind}-{9 - number}]\nType=PadCropTransformation\n"
        text += f"Width={number}0\nHeight=5\n".replace("Width=00", "Width=100")
    made = Environment(document(text))
    assert [node["width"] for node in made.node["transforms"].values()] == [10, 30, 50, 100, 20, 40]
    assert made.names() == ["pad_crop", *(f"pad_crop_{i}" for i in range(2, 7))]


def test_the_suffix_is_only_a_name(document: Read) -> None:
    text = MNIST + SP + "".join(FLIP.format(f"Transformation{s}") for s in ("-z", "_1", "", "X-a"))
    assert len(Environment(document(text)).names()) == 4


def test_images_are_bgr_as_those_of_n2d2(document: Read) -> None:
    colour = "NbChannels=3\n"
    made = Environment(document(CIFAR + SP + colour + FLIP.format("Transformation")))
    assert made.names() == ["bgr", "flip"]
    assert made.node["transforms"]["bgr"] == {
        "_target_": "qatlab.data.transforms.ColorSpace",
        "to": "bgr",
    }
    assert Environment(document(MNIST + SP + FLIP.format("Transformation"))).names() == ["flip"]


def test_a_data_set_of_one_channel_becomes_three(document: Read) -> None:
    convert = "[sp.Transformation]\nType=ColorSpaceTransformation\nColorSpace=BGR\n"
    made = Environment(document(MNIST + SP + "NbChannels=3\n" + convert))
    assert made.names() == ["color_space"]


def test_three_channels_become_one(document: Read) -> None:
    extract = "[sp.Transformation]\nType=ChannelExtractionTransformation\nCSChannel=Gray\n"
    for database in (CIFAR, FOLDER):
        made = Environment(document(database + SP + extract))
        assert made.names() == ["bgr", "channel_extraction"]
        assert "channels" not in made.node["source"]


def test_files_are_read_as_grey_where_the_network_wants_one_channel(document: Read) -> None:
    made = Environment(document(FOLDER + SP + FLIP.format("Transformation")))
    assert made.node["source"]["channels"] == 1
    assert made.names() == ["flip"]


@pytest.mark.parametrize(
    ("database", "channels", "told"),
    [
        (CIFAR, 1, "NbChannels=1, but the images of CIFAR10_Database come out of the"),
        (MNIST, 3, "NbChannels=3, but the images of MNIST_IDX_Database come out of the"),
        (FOLDER, 2, "NbChannels=2, but the images of DIR_Database come out of the"),
    ],
)
def test_channels_that_do_not_fit(document: Read, database: str, channels: int, told: str) -> None:
    assert told in refused(document(f"{database}{SP}NbChannels={channels}\n"))


@pytest.mark.parametrize("kind", ["Channel", "ChannelOnTheFly", "Channels", "ChannelsOnTheFly"])
def test_transformations_of_channels_are_refused(document: Read, kind: str) -> None:
    told = refused(document(MNIST + SP + FLIP.format(f"{kind}Transformation-0")))
    assert "transformations of single channels are not supported here" in told
    assert told.endswith(f"Accepted: sp.{KINDS[0]}, sp.{KINDS[1]}")


def test_an_unknown_part_is_reported(document: Read) -> None:
    made = Environment(document(MNIST + SP + FLIP.format("Tansformation")))
    assert made.names() == []
    assert made.deviations == [
        "[sp.Tansformation] ignored: is neither a transformation nor statistics of the images"
    ]


def test_parts_that_others_use_are_no_loss(document: Read) -> None:
    text = f"{MNIST}{SP}ConfigSection=sp.config\n[sp.config]\nStreamTensor=0\n"
    text += "[sp.def]\nType=FlipTransformation\n[sp.Transformation] sp.def\nVerticalFlip=1\n"
    made = Environment(document(text))
    assert made.deviations == []
    assert made.names() == ["flip"]


def test_a_file_without_a_database(document: Read) -> None:
    made = Environment(document(SP))
    assert made.node["source"] == {"_target_": "qatlab.data.Mnist", "folder": "data"}
    assert (
        "there is no [database]: data.source has to be chosen; Mnist stands" in made.deviations[0]
    )
    made = Environment(document(SP + "NbChannels=3\n"))
    assert made.node["source"]["_target_"] == "qatlab.data.Cifar10"
    assert made.names() == ["bgr"]
    assert made.data.training_images is None


# -- computed values --------------------------------------------------------------------------


def test_the_size_of_an_epoch(document: Read) -> None:
    text = f"{MNIST}Validation=0.2\n{SP}[a]\nX=[sp]_EpochSize\n"
    assert Environment(document(text)).document.section("a").integer("X") == 48000
    assert Environment(document(text), images=5).document.section("a").integer("X") == 5


STATISTICS = (
    "[sp.StimuliData-raw]\nApplyTo=LearnOnly\nLogSizeRange=1\nLogValueRange=1\n"
    "[sp.Transformation-normalize]\nType=RangeAffineTransformation\nFirstOperator=Minus\n"
    "FirstValue=[sp.StimuliData-raw]_GlobalValue.mean\nSecondOperator=Divides\n"
    "SecondValue=[sp.StimuliData-raw]_GlobalValue.stdDev\n"
)


def test_statistics_are_measured(document: Read, tmp_path: Path) -> None:
    (tmp_path / IMAGES).write_bytes(HEADER + PIXELS)
    made = Environment(document(MNIST + SP + STATISTICS), folder=tmp_path)
    values = list(PIXELS)
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    node = made.node["transforms"]["range_affine"]
    assert node["first_value"] == pytest.approx(mean, abs=1e-6)
    assert node["second_value"] == pytest.approx(deviation, abs=1e-6)
    assert made.deviations == []
    assert "was measured on all MNIST_IDX_Database training images in" in made.document.notices[0]


def test_statistics_that_are_not_known_are_left_to_the_user(document: Read) -> None:
    made = Environment(document(MNIST + SP + STATISTICS))
    node = made.node["transforms"]["range_affine"]
    assert (node["first_value"], node["second_value"]) == ("???", "???")  # Hydra names the key
    assert [item.split(" left")[0] for item in made.deviations] == [
        "[sp.Transformation-normalize] FirstValue approximated:",
        "[sp.Transformation-normalize] SecondValue approximated:",
    ]
    assert "the mean of the training images as they are stored; --data DIR" in made.deviations[0]


@pytest.mark.parametrize(
    ("before", "apply_to", "reason"),
    [
        (FLIP.format("Transformation-0"), "LearnOnly", "after the transformations before it"),
        ("", "All", "of the images of All as they are stored"),
    ],
)
def test_statistics_that_cannot_be_measured(
    document: Read, tmp_path: Path, before: str, apply_to: str, reason: str
) -> None:
    (tmp_path / IMAGES).write_bytes(HEADER + PIXELS)
    text = MNIST + SP + before + STATISTICS.replace("LearnOnly", apply_to)
    made = Environment(document(text), folder=tmp_path)
    assert made.node["transforms"]["range_affine"]["first_value"] == "???"
    assert reason in made.deviations[0]
    assert "--data" not in made.deviations[0]


def test_transformations_on_the_fly_do_not_change_what_is_measured(
    document: Read, tmp_path: Path
) -> None:
    (tmp_path / IMAGES).write_bytes(HEADER + PIXELS)
    text = MNIST + SP + FLIP.format("OnTheFlyTransformation") + STATISTICS
    made = Environment(document(text), folder=tmp_path)
    assert made.node["transforms"]["range_affine"]["first_value"] != "???"


def test_a_folder_without_the_data_set_is_reported(document: Read, tmp_path: Path) -> None:
    made = Environment(document(MNIST + SP + STATISTICS), folder=tmp_path)
    assert made.document.notices == [
        f"--data {tmp_path} holds no training images of MNIST_IDX_Database for [sp.StimuliData-raw]"
    ]


def test_a_mean_image_is_not_known(document: Read) -> None:
    text = MNIST + SP + STATISTICS.replace("_GlobalValue.mean", "_MeanData")
    made = Environment(document(text))
    assert "an image made of all training images" in made.deviations[0]
