"""``[cell.Target]``: the loss that a cell's output is trained with."""

from __future__ import annotations

from collections.abc import Callable

from ini_compat.cells.geometry import text
from ini_compat.errors import Deviation, IniError, did_you_mean
from ini_compat.network import Cell, Node, Shape, Target
from ini_compat.syntax.resolve import Section

READ = ("Type", "TargetValue", "DefaultValue", "TopN", "DataAsTarget", "BinaryThreshold")
PICTURES = "only changes what N2D2 draws and logs"
NUMBERS = "labels keep the numbers that the data set gives them"
WITHOUT_EFFECT = {
    **dict.fromkeys(
        (
            *("NoDisplayLabel", "LabelsHueOffset", "EstimatedLabelsValueDisplay"),
            *("ImageLogFormat", "MaskedLabelValue", "ValueThreshold", "ConfusionRangeMin"),
            *("ConfusionRangeMax", "ConfusionQuantSteps"),
        ),
        PICTURES,
    ),
    **dict.fromkeys(("LabelsMapping", "CreateMissingLabels"), NUMBERS),
    **dict.fromkeys(("MaskLabelTarget", "ROIsLabelTarget", "MaskedLabel"), "all outputs count"),
    "WeakTarget": "all labels count alike",
}
TYPES = ("TargetScore", "Target")
UNSUPPORTED = (
    *("TargetROIs", "TargetBBox", "TargetRP", "TargetCompare", "TargetMatching"),
    "TargetAggregate",
)
PLACE = "qatlab.training.loss"


def read_target(
    section: Section, cell: Cell, image: Shape, note: Callable[[Deviation], None]
) -> Target:
    """Read one target section.

    Args:
        section: ``[cell.Target...]``.
        cell: the cell it belongs to, already read.
        image: shape of the network's input.
        note: notes what is not taken over.

    Raises:
        IniError: for unknown keys, and for a target that neither classifies nor reconstructs.
    """
    if section.text("Type", "TargetScore") in UNSUPPORTED:
        raise IniError(
            f"[{section.name}] Type={section.text('Type')} is not supported here. Accepted: "
            f"{', '.join(TYPES)}",
            section.place("Type"),
        )
    section.choice("Type", TYPES, "TargetScore")
    _check_keys(section, note)
    shape = cell.shape
    assert shape is not None
    _check_top(section, shape[0], note)
    if section.boolean("DataAsTarget", False):
        return Target(cell.name, section.header, _reconstruction(section, cell, shape, image))
    if shape[1:] != (1, 1):
        raise IniError(
            f"[{section.name}]: {cell.name} has {shape[1]}x{shape[2]} outputs for each class; a "
            "target for each pixel is not supported here",
            section.header,
        )
    return Target(cell.name, section.header, _classification(section, cell, shape, note))


def _check_keys(section: Section, note: Callable[[Deviation], None]) -> None:
    accepted = (*READ, *WITHOUT_EFFECT)
    for key in section:
        if key not in accepted:
            raise IniError(
                f"[{section.name}] {key} is not a key of a target, and N2D2 does not load the file."
                f"{did_you_mean(key, accepted)} Accepted: {', '.join(accepted)}",
                section.place(key),
            )
        if key in WITHOUT_EFFECT:
            section.mark_used(key)
            label = f"[{section.name}] {key}"
            note(Deviation(section.place(key), label, "ignored", WITHOUT_EFFECT[key]))


def _check_top(section: Section, outputs: int, note: Callable[[Deviation], None]) -> None:
    top = section.unsigned("TopN", 1)
    if not 1 <= top <= outputs:
        raise section.wrong("TopN", f"1 to {outputs}, the number of outputs")
    if top not in (1, 5):
        reason = "images count as found whose label has the highest output, or one of five"
        note(Deviation(section.place("TopN"), f"[{section.name}] TopN", "ignored", reason))


def _reconstruction(section: Section, cell: Cell, shape: Shape, image: Shape) -> Node:
    place = section.place("DataAsTarget")
    if cell.with_loss:
        raise IniError(
            f"[{section.name}] DataAsTarget=1 is not supported here for a {cell.with_loss} with "
            "loss",
            place,
        )
    if shape != image:
        raise IniError(
            f"[{section.name}] DataAsTarget=1 compares outputs of {text(shape)} with images of "
            f"{text(image)}",
            place,
        )
    return {"_target_": f"{PLACE}.Reconstruction"}


def _classification(
    section: Section, cell: Cell, shape: Shape, note: Callable[[Deviation], None]
) -> Node:
    value, other = section.real("TargetValue", 1.0), section.real("DefaultValue", 0.0)
    threshold = section.real("BinaryThreshold", 0.5)
    if cell.with_loss == "softmax":
        for key, number, plain in (("TargetValue", value, 1.0), ("DefaultValue", other, 0.0)):
            if number != plain:
                reason = f"a softmax is trained with {plain:g}, as its outputs are shares"
                note(
                    Deviation(section.place(key), f"[{section.name}] {key}", "approximated", reason)
                )
        return {"_target_": f"{PLACE}.CrossEntropy"}
    if value <= other:
        raise IniError(
            f"[{section.name}] TargetValue={value:g} is wrong. Accepted: a number above "
            f"DefaultValue={other:g}",
            section.place("TargetValue" if section.has("TargetValue") else "DefaultValue"),
        )
    values: Node = {"target_value": value} if value != 1.0 else {}
    values |= {"default_value": other} if other != 0.0 else {}
    if shape[0] == 1 and threshold != 0.5:
        if cell.with_loss and not 0 < threshold < 1:
            raise section.wrong("BinaryThreshold", "a probability in (0, 1)")
        values["binary_threshold"] = threshold
    name = "LogisticCrossEntropy" if cell.with_loss else "SquaredError"
    return {"_target_": f"{PLACE}.{name}", **values}
