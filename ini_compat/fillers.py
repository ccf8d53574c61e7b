"""N2D2's fillers as initial values of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.errors import IniError, Loss, did_you_mean
from ini_compat.network import Node
from ini_compat.resolve import Section

DEFAULT: Node = {"type": "normal", "mean": 0.0, "std": 0.05}  # of weights and biases
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "ConstantFiller": ("Value",),
    "NormalFiller": ("Mean", "StdDev"),
    "UniformFiller": ("Min", "Max"),
    "XavierFiller": ("VarianceNorm", "Distribution", "Scaling"),
    "HeFiller": ("VarianceNorm", "MeanNorm", "Scaling"),
}
NORMS = {"FanIn": "fan_in", "Average": "average", "FanOut": "fan_out"}


def read_filler(section: Section, key: str, lose: Callable[[Loss], None]) -> Node | None:
    """Read ``WeightsFiller`` or ``BiasFiller``; None where the section has none.

    Args:
        section: of the cell.
        key: ``WeightsFiller`` or ``BiasFiller``.
        lose: notes a value that is missing.

    Raises:
        IniError: for an unknown filler or parameter.
    """
    if not section.has(key):
        return None
    word = section.text(key)
    name = word.removesuffix("_Frame").removesuffix("_Frame_CUDA")
    if name not in PARAMETERS:
        raise IniError(
            f"[{section.name}] {key}={word} is no filler.{did_you_mean(name, PARAMETERS)} "
            f"Accepted: {', '.join(PARAMETERS)}",
            section.place(key),
        )
    for suffix, full in section.prefixed(f"{key}.").items():
        if suffix not in PARAMETERS[name]:
            raise IniError(
                f"[{section.name}] {full}: {name} has no parameter {suffix}, and N2D2 does not "
                f"load the file.{did_you_mean(suffix, PARAMETERS[name])} Accepted: "
                f"{', '.join(PARAMETERS[name])}",
                section.place(full),
            )

    def real(parameter: str, default: float) -> float:
        return section.real(f"{key}.{parameter}", default)

    def norm() -> str:
        full = f"{key}.VarianceNorm"
        return NORMS[section.choice(full, tuple(NORMS), "FanIn")]

    if name == "ConstantFiller":
        if not section.has(f"{key}.Value"):
            reason = f"{key}.Value is missing and N2D2 needs it; 0 holds"
            lose(Loss(section.place(key), f"[{section.name}] {key}", "approximated", reason))
        return {"type": "constant", "value": real("Value", 0.0)}
    if name == "NormalFiller":
        deviation = real("StdDev", 1.0)
        _check(section, f"{key}.StdDev", deviation)
        return {"type": "normal", "mean": real("Mean", 0.0), "std": deviation}
    if name == "UniformFiller":
        low, high = real("Min", 0.0), real("Max", 1.0)
        if low > high:
            raise IniError(
                f"[{section.name}] {key} has Min={low} above Max={high}", section.place(key)
            )
        return {"type": "uniform", "low": low, "high": high}
    if name == "XavierFiller":
        distribution = section.choice(f"{key}.Distribution", ("Uniform", "Normal"), "Uniform")
        node: Node = {"type": "xavier", "norm": norm(), "distribution": distribution.lower()}
        return node | _scaling(real("Scaling", 1.0))
    node = {"type": "he", "norm": norm()}
    mean = real("MeanNorm", 0.0)
    node |= {"mean": mean} if mean else {}
    return node | _scaling(real("Scaling", 1.0))


def _scaling(value: float) -> Node:
    return {} if value == 1.0 else {"scaling": value}


def _check(section: Section, key: str, value: float) -> None:
    if value < 0:
        raise IniError(f"[{section.name}] {key}={value} is below 0", section.place(key))
