"""What becomes of the jobs of a sweep: each notes it, the command that started them tells it.

A file for each, as launchers may run jobs in other processes or on other machines.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from qatlab import files, record
from qatlab.errors import QatlabError
from qatlab.folders import unlock_run
from qatlab.terminal import wide_console

NOTES = "QATLAB_SWEEP"  # environment variable: folder of the notes of this sweep
ERROR = "error.txt"  # in the folder of a job that failed: why
DONE, SKIPPED, RESUMED, FAILED = "done", "skipped", "resumed", "failed"
STATES = (DONE, SKIPPED, RESUMED, FAILED)
LOST = "its process ended without a word"


class Watch(Callback):
    """Prepares a folder for the notes of a sweep; see ``hydra.callbacks`` in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the folder, for all processes that this one will start."""
        folder = Path(config.hydra.sweep.dir).absolute() / ".jobs" / uuid4().hex
        os.environ[NOTES] = str(folder)


@dataclass
class Note:
    """What became of one job."""

    number: int
    overrides: list[str]
    folder: str
    state: str = FAILED
    reason: str = LOST


class SweepJob:
    """The job of a sweep that runs in this process."""

    def __init__(self, folder: Path) -> None:
        config = HydraConfig.get()
        self.folder = folder
        self._success = DONE
        if (folder / record.RESULT).exists():
            self._success = SKIPPED
        elif (folder / record.CONFIG).exists():
            self._success = RESUMED
        self._note = Note(config.job.num, list(config.overrides.task), str(folder))
        self._write()
        (folder / ERROR).unlink(missing_ok=True)

    def succeeded(self) -> None:
        """Note that the job is done, or has been before."""
        self._note.state, self._note.reason = self._success, ""
        self._write()

    def failed(self, reason: str) -> None:
        """Note why the job failed, here and in its own folder."""
        files.write_text(self.folder / ERROR, reason + "\n")
        self._note.state, self._note.reason = FAILED, reason
        self._write()

    def _write(self) -> None:
        if notes_are_taken():
            file = Path(os.environ[NOTES]) / f"{self._note.number}.json"
            files.write_json(file, asdict(self._note))


def resume_word(run: Path) -> str:
    """Return the setting that resumes a run; a sweep's folders have names that need quotes."""
    name = str(run)
    if not re.fullmatch(r"[\w./+-]+", name, re.ASCII):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'  # for Hydra
    return f"resume={name}"


def train_apart(folder: Path, allow: Sequence[str]) -> None:
    """Train what is left of a run in a command of its own.

    For a job of several processes: Lightning gives each the command line of the first, which would
    run the whole sweep.

    Args:
        folder: of the run; its configuration is there.
        allow: packages of the user whose code it calls.

    Raises:
        QatlabError: if the command fails; the reason is the sentence that it ends with.
    """
    unlock_run(folder)  # the command locks it
    words = [sys.executable, str(Path(__file__).parents[1] / "train.py"), resume_word(folder)]
    words += [f"allow=[{','.join(allow)}]"] if allow else []
    environment = {name: value for name, value in os.environ.items() if name != NOTES}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    reason = ""
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            if line.startswith("Error: "):
                reason = line.removeprefix("Error: ").strip()
    finally:
        code = process.wait()  # also after Ctrl-C, which reaches both
    if code != 0:
        raise QatlabError(reason or f"its processes ended with exit code {code}")


_gpu_locks: list[FileLock] = []  # held as long as this process lives


def claim_gpu(places: Path, count: int) -> None:
    """Leave this process one GPU of several that no other job on this machine has claimed.

    For jobs that run side by side, and before CUDA is used. A process that runs one job after
    another keeps its GPU; where there are more processes than GPUs, the rest sees them all.

    Args:
        places: folder of the claims, the same for all jobs.
        count: GPUs that this process sees.
    """
    if count < 2 or _gpu_locks:
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    places.mkdir(parents=True, exist_ok=True)
    for gpu in given.split(","):
        lock = FileLock(places / f"{platform.node()}_gpu_{gpu.replace('/', '_')}.lock")
        with suppress(Timeout):
            lock.acquire(blocking=False)
            _gpu_locks.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return


def notes_are_taken() -> bool:
    """Tell whether somebody will read what jobs note."""
    return NOTES in os.environ


def take_notes() -> list[Note]:
    """Return the notes of the sweep that this process has started, by number, and remove them."""
    folder = os.environ.pop(NOTES, None)
    if folder is None or not Path(folder).is_dir():
        return []
    notes = [Note(**files.read_json(file)) for file in Path(folder).glob("*.json")]
    shutil.rmtree(folder)
    with suppress(OSError):  # not empty: of a sweep that was killed, or runs at the same time
        Path(folder).parent.rmdir()
    return sorted(notes, key=lambda note: note.number)


def print_notes(notes: list[Note]) -> None:
    """Print what became of the jobs of a sweep."""
    shared = set.intersection(*(set(note.overrides) for note in notes)) if len(notes) > 1 else set()
    table = Table("job", "overrides", "", "reason", title="Sweep", title_justify="left")
    for note in notes:
        own = " ".join(word for word in note.overrides if word not in shared)
        reason = note.reason.strip().splitlines()[-1] if note.reason else ""
        table.add_row(str(note.number), own, note.state, reason)
    wide_console().print(table)
    counts = {state: sum(note.state == state for note in notes) for state in STATES}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for note in notes:
        if (Path(note.folder) / ERROR).exists():
            print(f"job {note.number}: {Path(note.folder) / ERROR}")
