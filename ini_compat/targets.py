"""``[cell.Target]``: the loss that a cell's output is trained with."""

from __future__ import annotations

from collections.abc import Callable

from ini_compat.errors import IniError, Loss
from ini_compat.network import Cell, Node, Shape, Target
from ini_compat.resolve import Section

KEYS = {  # with the only values that have an effect here; None: any, which has none
    "Type": None,
    "TargetValue": None,
    "DefaultValue": None,
    "TopN": None,
    "DataAsTarget": None,
    "BinaryThreshold": None,
}
FOR_PICTURES = {  # only change what N2D2 draws and logs
    *("NoDisplayLabel", "LabelsHueOffset", "EstimatedLabelsValueDisplay", "ImageLogFormat"),
    *("MaskedLabelValue", "ValueThreshold", "ConfusionRangeMin", "ConfusionRangeMax"),
    *("ConfusionQuantSteps",),
}
LABELS = {
    "LabelsMapping": "labels keep the numbers that the data set gives them",
    "CreateMissingLabels": "labels keep the numbers that the data set gives them",
    "MaskLabelTarget": "all outputs count",
    "ROIsLabelTarget": "all outputs count",
    "MaskedLabel": "all outputs count",
    "WeakTarget": "all labels count alike",
}
UNSUPPORTED = (
    *("TargetROIs", "TargetBBox", "TargetRP", "TargetCompare", "TargetMatching"),
    "TargetAggregate",
)
PLACE = "qatlab.training.loss"


def read_target(section: Section, cell: Cell, image: Shape, lose: Callable[[Loss], None]) -> Target:
    """Read one target section.

    Args:
        section: ``[cell.Target...]``.
        cell: the cell it belongs to, already read.
        image: shape of the network's input.
        lose: notes what is not taken over.

    Raises:
        IniError: for a target that is no classification and no reconstruction.
    """
    kind = section.text("Type", "TargetScore") or "TargetScore"
    plain = kind.removesuffix("_CUDA")
    if plain in UNSUPPORTED:
        raise IniError(
            f"[{section.name}] Type={kind} is not supported here. Accepted: TargetScore, Target",
            section.place("Type"),
        )
    if plain not in ("TargetScore", "Target"):
        section.choice("Type", ("TargetScore", "Target"))
    for key in section.keys():
        if key not in KEYS:
            reason = LABELS.get(key)
            if key in FOR_PICTURES:
                reason = "only changes what N2D2 draws and logs"
            elif reason is None:
                reason = "is no key of a target"
            section.mark_used(key)
            lose(Loss(section.place(key), f"[{section.name}] {key}", "ignored", reason))
    value, other = section.real("TargetValue", 1.0), section.real("DefaultValue", 0.0)
    top_n = section.unsigned("TopN", 1)
    shape = cell.shape
    assert shape is not None
    if not 1 <= top_n <= shape[0]:
        raise IniError(
            f"[{section.name}] TopN={top_n} is wrong. Accepted: 1 to {shape[0]}, the outputs",
            section.place("TopN"),
        )
    data_as_target = section.boolean("DataAsTarget", False)
    if data_as_target:
        return Target(cell.name, section.header, _reconstruction(section, shape, image), top_n)
    if shape[1:] != (1, 1):
        raise IniError(
            f"[{section.name}]: {cell.name} has {shape[1]}x{shape[2]} outputs for each class; a "
            "target for each pixel is not supported here",
            section.header,
        )
    node = _loss(section, cell, shape, value, other, lose)
    return Target(cell.name, section.header, node, top_n)


def _reconstruction(section: Section, shape: Shape, image: Shape) -> Node:
    if shape != image:
        texts = ["x".join(map(str, s)) for s in (shape, image)]
        raise IniError(
            f"[{section.name}] DataAsTarget=1 compares outputs of {texts[0]} with images of "
            f"{texts[1]}",
            section.place("DataAsTarget"),
        )
    return {"_target_": f"{PLACE}.Reconstruction"}


def _loss(
    section: Section,
    cell: Cell,
    shape: Shape,
    value: float,
    other: float,
    lose: Callable[[Loss], None],
) -> Node:
    if cell.with_loss == "softmax":
        for key, number, plain in (("TargetValue", value, 1.0), ("DefaultValue", other, 0.0)):
            if number != plain:
                reason = f"a softmax is trained with {plain:g}, as its outputs are shares"
                lose(Loss(section.place(key), f"[{section.name}] {key}", "approximated", reason))
        return {"_target_": f"{PLACE}.CrossEntropy"}
    values: Node = {"target_value": value} if value != 1.0 else {}
    values |= {"default_value": other} if other != 0.0 else {}
    threshold = section.real("BinaryThreshold", 0.5)
    if shape[0] == 1 and threshold != 0.5:
        values["binary_threshold"] = threshold
    name = "LogisticCrossEntropy" if cell.with_loss == "logistic" else "SquaredError"
    return {"_target_": f"{PLACE}.{name}", **values}
