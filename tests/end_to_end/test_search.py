"""Searches with Optuna: what they propose, and what a kill leaves of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from killable_runs import KILL_AT, KILL_AT_WRITE, Ended, start_forked
from omegaconf import DictConfig, OmegaConf

from qatlab.errors import ConfigError
from qatlab.sweep.search import JOURNAL, SearchSweeper, _inner, _locked, _word
from qatlab.system import files

optuna = pytest.importorskip("optuna", reason="extra `search` is missing")
from optuna.storages import JournalStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

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
        failed.output.count("bits=33 is wrong. Accepted: a whole number") == 2
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


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"size_bytes=minimise is wrong\. Did you mean 'minimize'"
    ):
        SearchSweeper(DictConfig({}), 1, 1, 1, {"size_bytes": "minimise"})
    with pytest.raises(ConfigError, match=r"objectives: best\.x is not in .*which has quantize; "):
        _inner({"best": {"quantize": 1}}, "best.x", tmp_path)
    with pytest.raises(ConfigError, match=r"objectives: name is 'lenet', not a number\.$"):
        _inner({"name": "lenet"}, "name", tmp_path)
    told = search(tmp_path / "n", "hydra/sweeper=random", "hydra.sweeper.n_trials=many")
    assert "Error: hydra.sweeper.n_trials=many is wrong. Accepted: a whole number" in told.output
    told = search(
        tmp_path / "s", "hydra/sweeper=random", "quant.weight.bits=2", "solver.optimizer.lr=1"
    )
    assert "Error: hydra/sweeper has nothing to search" in told.output
    assert told.code == 1


class Killed(BaseException):
    pass


class Jobs:
    """Stands for a launcher: what a job reaches depends on its settings only."""

    def __init__(self, folder: Path, fails: Callable[[float], bool]) -> None:
        self.folder, self.fails = folder, fails

    def launch(self, words: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        return [self.run(own) for own in words]

    def run(self, words: Sequence[str]) -> JobReturn:
        place = self.folder / ",".join(words)
        bits, rate = (float(word.partition("=")[2]) for word in words)
        if not self.fails(rate):
            reached = {"acc": (1 - (rate - 0.03) ** 2) * (1 - 1 / bits), "size": bits}
            files.write_json(place / "result.json", reached)
        config = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(place)}}})
        return JobReturn(hydra_cfg=config)


def trials(
    folder: Path,
    sampler: str,
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int | None = None,
    fails: Callable[[float], bool] = lambda rate: False,
    n_trials: int = 5,
) -> list[Any]:
    """Run a search up to a line of its journal; return the numbers, settings and values."""
    node = DictConfig({"_target_": f"optuna.samplers.{sampler}"})
    if sampler == "TPESampler":
        node.update({"n_startup_trials": 2, "multivariate": True})
    sweeper = SearchSweeper(node, n_trials, 1, batch_size, {"acc": "maximize", "size": "minimize"})
    sweeper.launcher, sweeper.hydra_context = Jobs(folder, fails), MagicMock(config_loader=None)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    monkeypatch.setattr(sweeper, "validate_batch_is_legal", lambda words: None)
    write, lines = JournalFileBackend.append_logs, itertools.count(1)

    def counted(self: Any, logs: Any) -> None:
        write(self, logs)
        if next(lines) == kill_at:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", counted)
        sweeper.sweep(["bits=range(2,9)", "lr=interval(0.01,0.1)"])
    return found_in(folder)


def found_in(folder: Path) -> list[Any]:
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    (name,) = optuna.get_all_study_names(storage)
    found = optuna.load_study(study_name=name, storage=storage).trials
    return [(trial.number, trial.state, trial.params, trial.values) for trial in found]


@pytest.mark.parametrize(
    ("sampler", "batch_size"),
    [
        ("TPESampler", 3),
        pytest.param("TPESampler", 1, marks=pytest.mark.slow),
        pytest.param("RandomSampler", 3, marks=pytest.mark.slow),
        pytest.param("NSGAIISampler", 3, marks=pytest.mark.slow),
    ],
)
def test_a_search_killed_behind_any_line_of_its_journal_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, batch_size: int
) -> None:
    whole = trials(tmp_path / "whole", sampler, batch_size, monkeypatch)
    assert len({str(settings) for _, _, settings, _ in whole}) == len(whole) == 5
    for kill_at in itertools.count(1):
        folder = tmp_path / str(kill_at)
        try:
            killed = trials(folder, sampler, batch_size, monkeypatch, kill_at)
        except Killed:
            assert trials(folder, sampler, batch_size, monkeypatch) == whole
        else:
            assert killed == whole
            break  # it has ended before
    assert kill_at > 5 * 5
    again = tmp_path / "again"
    for kill_at in [3, 5, 8, 13] * 20:  # and again, and again
        with suppress(Killed):
            assert trials(again, sampler, batch_size, monkeypatch, kill_at) == whole
            break
    assert found_in(again) == whole


def test_a_search_with_jobs_that_fail_goes_on_after_a_kill_as_if_there_was_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, kill_at: int | None = None) -> list[Any]:
        return trials(
            tmp_path / name, "TPESampler", 2, monkeypatch, kill_at, lambda rate: 0.03 < rate < 0.05
        )

    whole = run("whole")
    states = [state for _, state, _, _ in whole]
    assert states.count(TrialState.COMPLETE) == 5
    assert TrialState.FAIL in states
    for kill_at in range(1, 50, 5):
        with suppress(Killed):
            run(str(kill_at), kill_at)
        assert run(str(kill_at)) == whole


def test_settings_that_are_proposed_twice_at_once_are_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Sequence[str]] = []
    monkeypatch.setattr(
        Jobs, "run", lambda self, words: launched.append(words) or JobReturn(hydra_cfg=done)
    )
    files.write_json(tmp_path / "result.json", {"acc": 1.0, "size": 2.0})
    done = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path)}}})
    monkeypatch.setattr("qatlab.sweep.search._word", lambda override, trial: "bits=2")
    found = trials(tmp_path, "RandomSampler", 4, monkeypatch, n_trials=4)
    assert [values for *_, values in found] == [[1.0, 2.0]] * 4
    assert len(launched) == 1


def test_two_searches_of_one_folder_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _locked(tmp_path, "bits=range(2,9) lr=interval(0.01,0.1)"):
        with pytest.raises(ConfigError, match="is being searched by another process; wait for it"):
            trials(tmp_path, "RandomSampler", 1, monkeypatch)
        with _locked(tmp_path, "bits=range(2,5)"):
            pass


def test_the_half_of_a_line_in_a_journal_is_removed_and_other_damage_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials(tmp_path, "RandomSampler", 1, monkeypatch)
    journal = tmp_path / JOURNAL
    sound = journal.read_bytes()
    for half in (b"{", b'{"op_code":4,"wor'):
        journal.write_bytes(sound + half)
        assert trials(tmp_path, "RandomSampler", 1, monkeypatch) == whole
        assert journal.read_bytes().startswith(sound)
        assert half + b"{" not in journal.read_bytes()
    for content in (
        b"mine",
        b"mine\n",
        sound.replace(b"op_code", b"op_cod", 3),
        b"[1]\n",
        b"\xff\n",
    ):
        journal.write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot read .*optuna\.journal: .*delete it"):
            trials(tmp_path, "RandomSampler", 1, monkeypatch)
        assert journal.read_bytes() == content


def test_other_objectives_for_the_same_search_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials(tmp_path, "RandomSampler", 1, monkeypatch)
    sweeper = SearchSweeper(
        DictConfig({"_target_": "optuna.samplers.RandomSampler"}), 9, 1, 1, {"acc": "maximize"}
    )
    sweeper.launcher, sweeper.hydra_context = MagicMock(), MagicMock(config_loader=None)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(ConfigError, match=r"objectives: the search in .* has others; give this"):
        sweeper.sweep(["bits=range(2,9)", "lr=interval(0.01,0.1)"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [
        ({KILL_AT: "SIGKILL 2 1"}, {KILL_AT_WRITE: "4"}, {KILL_AT_WRITE: "9"}),
        [{KILL_AT_WRITE: str(number)} for number in (1, 3, 4, 7, 2, 5, 11)],
    ],
)
def test_a_real_search_with_sigkills_equals_one_without(
    tmp_path: Path, kills: Sequence[dict[str, str]]
) -> None:
    words = ("hydra/sweeper=optuna", "+hydra.sweeper.sampler.n_startup_trials=1")
    assert search(tmp_path / "whole", *words).code == 0
    for environment in kills:
        killed = search(tmp_path / "killed", *words, **environment)
        assert killed.code == -9, killed.output
        assert "failed" not in killed.output, killed.output
    ended = search(tmp_path / "killed", *words)
    assert ended.code == 0, ended.output
    assert found_in(tmp_path / "killed") == found_in(tmp_path / "whole")
    weights = [
        {path.parent.name: path.read_bytes() for path in tmp_path.glob(f"{name}/*/*.safetensors")}
        for name in ("killed", "whole")
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 3
