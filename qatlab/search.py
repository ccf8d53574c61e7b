"""Searches of a space of settings with Optuna: ``python train.py -m hydra/sweeper=optuna ...``.

A Hydra sweeper: settings are written as for a grid, and each trial is a job of the sweep in a
folder named by its settings. What Optuna knows lies in a journal beside them, so the same command
again goes on with a search that was killed; the job that was killed is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from qatlab import files, record
from qatlab.errors import ConfigError, did_you_mean
from qatlab.targets import make
from qatlab.terminal import wide_console

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
        for name, value in {"n_trials": n_trials, "batch_size": self.batch_size}.items():
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"hydra.sweeper.{name}={value} is wrong. Accepted: a whole number above 0."
                )
        if type(seed) is not int or seed < 0:
            raise ConfigError(
                f"hydra.sweeper.seed={seed} is wrong. Accepted: a whole number from 0."
            )
        for key, direction in self.objectives.items():
            if direction not in DIRECTIONS:
                hint = did_you_mean(direction, DIRECTIONS)
                raise ConfigError(
                    f"hydra.sweeper.objectives: {key}={direction} is wrong.{hint} "
                    f"Accepted: {', '.join(DIRECTIONS)}."
                )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until enough have succeeded, and print the best."""
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
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
        journal = JournalFileBackend(str(folder / JOURNAL))
        study = optuna.create_study(
            study_name=" ".join(sorted(arguments)),  # another space in the same folder is another
            storage=optuna.storages.JournalStorage(journal),
            directions=[optuna.study.StudyDirection[d.upper()] for d in self.objectives.values()],
            load_if_exists=True,
        )
        # From the number of trials: going on, it must not propose the same ones again.
        seed = self.seed + len(study.trials)
        study.sampler = make("hydra.sweeper.sampler", self.sampler, seed=seed)
        self._queue_unfinished(study, optuna.trial.TrialState)
        number = 0
        while (missing := self.n_trials - self._count(study, optuna.trial.TrialState)) > 0:
            batch = [study.ask() for _ in range(min(missing, self.batch_size))]
            words = [[_word(override, trial) for override in overrides] for trial in batch]
            self.validate_batch_is_legal(words)
            jobs = self.launcher.launch(words, initial_job_idx=number)
            number += len(batch)
            values = [self._values(job) for job in jobs]
            for trial, reached, own in zip(batch, values, words, strict=True):
                trial.set_user_attr("overrides", own)
                if reached is None:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, reached)
            if all(reached is None for reached in values):
                break  # it is told above why; the rest would hardly fare better
        self._print_best(study)

    def _queue_unfinished(self, study: Any, states: Any) -> None:
        """Propose once more what was killed or has failed, before anything new."""
        done = [trial.params for trial in study.trials if trial.state == states.COMPLETE]
        waiting = [trial for trial in study.trials if trial.state == states.WAITING]
        done += [trial.system_attrs["fixed_params"] for trial in waiting]
        for trial in study.trials:
            if trial.state == states.RUNNING:
                study.tell(trial.number, state=states.FAIL)
            if trial.state in (states.RUNNING, states.FAIL) and trial.params not in done:
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
        best = {str(t.user_attrs["overrides"]): t for t in study.best_trials}
        table = Table("settings", *self.objectives, title="Pareto front", title_justify="left")
        for trial in sorted(best.values(), key=lambda trial: trial.values):
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            table.add_row(settings, *(f"{value:.6g}" for value in trial.values))
        wide_console().print(table)


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
        raise ConfigError(f"hydra.sweeper.objectives: {key} is no number, but {value!r:.60}.")
    return float(value)


def register() -> None:
    """Let Hydra find the sweeper; it takes plugins of one package only, which is not ours."""
    name = f"hydra_plugins.qatlab.{SearchSweeper.__name__}"
    Plugins.instance().class_name_to_class[name] = SearchSweeper
