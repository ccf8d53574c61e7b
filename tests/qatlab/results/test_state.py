from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from qatlab.results.state import State, overrides_of, reached, runs_below, state_of, sweep_of

HERE = {"phase": "quantize", "epoch": 3, "epochs": 12, "seconds_left": 60.5, "updated": 1000.0}
HERE |= {"pid": os.getpid(), "host": platform.node()}


def run(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def state(folder: Path, now: float = 1010.0) -> tuple[str, str, float | None]:
    found = state_of(folder, now)
    return found.state, found.place, found.seconds_left


def test_a_run_is_running_while_its_process_lives(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", progress=HERE)
    assert state(folder) == ("running", "quantize 3/12", 60.5)
    assert state(folder, now=1000.0 + 2 * 3600)[0] == "stopped"  # the number may be another's


def test_a_run_whose_process_has_ended_is_stopped(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    folder = run(tmp_path / "run", progress={**HERE, "pid": child})
    assert state(folder) == ("stopped", "quantize 3/12", None)


def test_a_run_elsewhere_is_running_while_it_gives_news(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", progress={**HERE, "host": "another machine", "pid": 1})
    assert state(folder)[0] == "running"
    assert state(folder, now=1700.0)[0] == "stopped"


def test_results_and_errors_count_more_than_progress(tmp_path: Path) -> None:
    result = {"size_bytes": 3000, "seconds": 12.5, "test": {"top1": 0.875}}
    done = run(tmp_path / "done", progress=HERE, result=result)
    expected = State(done, "done", score="87.50%", size=3000, seconds=12.5)
    assert state_of(done, 1010.0) == expected
    failed = run(tmp_path / "failed", progress=HERE)
    (failed / "error.txt").write_text("Traceback\nthe reason\n")
    assert state_of(failed, 1010.0) == State(failed, "failed", reason="the reason")
    assert state_of(run(tmp_path / "begun"), 1010.0).state == "begun"


@pytest.mark.parametrize(
    "progress",
    [
        {"pid": "x", "updated": "y"},
        {"pid": -1, "updated": None, "host": platform.node()},
        {"updated": True, "seconds_left": "3"},
        [],
    ],
)
def test_damaged_progress_is_no_running_run(tmp_path: Path, progress: Any) -> None:
    assert state(run(tmp_path / "run", progress=progress))[0] in ("stopped", "begun")


@pytest.mark.parametrize("result", [{}, [], {"size_bytes": "3", "seconds": None, "test": 1}])
def test_a_damaged_result_has_reached_nothing_that_is_known(tmp_path: Path, result: Any) -> None:
    assert reached(run(tmp_path / "run", result=result)) == (None, None, "")


def test_without_classes_the_area_under_the_curve_is_the_score(tmp_path: Path) -> None:
    result = {"size_bytes": 1, "seconds": 2, "test": {"auc": 0.85}}
    assert reached(run(tmp_path / "run", result=result)) == (1, 2.0, "AUC 0.8500")


def test_runs_are_found_at_any_depth_and_not_through_links(tmp_path: Path) -> None:
    for name in ("b", "a/inner", "a/inner/checkpoints/no_run"):
        run(tmp_path / name)
    (tmp_path / "new/.hydra").mkdir(parents=True)
    (tmp_path / ".jobs/x").mkdir(parents=True)
    (tmp_path / "latest").symlink_to("b")
    found = [str(path.relative_to(tmp_path)) for path in runs_below(tmp_path)]
    assert found == ["a/inner", "b", "new"]


def test_what_a_sweep_and_its_jobs_were_asked_for(tmp_path: Path) -> None:
    assert sweep_of(tmp_path) == ([], None)
    (tmp_path / "sweep.json").write_text('{"words": ["seed=1,2"], "jobs": 2}')
    assert sweep_of(tmp_path) == (["seed=1,2"], 2)
    assert overrides_of(tmp_path) == []
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- seed=1\n")
    assert overrides_of(tmp_path) == ["seed=1"]
