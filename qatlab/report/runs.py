"""Finds the runs below a folder and reads what all of them are compared by."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qatlab import files, record
from qatlab.errors import ConfigError
from qatlab.report.layers import LAYERS, Layer, facts_of, read_costs

ERROR = "error.txt"  # as in qatlab.sweep, which takes a second to import
FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"


@dataclass(frozen=True)
class Run:
    """What runs are compared by; None or "" is what a run has not recorded.

    Attributes:
        path: folder of the run.
        folder: the same, relative to that of the report.
        state: finished, unfinished or failed.
        reason: why it failed.
        top1: test accuracy, a fraction.
        phase: in which the network was tested.
        size_bytes: of the network at its bits.
        tested_bytes: of the network that was tested: float before the quantize phase.
        bit_operations: of the tested network for one image.
        weight_bits: the most common bits of the weight layers but the first and the last.
        activation_bits: the most common bits of the sites.
        overrides: what was given on the command line.
        layers: weight layers and sites in the order of computation.
        test: all scores.
    """

    path: Path
    folder: str
    state: str
    name: str
    seed: int | None
    overrides: tuple[str, ...] | None
    layers: tuple[Layer, ...]
    reason: str = ""
    top1: float | None = None
    loss: float | None = None
    phase: str = ""
    epochs: str = ""
    size_bytes: int | None = None
    tested_bytes: int | None = None
    bit_operations: int | None = None
    macs: int | None = None
    weight_bits: str = ""
    activation_bits: str = ""
    method: str = ""
    seconds: float | None = None
    commit: str = ""
    device: str = ""
    test: dict[str, Any] | None = None

    @property
    def command(self) -> str:
        """The command line that runs it again."""
        if self.overrides is None:
            return ""
        return shlex.join(["python", "train.py", *self.overrides])


def find_runs(folder: Path) -> list[Run]:
    """Return all runs below a folder, whatever their state, in the order of their paths.

    Raises:
        ConfigError: if a file of a run is damaged.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if {record.RESULT, record.CONFIG, ERROR} & set(names):
            found.append(read_run(Path(place), folder))
    return found


def read_run(path: Path, below: Path) -> Run:
    """Read a run; ``below`` is the folder that its name is relative to.

    Raises:
        ConfigError: if one of its files is damaged.
    """
    costs = read_costs(path / LAYERS)
    common: dict[str, Any] = {
        "path": path,
        "folder": path.relative_to(below).as_posix(),
        "overrides": _read_overrides(path / ".hydra/overrides.yaml"),
        "layers": costs.pop("layers", ()),
    }
    if (path / record.RESULT).exists():
        return Run(state=FINISHED, **common, **_result(path / record.RESULT, costs, common))
    name, seed = _asked(path)
    reason = files.read_text(path / ERROR).strip() if (path / ERROR).exists() else ""
    state = FAILED if (path / ERROR).exists() else UNFINISHED
    size = costs.get("size_bytes")
    facts = {"size_bytes": size, **facts_of(common["layers"], size, costs)}
    return Run(state=state, name=name, seed=seed, reason=reason, **common, **facts)


def _result(file: Path, costs: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Return what a ``result.json`` adds."""
    result = files.read_json(file)
    try:
        test, environment = result["test"], result["environment"]
        phase = str(test.get("phase", ""))
        size = int(result["size_bytes"])
        quantized = phase in ("", "quantize")
        tested = size if quantized else int(result.get("float_bytes", size))
        return {
            "name": str(result["name"]),
            "seed": int(result["seed"]),
            "top1": _number(test.get("top1")),
            "loss": _number(test.get("loss")),
            "phase": phase,
            "epochs": " + ".join(f"{n} {phase}" for phase, n in result["epochs"].items()),
            "size_bytes": size,
            "seconds": _number(result.get("seconds")),
            "commit": str(environment["commit"] or ""),
            "device": str(environment.get("device", "")),
            "test": test,
            **facts_of(common["layers"], tested, costs, quantized),
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{file} is not the result of a run: {reason}") from error


def _read_overrides(file: Path) -> tuple[str, ...] | None:
    if not file.exists():
        return None
    content = files.read_yaml(file)
    if not isinstance(content, list):
        raise ConfigError(f"{file} does not hold the overrides of a run: it is no list")
    return tuple(map(str, content))


def _asked(path: Path) -> tuple[str, int | None]:
    """Return name and seed of a run without result, as far as it came."""
    config, hydra = path / record.CONFIG, path / ".hydra"
    resolved = config.exists()
    if not resolved:
        config = hydra / "config.yaml"
    content = files.read_yaml_mapping(config) if config.exists() else {}
    name, seed = str(content.get("name", path.name)), content.get("seed")
    if not resolved and "${" in name and (hydra / "hydra.yaml").exists():
        # The run failed before it was resolved: conf/config.yaml names it by chosen options.
        content = files.read_yaml(hydra / "hydra.yaml")
        try:
            choices = content["hydra"]["runtime"]["choices"]
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{hydra / 'hydra.yaml'} is damaged: no {error}") from error
        pattern = r"\$\{hydra:runtime\.choices\.([\w/]+)\}"
        name = re.sub(pattern, lambda found: str(choices.get(found[1])), name)
    return name, seed if isinstance(seed, int) else None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
