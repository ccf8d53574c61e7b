"""N2D2's fillers as initial values of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.cells.config import check_parameters, check_word
from ini_compat.errors import Deviation, IniError
from ini_compat.network import Node
from ini_compat.syntax.resolve import Section

DEFAULT: Node = {"type": "normal", "mean": 0.0, "std": 0.05}  # of weights and biases
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "ConstantFiller": ("Value",),
    "NormalFiller": ("Mean", "StdDev"),
    "UniformFiller": ("Min", "Max"),
    "XavierFiller": ("VarianceNorm", "Distribution", "Scaling"),
    "HeFiller": ("VarianceNorm", "MeanNorm", "Scaling"),
}
NORMS = {"FanIn": "fan_in", "Average": "average", "FanOut": "fan_out"}


def read_filler(section: Section, key: str, note: Callable[[Deviation], None]) -> Node | None:
    """Read ``WeightsFiller`` or ``BiasFiller``; None where the section has none.

    Args:
        section: of the cell.
        key: ``WeightsFiller`` or ``BiasFiller``.
        note: notes a value that is missing.

    Raises:
        IniError: for an unknown filler or parameter.
    """
    if not section.has(key):
        return None
    name = check_word(section, key, PARAMETERS, "filler")
    check_parameters(section, key, PARAMETERS[name])
    if name == "ConstantFiller":
        if not section.has(f"{key}.Value"):
            reason = f"{key}.Value is missing and N2D2 needs it; 0 holds"
            note(Deviation(section.place(key), f"[{section.name}] {key}", "approximated", reason))
        return {"type": "constant", "value": section.real(f"{key}.Value", 0.0)}
    if name == "NormalFiller":
        deviation = section.real(f"{key}.StdDev", 1.0)
        if deviation < 0:
            raise section.wrong(f"{key}.StdDev", "0 or more")
        return {"type": "normal", "mean": section.real(f"{key}.Mean", 0.0), "std": deviation}
    if name == "UniformFiller":
        low, high = section.real(f"{key}.Min", 0.0), section.real(f"{key}.Max", 1.0)
        if low > high:
            raise IniError(
                f"[{section.name}] {key} has Min={low:g} above Max={high:g}", section.place(key)
            )
        return {"type": "uniform", "low": low, "high": high}
    return _by_fan(section, key, name)


def _by_fan(section: Section, key: str, name: str) -> Node:
    """Read a filler that depends on the size of the tensor."""
    norm = NORMS[section.choice(f"{key}.VarianceNorm", tuple(NORMS), "FanIn")]
    if name == "XavierFiller":
        word = section.choice(f"{key}.Distribution", ("Uniform", "Normal"), "Uniform")
        node: Node = {"type": "xavier", "norm": norm, "distribution": word.lower()}
    else:
        mean = section.real(f"{key}.MeanNorm", 0.0)
        node = {"type": "he", "norm": norm, **({"mean": mean} if mean else {})}
    scaling = section.real(f"{key}.Scaling", 1.0)
    return node if scaling == 1.0 else {**node, "scaling": scaling}
