"""N2D2's activation functions as layers of the layer graph."""

from __future__ import annotations

from collections.abc import Mapping

from ini_compat.cells.config import check_parameters, check_word
from ini_compat.network import Node
from ini_compat.syntax.resolve import Section

PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Linear": ("Clipping",),
    "Rectifier": ("LeakSlope", "Clipping"),
    "Saturation": ("Threshold",),
    "Logistic": (),
    "LogisticWithLoss": (),
    "Tanh": ("Alpha",),
    "TanhLeCun": (),
    "Softplus": (),
    "Swish": (),
}
WITHOUT_PARAMETERS = {
    "Logistic": "sigmoid",
    "LogisticWithLoss": "sigmoid",
    "TanhLeCun": "tanh_lecun",
    "Softplus": "softplus",
    "Swish": "silu",
}
KEY = "ActivationFunction"


def read_activation_function(section: Section, default: str = "Linear") -> tuple[str, Node | None]:
    """Return the name of the function, and its layer; None for the identity.

    Args:
        section: of the cell.
        default: where nothing is said, ``Linear`` or ``Tanh``; N2D2 then reads no parameters.

    Raises:
        IniError: for an unknown function or parameter.
    """
    if not section.has(KEY):
        return default, {"type": default.lower()} if default != "Linear" else None
    name = check_word(section, KEY, PARAMETERS, "activation function")
    check_parameters(section, KEY, PARAMETERS[name])
    if name in WITHOUT_PARAMETERS:
        return name, {"type": WITHOUT_PARAMETERS[name]}
    if name == "Tanh":
        alpha = section.real(f"{KEY}.Alpha", 1.0)
        return name, {"type": "tanh"} | ({"alpha": alpha} if alpha != 1.0 else {})
    if name == "Saturation":
        threshold = section.real(f"{KEY}.Threshold", 1.0)
        if threshold <= 0:
            raise section.wrong(f"{KEY}.Threshold", "a number above 0")
        return name, {"type": "saturation", "threshold": threshold}
    clipping = section.real(f"{KEY}.Clipping", 0.0)
    if clipping < 0:
        raise section.wrong(f"{KEY}.Clipping", "0 for none, or a number above 0")
    if name == "Linear":
        return name, {"type": "saturation", "threshold": clipping} if clipping else None
    slope = section.real(f"{KEY}.LeakSlope", 0.0)
    node: Node = {"type": "relu"}
    node |= {"slope": slope} if slope else {}
    return name, node | ({"clip": clipping} if clipping else {})
