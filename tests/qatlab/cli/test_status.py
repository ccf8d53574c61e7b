from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qatlab.cli import status
from qatlab.cli.main import run
from qatlab.results.state import State


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a sweep of four jobs: one is done, one runs, one has failed."""
    folder = tmp_path / "sweep"
    facts = {"words": ["quant.weight.bits=2,3,4,8", "seed=1"], "jobs": 4}
    for bits in (2, 3, 33):
        (folder / f"bits={bits}/.hydra").mkdir(parents=True)
        words = f"- quant.weight.bits={bits}\n- seed=1\n"
        (folder / f"bits={bits}/.hydra/overrides.yaml").write_text(words)
    (folder / "sweep.json").write_text(json.dumps(facts))
    result = {"size_bytes": 16678, "seconds": 100.0, "test": {"top1": 0.9125}}
    (folder / "bits=2/result.json").write_text(json.dumps(result))
    progress = {"phase": "clamp", "epoch": 2, "epochs": 8, "seconds_left": 60.0}
    progress |= {"updated": time.time(), "pid": os.getpid(), "host": platform.node()}
    (folder / "bits=3/progress.json").write_text(json.dumps(progress))
    (folder / "bits=33/error.txt").write_text("bits=33 is wrong\n")
    return folder


def test_a_sweep_is_shown_once_where_the_output_is_no_terminal(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["quant.weight.bits=2", "done", "", "", "91.25%", "16,678", "1:40", ""],
        ["quant.weight.bits=3", "running", "clamp 2/8", "1:00", "", "", "", ""],
        ["quant.weight.bits=33", "failed", "", "", "", "", "", "bits=33 is wrong"],
    ]
    # What is to come takes 100 s as the job that is done, behind the one that runs.
    assert lines[-1] == "1 done, 1 running, 1 failed, 1 to come; about 2:40 left"


def test_several_jobs_at_a_time_share_what_is_to_come() -> None:
    done = State(Path("a"), "done", seconds=100.0)
    running = [State(Path("b"), "running", seconds_left=s) for s in (50.0, 150.0)]
    assert status.summary([done, *running], 2) == "1 done, 2 running, 2 to come; about 3:20 left"
    assert status.summary([*running], 0) == "2 running; about 2:30 left"
    assert status.summary([*running], 2) == "2 running, 2 to come"  # nothing is known of those
    words = "1 done, 1 to come; none runs now: the sweep's command, given again, goes on"
    assert status.summary([done], 1) == words


def test_it_goes_on_until_all_jobs_have_ended(sweep: Path) -> None:
    assert status.picture(sweep, time.time())[1]
    facts = {"words": [], "jobs": 3}
    (sweep / "sweep.json").write_text(json.dumps(facts))
    (sweep / "bits=3/result.json").write_text("{}")
    assert not status.picture(sweep, time.time())[1]


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"Error: {tmp_path} holds no run and no sweep\n"


def test_it_imports_neither_torch_nor_hydra(sweep: Path) -> None:
    code = f"""
import sys
from qatlab.cli.main import run
run(["status", {str(sweep)!r}])
assert not {{"torch", "pytorch_lightning", "hydra", "matplotlib"}} & sys.modules.keys()
"""
    root = Path(__file__).parents[3]
    variables = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], env=variables, check=True)
