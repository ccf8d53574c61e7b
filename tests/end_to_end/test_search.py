"""Searches with Optuna: what they propose, and what a kill leaves of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from killable_runs import KILL_AT, Ended, start_forked
from omegaconf import DictConfig

from qatlab.errors import ConfigError
from qatlab.search import SearchSweeper, _inner, _word

pytest.importorskip("optuna", reason="extra `search` is missing")

SEARCH = (
    *("-m", "hydra.sweeper.n_trials=3", "quant.weight.bits=range(2,5)", "data=synthetic"),
    *("solver.optimizer.lr=tag(log,interval(0.01,0.1))", "data.source.training_images=120"),
    *("data.source.test_images=50", "data.validation=30", "data.batch_size=30"),
    *("schedule.clamp_epochs=1", "schedule.quantize_epochs=1", "trainer.accelerator=cpu"),
    *("callbacks.checkpoint.every_n_steps=1", "~callbacks.quant_monitor"),
    *("sweep.cache=null", "+callbacks.kill._target_=killable_runs.KillAt"),
)


def search(folder: Path, *words: str, **environment: str) -> Ended:
    place = f'hydra.sweep.dir="{folder}"'
    return start_forked(
        folder.with_suffix(".log"), "train.py", *SEARCH, place, *words, **environment
    )


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def front(output: str) -> list[tuple[float, int]]:
    """Return accuracy and size of the rows of the printed Pareto front."""
    rows = output.partition("Pareto front")[2].partition("Sweep")[0].splitlines()
    cells = [row.strip("│ ").split("│") for row in rows if row.startswith("│")]
    return [(float(row[1]), int(row[2])) for row in cells]


@pytest.mark.parametrize("sweeper", ["optuna", pytest.param("random", marks=pytest.mark.slow)])
def test_a_search_that_was_killed_goes_on_until_it_has_its_trials(
    tmp_path: Path, sweeper: str
) -> None:
    folder = tmp_path / "s"
    words = (f"hydra/sweeper={sweeper}",)
    assert search(folder, *words, **{KILL_AT: "SIGKILL 2 1"}).code == -9
    ended = search(folder, *words)
    assert ended.code == 0, ended.output
    assert "\n2 done, 1 resumed\n" in ended.output
    found = results(folder)
    assert len(found) == 3
    reached = [(r["best"]["quantize"]["val/acc"], r["size_bytes"]) for r in found]
    best = {
        (a, b)
        for a, b in reached
        if not any((c >= a and d < b) or (c > a and d <= b) for c, d in reached)
    }
    assert {(round(a, 5), b) for a, b in best} == {(round(a, 5), b) for a, b in front(ended.output)}
    more = search(folder, *words, "hydra.sweeper.n_trials=4")
    assert "\n1 done\n" in more.output
    assert len(results(folder)) == 4
    assert len({path.name for path in folder.glob("*/result.json")}) == 1


def test_jobs_that_fail_end_a_search_and_are_proposed_again(tmp_path: Path) -> None:
    words = ("hydra/sweeper=random", "hydra.sweeper.n_trials=1")
    failed = search(tmp_path / "s", *words, "quant.weight.bits=choice(33)")
    assert failed.code == 1
    assert (
        failed.output.count("bits=33 is not a whole number") == 2
    )  # when it happens, in the table
    assert "\n1 failed\n" in failed.output
    again = search(tmp_path / "s", *words, "quant.weight.bits=choice(33)")
    assert "\n1 failed\n" in again.output


class Proposes:
    """Stands for a trial: proposes the upper end of each space, and notes it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def suggest_float(self, key: str, low: float, high: float, log: bool) -> float:
        self.asked.append((key, low, high, log))
        return high

    def suggest_int(self, key: str, low: int, high: int, step: int) -> int:
        self.asked.append((key, low, high, step))
        return high

    def suggest_categorical(self, key: str, choices: list[str]) -> str:
        self.asked.append((key, choices))
        return choices[-1]


@pytest.mark.parametrize(
    ("given", "asked", "word"),
    [
        ("a.lr=interval(0.1,0.5)", ("a.lr", 0.1, 0.5, False), "a.lr=0.5"),
        ("a.lr=tag(log,interval(0.1,0.5))", ("a.lr", 0.1, 0.5, True), "a.lr=0.5"),
        ("bits=range(2,9,2)", ("bits", 2, 8, 2), "bits=8"),
        ("bits=range(0,1,0.5)", ("bits", ["0.0", "0.5"]), "bits=0.5"),
        ("bits=2,4", ("bits", ["2", "4"]), "bits=4"),
        ("+x=choice([1,2],'a b')", ("+x", ["[1,2]", "a\\ b"]), "+x=a\\ b"),
        ("~quant.rules.first", None, "~quant.rules.first"),
        ("name=plain", None, "name=plain"),
    ],
)
def test_spaces_are_those_of_hydras_grammar(given: str, asked: Any, word: str) -> None:
    trial = Proposes()
    (override,) = OverridesParser.create().parse_overrides([given])
    assert _word(override, trial) == word
    assert trial.asked == ([] if asked is None else [asked])


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"size_bytes=minimise is wrong\. Did you mean 'minimize'"
    ):
        SearchSweeper(DictConfig({}), 1, 1, 1, {"size_bytes": "minimise"})
    with pytest.raises(ConfigError, match=r"objectives: best\.x is not in .*which has quantize; "):
        _inner({"best": {"quantize": 1}}, "best.x", tmp_path)
    with pytest.raises(ConfigError, match=r"objectives: name is no number, but 'lenet'\.$"):
        _inner({"name": "lenet"}, "name", tmp_path)
    told = search(tmp_path / "n", "hydra/sweeper=random", "hydra.sweeper.n_trials=many")
    assert "Error: hydra.sweeper.n_trials=many is wrong. Accepted: a whole number" in told.output
    told = search(
        tmp_path / "s", "hydra/sweeper=random", "quant.weight.bits=2", "solver.optimizer.lr=1"
    )
    assert "Error: hydra/sweeper has nothing to search" in told.output
    assert told.code == 1
