"""The journal of a search with other values than a search writes: one sentence, and soon."""

from __future__ import annotations

import copy
import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_search import Killed, found_in, search, trials

from qatlab.errors import ConfigError
from qatlab.sweep.search import JOURNAL, _inner

Lines = list[dict[str, Any]]
CREATE, PARAM, STATE, USER = 4, 5, 6, 8


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """Fail what takes too long."""

    def late(*_: Any) -> None:
        raise TimeoutError("this takes more than 60 s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def of(lines: Lines, code: int, trial: int, key: str = "") -> dict[str, Any]:
    """Return the line that gives a trial its state, or a setting or an attribute of this name."""
    for line in lines:
        names = {line.get("param_name"), *line.get("user_attr", ())}
        if line["op_code"] == code and line["trial_id"] == trial and (not key or key in names):
            return line
    raise AssertionError((code, trial, key))


def put(code: int, trial: int, name: str, **changed: Any) -> Callable[[Lines], None]:
    return lambda lines: of(lines, code, trial, name).update(changed)


def without(code: int, trial: int, name: str = "") -> Callable[[Lines], None]:
    return lambda lines: lines.remove(of(lines, code, trial, name))


def again(code: int, trial: int, name: str = "") -> Callable[[Lines], None]:
    return lambda lines: lines.append(copy.deepcopy(of(lines, code, trial, name)))


def end(value: Any, trial: int = 0) -> Callable[[Lines], None]:
    return put(USER, trial, "end", user_attr={"end": value})


FINISHED: list[tuple[str, Callable[[Lines], None], str]] = [
    (
        "text",
        put(STATE, 1, "", values=["a", None]),
        r"trial 1: its values are \['a', None\], not 2",
    ),
    ("one", put(STATE, 1, "", values=[1.0]), r"trial 1: its values are \[1.0\], not 2 finite num"),
    ("none", put(STATE, 1, "", values=None), r"trial 1: its values are None, not 2 finite num"),
    ("number", put(STATE, 1, "", values=5), r"line \d+ \(trial 1\): |trial 1: its values are 5"),
    ("nan", put(STATE, 2, "", values=[math.nan, 1.0]), r"trial 2: its values are \[nan, 1.0\], n"),
    ("inf", put(STATE, 2, "", values=[math.inf, 1.0]), r"trial 2: its values are \[inf, 1.0\], n"),
    ("true", put(STATE, 2, "", values=[True, 1.0]), r"trial 2: its values are \[True, 1.0\], not"),
    ("huge", put(STATE, 2, "", values=[10**400, 1]), r"trial 2: its values are \[10+"),
    ("failed", put(STATE, 2, "", state=3), r"trial 2: it has values, and its state is fail"),
    ("pruned", put(STATE, 2, "", state=2), r"trial 2: its state is pruned"),
    ("running", without(STATE, 0), r"trial 0: it has not ended, and later ones have begun"),
    ("state", put(STATE, 2, "", state="x"), r"line \d+ \(trial 2\): 'x' is not a valid TrialState"),
    ("end: x", end("x"), r"trial 0: its end is 'x', not one of 1 to 1000"),
    ("end: 1e9", end(10**9), r"trial 0: its end is 1000000000, not one of 1 to 1000"),
    ("end: 1e9 last", end(10**9, 4), r"trial 4: its end is 1000000000, not one of 5 to 1004"),
    ("end: 0", end(0), r"trial 0: its end is 0, not"),
    ("end: 3.0", end(3.0), r"trial 0: its end is 3.0, not"),
    ("end: other", end(7, 1), r"trial 1: its end is 7, and that of the one before is 3"),
    ("end", without(USER, 1, "end"), r"trial 1: it has no end"),
    ("overrides", without(USER, 3, "overrides"), r"trial 3: it has no overrides"),
    ("abc", put(USER, 3, "overrides", user_attr={"overrides": "abc"}), "trial 3: its overrides a"),
    ("5", put(USER, 3, "overrides", user_attr={"overrides": 5}), "trial 3: its overrides are 5,"),
    (
        "list",
        put(USER, 3, "overrides", user_attr={"overrides": [5]}),
        r"3: its overrides are \[5\]",
    ),
    ("attribute", put(USER, 3, "overrides", user_attr=5), r"line \d+ is not from Optuna"),
    ("unknown", put(STATE, 1, "", trial_id=99), r"line \d+ is of trial 99, which is not there"),
    ("other", put(STATE, 3, "", trial_id=0), r"line \d+ changes trial 0, which had ended"),
    ("twice", again(STATE, 3), r"line \d+ changes trial 3, which had ended"),
    (
        "moved",
        put(PARAM, 1, "lr", trial_id=0),
        r"line \d+ changes lr of trial 0|trial 1: it has no",
    ),
    ("param", without(PARAM, 1, "lr"), r"trial 1: it has no lr"),
    ("outside", put(PARAM, 1, "lr", param_value_internal=7.0), r"trial 1: lr is 7.0, which is not"),
    ("word", put(PARAM, 1, "lr", param_value_internal="x"), r"trial 1: lr is 'x', which is not in"),
    ("within", put(PARAM, 1, "lr", param_value_internal=0.05), r"trial 1: its overrides are \["),
    ("name", put(PARAM, 1, "lr", param_name="rate"), r"trial 1: it has no lr"),
    ("space", put(PARAM, 0, "lr", distribution="{}"), r"line \d+ \(trial 0\): |the space of lr"),
    ("date", put(STATE, 1, "", datetime_complete="x"), r"line \d+ \(trial 1\): Invalid isoformat"),
    ("op", put(STATE, 1, "", op_code=77), r"line \d+ is not from Optuna"),
    (
        "study",
        lambda lines: lines[1].update(study_id=5),
        r"line 2 is of a search that is not there",
    ),
]


def damage(journal: Path, change: Callable[[Lines], None]) -> None:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    change(lines)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def check(folder: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / JOURNAL).read_bytes()
    with pytest.raises(ConfigError, match=words) as caught:
        trials(folder, "RandomSampler", 3, monkeypatch)
    assert str(caught.value).startswith(f"cannot read {folder / JOURNAL}: ")
    assert str(caught.value).endswith(
        "; delete it to start a new search, or give this one another hydra.sweep.dir."
    )
    assert len(str(caught.value)) < len(str(folder)) + 400
    assert (folder / JOURNAL).read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("change", "words"), [case[1:] for case in FINISHED], ids=[case[0] for case in FINISHED]
)
def test_a_journal_that_no_search_has_written_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Lines], None], words: str
) -> None:
    trials(tmp_path, "RandomSampler", 3, monkeypatch)
    damage(tmp_path / JOURNAL, change)
    check(tmp_path, words, monkeypatch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (end(10**9), r"trial 0: its end is 1000000000, not one of 1 to 1000"),
        (end("x"), r"trial 0: its end is 'x', not"),
        (put(PARAM, 0, "bits", param_value_internal=99), r"trial 0: bits is 99, which is not in"),
        (put(PARAM, 0, "lr", param_name="rate"), r"trial 0: it has no lr"),
        (
            put(USER, 0, "overrides", user_attr={"overrides": []}),
            r"trial 0: its overrides are \[\]",
        ),
    ],
)
def test_what_a_killed_search_has_begun_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Lines], None], words: str
) -> None:
    with pytest.raises(Killed):
        trials(tmp_path, "RandomSampler", 3, monkeypatch, kill_at=12)
    damage(tmp_path / JOURNAL, change)
    check(tmp_path, words, monkeypatch)


@pytest.mark.parametrize("fixed", [None, 5, {"bits": 3}, {"bits": 99, "lr": 0.05}])
def test_what_waits_to_be_proposed_once_more_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: Any
) -> None:
    def fails(rate: float) -> bool:
        return True

    trials(tmp_path, "RandomSampler", 2, monkeypatch, fails=fails)
    lines = len((tmp_path / JOURNAL).read_text().splitlines())
    with pytest.raises(Killed):  # behind what is to be proposed again
        trials(tmp_path, "RandomSampler", 2, monkeypatch, kill_at=3, fails=fails)
    (waits,) = {number for number, state, *_ in found_in(tmp_path) if state.name == "WAITING"} - {3}

    def change(content: Lines) -> None:
        attributes = next(x for x in content[lines:] if x["op_code"] == CREATE)["system_attrs"]
        if fixed is None:
            del attributes["fixed_params"]
        else:
            attributes["fixed_params"] = fixed

    damage(tmp_path / JOURNAL, change)
    check(tmp_path, rf"trial {waits}: (its fixed_params are|it has no lr|bits is 99)", monkeypatch)


def test_a_real_search_tells_what_is_wrong_in_its_journal(tmp_path: Path) -> None:
    words = ("hydra/sweeper=random", "hydra.sweeper.n_trials=1", "quant.weight.bits=choice(33)")
    search(tmp_path / "s", *words)
    damage(tmp_path / "s" / JOURNAL, end(10**9))
    told = search(tmp_path / "s", *words)
    assert told.code == 1
    _, line = told.output.strip().splitlines()  # behind the one that says where the jobs are
    assert line.startswith(f"Error: cannot read {tmp_path / 's' / JOURNAL}: trial 0: its end is ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_cannot_be_compared_is_reported(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match=r"objectives: acc is (nan|-?inf) in .*result\.json"):
        _inner({"acc": value}, "acc", tmp_path)


def test_a_sampler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("generation")

    monkeypatch.setattr("optuna.samplers.RandomSampler.sample_independent", fail)
    with pytest.raises(ConfigError) as caught:
        trials(tmp_path, "RandomSampler", 3, monkeypatch)
    assert str(caught.value) == (
        "hydra.sweeper.sampler: optuna.samplers.RandomSampler cannot propose trial 0 of "
        f"{tmp_path / JOURNAL}: 'generation'"
    )
