"""The facts of a run as files: ``config.yaml``, ``layers.json``, ``result.json``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError, wrong
from qatlab.system.files import read_json

CONFIG = "config.yaml"  # what a run was asked for
RESULT = "result.json"  # what it has reached


def check_run(folder: Path) -> None:
    """Raise a ConfigError unless ``folder`` is that of a run."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no {CONFIG}")


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
    files = {path.stem: path for path in sorted((run / "checkpoints").glob("*.ckpt"))}
    stem = name.removesuffix(".ckpt")
    if stem not in files:
        there = [*(["best"] if finished else []), *files]
        raise wrong("checkpoint", name, there, f"These are in {run}.")
    return files[stem]
