"""How far runs are: read from their folders, while they train or afterwards."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.results import limits, record
from qatlab.system import files

DONE, RUNNING, FAILED, STOPPED, BEGUN = "done", "running", "failed", "stopped", "begun"
LARGEST = 1 << 20  # bytes of what a run or a sweep notes of itself
SILENT = 3600.0  # seconds without news after which a number of a process may be another one's
SILENT_ELSEWHERE = 600.0  # seconds without news after which a run on another machine has stopped


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        folder: of the run.
        state: ``done``, ``running``, ``failed``, ``stopped``, or ``begun``: it has not trained yet.
        place: where it is: ``quantize 3/12``.
        seconds_left: of the whole run, as it expects; None where it does not tell.
        score: accuracy on the test set, or what stands for it.
        size: bytes of the network at its bits.
        seconds: that the training has taken.
        reason: why it failed.
    """

    folder: Path
    state: str
    place: str = ""
    seconds_left: float | None = None
    score: str = ""
    size: int | None = None
    seconds: float | None = None
    reason: str = ""


def state_of(folder: Path, now: float) -> State:
    """Return how far the run in a folder is.

    Args:
        folder: of the run.
        now: seconds since 1970.
    """
    if os.path.lexists(folder / record.RESULT):
        size, seconds, score = reached(folder)
        return State(folder, DONE, score=score, size=size, seconds=seconds)
    if os.path.lexists(folder / limits.ERROR):
        try:
            lines = limits.read_text(folder / limits.ERROR).strip().splitlines()
        except ConfigError as error:
            lines = [str(error)]
        return State(folder, FAILED, reason=lines[-1] if lines else "")
    try:
        facts = files.read_json(folder / record.PROGRESS, LARGEST)
    except ConfigError:  # not written yet, or by an older version
        return State(folder, BEGUN)
    left = facts.get("seconds_left")
    place = f"{facts.get('phase', '')} {facts.get('epoch', '?')}/{facts.get('epochs', '?')}".strip()
    lives = _lives(facts, now)
    return State(
        folder,
        RUNNING if lives else STOPPED,
        place=place,
        seconds_left=_number(left) if lives else None,
    )


def _lives(facts: dict[str, Any], now: float) -> bool:
    updated, process = _number(facts.get("updated")), facts.get("pid")
    if updated is None:
        return False
    silent = now - updated
    if facts.get("host") != platform.node() or type(process) is not int or process < 1:
        return silent < SILENT_ELSEWHERE
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return silent < SILENT


def reached(folder: Path) -> tuple[int | None, float | None, str]:
    """Return bytes, seconds of training and accuracy of a finished run.

    Without a readable ``result.json`` they are None, None and "". Of a network that does not
    classify, the AUC stands for the accuracy.
    """
    try:
        result = limits.read_json(folder / record.RESULT)
    except ConfigError:
        return None, None, ""
    size, seconds, test = result.get("size_bytes"), result.get("seconds"), result.get("test")
    scores = test if isinstance(test, dict) else {}
    top1, auc = _number(scores.get("top1")), _number(scores.get("auc"))
    score = "" if auc is None else f"AUC {auc:.4f}"
    score = score if top1 is None else f"{top1:.2%}"
    return size if type(size) is int else None, _number(seconds), score


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield all folders of runs in a folder, by name, also of those that have just begun.

    Links are not followed, as they may lead back.
    """
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    names = (record.CONFIG, record.RESULT, limits.ERROR, ".hydra")
    if any(os.path.lexists(folder / name) for name in names):
        yield folder
        return
    for name in inner:
        if not name.startswith("."):
            yield from runs_below(folder / name)


def sweep_of(folder: Path) -> tuple[list[str], int | None]:
    """Return the words of a sweep, and how many jobs it has; None for a folder that is of none."""
    try:
        facts = files.read_json(folder / record.SWEEP, LARGEST)
    except ConfigError:
        return [], None
    words, count = facts.get("words"), facts.get("jobs")
    words = [str(word) for word in words] if isinstance(words, list) else []
    return words, count if type(count) is int else None


def overrides_of(folder: Path) -> list[str]:
    """Return what a run was asked for on the command line; nothing where it does not tell."""
    try:
        words = files.read_yaml(
            folder / ".hydra" / limits.OVERRIDES, limits.BYTES[limits.OVERRIDES]
        )
    except ConfigError:
        return []
    return [str(word) for word in words] if isinstance(words, list) else []


def now() -> float:
    """Return the seconds since 1970."""
    return time.time()
