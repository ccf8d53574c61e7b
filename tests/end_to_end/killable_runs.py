"""Starts runs of train.py and test.py in processes of their own, and kills them where asked."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pwd
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from hydra._internal.hydra import Hydra
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from qatlab.models import LeNet
from qatlab.run import short_runs, summary
from qatlab.sweep import launchers
from qatlab.system import files

ROOT = Path(__file__).parents[2]
KILL_AT = "TEST_KILL_AT"  # "SIGKILL 3 7": in epoch 3 after batch 7; "SIGKILL 2 end": after epoch 2
SAVE_START = "TEST_SAVE_START"  # file for the state with which the quantize phase starts
KILL_WRITING = "TEST_KILL_WRITING"  # "last 2": when half of that file is written the second time
FILE_SIZE = "TEST_FILE_SIZE"  # bytes that a file of a forked run may have, as with ulimit -f
KILL_AT_WRITE = "TEST_KILL_AT_WRITE"  # "5": behind the fifth line in the journal of a search

KILL_SEARCH = "TEST_KILL_SEARCH"  # "2": a search that trains, in its second training
FORKED = "TEST_FORKED"  # a search that trains forks for that: a new process takes ten times as long

NOBODY = "TEST_NOBODY"  # a forked run has no HOME, and its user no name, as in some containers
DRAW = "TEST_DRAW"  # a forked run draws its figures

forks = multiprocessing.get_context("forkserver")  # imports once, then forks for each run


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # exit code, or the negative number of the signal that killed it
    output: str


def start(script: str, *arguments: str, **environment: str) -> Ended:
    """Run a script as a user does."""
    done = subprocess.run(
        [sys.executable, script, *_with_leave(arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Ended(done.returncode, done.stdout)


def start_forked(log: Path, script: str, *arguments: str, **environment: str) -> Ended:
    """Run a script or a module in a process that is born with all imports done.

    It draws no figures unasked. Both take longer than the training of a test. ``log`` is where its
    output goes.
    """
    return _end(log, _fork(log, script, *arguments, **environment))


def forked_and_killed(seconds: float, log: Path, script: str, *arguments: str) -> None:
    """Run a script in such a process and kill it after a while, unless it has ended."""
    process = _fork(log, script, *arguments)
    process.join(seconds)
    process.kill()
    process.join()


def start_two_forked(folder: Path, script: str, *arguments: str, **environment: str) -> list[Ended]:
    """Run a script in two such processes that train together, as a launcher would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    logs = [folder / f"log{rank}" for rank in range(2)]
    processes = [
        _fork(log, script, *arguments, **environment, **meeting, LOCAL_RANK=str(rank))
        for rank, log in enumerate(logs)
    ]
    return [_end(log, process) for log, process in zip(logs, processes, strict=True)]


def _with_leave(arguments: tuple[str, ...]) -> list[str]:
    """Return arguments that let the folder of a run call the code of this module."""
    reads = any(word.startswith(("resume=", "run=")) for word in arguments)
    return [*arguments, *(["allow=killable_runs"] if reads else [])]


def start_forked_at_once(folder: Path, script: str, *commands: Sequence[str]) -> list[Ended]:
    """Run a script with several lists of words, all at the same time, in a folder."""
    logs = [folder / f"log{number}" for number in range(len(commands))]
    processes = [
        _fork(log, script, *words, PWD=str(folder))
        for log, words in zip(logs, commands, strict=True)
    ]
    return [_end(log, process) for log, process in zip(logs, processes, strict=True)]


def _fork(log: Path, script: str, *arguments: str, **environment: str) -> BaseProcess:
    process = forks.Process(target=_run, args=(log, script, arguments, environment))
    process.start()
    return process


def _end(log: Path, process: BaseProcess) -> Ended:
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, log.read_text())


def _run(log: Path, script: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(environment.get("PWD", ROOT))
    os.environ.update(environment)
    if FILE_SIZE in environment:
        size = int(environment[FILE_SIZE])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if NOBODY in environment:
        _have_no_home()
    if KILL_WRITING in environment:
        _kill_writing(*environment[KILL_WRITING].split())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores Ctrl-C
    if DRAW not in environment:
        summary.write_figures = lambda *args: None
    if FORKED in environment:
        _fork_trainings(int(environment.get(KILL_SEARCH, 0)))
    if KILL_AT_WRITE in environment:
        _kill_at_write(int(environment[KILL_AT_WRITE]))
    Hydra.get_mode = lambda *args, **more: None  # composes everything to find hydra.mode
    sys.argv = [script, *_with_leave(arguments)]
    if script.endswith(".py"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__")


def _fork_trainings(last: int) -> None:
    """Have trainings of a search forked; in the last one, behind its first epoch, it is killed."""
    numbers = itertools.count(1)

    def start(words: list[str], **streams: Any) -> Any:
        process = multiprocessing.get_context("fork").Process(target=train, args=(words, streams))
        process.start()
        if next(numbers) == last:
            (folder,) = (w.partition("=")[2] for w in words if w.startswith("hydra.run.dir="))
            while not (Path(folder) / "checkpoints" / "last.ckpt").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        def wait(timeout: float | None = None) -> None:
            process.join(timeout)

        def poll() -> int | None:
            started.returncode = process.exitcode
            return process.exitcode

        started = SimpleNamespace(
            poll=poll, wait=wait, terminate=process.terminate, kill=process.kill, returncode=None
        )
        return started

    def train(words: list[str], streams: dict[str, Any]) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.dup2(streams["stderr"].fileno(), sys.stderr.fileno())
        os.environ[launchers.PARENT] = str(os.getppid())
        sys.argv = ["train.py", *words]
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

    short_runs.start_training = start  # type: ignore[assignment]


def _have_no_home() -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd.getpwuid = unknown  # type: ignore[assignment]
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        os.environ.pop(name, None)


def _kill_writing(stem: str, times: str) -> None:
    put, left = files.put, [int(times)]

    def put_half(temporary: Path, path: Path) -> None:
        left[0] -= temporary.name.startswith(f".{stem}.")
        if left[0] == 0:
            os.truncate(temporary, temporary.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        put(temporary, path)

    files.put = put_half


def _kill_at_write(last: int) -> None:
    from optuna.storages.journal import JournalFileBackend

    write, numbers = JournalFileBackend.append_logs, itertools.count(1)

    def counted(self: Any, logs: Any) -> None:
        write(self, logs)
        if next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    JournalFileBackend.append_logs = counted


class OwnLeNet(LeNet):
    """A network that is none of qatlab's."""


class KillAt(Checkpoint):
    """Does what the environment asks for; so the run, when it is resumed, is not killed again.

    A ``Checkpoint``, as Lightning calls these last: ``RunCheckpoint`` has saved before.
    """

    def __init__(self) -> None:
        name, self.epoch, self.batch = os.environ.get(KILL_AT, "SIGKILL 0 0").split()
        self.signal = signal.Signals[name]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        path = os.environ.get(SAVE_START)
        if path and not Path(path).exists() and pl_module.phase_name == "quantize":
            trainer.save_checkpoint(path, weights_only=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._kill_at(trainer, str(batch_idx + 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kill_at(trainer, "end")

    def _kill_at(self, trainer: Trainer, batch: str) -> None:
        if (str(trainer.current_epoch + 1), batch) == (self.epoch, self.batch):
            os.kill(os.getpid(), self.signal)


class DeleteFolder(Callback):
    """Deletes the folder of the run that it is trained in, at the end of the first epoch."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            shutil.rmtree(self.folder)
