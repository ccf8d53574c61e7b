"""What becomes of the jobs of a sweep: each notes it, the command that started them tells it.

A file for each, as launchers may run jobs in other processes or on other machines.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
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
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from qatlab.config.folders import leave_nothing, override_list, unlock_run
from qatlab.errors import ConfigError, QatlabError, wrong
from qatlab.results import record, state
from qatlab.sweep import launchers
from qatlab.sweep.together import combined
from qatlab.system import files
from qatlab.system.terminal import clock, is_first, wide_console

NOTES = "QATLAB_SWEEP"  # environment variable: folder of the notes of this sweep
ERROR = "error.txt"  # in the folder of a job that failed: why
DONE, SKIPPED, RESUMED, FAILED = "done", "skipped", "resumed", "failed"
STATES = (DONE, SKIPPED, RESUMED, FAILED)
JOBS = ".jobs"  # in the sweep's folder: notes, and a lock for each sweep that lives
HEX = re.compile(r"[0-9a-f]{32}")
OF_SWEEPS = re.compile(r"hydra[./](sweep|sweeper|launcher)(\W|$)")  # keys without effect on a run
BASIC = "basic"
LOST = "its process exited without reporting a result"


class Watch(Callback):
    """Looks at a sweep before it begins; see ``hydra.callbacks`` in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep without jobs, and name a folder for the notes of all its processes."""
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # which the name of the folder is made of
        try:
            overrides = _check_spaces(override_list(config.hydra.overrides.task))
            count = _count(config, overrides)
            if not config.hydra.sweep.dir:
                raise wrong("hydra.sweep.dir", "", "the path of a folder")
            folder = Path(config.hydra.sweep.dir)
            os.environ[NOTES] = str(_folder_of_notes(folder.absolute()))
            words = [*override_list(config.hydra.overrides.hydra)]
            words += override_list(config.hydra.overrides.task)
            files.write_json(folder / record.SWEEP, {"words": words, "jobs": count})
        except ConfigError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(1) from error  # Hydra makes a warning of any other exception
        finally:
            HydraConfig.instance().cfg = before
        watch = f"to watch: qatlab status {shlex.quote(str(folder))}"
        print(f"{count} job{'s' * (count != 1)} in {folder}; {watch}")


def check_overrides(words: list[str], is_sweep: bool) -> None:
    """Raise a ConfigError for a setting that has no effect without ``-m``, or none with it."""
    is_sweep = is_sweep or any(word.lower() == "hydra.mode=multirun" for word in words)
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "hydra.run.dir" and not value.strip("'\""):
            raise wrong(key, "", "the path of a folder")
        if is_sweep and key == "hydra.run.dir":
            raise ConfigError(
                f"{word} cannot be combined with -m; the folder of a sweep is hydra.sweep.dir=."
            )
        if not is_sweep and OF_SWEEPS.match(key) and value != BASIC:
            raise ConfigError(f"{word} has no effect without -m, which starts a sweep.")
    _check_teacher(words)


def _check_teacher(words: list[str]) -> None:
    """Raise a ConfigError for a teacher that takes the place of its other keys, or lacks them."""
    given = [word.lstrip("+").partition("=") for word in words]
    other = next((key for key, _, _ in given if key.startswith("distill.")), None)
    for key, _, value in given:
        if key == "distill" and other is not None and not value.startswith("{"):
            raise ConfigError(
                f"distill={value} cannot be combined with {other}=: give distill.teacher={value}."
            )


def _count(config: DictConfig, overrides: list[Override]) -> int:
    """Return how many jobs a sweep has; of a search, how many shall succeed."""
    sweeper = OmegaConf.select(config, "hydra.sweeper") or OmegaConf.create()
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    params = OverridesParser.create().parse_overrides(
        [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    )
    if "keys" in sweeper:
        return len(combined([*params, *overrides], OmegaConf.to_container(sweeper)["keys"]))  # type: ignore[call-overload,index]
    if any(o.is_sweep_override() and not o.is_discrete_sweep() for o in overrides):
        return 0  # the sweeper refuses it
    values = {
        o.get_key_element(): len(list(o.sweep_string_iterator())) if o.is_sweep_override() else 1
        for o in [*params, *overrides]
    }
    return math.prod(values.values())


def _check_spaces(words: list[str]) -> list[Override]:
    """Return the settings of a sweep; raise a ConfigError for one that has no value to try."""
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    for override in parsed:
        if not override.is_sweep_override():
            continue
        space = override.value()
        if isinstance(space, IntervalSweep):
            assert space.start is not None
            assert space.end is not None
            is_empty = space.start > space.end
        else:
            is_empty = next(override.sweep_iterator(), None) is None
        if is_empty:
            raise ConfigError(
                f"{override.input_line} has no values, so the sweep would have no jobs."
            )
    return parsed


_lock: FileLock | None = None  # held from the beginning of a sweep to its end


def _folder_of_notes(sweep: Path) -> Path:
    """Return a folder for the notes of this sweep, and remove those of sweeps that were killed."""
    global _lock
    notes = sweep / JOBS
    folder = notes / uuid4().hex
    try:
        notes.mkdir(parents=True, exist_ok=True)
        for name in {path.stem for path in notes.iterdir() if HEX.fullmatch(path.stem)}:
            _remove_dead(notes / name)
        lock = FileLock(_lock_of(folder))
        lock.acquire()
        while not _lock_of(folder).exists():  # another sweep took it for one that was killed
            lock.release()
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {sweep}: {error.strerror}; give the sweep another hydra.sweep.dir."
        ) from error
    _lock = lock
    return folder


def _lock_of(notes: Path) -> Path:
    return notes.with_suffix(".lock")


def _remove_dead(notes: Path) -> None:
    """Remove the notes of a sweep, unless it lives."""
    lock = FileLock(_lock_of(notes))
    with suppress(Timeout), lock.acquire(blocking=False):
        shutil.rmtree(notes, ignore_errors=True)  # its jobs may still be writing
        _lock_of(notes).unlink(missing_ok=True)


@dataclass
class Note:
    """What became of one job."""

    number: int
    overrides: list[str]
    folder: str
    state: str = FAILED
    reason: str = LOST

    @classmethod
    def of(cls, file: Path) -> Note:
        """Read a note; a job whose note is damaged counts as failed."""
        try:
            return cls(**files.read_json(file))
        except (ConfigError, TypeError) as error:
            reason = f"what it has noted is damaged: {error}"
            return cls(int(file.stem), [], str(file.parent), reason=reason)


class SweepJob:
    """The job of a sweep that runs in this process.

    Args:
        folder: of the job.
        trains: whether it leaves a run there.
    """

    def __init__(self, folder: Path, trains: bool = True) -> None:
        config = HydraConfig.get()
        self.folder, self.trains = folder, trains
        self._success = DONE
        if (folder / record.RESULT).exists():
            self._success = SKIPPED
        elif (folder / record.CONFIG).exists():
            self._success = RESUMED
        self._note = Note(config.job.num, override_list(config.overrides.task), str(folder))
        self._write()
        (folder / ERROR).unlink(missing_ok=True)

    def succeeded(self) -> None:
        """Note that the job is done, or has been before."""
        self._note.state, self._note.reason = self._success, ""
        self._write()

    def failed(self, reason: str) -> None:
        """Note why the job failed, and in its own folder unless another process trains there."""
        if self.trains:
            lock = FileLock(self.folder / ".lock", is_singleton=True)
            # Where it cannot be written, the note below still tells.
            with suppress(Timeout, OSError, ConfigError), lock.acquire(blocking=False):
                files.write_text(self.folder / ERROR, reason + "\n")
        self._note.state, self._note.reason = FAILED, reason
        self._write()

    def _write(self) -> None:
        # Of several processes the first one does: two at once would take each other's file away.
        if records_jobs() and (is_first() or self._note.reason not in ("", LOST)):
            file = Path(os.environ[NOTES]) / f"{self._note.number}.json"
            files.write_json(file, asdict(self._note))


def setting(key: str, value: object) -> str:
    """Return a setting; a path or a name gets quotes where Hydra would read it otherwise."""
    name = str(value)
    if not re.fullmatch(r"[\w./+-]+", name, re.ASCII):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{key}={name}"


def resume_override(run: Path) -> str:
    """Return the setting that resumes a run."""
    return setting("resume", run)


def start_training(words: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
    """Start a training as a command of its own, which ends with this process.

    Args:
        words: its settings.
        streams: ``stdout`` and ``stderr`` of it, as ``subprocess.Popen`` takes them.
    """
    environment = {name: value for name, value in os.environ.items() if name != NOTES}
    environment[launchers.PARENT] = str(os.getpid())
    command = [sys.executable, "-m", "qatlab", "train", *words]
    return subprocess.Popen(command, env=environment, text=True, **streams)


def train_in_subprocess(folder: Path, allow: Sequence[str]) -> None:
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
    words = [resume_override(folder), *([f"allow=[{','.join(allow)}]"] if allow else [])]
    process = start_training(words, stderr=subprocess.PIPE)
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
        raise QatlabError(
            reason or f"the process exited with code {code} without reporting an error"
        )


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


def records_jobs() -> bool:
    """Tell whether somebody will read what jobs note."""
    return NOTES in os.environ


def take_notes() -> list[Note]:
    """Return the notes of the sweep that this process has started, by number, and remove them."""
    global _lock
    folder = Path(os.environ.pop(NOTES, ""))
    if _lock is None:
        return []
    notes = [Note.of(file) for file in folder.glob("[0-9]*.json")]
    shutil.rmtree(folder, ignore_errors=True)  # not there if no job has begun
    with suppress(OSError):
        _lock_of(folder).unlink(missing_ok=True)
        folder.parent.rmdir()  # not empty: another sweep runs at the same time
    _lock.release()
    _lock = None
    leave_nothing(folder.parents[1])  # of a sweep of plans
    return sorted(notes, key=lambda note: note.number)


def print_notes(notes: list[Note]) -> None:
    """Print what became of the jobs of a sweep."""
    shared = set.intersection(*(set(note.overrides) for note in notes)) if len(notes) > 1 else set()
    reached = [state.reached(Path(note.folder)) for note in notes]
    columns = {
        "top-1": [score for _, _, score in reached],
        "bytes": ["" if size is None else f"{size:,}" for size, _, _ in reached],
        "time": ["" if seconds is None else clock(seconds) for _, seconds, _ in reached],
        "reason": [note.reason.strip().splitlines()[-1] if note.reason else "" for note in notes],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table("job", "overrides", "state", title="Sweep", title_justify="left")
    for name in shown:
        table.add_column(name, justify="left" if name == "reason" else "right")
    for index, note in enumerate(notes):
        settings = " ".join(word for word in note.overrides if word not in shared)
        cells = [column[index] for column in shown.values()]
        # As Text: what stands in files is no markup.
        table.add_row(*map(Text, (str(note.number), settings, note.state, *cells)))
    wide_console().print(table)
    counts = {state: sum(note.state == state for note in notes) for state in STATES}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for note in notes:
        if (Path(note.folder) / ERROR).exists():
            print(f"job {note.number}: {Path(note.folder) / ERROR}")
