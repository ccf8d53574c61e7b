from __future__ import annotations

from pathlib import Path

import pytest
from written_runs import write_run

from qatlab.report.runs import find_runs
from qatlab.report.settings import join_seeds, pareto_front


def test_seeds_are_joined_to_mean_and_deviation(tmp_path: Path) -> None:
    for seed, top1 in ((1, 0.97), (2, 0.98), (3, 0.99)):
        write_run(tmp_path / str(seed), top1=top1, seed=seed)
    (setting,) = join_seeds(find_runs(tmp_path))
    assert setting.label == "lenet_sat"
    assert setting.mean == pytest.approx(0.98)
    assert setting.deviation == pytest.approx(0.01)  # of a sample: divided by n - 1


def test_one_run_has_no_deviation(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    (setting,) = join_seeds(find_runs(tmp_path))
    assert (setting.mean, setting.deviation) == (0.9, None)


def test_seeds_may_start_from_weights_of_their_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        weights = [f"init_weights=clamp/{seed}"]
        write_run(tmp_path / str(seed), top1=0.9, seed=seed, overrides=weights)
    assert [len(setting.runs) for setting in join_seeds(find_runs(tmp_path))] == [2]


def test_initial_weights_that_are_compared_are_not_joined(tmp_path: Path) -> None:
    for start in ("clamp", "float"):
        weights = [f"init_weights={start}"]
        write_run(tmp_path / start, top1=0.9, seed=1, overrides=weights)
    assert [len(setting.runs) for setting in join_seeds(find_runs(tmp_path))] == [1, 1]


def test_a_failed_seed_does_not_count_as_a_result(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / str(seed), top1=0.9, seed=seed)
    (tmp_path / "2/result.json").rename(tmp_path / "2/error.txt")
    states = {setting.facts.state: setting.mean for setting in join_seeds(find_runs(tmp_path))}
    assert states == {"finished": 0.9, "failed": None}


def test_only_what_differs_is_part_of_a_label(tmp_path: Path) -> None:
    for lr in ("0.1", "0.2"):
        overrides = ["data=mnist", f"solver.optimizer.lr={lr}"]
        write_run(tmp_path / lr, top1=0.9, overrides=overrides)
    labels = [setting.label for setting in join_seeds(find_runs(tmp_path))]
    assert labels == ["lenet_sat solver.optimizer.lr=0.1", "lenet_sat solver.optimizer.lr=0.2"]


def test_the_front_is_what_no_other_point_beats() -> None:
    points = [(4.0, 0.9), (2.0, 0.8), (3.0, 0.7), (2.0, 0.85), (5.0, 0.9), (1.0, 0.1)]
    assert pareto_front(points) == [5, 3, 0]
    assert pareto_front([]) == []
