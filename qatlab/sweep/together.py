"""Sweeps whose lists are taken together, value by value: ``-m hydra/sweeper=zip``.

A Hydra sweeper. Hydra's own one makes all combinations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from qatlab.errors import ConfigError, wrong


class ZipSweeper(Sweeper):
    """Takes lists of settings together, as Python's ``zip``, all others in all combinations.

    Args:
        keys: settings whose lists are taken together; None for all that have a list.
        max_batch_size: jobs that are launched together; None for all.
        params: settings beside those of the command line.
    """

    def __init__(
        self,
        keys: Sequence[str] | None = None,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        self.keys = keys
        # Looked up now: Hydra imports the module once more when it looks for its plugins.
        basic = import_module("hydra._internal.core_plugins.basic_sweeper").BasicSweeper
        self.sweeper = basic(max_batch_size, params)
        self.sweeper.split_arguments = self._split

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over."""
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs."""
        return self.sweeper.sweep(arguments)

    def _split(self, overrides: list[Override], size: int | None) -> list[list[list[str]]]:
        jobs = combined(overrides, self.keys)
        return [list(batch) for batch in self.sweeper.split_overrides_to_chunks(jobs, size)]


def combined(overrides: Sequence[Override], keys: Sequence[str] | None) -> list[list[str]]:
    """Return the settings of each job.

    Args:
        overrides: of the command line.
        keys: see :class:`ZipSweeper`.

    Raises:
        ConfigError: for lists of different lengths, and for keys that have no list.
    """
    values: dict[str, list[str]] = {}
    swept = []
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(f"{override.input_line}: hydra/sweeper=zip takes lists only.")
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            swept.append(key)
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    together = list(dict.fromkeys(swept if keys is None else keys))
    for key in together:
        if key not in swept:
            raise wrong("hydra.sweeper.keys", key, swept, "They have a list of values.")
    lengths = {key: len(values[key]) for key in together}
    if len(set(lengths.values())) > 1:
        counts = " and ".join(f"{key} has {count}" for key, count in lengths.items())
        raise ConfigError(
            f"hydra/sweeper=zip takes lists of one length: {counts}. Lists that are to be combined "
            "with all others are left out of hydra.sweeper.keys=[...]."
        )
    rows = [list(row) for row in zip(*(values[key] for key in together), strict=True)] or [[]]
    others = [[[word] for word in values[key]] for key in values if key not in together]
    return [list(itertools.chain(*parts)) for parts in itertools.product(rows, *others)]


def register() -> None:
    """Let Hydra find the sweeper; it takes plugins of one package only, which is not ours."""
    name = f"hydra_plugins.qatlab.{ZipSweeper.__name__}"
    classes: Any = Plugins.instance().class_name_to_class
    classes[name] = ZipSweeper
