"""The facts of a run as files: ``config.yaml``, ``layers.json``, ``result.json``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError, did_you_mean, wrong
from qatlab.system.files import read_json, read_text

CONFIG = "config.yaml"  # what a run was asked for
RESULT = "result.json"  # what it has reached
SWEEP = "sweep.json"  # of the folder of a sweep: its words, and how many jobs it has
CHECKPOINTS = "checkpoints"  # the folder of its checkpoints
PROGRESS = "progress.json"  # how far a run is that is not finished
LATEST = "latest"  # beside the runs of one name: a link to the newest, or a file with its name
RUNS = Path("outputs/runs")  # where runs lie unless hydra.run.dir says otherwise
MOST_LISTED = 20  # runs that a sentence names


def check_run(folder: Path) -> None:
    """Raise a ConfigError unless ``folder`` is that of a run."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no {CONFIG}{_near(folder)}")


def find_run(given: Path) -> Path:
    """Return the folder of the run that a path speaks of.

    Args:
        given: the folder of a run; or that of all runs of one name, ``outputs/runs/lenet_sat_4bit``
            or its ``latest``, of which the newest is taken. A folder that names no newest is
            returned as it is, and so is anything else.
    """
    if (given / CONFIG).is_file():
        return _followed(given)
    link = given if given.name == LATEST else given / LATEST
    if not os.path.lexists(link):
        return given
    if link.is_dir():
        return _followed(link)
    try:
        name = read_text(link, largest=1000).strip()
    except ConfigError:
        return given
    newest = link.parent / name
    return newest if name == Path(name).name and (newest / CONFIG).is_file() else given


def _followed(run: Path) -> Path:
    """Return what a link ``latest`` names, under its own name."""
    return run.parent / os.readlink(run) if run.name == LATEST and run.is_symlink() else run


def _near(folder: Path) -> str:
    """Return which runs lie in a folder that is none, or beside where one was looked for, or ""."""
    if folder.is_dir():
        names = _runs_in(folder)
        return f". In it are: {_listed(names)}" if names else ""
    place = RUNS if folder.parent == Path() else folder.parent
    names = _runs_in(place)
    hint = did_you_mean(folder.name, names)
    return f".{hint} In {place} are: {_listed(names)}" if names else ""


def _runs_in(folder: Path) -> list[str]:
    """Return the names of the runs in a folder, or of the folders in it that hold some."""
    found = sorted(
        file.parent for file in folder.glob(f"*/{CONFIG}") if not file.parent.is_symlink()
    )
    found = found or sorted({file.parents[1] for file in folder.glob(f"*/*/{CONFIG}")})
    return [path.name for path in found]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def commit() -> str | None:
    """Return the commit of qatlab's code, with ``+`` behind it if files were changed since.

    None where it is installed without its repository, also inside of another one.
    """
    here = Path(__file__)
    known = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return None if known is None else _commit_of(here.parent)


def project_commit() -> str | None:
    """Return the commit of the current folder's repository likewise, unless that is qatlab's."""
    top = _git(Path(), "rev-parse", "--show-toplevel")
    own = commit() is not None and _git(Path(__file__).parent, "rev-parse", "--show-toplevel")
    return None if top is None or top == own else _commit_of(Path())


def commits() -> dict[str, str]:
    """Return ``commit`` and ``project_commit`` as what is exported names them; only known ones."""
    both = {"commit": commit(), "project_commit": project_commit()}
    return {name: known for name, known in both.items() if known is not None}


def _commit_of(folder: Path) -> str | None:
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if head is None else head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """Return what git answers in a folder; None where it is missing, or has no answer."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def read_result(run: Path) -> dict[str, Any]:
    """Return what a finished run has reached; its ``checkpoint`` is a path inside of the run.

    Raises:
        ConfigError: if ``result.json`` is missing, damaged, or not that of a run.
    """
    result, file = read_json(run / RESULT), run / RESULT
    path = result.get("checkpoint")
    if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ConfigError(
            f"{file} is not the result of a run: its checkpoint is {str(path)[:60]!r}, not a file "
            f"of the run; resume={run} writes it again"
        )
    return result


def checkpoint_of(run: Path, name: str) -> Path:
    """Return the file that ``checkpoint`` of ``conf/test.yaml`` speaks of."""
    finished = (run / RESULT).is_file()
    if name == "best" and finished:
        return run / str(read_result(run)["checkpoint"])
    files = {path.stem: path for path in sorted((run / CHECKPOINTS).glob("*.ckpt"))}
    stem = name.removesuffix(".ckpt")
    if stem not in files:
        there = [*(["best"] if finished else []), *files]
        raise wrong("checkpoint", name, there, f"These are in {run}.")
    return files[stem]
