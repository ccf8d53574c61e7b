"""Launchers that cannot run their jobs, and workers whose sweep is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from killable_runs import ROOT, Ended, start_forked
from mistakes import TINY
from PIL import Image

WAIT_SECONDS = 60.0
ENDED_SECONDS = 30.0  # at most; loaders of images look for their parent every 5 seconds


def wait_for(what: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def marked(mark: str) -> list[str]:
    """Return the commands of all processes with a mark in their environment, as children have."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(command_of(int(folder.name)))
        except OSError:
            continue  # it has just ended, or is another user's
    return [line for line in found if line]  # none: it has ended, and nobody has asked how


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, ...]:
    """Settings of a data set of files, which processes of their own load."""
    noise = np.random.default_rng(1).integers(0, 256, (2, 40, 32, 32, 3), dtype=np.uint8)
    for label in range(2):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(noise[label]):
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return (
        *("data=image_folder", f"data.source.folder={tmp_path / 'images'}", "data.workers=1"),
        *("data.image_size=[32,32]", "data.batch_size=8", "data.source.channels=1"),
        *("data.source.validation=0", "schedule.clamp_epochs=500", "schedule.quantize_epochs=1"),
        *("trainer.accelerator=cpu", "~callbacks.quant_monitor"),
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes in /proc")
def test_workers_and_their_loaders_end_with_a_sweep_that_is_killed(
    tmp_path: Path, images: tuple[str, ...]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is missing")
    words = ("-m", "hydra/launcher=parallel", "seed=1,2", f"hydra.sweep.dir={tmp_path / 's'}")
    command, mark = [sys.executable, "train.py", *words, *images], uuid4().hex
    with (tmp_path / "log").open("wb") as log:
        environment = os.environ | {"TEST_MARK": mark}
        sweep = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    wait_for(lambda: len(list(tmp_path.glob("s/*/checkpoints/last.ckpt"))) == 2)
    wait_for(lambda: len([line for line in marked(mark) if "LokyProcess" in line]) == 4)
    sweep.send_signal(signal.SIGKILL)  # two workers, each with a loader
    sweep.wait()
    wait_for(lambda: not marked(mark), ENDED_SECONDS)


def test_a_process_ends_with_its_parent_or_at_once_if_that_has_ended() -> None:
    module = "qatlab.sweep.launchers"
    code = f"import sys, time; from {module} import end_with; end_with({{}}); time.sleep(60)"
    orphan = subprocess.run([sys.executable, "-c", code.format(1)], cwd=ROOT)
    assert orphan.returncode == -signal.SIGKILL
    inner = [sys.executable, "-c", code.format("int(sys.argv[1])")]
    outer = (
        f"import os, subprocess, sys; child = subprocess.Popen([*{inner!r}, str(os.getpid())]); "
        "print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1)
    assert "end_with" in command_of(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: "end_with" not in command_of(child), ENDED_SECONDS)


def test_where_linux_is_not_there_a_thread_looks_for_the_parent() -> None:
    code = (
        "import sys, time; from qatlab.sweep import launchers; launchers.PR_SET_PDEATHSIG = -1; "
        "launchers.end_with(int(sys.argv[1])); time.sleep(60)"
    )
    outer = (
        "import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', "
        f"{code!r}, str(os.getpid())]); print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1)
    assert "launchers" in command_of(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: "launchers" not in command_of(child), ENDED_SECONDS)


def slurm(folder: Path, sbatch: str, *words: str) -> Ended:
    """Start a sweep on a Slurm whose sbatch is a script of one line."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun"):
        (commands / name).write_text(f"#!/bin/sh\n{sbatch}\n")
        (commands / name).chmod(0o755)
    places = (f"hydra.sweep.dir={folder / 's'}", "hydra/launcher=slurm", "trainer.devices=1")
    path = f"{commands}:{os.environ['PATH']}"
    return start_forked(
        folder / "log", "train.py", "-m", "seed=1,2", *TINY, *places, *words, PATH=path
    )


def error_of(ended: Ended) -> str:
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output, ended.output
    (error,) = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    return error


def test_a_job_that_sbatch_refuses_is_reported_with_its_own_reason(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra `slurm` is missing")
    ended = slurm(tmp_path, "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    assert error_of(ended) == (
        "Error: hydra/launcher=slurm cannot run the jobs: "
        "sbatch: error: invalid partition specified: x"
    )


def test_what_a_launcher_cannot_use_is_reported_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is missing")

    def told(*words: str) -> str:
        place = f"hydra.sweep.dir={tmp_path / 's'}"
        return error_of(
            start_forked(tmp_path / "log", "train.py", "-m", "seed=1,2", *TINY, place, *words)
        )

    for number in ("0", "-2", "many", "1.5"):
        message = told("hydra/launcher=parallel", f"hydra.launcher.n_jobs={number}")
        assert message.startswith(f"Error: hydra.launcher.n_jobs={number} is wrong. Accepted: a wh")
    message = told("hydra/launcher=parallel", "hydra.launcher.pre_dispatch=foo")
    assert message.startswith("Error: hydra/launcher=parallel cannot run the jobs: 'foo'")
    message = told("hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert message.startswith("Error: hydra/launcher=joblib cannot run the jobs: n_jobs == 0")
