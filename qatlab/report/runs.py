"""Finds the runs below a folder and reads what all of them are compared by."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.report.layers import Layer, facts_of, read_costs
from qatlab.results import limits, record, values
from qatlab.results.limits import ERROR, HYDRA, LAYERS, LONGEST_NAME, OVERRIDES, shortened

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"
LINKED = (record.CONFIG, LAYERS, record.RESULT, limits.METRICS, ERROR)
FIGURES, PICTURES = "figures", (".png", ".svg", ".pdf")  # a folder, and what it holds
# What a page is made of: where none of these has changed, a run has not.
READ = (*LINKED, f".hydra/{OVERRIDES}", ".hydra/config.yaml", f".hydra/{HYDRA}", FIGURES)
DAMAGED = "damaged"  # it has a file that cannot be read; nothing else is known of it


@dataclass(frozen=True)
class Run:
    """What runs are compared by; None or "" is what a run has not recorded.

    Attributes:
        path: folder of the run.
        folder: the same, relative to that of the report.
        state: finished, unfinished, failed or damaged.
        reason: why it failed, or what is damaged.
        top1: test accuracy, a fraction.
        phase: in which the network was tested.
        size_bytes: of the network at its bits.
        tested_bytes: of the network that was tested: float before the quantize phase.
        bit_operations: of the tested network for one image.
        weight_bits: the most common bits of the weight layers but the first and the last; ``mixed``
            where these are fewer than half of them.
        activation_bits: the most common bits of what these layers read.
        overrides: what was given on the command line.
        config_dir: the folder of ``--config-dir`` likewise, or "".
        in_project: whether ``./conf`` of the folder where it was started had a part in it.
        commit: of qatlab's code.
        project_commit: of the repository where the run was started, if that is another one.
        layers: weight layers and sites in the order of computation.
        confusion: counts ``[label][answer]``; empty where there are more than 100 classes.
        classes: of the confusion matrix.
        class_names: of the confusion matrix; empty where they are not recorded.
        files: that the page links to, relative to the run's folder.
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
    project_commit: str = ""
    config_dir: str = ""
    in_project: bool = False
    device: str = ""
    confusion: list[list[int]] = field(default_factory=list)
    classes: int = 0
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that runs it again."""
        if self.overrides is None:
            return ""
        folder = ["--config-dir", self.config_dir] if self.config_dir else []
        # A project of one's own has no train.py.
        start = ["qatlab", "train"] if folder or self.in_project else ["python", "train.py"]
        return shlex.join([*start, *folder, *self.overrides])


def find_runs(folder: Path) -> list[Run]:
    """Return all runs below a folder, whatever their state, in the order of their paths.

    Raises:
        ConfigError: if the folder itself cannot be read.
    """
    return [run_in(path, folder, reason) for path, reason in run_folders(folder).items()]


def run_folders(folder: Path) -> dict[Path, str]:
    """Return the folders of all runs below a folder, and why one cannot be read, else "".

    Links to folders are not followed, as they may lead back.

    Raises:
        ConfigError: if the folder itself cannot be read.
    """
    found = {}
    places = [folder]
    while places:
        place = places.pop()
        try:
            inner, is_run = _listed(place)
        except OSError as error:
            found[place] = f"cannot read {place}: {error.strerror}"
            if place == folder:
                raise ConfigError(found[place]) from error
            continue
        if is_run:
            found[place] = ""
        places += [place / name for name in reversed(inner)]
    return found


def run_in(path: Path, below: Path, reason: str = "") -> Run:
    """Return the run in a folder, as damaged where one of its files is, or for this reason."""
    try:
        if not reason:
            return read_run(path, below)
    except OSError as error:
        reason = f"cannot read {path}: {error.strerror}"
    except ConfigError as error:
        reason = str(error)
    return damaged(path, _relative(path, below), reason)


def _listed(folder: Path) -> tuple[list[str], bool]:
    """Return the folders in a folder, by name, and whether it is that of a run."""
    inner, is_run = [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            is_run |= entry.name in (record.RESULT, record.CONFIG, ERROR)
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
    return sorted(inner), is_run


def damaged(path: Path, folder: str, reason: str) -> Run:
    """Return what is left of a run of which a file cannot be read."""
    # The folder is its name, so that it is no other one's seed.
    return Run(path, folder, DAMAGED, folder, None, None, (), reason)


def _relative(path: Path, below: Path) -> str:
    return path.relative_to(below).as_posix()


def read_run(path: Path, below: Path) -> Run:
    """Read a run; ``below`` is the folder that its name is relative to.

    Raises:
        ConfigError: if one of its files is damaged.
    """
    costs = read_costs(path / LAYERS)
    common: dict[str, Any] = {
        "path": path,
        "folder": _relative(path, below),
        "overrides": _read_overrides(path / ".hydra" / OVERRIDES),
        "layers": costs.pop("layers", ()),
        "files": _files(path),
        **_read_sources(path / ".hydra" / HYDRA),
    }
    if os.path.lexists(path / record.RESULT):
        return Run(state=FINISHED, **common, **_result(path / record.RESULT, costs, common))
    name, seed = _asked(path)
    failed = os.path.lexists(path / ERROR)
    reason = limits.read_text(path / ERROR).strip() if failed else ""
    state = FAILED if failed else UNFINISHED
    size = costs.get("size_bytes")
    facts = {"size_bytes": size, **facts_of(common["layers"], size, costs)}
    reason = shortened(reason, limits.SHOWN_ERROR)
    return Run(state=state, name=name, seed=seed, reason=reason, **common, **facts)


def _result(file: Path, costs: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Return what a ``result.json`` adds."""
    result = limits.read_json(file)
    try:
        test, environment, epochs = (
            values.mapping(result, key) for key in ("test", "environment", "epochs")
        )
        phase = values.text_or_empty(test, "phase", limits.LONGEST_PHASE)
        values.check_names("epochs", epochs, limits.MOST_PHASES, limits.LONGEST_PHASE)
        size = values.whole(result, "size_bytes")
        quantized = phase in ("", "quantize")
        tested = None if quantized else values.whole_or_none(result, "float_bytes")
        return {
            "name": values.text(result, "name"),
            "seed": values.whole(result, "seed"),
            "top1": values.number_or_none(test, "top1", 0, 1),
            "loss": values.number_or_none(test, "loss"),
            "phase": phase,
            "epochs": " + ".join(f"{values.whole(epochs, name)} {name}" for name in epochs),
            "size_bytes": size,
            "seconds": values.number_or_none(result, "seconds", 0),
            "commit": values.text_or_empty(environment, "commit"),
            "project_commit": values.text_or_empty(environment, "project_commit"),
            "device": values.text_or_empty(environment, "device"),
            **_classes(result, test),
            **facts_of(common["layers"], size if tested is None else tested, costs, quantized),
        }
    except (KeyError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{file} is not the result of a run: {reason}") from error


def _classes(result: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """Return the confusion matrix, as far as it is shown, and the names of its classes."""
    found = values.confusion(test, limits.MOST_CLASSES)
    if not found["confusion"]:
        return found
    names = values.names(result, "class_names", found["classes"], limits.LONGEST_NAME)
    return {**found, "class_names": names}


def _files(path: Path) -> tuple[str, ...]:
    """Return the files of a run that a page links to: what it has recorded, and its pictures."""
    names = [name for name in LINKED if _is_file(path / name)]
    pictures = path / FIGURES
    if pictures.is_dir() and not pictures.is_symlink():
        names += [
            f"{FIGURES}/{entry.name}"
            for entry in sorted(pictures.iterdir())
            if entry.suffix in PICTURES and _is_file(entry)
        ]
    return tuple(names[: limits.MOST_FILES])


def _is_file(path: Path) -> bool:
    """Return whether a file is there that lies in this folder: a link may lead anywhere."""
    return path.is_file() and not path.is_symlink()


def _read_overrides(file: Path) -> tuple[str, ...] | None:
    if not os.path.lexists(file):
        return None
    content = limits.read_yaml(file)
    if not isinstance(content, list):
        raise ConfigError(f"{file} does not hold the overrides of a run: it is not a list")
    return tuple(map(str, content))


def _read_sources(file: Path) -> dict[str, Any]:
    """Return whose folders of configurations a run was composed of, as Hydra has written them."""
    if not os.path.lexists(file):
        return {}
    text = limits.read_text(file)
    if not any(f"provider: {name}" in text for name in ("command-line", "project")):
        return {}  # of most runs: all of it takes 3 ms
    content: Any = limits.read_yaml_mapping(file)
    try:
        runtime = values.mapping(values.mapping(content, "hydra"), "runtime")
        sources = values.rows(runtime, "config_sources", limits.MOST_SOURCES)
        places = {values.text(x, "provider"): values.text(x, "path") for x in sources}
        cwd = values.text(runtime, "cwd")
    except KeyError:
        return {}  # of a run that something else has started
    except ValueError as error:
        raise ConfigError(f"{file} is damaged: {error}") from error
    given = places.get("command-line", "")
    inside = given != cwd and given.startswith(f"{cwd}/")
    given = given.removeprefix(f"{cwd}/") if inside else given
    return {"config_dir": given, "in_project": "project" in places}


def _asked(path: Path) -> tuple[str, int | None]:
    """Return name and seed of a run without result, as far as it came."""
    config, hydra = path / record.CONFIG, path / ".hydra"
    resolved = os.path.lexists(config)
    if not resolved:
        config = hydra / "config.yaml"
    content = limits.read_yaml_mapping(config) if os.path.lexists(config) else {}
    name = shortened(str(content.get("name", path.name)), limits.LONGEST_TEXT)
    if not resolved and "${" in name and os.path.lexists(hydra / HYDRA):
        # The run failed before it was resolved: conf/config.yaml names it by chosen options.
        choices: Any = limits.read_yaml_mapping(hydra / HYDRA)
        try:
            for key in ("hydra", "runtime", "choices"):
                choices = values.mapping(choices, key)
        except (KeyError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ConfigError(f"{hydra / HYDRA} is damaged: {reason}") from error
        pattern = r"\$\{hydra:runtime\.choices\.([\w/]+)\}"
        name = re.sub(
            pattern, lambda found: shortened(str(choices.get(found[1])), LONGEST_NAME), name
        )
        name = shortened(name, limits.LONGEST_TEXT)
    seed = content.get("seed")
    return name, seed if type(seed) is int and 0 <= seed < values.MOST else None
