"""Each transformation with all of its keys, as qatlab's class takes it (section 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra.utils import instantiate

from ini_compat.data.transformations import (
    APPLY_TO,
    CHANNELS,
    CONVERSIONS,
    ELSEWHERE,
    TRANSFORMATIONS,
    channels_after,
    from_rgb,
    read_transformation,
)
from ini_compat.errors import Deviation, IniError
from ini_compat.syntax.resolve import Document
from qatlab.data import transforms

Read = Callable[..., Document]
REFLECT = {"border": "reflect_101", "border_value": (0.0,)}

# N2D2's keys, and the attributes of the object that Hydra makes.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "RescaleTransformation",
        "Width=32 Height=24",
        {"width": 32, "height": 24, "keep_aspect_ratio": False, "resize_to_fit": True},
    ),
    (
        "RescaleTransformation",
        "Width=32 Height=24 KeepAspectRatio=1 ResizeToFit=0",
        {"width": 32, "height": 24, "keep_aspect_ratio": True, "resize_to_fit": False},
    ),
    (
        "PadCropTransformation",
        "Width=32 Height=24",
        {"width": 32, "height": 24, "additive": False, **REFLECT},
    ),
    (
        "PadCropTransformation",
        "Width=-4 Height=8 AdditiveWH=1 BorderType=ConstantBorder BorderValue=1,2,3",
        {
            **{"width": -4, "height": 8, "additive": True},
            **{"border": "constant", "border_value": (1.0, 2.0, 3.0)},
        },
    ),
    *(
        ("PadCropTransformation", f"Width=1 Height=1 BorderType={word}", {"border": border})
        for word, border in (
            *(("ConstantBorder", "constant"), ("ReplicateBorder", "replicate")),
            *(("ReflectBorder", "reflect"), ("WrapBorder", "wrap")),
            ("MinusOneReflectBorder", "reflect_101"),
        )
    ),
    (
        "SliceExtractionTransformation",
        "Width=0 Height=0",
        {
            **{"width": 0, "height": 0, "offset_x": 0, "offset_y": 0, "random": False},
            **{"rotation_range": (0.0, 360.0), "scaling_range": (0.8, 1.2)},
            **{"allow_padding": False, **REFLECT},
        },
    ),
    (
        "SliceExtractionTransformation",
        "Width=20 Height=10 OffsetX=3 OffsetY=4 RandomOffsetX=1 RandomOffsetY=1 RandomRotation=1 "
        "RandomRotationRange=-10.0,10.0 RandomScaling=1 RandomScalingRange=0.5,2.0 AllowPadding=1 "
        "BorderType=WrapBorder BorderValue=7",
        {
            **{"width": 20, "height": 10, "offset_x": 3, "offset_y": 4},
            **{"random_offset_x": True, "random_offset_y": True, "random_rotation": True},
            **{"rotation_range": (-10.0, 10.0), "random_scaling": True},
            **{"scaling_range": (0.5, 2.0), "allow_padding": True, "border": "wrap"},
            **{"border_value": (7.0,), "random": True},
        },
    ),
    (
        "RandomResizeCropTransformation",
        "Width=32 Height=24",
        {"width": 32, "height": 24, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)},
    ),
    (
        "RandomResizeCropTransformation",
        "Width=32 Height=24 ScaleMin=0.08 ScaleMax=0.5 RatioMin=0.75 RatioMax=1.25",
        {"scale": (0.08, 0.5), "ratio": (0.75, 1.25)},
    ),
    (
        "FlipTransformation",
        "",
        {"always": {3: False, 2: False}, "sometimes": {3: False, 2: False}, "random": False},
    ),
    ("FlipTransformation", "HorizontalFlip=1", {"always": {3: True, 2: False}}),
    ("FlipTransformation", "VerticalFlip=1", {"always": {3: False, 2: True}}),
    ("FlipTransformation", "RandomHorizontalFlip=1", {"sometimes": {3: True, 2: False}}),
    ("FlipTransformation", "RandomVerticalFlip=1", {"sometimes": {3: False, 2: True}}),
    (
        "RangeAffineTransformation",
        "FirstOperator=Divides FirstValue=256.0",
        {"steps": [("multiplies", (1 / 256,))], "truncate": False},
    ),
    (
        "RangeAffineTransformation",
        "FirstOperator=Minus FirstValue=1.5,2.5,3.5 SecondOperator=Multiplies SecondValue=0.5 "
        "Truncate=1",
        {"steps": [("minus", (1.5, 2.5, 3.5)), ("multiplies", (0.5,))], "truncate": True},
    ),
    (
        "RangeAffineTransformation",  # the second operator is a sum unless told
        "FirstOperator=Multiplies FirstValue=2 SecondValue=0.0",
        {"steps": [("multiplies", (2.0,)), ("plus", (0.0,))]},
    ),
    *(
        ("ChannelExtractionTransformation", f"CSChannel={word}", {"channel": channel})
        for word, channel in (
            *(("Red", "red"), ("Green", "green"), ("Blue", "blue"), ("Hue", "hue")),
            *(("Saturation", "saturation"), ("Value", "value"), ("Gray", "gray")),
            *(("Y", "y"), ("Cr", "cr"), ("Cb", "cb")),
        )
    ),
    (
        "NormalizeTransformation",
        "",
        {
            **{"norm": "min_max", "norm_value": 1.0, "norm_min": 0.0, "norm_max": 1.0},
            "by_channel": False,
        },
    ),
    (
        "NormalizeTransformation",
        "Norm=MinMax NormMin=-1 NormMax=2 PerChannel=1",
        {"norm": "min_max", "norm_min": -1.0, "norm_max": 2.0, "by_channel": True},
    ),
    ("NormalizeTransformation", "Norm=L1 NormValue=3", {"norm": "l1", "norm_value": 3.0}),
    ("NormalizeTransformation", "Norm=L2", {"norm": "l2"}),
    ("NormalizeTransformation", "Norm=Linf", {"norm": "linf"}),
    (
        "DistortionTransformation",
        "",
        {
            **{"gaussian_size": 15, "sigma": 6.0, "elastic_scaling": 0.0, "scaling": 0.0},
            **{"rotation": 0.0, "border": "replicate"},
        },
    ),
    (
        "DistortionTransformation",
        "ElasticGaussianSize=21 ElasticSigma=4.5 ElasticScaling=20.0 Scaling=15.0 Rotation=12 "
        "IgnoreMissingData=0",
        {
            **{"gaussian_size": 21, "sigma": 4.5, "elastic_scaling": 20.0, "scaling": 15.0},
            **{"rotation": 12.0, "border": "constant"},
        },
    ),
    (
        "EqualizeTransformation",
        "",
        {"method": "standard", "clip_limit": 40.0, "grid_size": 8},
    ),
    (
        "EqualizeTransformation",
        "Method=CLAHE CLAHE_ClipLimit=2.5 CLAHE_GridSize=4",
        {"method": "clahe", "clip_limit": 2.5, "grid_size": 4},
    ),
    (
        "ThresholdTransformation",
        "Threshold=128",
        {"threshold": 128.0, "otsu": False, "operation": "binary", "max_value": 1.0},
    ),
    *(
        (
            "ThresholdTransformation",
            f"Threshold=0.5 OtsuMethod=1 Operation={word} MaxValue=255",
            {"threshold": 0.5, "otsu": True, "operation": operation, "max_value": 255.0},
        )
        for word, operation in (
            *(("Binary", "binary"), ("BinaryInverted", "binary_inverted"), ("ToZero", "to_zero")),
            *(("Truncate", "truncate"), ("ToZeroInverted", "to_zero_inverted")),
        )
    ),
    (
        "RandomAffineTransformation",
        "",
        {
            "ranges": {"gain": (1.0, 1.0), "bias": (0.0, 0.0), "gamma": (1.0, 1.0)},
            "probabilities": {"gain": 1.0, "bias": 1.0, "gamma": 1.0},
            **{"disjoint_gamma": False, "by_channel": False, "mask": None},
        },
    ),
    (
        "RandomAffineTransformation",
        "GainRange=0.5,1.5 BiasRange=-0.1,0.1 GammaRange=0.8,1.2 GainVarProb=0.25 BiasVarProb=0.5 "
        "GammaVarProb=0.75 DisjointGamma=1 ChannelsMask=1,0,1",
        {
            "ranges": {"gain": (0.5, 1.5), "bias": (-0.1, 0.1), "gamma": (0.8, 1.2)},
            "probabilities": {"gain": 0.25, "bias": 0.5, "gamma": 0.75},
            **{"disjoint_gamma": True, "mask": [True, False, True]},
        },
    ),
    ("ReshapeTransformation", "NbRows=7", {"rows": 7, "columns": 0, "n_channels": 0}),
    (
        "ReshapeTransformation",
        "NbRows=7 NbCols=14 NbChannels=8",
        {"rows": 7, "columns": 14, "n_channels": 8},
    ),
    ("WallisFilterTransformation", "Size=5", {"size": 5, "mean": 0.0, "std_dev": 1.0}),
    (
        "WallisFilterTransformation",
        "Size=5 Mean=0.5 StdDev=0.25",
        {"size": 5, "mean": 0.5, "std_dev": 0.25},
    ),
    *(
        (
            "MorphologyTransformation",
            f"Operation={word} Size=3 Shape=Rectangular NbIterations=1 ApplyToLabels=0",
            {"operation": operation, "size": 3},
        )
        for word, operation in (
            *(("Erode", "erode"), ("Dilate", "dilate"), ("Opening", "opening")),
            *(("Closing", "closing"), ("Gradient", "gradient"), ("TopHat", "top_hat")),
            ("BlackHat", "black_hat"),
        )
    ),
    ("GradientFilterTransformation", "", {"scale": 1.0, "delta": 0.0}),
    (
        "GradientFilterTransformation",
        "Scale=2 Delta=-0.5 GradientFilter=Sobel KernelSize=3 ApplyToLabels=0",
        {"scale": 2.0, "delta": -0.5},
    ),
]


@pytest.fixture
def node(document: Read) -> Callable[..., dict[str, Any]]:
    """Return a function that reads a transformation; ``,`` stands for a space in a value."""

    def read(kind: str, keys: str = "") -> dict[str, Any]:
        lines = [f"Type={kind}", *(word.replace(",", " ") for word in keys.split())]
        section = document("[sp.Transformation]\n" + "\n".join(lines) + "\n")
        deviations: list[Deviation] = []
        made = read_transformation(section.section("sp.Transformation"), deviations.append)
        assert deviations == []
        return made

    return read


@pytest.mark.parametrize(("kind", "keys", "attributes"), CASES)
def test_qatlab_makes_what_the_section_says(
    node: Callable[..., dict[str, Any]], kind: str, keys: str, attributes: dict[str, Any]
) -> None:
    made = instantiate(node(kind, keys), _convert_="all")
    assert type(made).__name__ == kind.removesuffix("Transformation")
    assert {name: getattr(made, name) for name in attributes} == attributes
    assert made.apply_to == ("training", "validation", "test")


def test_each_key_of_each_transformation_is_tested() -> None:
    for kind, (_, keys) in TRANSFORMATIONS.items():
        tested = " ".join(words for name, words, _ in CASES if name == kind)
        if kind != "ColorSpaceTransformation":
            assert [key.name for key in keys if f"{key.name}=" not in tested] == []


def test_each_class_of_qatlab_is_met() -> None:
    names = {name for name, _ in TRANSFORMATIONS.values()}
    of_qatlab_alone = {"Transform", "RandomErasing", "Torchvision"}
    assert names == set(transforms.__all__) - of_qatlab_alone


@pytest.mark.parametrize("word", CONVERSIONS)
def test_colour_spaces(node: Callable[..., dict[str, Any]], word: str) -> None:
    made = instantiate(node("ColorSpaceTransformation", f"ColorSpace={word}"))
    given, _, to = word.rpartition("_to_")  # HSV alone converts BGR to HSV
    assert (made.given, made.to) == ((given or "BGR").lower(), to.lower())


def test_colour_spaces_are_those_of_n2d2() -> None:
    plain = ["BGR", "RGB", "HSV", "HLS", "YCrCb", "CIELab", "CIELuv"]
    others = plain[2:]
    assert list(CONVERSIONS) == [
        *plain,
        *(f"RGB_to_{to}" for to in ["BGR", *others]),
        *(f"{given}_to_{to}" for given in others for to in ("BGR", "RGB")),
    ]


def test_channels_are_extracted_from_bgr(node: Callable[..., dict[str, Any]]) -> None:
    for channel in CHANNELS:
        made = instantiate(node("ChannelExtractionTransformation", f"CSChannel={channel}"))
        assert made.given == "bgr"


def test_images_are_bgr_at_first() -> None:
    made = instantiate(from_rgb())
    assert (made.given, made.to) == ("rgb", "bgr")


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("All", ("training", "validation", "test")),
        ("LearnOnly", ("training",)),
        ("ValidationOnly", ("validation",)),
        ("TestOnly", ("test",)),
        ("NoLearn", ("validation", "test")),
        ("NoValidation", ("training", "test")),
        ("NoTest", ("training", "validation")),
    ],
)
def test_apply_to(node: Callable[..., dict[str, Any]], word: str, parts: tuple[str, ...]) -> None:
    assert set(APPLY_TO) >= {word}
    made = instantiate(node("FlipTransformation", f"ApplyTo={word}"))
    assert made.apply_to == parts


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        ("RescaleTransformation", "Height=3", "needs the key Width"),
        ("RescaleTransformation", "Width=0 Height=3", "Width=0 is wrong. Accepted: 1"),
        ("RescaleTransformation", "Width=-3 Height=3", "Accepted: an integer of at least 0"),
        (
            "RescaleTransformation",
            "Width=3 Height=3 Widht=4",
            "has no key Widht, and N2D2 does not",
        ),
        ("RescaleTransformation", "Width=3 Height=3 Widht=4", "Did you mean 'Width'?"),
        ("RescaleTransformation", "Width=3 Height=3 KeepAspectRatio=yes", "Accepted: 0 or 1"),
        ("RescaleTransformation", "Width=3 Height=3 ApplyTo=LearnOnl", "Did you mean 'LearnOnly'?"),
        ("PadCropTransformation", "Width=0 Height=3", "AdditiveWH=1 with a number of pixels"),
        (
            "PadCropTransformation",
            "Width=3 Height=3 BorderType=MeanBorder",
            "BorderType=MeanBorder is not supported here. Accepted: ConstantBorder, Replicate",
        ),
        (
            "PadCropTransformation",
            "Width=3 Height=3 BorderType=MeanBorde",
            "Did you mean 'MeanBorder'",
        ),
        ("PadCropTransformation", "Width=3 Height=3 BorderValue=", "BorderValue= is wrong"),
        (
            "SliceExtractionTransformation",
            "Width=3 Height=3 RandomScalingRange=2",
            "RandomScalingRange=2 is wrong. Accepted: two numbers, the lowest and",
        ),
        ("SliceExtractionTransformation", "Width=3 Height=3 RandomRotationRange=2,1", "the lowest"),
        ("RandomResizeCropTransformation", "Width=3 Height=3 ScaleMin=2", "ScaleMin and ScaleMax"),
        ("RandomResizeCropTransformation", "Width=3 Height=3 RatioMin=0", "two numbers above 0"),
        ("RangeAffineTransformation", "FirstOperator=Divide FirstValue=2", "mean 'Divides'?"),
        ("RangeAffineTransformation", "FirstOperator=Divides", "needs the key FirstValue"),
        ("ColorSpaceTransformation", "ColorSpace=RGB_to_RGB", "Did you mean 'RGB_to_BGR'?"),
        ("ChannelExtractionTransformation", "CSChannel=Grey", "Did you mean 'Gray'?"),
        ("RandomAffineTransformation", "GainVarProb=0.5,0.5", "Accepted: a number"),
        ("RandomAffineTransformation", "GainVarProb=2", "Accepted: a number in [0, 1]"),
        ("RandomAffineTransformation", "GainRange[0]=1,2", "has no key GainRange[0]"),
        (
            "MorphologyTransformation",
            "Operation=Erode Size=3 Shape=Cross",
            "Shape=Cross is not supported here. Accepted: Rectangular",
        ),
        (
            "MorphologyTransformation",
            "Operation=Erode Size=3 NbIterations=2",
            "NbIterations=2 is not supported here. Accepted: 1",
        ),
        (
            "MorphologyTransformation",
            "Operation=Erode Size=3 ApplyToLabels=1",
            "ApplyToLabels=1 is not supported here. Accepted: 0",
        ),
        ("GradientFilterTransformation", "KernelSize=5", "KernelSize=5 is not supported here"),
        ("FlipTransformations", "", "is not a transformation. Did you mean 'FlipTransformation'?"),
        *((kind, "", f"Type={kind} is not supported here. Accepted: Resc") for kind in ELSEWHERE),
    ],
)
def test_mistakes(node: Callable[..., dict[str, Any]], kind: str, keys: str, told: str) -> None:
    with pytest.raises(IniError) as error:
        node(kind, keys)
    assert told in str(error.value)
    assert str(error.value).startswith("model.ini:")


def test_a_type_is_needed(document: Read) -> None:
    section = document("[sp.Transformation]\nWidth=3\n").section("sp.Transformation")
    with pytest.raises(IniError, match="needs the key Type"):
        read_transformation(section, lambda loss: None)


@pytest.mark.parametrize(
    ("kinds", "given", "expected"),
    [
        ((), 3, 3),
        (("FlipTransformation",), 1, 1),
        (("ColorSpaceTransformation ColorSpace=BGR",), 1, 3),
        (("ChannelExtractionTransformation CSChannel=Gray",), 3, 1),
        (("ReshapeTransformation NbRows=7 NbChannels=2",), 1, 2),
        (("ReshapeTransformation NbRows=7",), 3, 3),
        (
            (
                "ChannelExtractionTransformation CSChannel=Y",
                "ColorSpaceTransformation ColorSpace=RGB",
            ),
            *(3, 3),
        ),
    ],
)
def test_channels_are_those_of_qatlab(
    node: Callable[..., dict[str, Any]], kinds: tuple[str, ...], given: int, expected: int
) -> None:
    nodes = [node(*kind.split(" ", 1)) for kind in kinds]
    assert channels_after(nodes, given) == expected
    channels = given
    for made in map(instantiate, nodes):
        channels = made.channels(channels)
    assert channels == expected
