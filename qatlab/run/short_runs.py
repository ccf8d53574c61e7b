"""Short trainings that a search starts one after the other: ordinary runs, each in its own command.

They are watched by what they write, ended early where the search asks for it, and resumed where the
search was killed.
"""

from __future__ import annotations

import csv
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qatlab.errors import ConfigError, QatlabError
from qatlab.mixed_precision.found import DONE, FAILED, PRUNED, Trained
from qatlab.results import record
from qatlab.sweep import resume_override, setting, start_training
from qatlab.system import files

POLL_SECONDS = 0.2
INTERRUPTED = 130  # exit code of a training after Ctrl-C or SIGTERM
PATIENCE = 60.0  # seconds that a training has to end after it was asked to
METRICS = "metrics.csv"
PHASE, ACCURACY = "quantize", "val/acc"
Stop = Callable[[Sequence[float]], bool]  # accuracies of the epochs so far: shall it end here?
Tell = Callable[[int], None]  # epochs that are done


@dataclass(frozen=True)
class ShortRuns:
    """What all trainings of a search have in common.

    Attributes:
        epochs: of the quantize phase.
        allow: packages of the user whose code a run may call.
    """

    epochs: int
    allow: Sequence[str] = ()

    def train(self, words: Sequence[str], folder: Path, stop: Stop, tell: Tell) -> Trained:
        """Train, go on with what was begun, or read what has been trained.

        Args:
            words: of the training, but for its folder.
            folder: of the run.
            stop: is asked once for each epoch but the last, in order.
            tell: is told how many epochs are done.

        Raises:
            QatlabError: for a training that somebody, or the system, has ended: that tells
                nothing of its network, and it can go on.
            ConfigError: for one that has no accuracy.
        """
        watch = _Watch(folder, self.epochs, stop, tell)
        if watch.looks_on() and not (folder / record.RESULT).exists():
            reason = self._run(self._command(words, folder), watch)
            if reason:
                return Trained(folder.name, FAILED, None, watch.accuracies, reason)
        if watch.stopped is not None:  # also if it went on, or has ended, before it was seen
            known = watch.accuracies[: watch.stopped]
            return Trained(folder.name, PRUNED, max(known), known)
        best = record.read_result(folder).get("best") or {}
        accuracy = (best.get(PHASE) or {}).get(ACCURACY)
        if accuracy is None:
            raise ConfigError(
                f"{folder} has no {ACCURACY} of its {PHASE} phase in {record.RESULT}, which "
                "networks are compared by."
            )
        return Trained(folder.name, DONE, accuracy, watch.accuracies)

    def _command(self, words: Sequence[str], folder: Path) -> list[str]:
        if (folder / record.CONFIG).exists():
            allow = [f"allow=[{','.join(self.allow)}]"] if self.allow else []
            return [resume_override(folder), *allow]
        return [*words, setting("hydra.run.dir", folder)]

    def _run(self, words: Sequence[str], watch: _Watch) -> str:
        """Train; return why that has failed, or ""."""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = start_training(words, stdout=subprocess.DEVNULL, stderr=errors)
            try:
                while process.poll() is None and watch.looks_on():
                    time.sleep(POLL_SECONDS)
            finally:  # also after Ctrl-C, which reaches both
                _end(process)
            code = process.returncode
            if not watch.looks_on() or code == 0:
                return ""
            if code < 0 or code == INTERRUPTED:
                how = f"signal {-code}" if code < 0 else "an interrupt"
                raise QatlabError(f"{watch.folder} was ended by {how}; the same command goes on.")
            return _reason(errors, code)


class _Watch:
    """Reads what a training has reached, and asks whether it shall end."""

    def __init__(self, folder: Path, epochs: int, stop: Stop, tell: Tell) -> None:
        self.accuracies: list[float] = []
        self.stopped: int | None = None  # the number of epochs after which it was to end
        self.folder = folder
        self._epochs, self._stop, self._tell = epochs, stop, tell
        self._asked = 0

    def looks_on(self) -> bool:
        """Look; return whether the training shall go on."""
        self.accuracies = _accuracies(self.folder / METRICS)
        self._tell(len(self.accuracies))
        while self.stopped is None and self._asked < min(len(self.accuracies), self._epochs - 1):
            self._asked += 1
            if self._stop(self.accuracies[: self._asked]):
                self.stopped = self._asked
        return self.stopped is None


def _accuracies(path: Path) -> list[float]:
    """Return the accuracy of each epoch of the quantize phase that was validated."""
    if not path.exists():
        return []
    rows = csv.DictReader(files.read_text(path).splitlines())
    own = [row for row in rows if row.get("phase") == PHASE]
    return [float(row[ACCURACY]) for row in own if row.get(ACCURACY)]


def _end(process: subprocess.Popen[str]) -> None:
    """End a training, unless it has ended: as Ctrl-C does, or it would leave half of a file."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reason(errors: IO[str], code: int) -> str:
    """Return the sentence that a training has ended with."""
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
    sentences = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    if sentences:
        return sentences[-1]
    return lines[-1] if lines else f"the process exited with code {code} without a message"
