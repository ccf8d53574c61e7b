"""Sweeps under a real Slurm of one node, which this machine starts for itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable_runs import ROOT

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "sinfo")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={first}
SlurmdPort={second}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 Sockets=16 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SETTINGS = (
    *("data=synthetic", "data.source.test_images=100", "data.validation=100", "seed=1,2"),
    *("data.batch_size=30", "schedule.clamp_epochs=1", "trainer.accelerator=cpu"),
    *("hydra.launcher.cpus_per_task=1", "hydra/launcher=slurm"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm starts jobs as root only"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start Slurm, and yield the environment in which its commands find it."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra `slurm` is missing")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    file = folder / "slurm.conf"
    ports = {"first": free_port(), "second": free_port()}
    file.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports))
    for name in ("slurmctld", "slurmd"):
        subprocess.run([name, "-f", file, "-c"], check=True)
    environment = {**os.environ, "SLURM_CONF": str(file), "OMP_NUM_THREADS": "1"}
    end = time.monotonic() + 60
    while "idle" not in _told("sinfo", environment):
        assert time.monotonic() < end, (folder / "slurmctld.log").read_text()
        time.sleep(0.5)
    yield environment
    for name in ("slurmd", "slurmctld"):
        os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def _told(command: str, environment: dict[str, str]) -> str:
    return subprocess.run([command], env=environment, capture_output=True, text=True).stdout


def sweep(folder: Path, environment: dict[str, str], *words: str) -> list[Path]:
    """Run a sweep to its end, and return the folders of its jobs."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SETTINGS, *words]
    command += [f"hydra.sweep.dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(path.parent for path in folder.glob("*/result.json"))


def test_jobs_of_two_processes_each_train(tmp_path: Path, slurm: dict[str, str]) -> None:
    words = ["trainer=ddp", "trainer.devices=2", "data.source.training_images=420"]
    jobs = sweep(tmp_path / "s", slurm, *words, "schedule.quantize_epochs=1")
    results = [json.loads((job / "result.json").read_text()) for job in jobs]
    assert [result["seed"] for result in results] == [1, 2]
    assert all(result["test"]["images"] == 100 for result in results)
    scripts = list((tmp_path / "s/.submitit").rglob("*submission*.sh"))
    assert scripts
    assert not any("gpus-per-node" in script.read_text() for script in scripts)


def test_a_job_that_reaches_its_time_limit_is_queued_again(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    """Slurm tells it up to a minute before the signal is due, and waits two to start it again."""
    words = [
        "trainer.devices=1",
        "hydra.launcher.timeout_min=2",
        "hydra.launcher.signal_delay_s=30",
    ]
    words += ["data.source.training_images=2000", "schedule.quantize_epochs=45", "seed=1"]
    (job,) = sweep(tmp_path / "s", slurm, *words)
    told = "".join(file.read_text() for file in (tmp_path / "s/.submitit").rglob("*_log.out"))
    assert "Requeued job" in told
    result = json.loads((job / "result.json").read_text())
    assert result["resumed"]
    assert result["epochs"] == {"clamp": 1, "quantize": 45}
    rows = (job / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 46  # an epoch each, none twice
