"""How jobs of a sweep come into processes of their own, and how these end: with what started them.

A worker whose parent was killed would train on, unseen, while the same command starts anew.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from qatlab.errors import QatlabError, wrong

PARENT = "QATLAB_PARENT"  # environment variable: id of the process that has started a command
RANK = "LOCAL_RANK"  # of a process that another one has started to train together
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>: the signal that a process gets when its parent ends
POLL_SECONDS = 1.0


class ParallelLauncher(Launcher):
    """Runs jobs side by side, each in a worker that ends with this process.

    Args:
        n_jobs: workers; -1: as many as there are cores.
        joblib: further options of ``joblib.Parallel``.
    """

    def __init__(self, n_jobs: int, **joblib: Any) -> None:
        if type(n_jobs) is not int or n_jobs < -1 or n_jobs == 0:
            accepted = "a whole number above 0, or -1 for one on each core"
            raise wrong("hydra.launcher.n_jobs", n_jobs, accepted)
        self.n_jobs, self.joblib = n_jobs, joblib

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over."""
        plugin = import_module("hydra_plugins.hydra_joblib_launcher.joblib_launcher")
        self.config = config
        # The first thing that a worker does, before any job: it may wait for one for minutes.
        begin = (os.getpid(), multiprocessing.get_start_method())
        workers = {"initializer": _begin_worker, "initargs": begin}
        self.launcher = plugin.JoblibLauncher(n_jobs=self.n_jobs, **self.joblib, **workers)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and return what became of them."""
        done: Sequence[JobReturn] = self.launcher.launch(job_overrides, initial_job_idx)
        return done


def _begin_worker(parent: int, start_method: str) -> None:
    # joblib leaves its own, which cannot start the processes that load images.
    multiprocessing.set_start_method(start_method, force=True)
    end_with(parent)


def end_with(parent: int) -> None:
    """End this process as soon as the one that has started it ends, in whatever way that is."""
    try:
        succeeded = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (AttributeError, TypeError, OSError):  # no Linux
        succeeded = False
    if not succeeded:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended before
        _end()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # all that a run leaves is made for it


def follow_parent() -> None:
    """Let a command that trains a part of what another one was asked for end with that one."""
    parent = os.environ.pop(PARENT, None)  # of this process, not of those that it starts
    if parent is not None:
        end_with(int(parent))
    elif os.environ.get(RANK, "0") != "0":
        end_with(os.getppid())


def message_of(error: BaseException) -> str | None:
    """Return why a launcher could not run its jobs, such as what sbatch says.

    Returns:
        A sentence; None for an error that came from elsewhere, or is a sentence already.
    """
    if isinstance(error, (QatlabError, HydraException, OmegaConfBaseException)):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        launcher = frame.f_locals.get("self")
        if frame.f_code.co_name != "launch" or not isinstance(launcher, Launcher):
            continue
        if isinstance(launcher, BasicLauncher):  # its jobs are in this process
            return None
        choice = frame.f_locals["self"].config.hydra.runtime.choices["hydra/launcher"]
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(lines) or type(error).__name__
        return f"hydra/launcher={choice} cannot run the jobs: {reason}"
    return None


def register() -> None:
    """Let Hydra find the launcher; it takes plugins of one package only, which is not ours."""
    name = f"hydra_plugins.qatlab.{ParallelLauncher.__name__}"
    Plugins.instance().class_name_to_class[name] = ParallelLauncher
