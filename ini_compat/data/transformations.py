"""N2D2's image transformations as ``data.transforms``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ini_compat.errors import Deviation, IniError, did_you_mean
from ini_compat.keys import Key, check_names, read_keys, snake_case
from ini_compat.network import Node
from ini_compat.syntax.resolve import Section

PLACE = "qatlab.data.transforms"
PARTS = ("training", "validation", "test")
APPLY_TO = {
    "All": PARTS,
    "LearnOnly": ("training",),
    "ValidationOnly": ("validation",),
    "TestOnly": ("test",),
    "NoLearn": ("validation", "test"),
    "NoValidation": ("training", "test"),
    "NoTest": ("training", "validation"),
}
BORDERS = {
    "ConstantBorder": "constant",
    "ReplicateBorder": "replicate",
    "ReflectBorder": "reflect",
    "WrapBorder": "wrap",
    "MinusOneReflectBorder": "reflect_101",
}
OPERATORS = ("Plus", "Minus", "Multiplies", "Divides")
SPACES = ("BGR", "RGB", "HSV", "HLS", "YCrCb", "CIELab", "CIELuv")
CONVERSIONS = {  # of N2D2 to the colour spaces given and made; N2D2's images are BGR
    **{to: ("BGR", to) for to in SPACES},
    **{f"RGB_to_{to}": ("RGB", to) for to in SPACES if to != "RGB"},
    **{f"{given}_to_{to}": (given, to) for given in SPACES[2:] for to in SPACES[:2]},
}
CHANNELS = ("Red", "Green", "Blue", "Gray", "Hue", "Saturation", "Value", "Y", "Cr", "Cb")


def _only(name: str, word: str, *others: str) -> Key:
    """Return a key whose first word, the default, is what the class does."""
    return Key(name, (word, *others), word, None, {word: word})


LABELS_STAY = Key("ApplyToLabels", "boolean", False, None)

SIZE = (Key("Width", "positive"), Key("Height", "positive"))
BORDER = (
    Key("BorderType", (*BORDERS, "MeanBorder"), "reflect_101", "border", BORDERS),
    Key("BorderValue", "numbers", 0.0),
)
TRANSFORMATIONS: dict[str, tuple[str, tuple[Key, ...]]] = {
    "RescaleTransformation": (
        "Rescale",
        (*SIZE, Key("KeepAspectRatio", "boolean", False), Key("ResizeToFit", "boolean", True)),
    ),
    "PadCropTransformation": (
        "PadCrop",
        (
            *(Key("Width", "integer"), Key("Height", "integer")),
            *(Key("AdditiveWH", "boolean", False, "additive"), *BORDER),
        ),
    ),
    "SliceExtractionTransformation": (
        "SliceExtraction",
        (
            *(Key("Width", "unsigned"), Key("Height", "unsigned")),
            *(Key("OffsetX", "unsigned", 0), Key("OffsetY", "unsigned", 0)),
            *(Key("RandomOffsetX", "boolean", False), Key("RandomOffsetY", "boolean", False)),
            Key("RandomRotation", "boolean", False),
            Key("RandomRotationRange", "range", [0.0, 360.0], "rotation_range"),
            Key("RandomScaling", "boolean", False),
            Key("RandomScalingRange", "range", [0.8, 1.2], "scaling_range"),
            *(Key("AllowPadding", "boolean", False), *BORDER),
        ),
    ),
    "RandomResizeCropTransformation": (
        "RandomResizeCrop",
        (
            *(*SIZE, Key("ScaleMin", "real", 1.0), Key("ScaleMax", "real", 1.0)),
            *(Key("RatioMin", "real", 1.0), Key("RatioMax", "real", 1.0)),
        ),
    ),
    "FlipTransformation": (
        "Flip",
        (
            Key("HorizontalFlip", "boolean", False, "horizontal"),
            Key("VerticalFlip", "boolean", False, "vertical"),
            Key("RandomHorizontalFlip", "boolean", False, "random_horizontal"),
            Key("RandomVerticalFlip", "boolean", False, "random_vertical"),
        ),
    ),
    "RangeAffineTransformation": (
        "RangeAffine",
        (
            *(Key("FirstOperator", OPERATORS), Key("FirstValue", "numbers")),
            *(Key("SecondOperator", OPERATORS, "plus"), Key("SecondValue", "numbers", None)),
            Key("Truncate", "boolean", False),
        ),
    ),
    "ColorSpaceTransformation": ("ColorSpace", (Key("ColorSpace", tuple(CONVERSIONS)),)),
    "ChannelExtractionTransformation": (
        "ChannelExtraction",
        (Key("CSChannel", CHANNELS, ..., "channel"),),
    ),
    "NormalizeTransformation": (
        "Normalize",
        (
            Key("Norm", ("MinMax", "L1", "L2", "Linf"), "min_max"),
            *(Key("NormValue", "real", 1.0), Key("NormMin", "real", 0.0)),
            *(Key("NormMax", "real", 1.0), Key("PerChannel", "boolean", False)),
        ),
    ),
    "DistortionTransformation": (
        "Distortion",
        (
            *(Key("ElasticGaussianSize", "positive", 15), Key("ElasticSigma", "real", 6.0)),
            *(Key("ElasticScaling", "real", 0.0), Key("Scaling", "real", 0.0)),
            *(Key("Rotation", "real", 0.0), Key("IgnoreMissingData", "boolean", True)),
        ),
    ),
    "EqualizeTransformation": (
        "Equalize",
        (
            Key("Method", ("Standard", "CLAHE"), "standard"),
            Key("CLAHE_ClipLimit", "real", 40.0, "clip_limit"),
            Key("CLAHE_GridSize", "positive", 8, "grid_size"),
        ),
    ),
    "ThresholdTransformation": (
        "Threshold",
        (
            *(Key("Threshold", "real"), Key("OtsuMethod", "boolean", False, "otsu")),
            Key(
                "Operation",
                ("Binary", "BinaryInverted", "Truncate", "ToZero", "ToZeroInverted"),
                "binary",
            ),
            Key("MaxValue", "real", 1.0),
        ),
    ),
    "RandomAffineTransformation": (
        "RandomAffine",
        (
            Key("GainRange", "range", [1.0, 1.0], "gain"),
            Key("BiasRange", "range", [0.0, 0.0], "bias"),
            Key("GammaRange", "range", [1.0, 1.0], "gamma"),
            Key("GainVarProb", "share", 1.0, "gain_probability"),
            Key("BiasVarProb", "share", 1.0, "bias_probability"),
            Key("GammaVarProb", "share", 1.0, "gamma_probability"),
            *(Key("DisjointGamma", "boolean", False), Key("ChannelsMask", "integers", [])),
        ),
    ),
    "ReshapeTransformation": (
        "Reshape",
        (
            Key("NbRows", "positive", ..., "rows"),
            Key("NbCols", "unsigned", 0, "columns"),
            Key("NbChannels", "unsigned", 0, "n_channels"),
        ),
    ),
    "WallisFilterTransformation": (
        "WallisFilter",
        (Key("Size", "positive"), Key("Mean", "real", 0.0), Key("StdDev", "real", 1.0)),
    ),
    "MorphologyTransformation": (
        "Morphology",
        (
            Key(
                "Operation",
                ("Erode", "Dilate", "Opening", "Closing", "Gradient", "TopHat", "BlackHat"),
            ),
            *(Key("Size", "positive"), Key("NbIterations", "unsigned", 1, None), LABELS_STAY),
            _only("Shape", "Rectangular", "Elliptic", "Cross"),
        ),
    ),
    "GradientFilterTransformation": (
        "GradientFilter",
        (
            *(Key("Scale", "real", 1.0), Key("Delta", "real", 0.0), LABELS_STAY),
            _only("GradientFilter", "Sobel", "Scharr", "Laplacian"),
            Key("KernelSize", "unsigned", 3, None),
        ),
    ),
}
ELSEWHERE = (  # which N2D2 has and this does not
    *("AffineTransformation", "ApodizationTransformation", "BlendingTransformation"),
    *("CentroidCropTransformation", "ChannelDropTransformation", "ChannelShakeTransformation"),
    *("CompressionNoiseTransformation", "DCTTransformation", "DFTTransformation"),
    *("ExpandLabelTransformation", "FilterTransformation", "LabelSliceExtractionTransformation"),
    *("MagnitudePhaseTransformation", "MorphologicalReconstructionTransformation"),
    *("RangeClippingTransformation", "ROIExtractionTransformation", "StripeRemoveTransformation"),
    "TrimTransformation",
)


def read_transformation(section: Section, note: Callable[[Deviation], None]) -> Node:
    """Read one section as a node of ``data.transforms``.

    Raises:
        IniError: for a type that is unknown or not supported, and for unknown parameters.
    """
    word = section.text("Type")
    if word not in TRANSFORMATIONS:
        known = word in ELSEWHERE
        named = "is not supported here." if known else "is not a transformation."
        hint = "" if known else did_you_mean(word, TRANSFORMATIONS)
        raise IniError(
            f"[{section.name}] Type={word} {named}{hint} Accepted: {', '.join(TRANSFORMATIONS)}",
            section.place("Type"),
        )
    name, keys = TRANSFORMATIONS[word]
    check_names(section, {"Type", "ApplyTo", *(key.name for key in keys)}, word)
    arguments = read_keys(section, keys, note)
    if name in FINISHED:
        arguments = FINISHED[name](section, arguments)
    apply_to = APPLY_TO[section.choice("ApplyTo", tuple(APPLY_TO), "All")]
    arguments |= {} if apply_to == PARTS else {"apply_to": list(apply_to)}
    return {"_target_": f"{PLACE}.{name}", **arguments}


def from_rgb() -> Node:
    """Return the step that makes of qatlab's images, which are RGB, those of N2D2."""
    return {"_target_": f"{PLACE}.ColorSpace", "to": "bgr"}


def channels_after(nodes: Iterable[Node], channels: int) -> int:
    """Return how many channels images of ``channels`` have behind some transforms."""
    for node in nodes:
        name = node["_target_"].rpartition(".")[2]
        if name == "ColorSpace":
            channels = 3
        elif name == "ChannelExtraction":
            channels = 1
        elif name == "Reshape":
            channels = node.get("n_channels") or channels
    return channels


def _pad_crop(section: Section, arguments: Node) -> Node:
    for key in ("Width", "Height"):
        if not arguments.get("additive") and arguments[snake_case(key)] < 1:
            pixels = "1 or more, or AdditiveWH=1 with a number of pixels to add"
            raise section.wrong(key, pixels)
    return arguments


def _random_resize_crop(section: Section, arguments: Node) -> Node:
    for name in ("scale", "ratio"):
        ends = [arguments.pop(f"{name}_{end}", 1.0) for end in ("min", "max")]
        if not 0 < ends[0] <= ends[1]:
            key = f"{name.title()}Min"
            raise IniError(
                f"[{section.name}] {key} and {name.title()}Max are {ends[0]:g} and {ends[1]:g}. "
                "Accepted: two numbers above 0, the lowest first",
                section.place(key),
            )
        arguments |= {name: ends} if ends != [1.0, 1.0] else {}
    return arguments


def _color_space(section: Section, arguments: Node) -> Node:
    given, to = (word.lower() for word in CONVERSIONS[section.text("ColorSpace")])
    return {"to": to} | ({"given": given} if given != "rgb" else {})


def _channel_extraction(section: Section, arguments: Node) -> Node:
    return {**arguments, "given": "bgr"}


FINISHED: dict[str, Callable[[Section, Node], Node]] = {  # where keys are no arguments as they are
    "PadCrop": _pad_crop,
    "RandomResizeCrop": _random_resize_crop,
    "ColorSpace": _color_space,
    "ChannelExtraction": _channel_extraction,
}
