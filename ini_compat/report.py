"""What a person sees of an import: the table of cells, the deviations, the experiment's text."""

from __future__ import annotations

from typing import Any

from ini_compat.cells.geometry import text
from ini_compat.errors import Deviation, IniError
from ini_compat.network import Cell, Network, Node
from ini_compat.yaml_text import block, comment

OPENED = (
    *("model", "model.layers", "quant", "quant.rules", "solver", "solver.groups", "data"),
    *("data.transforms", "schedule", "trainer", "loss"),
)
COLUMNS = ("cell", "type", "input", "output", "weights", "activations", "parameters")


def table(network: Network) -> str:
    """Return the table of cells: type, shapes, bits and parameters."""
    rows = [COLUMNS, *(_row(cell) for cell in network.cells.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [
            word.rjust(width) if i > 3 else word.ljust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    total = sum(cell.parameters for cell in network.cells.values())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, f"{len(network.cells)} cells, {total:,} parameters"])


def facts(network: Network) -> Node:
    """Return the table, deviations and problems for machines."""
    cells = [
        {
            "cell": cell.name,
            "type": cell.type,
            "inputs": cell.inputs,
            "input_shapes": [list(shape) for shape in cell.input_shapes],
            "output_shape": None if cell.shape is None else list(cell.shape),
            "layers": list(cell.layers),
            "weight_steps": cell.weight and cell.weight.n_steps,
            "activation_steps": cell.activation and cell.activation.n_steps,
            "parameters": cell.parameters,
        }
        for cell in network.cells.values()
    ]
    return {
        "file": network.source,
        "cells": cells,
        "losses": [deviation_facts(item) for item in network.deviations],
        "problems": [problem_facts(problem) for problem in network.problems],
        "notices": network.notices,
    }


def deviation_facts(item: Deviation) -> Node:
    """Return a deviation for machines."""
    place = {"file": item.place.file, "line": item.place.line}
    return {**place, "key": item.key, "kind": item.kind, "reason": item.reason}


def problem_facts(problem: IniError) -> Node:
    """Return a problem for machines."""
    place = problem.place
    file, line = (None, None) if place is None else (place.file, place.line)
    return {"file": file, "line": line, "message": problem.message}


def deviation_lines(deviations: list[Deviation]) -> list[str]:
    """Return a line for each deviation."""
    return [f"{item.place}: {item.key} {item.kind}: {item.reason}" for item in deviations]


def experiment_text(network: Network, experiment: Node, command: str) -> str:
    """Return the experiment's YAML.

    Args:
        network: what it was made of.
        experiment: what :func:`ini_compat.convert.experiment` returned.
        command: that made it, for the comment at the top.
    """
    lines = ["# @package _global_", comment(f"Imported from {network.source} by: {command}")]
    if network.deviations:
        lines.append("# What it says differently here:")
        lines += [comment(f"  {line}") for line in deviation_lines(network.deviations)]
    content = {key: value for key, value in experiment.items() if key != "defaults"}
    lines.append("defaults:")
    lines += [f"  - {k}: {v}" for node in experiment["defaults"] for k, v in node.items()]
    lines += block(content, OPENED, _shapes(network, experiment))
    return "\n".join(lines) + "\n"


def _shapes(network: Network, experiment: Node) -> dict[str, str]:
    """Return the output shapes of cells, to stand behind their last layers."""
    layers: dict[str, Any] = experiment["model"]["layers"]
    found = {}
    for cell in network.cells.values():
        there = [name for name in cell.layers if name in layers]
        if there:
            found[f"model.layers.{there[-1]}"] = text(cell.shape)
    return found


def _row(cell: Cell) -> tuple[str, ...]:
    weighted = any(file.key.endswith(".weight") and file.kind != "vector" for file in cell.files)
    return (
        cell.name,
        cell.type,
        " + ".join(text(shape) for shape in cell.input_shapes) or "?",
        text(cell.shape),
        ("float" if cell.weight is None else _bits(cell.weight.n_steps)) if weighted else "",
        "" if cell.activation is None else _bits(cell.activation.n_steps),
        f"{cell.parameters:,}" if cell.parameters else "",
    )


def _bits(n_steps: int) -> str:
    bits = n_steps.bit_length()
    return str(bits) if n_steps == (1 << bits) - 1 else f"{n_steps} steps"
