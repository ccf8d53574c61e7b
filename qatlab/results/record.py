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
    """Return the commit of the code, with ``+`` behind it if files were changed since."""
    here = Path(__file__).parent
    try:
        words = ["git", "-C", str(here)]
        head = subprocess.run([*words, "rev-parse", "HEAD"], capture_output=True, check=True)
        changed = subprocess.run(
            [*words, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without its repository
    return head.stdout.decode().strip() + ("+" if changed.stdout.strip() else "")


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
