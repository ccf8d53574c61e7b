"""``QWeight`` and ``QAct`` as arguments of qatlab's quantizers."""

from __future__ import annotations

from ini_compat.errors import IniError, did_you_mean
from ini_compat.network import Node, Quantizer, bits_node
from ini_compat.resolve import Section

WEIGHT = {
    "SAT": ("ApplyQuantization", "ApplyScaling", "Range", "QuantMode"),
    "LSQ": ("Range", "StepSize", "SetOptInitStepSize", "QuantMode"),
    "Prune": (),
}
ACTIVATION = {"SAT": ("Alpha", "Range"), "LSQ": ("Range", "StepSize", "SetOptInitStepSize")}
GRIDS = {
    "Default": "default",
    "Symmetric": "symmetric",
    "Asymmetric": "asymmetric",
    "FullRange": "full_range",
}
HIGHEST_RANGE = 65535  # steps that qatlab's quantizers accept


def read_weight(section: Section) -> Quantizer | None:
    """Read ``QWeight`` of a cell section; None if it has none.

    Raises:
        IniError: for an unknown method or parameter, and for pruning.
    """
    method = _method(section, "QWeight", WEIGHT)
    if method is None:
        return None
    if method == "Prune":
        raise IniError(
            f"[{section.name}] QWeight=Prune: pruning is not supported here. Accepted: SAT, LSQ",
            section.place("QWeight"),
        )
    n_steps = _range(section, "QWeight.Range")
    node: Node = bits_node(n_steps)
    grid = GRIDS[section.choice("QWeight.QuantMode", tuple(GRIDS), "Default")]
    if method == "LSQ":
        if n_steps == 1:
            raise IniError(
                f"[{section.name}] QWeight.Range=1: LSQ has no step for weights of one bit. "
                "Accepted: 2 or more",
                section.place("QWeight.Range"),
            )
        return Quantizer(method, node | _step(section, "QWeight"))
    if grid in ("symmetric", "asymmetric") and n_steps == 1:
        raise IniError(
            f"[{section.name}] QWeight.QuantMode={grid.title()} has no levels with Range=1. "
            "Accepted: Default, FullRange",
            section.place("QWeight.QuantMode"),
        )
    node |= {"grid": grid} if grid != "default" else {}
    node |= {"scaling": True} if section.boolean("QWeight.ApplyScaling", False) else {}
    if not section.boolean("QWeight.ApplyQuantization", True):
        node["clamp_only"] = True
    return Quantizer(method, node)


def read_activation(section: Section) -> Quantizer | None:
    """Read ``QAct`` of a cell section; None if it has none.

    Raises:
        IniError: for an unknown method or parameter.
    """
    method = _method(section, "QAct", ACTIVATION)
    if method is None:
        return None
    node: Node = bits_node(_range(section, "QAct.Range"))
    if method == "LSQ":
        return Quantizer(method, node | _step(section, "QAct"))
    alpha = abs(section.real("QAct.Alpha", 1.0))  # N2D2 uses its absolute value
    if alpha == 0:
        raise IniError(
            f"[{section.name}] QAct.Alpha=0 leaves no range. Accepted: a number above 0",
            section.place("QAct.Alpha"),
        )
    return Quantizer(method, node | {"alpha": alpha})


def _method(section: Section, key: str, known: dict[str, tuple[str, ...]]) -> str | None:
    if not section.has(key):
        return None
    word = section.text(key)
    if not word:
        return None
    method = word.removesuffix("_CUDA").removesuffix("_Frame")
    if method not in known:
        raise IniError(
            f"[{section.name}] {key}={word} is no quantizer.{did_you_mean(method, known)} "
            f"Accepted: {', '.join(known)}",
            section.place(key),
        )
    for suffix, full in section.prefixed(f"{key}.").items():
        if method != "Prune" and suffix not in known[method]:
            raise IniError(
                f"[{section.name}] {full}: {method} has no parameter {suffix}, and N2D2 does not "
                f"load the file.{did_you_mean(suffix, known[method])} Accepted: "
                f"{', '.join(known[method])}",
                section.place(full),
            )
    return method


def _range(section: Section, key: str) -> int:
    n_steps = section.unsigned(key, 255)
    if not 1 <= n_steps <= HIGHEST_RANGE:
        raise IniError(
            f"[{section.name}] {key}={n_steps} is wrong. Accepted: 1 to {HIGHEST_RANGE} steps",
            section.place(key),
        )
    return n_steps


def _step(section: Section, prefix: str) -> Node:
    node: Node = {"gradient_scale": "n2d2"}
    if not section.boolean(f"{prefix}.SetOptInitStepSize", True):
        step = section.real(f"{prefix}.StepSize", 100.0)
        if step <= 0:
            raise IniError(
                f"[{section.name}] {prefix}.StepSize={step:g} is wrong. Accepted: a number above 0",
                section.place(f"{prefix}.StepSize"),
            )
        node["step_size"] = step
    return node
