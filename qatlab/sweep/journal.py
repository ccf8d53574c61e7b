"""The journal of a search: opened, and checked before anything follows from what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from qatlab.errors import ConfigError
from qatlab.system import files

LINE = b'{"op_code":'  # begins each line of it
OVERRIDES = "overrides"  # of a trial: the settings of its job
END = "end"  # of a trial: the number behind the last of those that were proposed with it
FIXED = "fixed_params"  # of a trial: what Optuna has been told to propose
MOST_TRIALS = 20_000
MOST_AT_ONCE = 1000  # trials that are proposed together, unless more are asked for now
# What an operation of Optuna has beside its code; of a search there are no others.
CREATE_STUDY, CREATE_TRIAL, SET_PARAM, SET_STATE, SET_USER_ATTR = 0, 4, 5, 6, 8
OPERATIONS = {
    CREATE_STUDY: ("study_name", "directions"),
    2: ("study_id", "user_attr"),
    3: ("study_id", "system_attr"),
    CREATE_TRIAL: ("study_id", "datetime_start"),
    SET_PARAM: ("trial_id", "param_name", "param_value_internal", "distribution"),
    SET_STATE: ("trial_id", "state", "values"),
    SET_USER_ATTR: ("trial_id", "user_attr"),
    9: ("trial_id", "system_attr"),
}
PARTS = (  # mappings, where they are there
    *("user_attr", "system_attr", "user_attrs", "system_attrs"),
    *("params", "distributions", "intermediate_values"),
)
ENDED = (1, 2, 3)  # states of a trial: complete, pruned, failed

Suggest = Callable[[Any], list[str]]  # the settings that a trial proposes


def damaged(journal: Path, reason: object) -> ConfigError:
    """Return the error of a journal that cannot be used."""
    return ConfigError(
        f"cannot read {journal}: {reason}; delete it to start a new search, or give this one "
        "another hydra.sweep.dir."
    )


def open_journal(journal: Path) -> Any:
    """Open a journal of Optuna; what a full disk has left of its last line is removed.

    Raises:
        ConfigError: if it is damaged, or no file.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    class Backend(JournalFileBackend):
        """Knows which line Optuna is at."""

        line = 0

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # iterated only
            for self.line, log in enumerate(super().read_logs(log_number_from), 1):
                yield log

    # Not Optuna's own: that is left behind by a process that is killed, and waited for.
    lock: Any = FileLock(journal.with_name(".optuna.lock"))
    backend, known = None, _Known()
    try:
        if journal.exists():
            files.check_regular(journal, files.LARGEST)
            with lock, journal.open("r+b") as file:
                *lines, rest = file.read().split(b"\n")
                for number, line in enumerate(lines, 1):
                    known.add(number, json.loads(line))
                if not LINE.startswith(rest[: len(LINE)]):
                    raise ValueError(f"line {len(lines) + 1} is not from Optuna")
                file.truncate(sum(len(line) + 1 for line in lines))
        backend = Backend(str(journal), lock)
        return JournalStorage(backend)
    except ConfigError:
        raise
    except Exception as error:  # Optuna applies what it reads, whatever it is
        at = backend.line if backend else 0
        where = f"{known.places.get(at, f'line {at}')}: " if at else ""
        raise damaged(journal, where + (str(error)[:200] or type(error).__name__)) from error


class _Known:
    """What the lines of a journal have made so far. Optuna skips lines that do not fit there."""

    def __init__(self) -> None:
        self.studies: list[str] = []
        self.trials: list[tuple[int, int]] = []  # study and number of each
        self.counts: dict[int, int] = {}  # trials of each study
        self.ended: set[int] = set()
        self.set: dict[tuple[object, ...], object] = {}  # that are set once
        self.places: dict[int, str] = {}  # of lines, for messages

    def add(self, number: int, log: Any) -> None:
        """Take a line.

        Raises:
            ValueError: if it is not from Optuna, or does not fit to those before.
        """
        code = log.get("op_code") if isinstance(log, dict) else None
        keys = OPERATIONS.get(code) if type(code) is int else None
        parts = [log[key] for key in PARTS if key in log] if keys else []
        if not (
            keys
            and all(key in log for key in (*keys, "worker_id"))
            and all(isinstance(part, dict) for part in parts)
            and isinstance(log.get("study_name", ""), str)
        ):
            raise ValueError(f"line {number} is not from Optuna")
        if "study_id" in keys and not _is_place(log["study_id"], self.studies):
            raise ValueError(f"line {number} is of a search that is not there")
        if "trial_id" in keys:
            self._change(number, log)
        elif code == CREATE_STUDY and log["study_name"] not in self.studies:
            self.studies.append(log["study_name"])
        elif code == CREATE_TRIAL:
            self._create(number, log)

    def _create(self, line: int, log: dict[str, Any]) -> None:
        study = log["study_id"]
        count = self.counts[study] = self.counts.get(study, 0) + 1
        if len(self.trials) == MOST_TRIALS:
            raise ValueError(f"it has more than {MOST_TRIALS:,} trials")
        if log.get("state") in ENDED:
            self.ended.add(len(self.trials))
        self.trials.append((study, count - 1))
        self.places[line] = f"line {line} (trial {count - 1})"

    def _change(self, line: int, log: dict[str, Any]) -> None:
        code = log["op_code"]
        place = log["trial_id"]
        if not _is_place(place, self.trials):
            raise ValueError(f"line {line} is of trial {place!r:.40}, which is not there")
        study, number = self.trials[place]
        self.places[line] = f"line {line} (trial {number})"
        if place in self.ended:
            raise ValueError(f"line {line} changes trial {number}, which had ended")
        if code == SET_STATE and log["state"] in ENDED:
            self.ended.add(place)
        elif code == SET_PARAM:
            name = str(log["param_name"])
            self._once(line, number, name, ("value", place, name), line)
            space = log["distribution"]
            self._once(line, number, f"the space of {name}", ("space", study, name), space)
        elif code == SET_USER_ATTR:
            for name, value in log["user_attr"].items():
                self._once(line, number, name, ("attribute", place, name), value)

    def _once(self, line: int, number: int, name: str, key: Any, value: object) -> None:
        if self.set.setdefault(key, value) != value:
            raise ValueError(f"line {line} changes {name:.40} of trial {number}")


def _is_place(value: object, of: Sequence[object]) -> bool:
    return type(value) is int and 0 <= value < len(of)


def check_trials(
    journal: Path, trials: Sequence[Any], suggest: Suggest, objectives: int, at_once: int
) -> None:
    """Check what a journal says of the trials of a search.

    Args:
        journal: for messages.
        trials: all of them, in the order of their numbers.
        suggest: asks a trial for all settings and returns them.
        objectives: how many values a trial reaches.
        at_once: how many trials are proposed together.

    Raises:
        ConfigError: if a trial has a state, settings, values or attributes that no search gives it.
    """
    trial = None
    try:
        for trial in trials:
            _check_trial(trial, suggest, objectives, max(at_once, MOST_AT_ONCE))
        begun = [trial for trial in trials if trial.state.name != "WAITING"]
        for trial in trials:
            _check_place(trial, begun)
    except (ValueError, TypeError, OverflowError) as error:
        assert trial is not None
        raise damaged(journal, f"trial {trial.number}: {str(error)[:200]}") from error


def _check_trial(trial: Any, suggest: Suggest, objectives: int, at_once: int) -> None:
    """Raise a ValueError unless a trial is one that a search has made."""
    state, values, attributes = trial.state.name, trial.values, trial.user_attrs
    if state not in ("WAITING", "RUNNING", "COMPLETE", "FAIL"):
        raise ValueError(f"its state is {state.lower()}")
    if state == "COMPLETE":
        many = values if isinstance(values, (list, tuple)) else ()
        if len(many) != objectives or not all(map(_is_number, many)):
            numbers = f"{objectives} finite number{'s' * (objectives > 1)}"
            raise ValueError(f"its values are {values!r:.60}, not {numbers}")
    elif values is not None:
        raise ValueError(f"it has values, and its state is {state.lower()}")
    needed = {"WAITING": (), "RUNNING": ()}.get(state, (END, OVERRIDES))
    for key in (*needed, *([END] if OVERRIDES in attributes else [])):
        if key not in attributes:
            raise ValueError(f"it has no {key}")
    if END in attributes:
        end = attributes[END]
        if type(end) is not int or not 0 < end - trial.number <= at_once:
            raise ValueError(
                f"its {END} is {end!r:.40}, not one of {trial.number + 1} to "
                f"{trial.number + at_once}"
            )
    if state == "WAITING" or FIXED in trial.system_attrs:
        fixed = trial.system_attrs.get(FIXED)
        if not isinstance(fixed, dict):
            raise ValueError(f"its {FIXED} are {fixed!r:.60}, not settings")
        _Recorded(fixed).check(suggest)
    recorded = _Recorded(trial.params, trial.distributions, OVERRIDES in attributes)
    words = recorded.check(suggest)
    if OVERRIDES in attributes and not _same(attributes[OVERRIDES], words):
        raise ValueError(f"its {OVERRIDES} are {attributes[OVERRIDES]!r:.60}, not {words!r:.100}")


def _check_place(trial: Any, begun: Sequence[Any]) -> None:
    """Raise a ValueError unless a trial was proposed together with those around it."""
    end = trial.user_attrs.get(END)
    last = next((t.user_attrs[END] for t in begun[::-1] if END in t.user_attrs), None)
    if trial.state.name == "WAITING":
        if trial.number < len(begun):
            raise ValueError("it waits, and later ones have begun")
    elif end is None:
        if trial is not begun[-1]:
            raise ValueError(f"it has no {END}")
    elif trial.number and begun[trial.number - 1].user_attrs[END] not in (end, trial.number):
        before = begun[trial.number - 1].user_attrs[END]
        raise ValueError(f"its {END} is {end}, and that of the one before is {before}")
    elif trial.state.name == "RUNNING" and end != last:
        raise ValueError("it has not ended, and later ones have begun")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # neither is NaN


def _same(stored: object, words: list[str]) -> bool:
    """Return whether settings are the same: a command may have them in another order."""
    if not isinstance(stored, list) or not all(isinstance(word, str) for word in stored):
        return False
    return sorted(stored) == sorted(words)


class _Recorded:
    """Stands for a trial: proposes what is recorded of it, where that lies in the space.

    Args:
        params: the recorded values.
        spaces: those that they were taken from, where that is recorded, too.
        whole: whether all settings have a value.
    """

    def __init__(
        self,
        params: dict[str, Any],
        spaces: dict[str, Any] | None = None,
        whole: bool = True,
    ) -> None:
        self.params, self.spaces, self.whole = params, spaces, whole
        self.asked: set[str] = set()

    def check(self, suggest: Suggest) -> list[str]:
        """Return all settings.

        Raises:
            ValueError: if one of them is not in its space, or others are recorded.
        """
        words = suggest(self)
        if more := sorted(map(str, set(self.params) - self.asked)):
            raise ValueError(f"it has {more[0]:.40}, which is not searched")
        return words

    def suggest_float(self, key: str, low: float, high: float, log: bool) -> float:
        """Return the value of a float."""
        from optuna.distributions import FloatDistribution

        value = self._value(key, FloatDistribution(low, high, log=log))
        return low if value is None else float(value)

    def suggest_int(self, key: str, low: int, high: int, step: int) -> int:
        """Return the value of a whole number."""
        from optuna.distributions import IntDistribution

        value = self._value(key, IntDistribution(low, high, step=step))
        return low if value is None else int(value)

    def suggest_categorical(self, key: str, choices: list[str]) -> str:
        """Return the choice."""
        from optuna.distributions import CategoricalDistribution

        value = self._value(key, CategoricalDistribution(choices))
        return choices[0] if value is None else str(value)

    def _value(self, key: str, space: Any) -> Any:
        self.asked.add(key)
        if key not in self.params:
            if self.whole:
                raise ValueError(f"it has no {key}")
            return None
        value = self.params[key]
        kinds = (str,) if space.__class__.__name__.startswith("Cat") else (int, float)
        if type(value) not in kinds or not space._contains(space.to_internal_repr(value)):
            raise ValueError(f"{key} is {value!r:.40}, which is not in its space")
        if self.spaces is not None and self.spaces[key] != space:
            raise ValueError(f"the space of {key} is another one")
        return value
