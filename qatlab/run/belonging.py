"""Whether a checkpoint in the folder of a run is the run's own: that of another fits as well.

A checkpoint holds the settings that it was trained under. Those of the phases that jobs of a sweep
share were trained by another job; their sums stand in the folder of each that has taken them over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qatlab.errors import CheckpointError, ConfigError
from qatlab.results import record
from qatlab.results.conditions import ABSENT, MOVABLE, trained_under
from qatlab.system import files
from qatlab.training.torch_files import SETTINGS, read

ORIGIN = "shared_phases.json"  # who trained them, in the folder of each job that took them over
SUMS = "sha256"  # in it: of each file that was taken over


def own_checkpoint(run: Path, name: str) -> Path:
    """Return the file that ``checkpoint`` of ``conf/test.yaml`` speaks of.

    Raises:
        QatlabError: if there is none, or it is that of another run.
    """
    file = record.checkpoint_of(run, name)
    check_own(file, run)
    return file


def check_own(file: Path, run: Path) -> None:
    """Raise if a checkpoint in the folder of a run was saved by a run of other settings.

    Those that were made before settings were kept in them are taken as they are, and so is what
    lies in a folder that does not tell what its run was trained under, or not any more.

    Raises:
        CheckpointError: naming the first setting that differs; also for a damaged checkpoint.
    """
    settings = _settings_in(read(file))
    try:
        trained, taken_over = trained_under(run), sums_in(run).values()
    except ConfigError:  # a resume tells of it, and writes it anew
        return
    if settings is None or sum_of(file) in taken_over:
        return
    differences: list[str] = []
    for known in trained:
        differences = [
            f"{key} is {settings.get(key, ABSENT)} there and {known.get(key, ABSENT)} here"
            for key in dict.fromkeys([*settings, *(key for key in known if "." in key)])
            if key not in MOVABLE and settings.get(key, ABSENT) != known.get(key, ABSENT)
        ]
        if not differences:
            return
    raise CheckpointError(f"{file} is the checkpoint of another run: {differences[0]}")


def sum_of(file: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        ConfigError: if it is missing or no regular file.
    """
    files.check_regular(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sums_in(folder: Path) -> dict[str, str]:
    """Return the sums of the files that a run has taken over from another job, by their names.

    Raises:
        ConfigError: if the file that holds them is damaged.
    """
    if not os.path.lexists(folder / ORIGIN):
        return {}
    sums = files.read_json(folder / ORIGIN).get(SUMS)
    return {key: str(value) for key, value in sums.items()} if isinstance(sums, dict) else {}


def _settings_in(checkpoint: Any) -> dict[str, str] | None:
    callbacks = checkpoint.get("callbacks") if isinstance(checkpoint, Mapping) else None
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        settings = state.get(SETTINGS) if isinstance(state, Mapping) else None
        if isinstance(settings, Mapping) and settings:
            return {str(key): str(value) for key, value in settings.items()}
    return None
