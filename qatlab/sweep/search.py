"""Searches of a space of settings with Optuna: ``python train.py -m hydra/sweeper=optuna ...``.

A Hydra sweeper: settings are written as for a grid, and each trial is a job of the sweep in a
folder named by its settings. What Optuna knows lies in a journal beside them, so the same command
again goes on with a search that was killed: with the jobs that were killed, then with those that
would have come.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from qatlab.config.targets import make
from qatlab.errors import ConfigError, wrong
from qatlab.results import record
from qatlab.sweep.journal import END, OVERRIDES, check_trials, open_journal
from qatlab.system import files
from qatlab.system.terminal import wide_console

JOURNAL = "optuna.journal"  # in the sweep's folder
DIRECTIONS = ("maximize", "minimize")


class SearchSweeper(Sweeper):
    """Proposes settings, has them run, and tells the sampler what they have reached.

    Args:
        sampler: node of a class of ``optuna.samplers`` that takes a ``seed``.
        n_trials: how many jobs shall succeed in all, those of earlier commands included.
        seed: of the sampler.
        batch_size: jobs that are proposed together; -1: one for each core.
        objectives: keys of ``result.json``, dots for inner ones, with ``maximize`` or ``minimize``.
    """

    def __init__(
        self,
        sampler: DictConfig,
        n_trials: int,
        seed: int,
        batch_size: int,
        objectives: Mapping[str, str],
    ) -> None:
        self.sampler, self.n_trials, self.seed = sampler, n_trials, seed
        self.batch_size = (os.cpu_count() or 1) if batch_size == -1 else batch_size
        self.objectives = dict(objectives)
        _check_count("n_trials", n_trials)
        if type(seed) is not int or seed < 0:
            raise wrong("hydra.sweeper.seed", seed, "a whole number of at least 0")
        for key, direction in self.objectives.items():
            if direction not in DIRECTIONS:
                raise wrong(f"hydra.sweeper.objectives: {key}", direction, DIRECTIONS)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        _check_count("batch_size", self.batch_size)  # which is that of the launcher, if it is good

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until enough have succeeded, and print the best."""
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "hydra/sweeper needs another package: pip install 'qatlab[search]'."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides(arguments)
        overrides = {o.get_key_element(): o for o in parsed}.values()  # the last of a key counts
        if not any(override.is_sweep_override() for override in overrides):
            raise ConfigError(
                "hydra/sweeper has nothing to search: give settings a space, such as "
                "quant.weight.bits=2,3,4 or 'solver.optimizer.lr=tag(log,interval(0.01,0.2))'."
            )
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        name = " ".join(sorted(arguments))  # another space in the same folder is another study
        directions = [optuna.study.StudyDirection[d.upper()] for d in self.objectives.values()]
        with _locked(folder, name):
            study = optuna.create_study(
                study_name=name,
                storage=open_journal(folder / JOURNAL),
                directions=directions,
                load_if_exists=True,
            )
            if study.directions != directions:
                raise ConfigError(
                    f"hydra.sweeper.objectives: the search in {folder} has others; give this one "
                    "another hydra.sweep.dir."
                )
            check_trials(
                folder / JOURNAL,
                study.trials,
                lambda trial: [_word(override, trial) for override in overrides],
                objectives=len(directions),
                at_once=self.batch_size,
            )
            self._run_trials(study, list(overrides), optuna.trial.TrialState)
        self._print_best(study)

    def _run_trials(self, study: Any, overrides: list[Override], states: Any) -> None:
        """Run trials until enough have succeeded, or all that were proposed together have failed.

        What is proposed depends on the seed, the number of the trial and what those of earlier
        batches have reached only, so it is the same after a kill.
        """
        assert self.launcher is not None
        self._queue_failed(study, states)
        while (missing := self.n_trials - self._count(study, states)) > 0:
            batch = self._propose(study, overrides, min(missing, self.batch_size), states)
            # Made anew: the journal has them in the order of the command that proposed them.
            words = [tuple(_word(override, trial) for override in overrides) for trial in batch]
            distinct = list(dict.fromkeys(words))  # two jobs cannot share a folder
            self.validate_batch_is_legal(distinct)
            jobs = self.launcher.launch(distinct, initial_job_idx=batch[0].number)
            reached = dict(zip(distinct, map(self._values, jobs), strict=True))
            for trial, settings in zip(batch, words, strict=True):
                failed = states.FAIL if reached[settings] is None else None
                study.tell(trial, reached[settings], state=failed)
            if all(values is None for values in reached.values()):
                break  # the reason is printed above; the rest would hardly fare better

    def _propose(self, study: Any, overrides: list[Override], size: int, states: Any) -> list[Any]:
        """Return trials to run together: those of a command that was killed, and what they lack."""
        from optuna.trial import Trial

        assert self.config is not None
        begun = [trial for trial in study.trials if trial.state == states.RUNNING]
        end = next((trial.user_attrs[END] for trial in begun if END in trial.user_attrs), None)
        batch: list[Any] = []
        while end is None or not batch or batch[-1].number < end - 1:
            number = begun[0].number if begun else len(study.trials)
            study.sampler = self._sampler(number)
            trial = Trial(study, begun.pop(0)._trial_id) if begun else study.ask()
            end = trial.number + size if end is None else end
            if OVERRIDES not in trial.user_attrs:
                trial.set_user_attr(END, end)
                try:
                    self._suggest(trial, overrides)
                except Exception as error:  # samplers note things in the journal, whatever it is
                    raise ConfigError(
                        f"hydra.sweeper.sampler: {self.sampler.get('_target_')} cannot propose "
                        f"trial {trial.number} of {Path(self.config.hydra.sweep.dir) / JOURNAL}: "
                        f"{str(error)[:200] or type(error).__name__}"
                    ) from error
            batch.append(trial)
        return batch

    def _suggest(self, trial: Any, overrides: list[Override]) -> None:
        """Propose the settings of a trial; some of them may be there, if the command was killed."""
        settings = []
        _ = trial.relative_params  # proposed together
        for index, override in enumerate(overrides):
            _reseed(trial.study.sampler, self.seed, trial.number, index)
            settings.append(_word(override, trial))
        trial.set_user_attr(OVERRIDES, settings)

    def _sampler(self, number: int) -> Any:
        """Return a sampler that remembers nothing, in a random state of its own for each trial."""
        sampler = make("hydra.sweeper.sampler", self.sampler, seed=self.seed)
        if _reseed(sampler, self.seed, number):
            return sampler
        seed = derived(self.seed, number)  # it has another kind of random state
        return make("hydra.sweeper.sampler", self.sampler, seed=seed)

    def _queue_failed(self, study: Any, states: Any) -> None:
        """Propose once more what has failed, if that has ended the search."""
        trials = study.trials
        begun = [trial for trial in trials if trial.state != states.WAITING]
        last = [t for t in begun if t.user_attrs.get(END) == begun[-1].user_attrs.get(END)]
        if not all(trial.state == states.FAIL for trial in last):
            return
        done = [trial.params for trial in begun if trial.state == states.COMPLETE]
        done += [t.system_attrs["fixed_params"] for t in trials if t.state == states.WAITING]
        for trial in begun:
            if trial.state == states.FAIL and trial.params not in done:
                done.append(trial.params)
                study.enqueue_trial(trial.params)

    def _count(self, study: Any, states: Any) -> int:
        return sum(trial.state == states.COMPLETE for trial in study.trials)

    def _values(self, job: JobReturn) -> list[float] | None:
        """Return what a job has reached; None if it has failed."""
        assert job.hydra_cfg is not None
        folder = Path(job.hydra_cfg.hydra.runtime.output_dir)
        if not (folder / record.RESULT).exists():
            return None
        result = files.read_json(folder / record.RESULT)
        return [_inner(result, key, folder) for key in self.objectives]

    def _print_best(self, study: Any) -> None:
        """Print the trials that no other one excels in all objectives, each of them once."""
        best = {str(t.user_attrs[OVERRIDES]): t for t in study.best_trials}
        table = Table("settings", *self.objectives, title="Pareto front", title_justify="left")
        for trial in sorted(best.values(), key=lambda trial: trial.values):
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            table.add_row(settings, *(f"{value:.6g}" for value in trial.values))
        wide_console().print(table)


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise wrong(f"hydra.sweeper.{name}", value, "a whole number above 0")


@contextmanager
def _locked(folder: Path, study: str) -> Iterator[None]:
    """Keep other processes from running the same search.

    Raises:
        ConfigError: if one of them does, or the folder cannot be written to.
    """
    lock = FileLock(folder / f".search_{hashlib.sha256(study.encode()).hexdigest()[:12]}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"{folder} is being searched by another process; wait for it or stop it, then run the "
            "command again."
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write {lock.lock_file}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def derived(*numbers: int) -> int:
    """Return a seed of 32 bits that depends on several numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "big")


def _reseed(sampler: Any, *numbers: int) -> bool:
    """Set all random states of a sampler of Optuna; return whether it has any."""
    from optuna.samplers import BaseSampler
    from optuna.samplers._lazy_random_state import LazyRandomState

    found = False
    for part in vars(sampler).values():
        if isinstance(part, LazyRandomState):
            part.rng.seed(derived(*numbers))
            found = True
        elif isinstance(part, BaseSampler):
            found |= _reseed(part, *numbers)
    return found


def _word(override: Override, trial: Any) -> str:
    """Return a setting of a job: as it was given, or with a value that the sampler proposes."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return str(override.input_line)
    space = override.value()
    if isinstance(space, IntervalSweep):
        is_log = "log" in space.tags
        return f"{key}={trial.suggest_float(key, space.start, space.end, log=is_log)!r}"
    numbers = space.range() if isinstance(space, RangeSweep) else None
    if isinstance(numbers, range):
        return f"{key}={trial.suggest_int(key, min(numbers), max(numbers), step=abs(numbers.step))}"
    return f"{key}={trial.suggest_categorical(key, list(override.sweep_string_iterator()))}"


def _inner(result: Any, key: str, folder: Path) -> float:
    value: Any = result
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(value) if isinstance(value, dict) else "nothing"
            raise ConfigError(
                f"hydra.sweeper.objectives: {key} is not in {folder / record.RESULT}, which has "
                f"{there}; val/acc is there where data.validation is above 0."
            )
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"hydra.sweeper.objectives: {key} is {value!r:.60}, not a number.")
    if not math.isfinite(value):
        raise ConfigError(
            f"hydra.sweeper.objectives: {key} is {value} in {folder / record.RESULT}, which no "
            "search can compare."
        )
    return float(value)


def register() -> None:
    """Let Hydra find the sweeper; it takes plugins of one package only, which is not ours."""
    name = f"hydra_plugins.qatlab.{SearchSweeper.__name__}"
    Plugins.instance().class_name_to_class[name] = SearchSweeper
