"""Folders of runs as train.py leaves them, for tests of the report."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHODS = {
    "sat": ("SatWeight", "SatActivation"),
    "lsq": ("LsqWeight", "LsqActivation"),
    "pact": ("DorefaWeight", "PactActivation"),
}


def write_result(folder: Path, name: str, seed: int, **test: Any) -> None:
    """Leave the result of a run, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        **{"name": name, "seed": seed, "size_bytes": 31798, "epochs": {"clamp": 8, "quantize": 12}},
        **{"test": {"loss": 0.1, **test}, "environment": {"commit": "0123456789"}},
    }
    (folder / "result.json").write_text(json.dumps(result))


def layers(weight_bits: int, activation_bits: int, method: str = "sat", depth: int = 4) -> Any:
    """Return the content of a layers.json: the first and the last layer at 8 bits."""
    weight, site = METHODS[method]
    rows = []
    for i in range(depth):
        common = {"shape": [8, 8, 3, 3], "rules": []}
        bits = 8 if i in (0, depth - 1) else weight_bits
        quantizer = {"method": weight, "n_steps": (1 << bits) - 1}
        facts = {"name": f"conv{i}", "type": "Conv2d", "part": "weight", "bits": bits}
        costs = {"parameters": 576, "macs": 1000, "input_bits": activation_bits if i else 8}
        rows.append({**facts, **costs, **common, "quantizer": quantizer})
        facts = {"name": f"relu{i}", "type": "ReLU", "part": "activation", "bits": activation_bits}
        costs = {"parameters": 0, "macs": 0, "input_bits": None}
        rows.append({**facts, **costs, **common, "quantizer": {"method": site}})
    operations = sum(x["macs"] * x["bits"] * (x["input_bits"] or 0) for x in rows)
    size = sum(x["parameters"] * x["bits"] // 8 for x in rows)
    totals = {"size_bytes": size, "macs": 1000 * depth, "bit_operations": operations}
    return {**totals, "parameters": 576 * depth, "float_bytes": 2304 * depth, "layers": rows}


def write_metrics(
    folder: Path, epochs: int, sites: Sequence[str], learned: str, val: str = "val"
) -> None:
    """Leave curves: the first half of the epochs in the clamp phase."""
    columns = ["epoch", "step", "phase", "train/loss", "train/acc", f"{val}/loss", f"{val}/acc"]
    columns += [f"quant/{site}/{what}" for site in sites for what in (learned, "clipped")]
    lines = [",".join(columns)]
    for epoch in range(epochs):
        quantized = epoch >= epochs // 2
        accuracy = 1 - 0.5 / (1 + epoch)
        values: list[Any] = [epoch, 10 * epoch + 9, "quantize" if quantized else "clamp"]
        values += [1 - accuracy, accuracy, 1.1 - accuracy, accuracy - 0.02]
        for i, _ in enumerate(sites):
            values += [1 + i + 0.123456 / (1 + epoch), 0.01 * i] if quantized else ["", ""]
        lines.append(",".join(map(str, values)))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def write_run(
    folder: Path,
    *,
    top1: float,
    seed: int = 1,
    weight_bits: int = 4,
    activation_bits: int = 4,
    method: str = "sat",
    name: str = "",
    phase: str = "quantize",
    overrides: Sequence[str] = (),
    epochs: int = 4,
    depth: int = 4,
    class_names: Sequence[str] = ("cat", "<i>dog</i>"),
) -> None:
    """Leave all files of a finished run."""
    name = name or f"lenet_{method}"
    (folder / ".hydra").mkdir(parents=True)
    table = layers(weight_bits, activation_bits, method, depth)
    confusion = [[round(50 * top1), 50 - round(50 * top1)], [0, 50]]
    result = {
        "name": name,
        "test": {"phase": phase, "loss": 0.25, "top1": top1, "confusion": confusion},
        "class_names": class_names,
        "epochs": {"clamp": epochs // 2, "quantize": epochs - epochs // 2},
        "size_bytes": table["size_bytes"],
        "float_bytes": table["float_bytes"],
        **{"seed": seed, "seconds": 12.3},
        "environment": {"commit": "0123456789abcdef", "device": "cpu"},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "layers.json").write_text(json.dumps(table))
    words = [f"quant={method}_4bit", f"quant.weight.bits={weight_bits}"]
    words += [f"quant.activation.bits={activation_bits}", *overrides, f"seed={seed}"]
    (folder / ".hydra/overrides.yaml").write_text(json.dumps(words))  # JSON is YAML
    (folder / "config.yaml").write_text(f"name: {json.dumps(name)}\nseed: {seed}\n")
    learned = "alpha" if method == "sat" else "step_size"
    write_metrics(folder, epochs, [f"relu{i}" for i in range(depth)], learned)


def write_sweep(folder: Path, count: int, **facts: Any) -> None:
    """Leave ``count`` runs: methods, weight bits, activation bits, and as many seeds as needed."""
    dice = random.Random(0)
    for i in range(count):
        method = list(METHODS)[i % 3]
        weight, activation = (2, 3, 4, 8)[i // 3 % 4], (2, 3, 4, 8)[i // 12 % 4]
        top1 = 0.99 - 0.1 / weight - 0.05 / activation + 0.01 * dice.random()
        bits = {"weight_bits": weight, "activation_bits": activation}
        write_run(folder / f"{i:03d}", top1=top1, method=method, seed=1 + i // 48, **bits, **facts)
