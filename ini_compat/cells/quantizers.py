"""``QWeight`` and ``QAct`` as arguments of qatlab's quantizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.cells.config import check_parameters, check_word
from ini_compat.errors import Deviation, IniError, Kind
from ini_compat.network import Node, Quantizer, bits_node
from ini_compat.syntax.resolve import Section

WEIGHT = {
    "SAT": ("ApplyQuantization", "ApplyScaling", "Range", "QuantMode"),
    "LSQ": ("Range", "StepSize", "SetOptInitStepSize", "QuantMode"),
}
ACTIVATION = {"SAT": ("Alpha", "Range"), "LSQ": ("Range", "StepSize", "SetOptInitStepSize")}
GRIDS = {
    "Default": "default",
    "Symmetric": "symmetric",
    "Asymmetric": "asymmetric",
    "FullRange": "full_range",
}
HIGHEST_RANGE = 65535  # steps that qatlab's quantizers accept

Note = Callable[[Deviation], None]


def read_weight(section: Section, note: Note) -> Quantizer | None:
    """Read ``QWeight`` of a cell section; None if it has none.

    Args:
        section: of the cell.
        note: notes keys without effect.

    Raises:
        IniError: for an unknown method or parameter, and for pruning.
    """
    method = _method(section, "QWeight", WEIGHT)
    if method is None:
        return None
    mode = section.choice("QWeight.QuantMode", tuple(GRIDS), "Default")
    if method == "LSQ":
        if mode != "Default":
            _note(section, "QWeight.QuantMode", "N2D2 does not use it with LSQ", note)
        n_steps = _range(section, "QWeight.Range", 3)
        # Levels are -floor((R+1)/2) ... floor((R-1)/2): an even Range has those of the odd one
        # below it, and those of 1 and 2 end at 0.
        odd = n_steps - 1 + n_steps % 2
        return Quantizer(method, bits_node(odd) | _step(section, "QWeight", note))
    n_steps = _range(section, "QWeight.Range", 1)
    if mode in ("Symmetric", "Asymmetric") and n_steps == 1:
        raise IniError(
            f"[{section.name}] QWeight.QuantMode={mode} has no levels with Range=1. Accepted: "
            "Default, FullRange",
            section.place("QWeight.QuantMode"),
        )
    node: Node = bits_node(n_steps)
    node |= {"grid": GRIDS[mode]} if mode != "Default" else {}
    node |= {"scaling": True} if section.boolean("QWeight.ApplyScaling", False) else {}
    if not section.boolean("QWeight.ApplyQuantization", True):
        node["clamp_only"] = True
    return Quantizer(method, node)


def read_activation(section: Section, note: Note) -> Quantizer | None:
    """Read ``QAct`` of a cell section; None if it has none.

    Args:
        section: of the cell.
        note: notes keys without effect, and what learns in another way here.

    Raises:
        IniError: for an unknown method or parameter.
    """
    method = _method(section, "QAct", ACTIVATION)
    if method is None:
        return None
    node: Node = bits_node(_range(section, "QAct.Range", 1))
    if method == "LSQ":
        return Quantizer(method, node | _step(section, "QAct", note))
    alpha = section.real("QAct.Alpha", 1.0)
    if alpha == 0:
        raise section.wrong("QAct.Alpha", "a number above 0")
    if alpha < 0:
        reason = "N2D2 computes with its absolute value but lets it learn in the wrong direction"
        _note(section, "QAct.Alpha", reason, note, "approximated")
    return Quantizer(method, node | {"alpha": abs(alpha)})


def _method(section: Section, key: str, known: Mapping[str, tuple[str, ...]]) -> str | None:
    if not section.has(key):
        return None
    if section.text(key) == "Prune":
        raise IniError(
            f"[{section.name}] {key}=Prune: pruning is not supported here. Accepted: SAT, LSQ",
            section.place(key),
        )
    method = check_word(section, key, known, "quantizer")
    check_parameters(section, key, known[method])
    return method


def _range(section: Section, key: str, lowest: int) -> int:
    n_steps = section.unsigned(key, 255)
    if not lowest <= n_steps <= HIGHEST_RANGE:
        raise section.wrong(key, f"{lowest} to {HIGHEST_RANGE}", str(n_steps))
    return n_steps


def _step(section: Section, prefix: str, note: Note) -> Node:
    node: Node = {"gradient_scale": "n2d2"}
    key = f"{prefix}.StepSize"
    step = section.real(key, 100.0)
    if section.boolean(f"{prefix}.SetOptInitStepSize", True):
        if section.has(key):
            reason = "N2D2 takes the first step from the data unless SetOptInitStepSize=0"
            _note(section, key, reason, note)
        return node
    if step <= 0:
        raise section.wrong(key, "a number above 0")
    return {**node, "step_size": step}


def _note(section: Section, key: str, reason: str, note: Note, kind: Kind = "ignored") -> None:
    note(Deviation(section.place(key), f"[{section.name}] {key}", kind, reason))
