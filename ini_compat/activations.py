"""N2D2's activation functions as layers of the layer graph."""

from __future__ import annotations

from collections.abc import Mapping

from ini_compat.errors import IniError, did_you_mean
from ini_compat.network import Node
from ini_compat.resolve import Section

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

    Raises:
        IniError: for an unknown function or parameter.
    """
    word = section.text(KEY, default) or default
    name = word.removesuffix("_CUDA").removesuffix("_Frame")
    if name not in PARAMETERS:
        raise IniError(
            f"[{section.name}] {KEY}={word} is no activation function."
            f"{did_you_mean(name, PARAMETERS)} Accepted: {', '.join(PARAMETERS)}",
            section.place(KEY),
        )
    for suffix, full in section.prefixed(f"{KEY}.").items():
        if suffix not in PARAMETERS[name]:
            accepted = ", ".join(PARAMETERS[name]) or "none"
            raise IniError(
                f"[{section.name}] {full}: {name} has no parameter {suffix}, and N2D2 does not "
                f"load the file.{did_you_mean(suffix, PARAMETERS[name])} Accepted: {accepted}",
                section.place(full),
            )
    if name in WITHOUT_PARAMETERS:
        return name, {"type": WITHOUT_PARAMETERS[name]}
    if name == "Tanh":
        alpha = section.real(f"{KEY}.Alpha", 1.0)
        return name, {"type": "tanh"} | ({"alpha": alpha} if alpha != 1.0 else {})
    if name == "Saturation":
        threshold = section.real(f"{KEY}.Threshold", 1.0)
        _check_positive(section, "Threshold", threshold)
        return name, {"type": "saturation", "threshold": threshold}
    clipping = section.real(f"{KEY}.Clipping", 0.0)
    if clipping < 0:
        _check_positive(section, "Clipping", clipping)
    if name == "Linear":
        return name, {"type": "saturation", "threshold": clipping} if clipping else None
    slope = section.real(f"{KEY}.LeakSlope", 0.0)
    node: Node = {"type": "relu"}
    node |= {"slope": slope} if slope else {}
    return name, node | ({"clip": clipping} if clipping else {})


def _check_positive(section: Section, parameter: str, value: float) -> None:
    if value <= 0:
        key = f"{KEY}.{parameter}"
        raise IniError(
            f"[{section.name}] {key}={value:g} is wrong. Accepted: a number above 0",
            section.place(key),
        )
