"""Joins runs that differ in their seed only, and finds the settings that no other one beats."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from qatlab.report.runs import Run

# Keys that differ between seeds of a setting: each seed may start from weights of its own.
OF_THE_SEED = ("seed", "init_weights")


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: name of the runs, and the overrides that other runs of this name do not share.
        runs: by seed; all in the same state.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def facts(self) -> Run:
        """A run, for what all of them share."""
        return self.runs[0]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each run that has one, as fractions."""
        return [run.top1 for run in self.runs if run.top1 is not None]

    @property
    def mean(self) -> float | None:
        """Mean test accuracy, a fraction."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the seeds (of a sample: divided by n - 1), a fraction."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


def join_seeds(runs: Iterable[Run]) -> list[Setting]:
    """Return the settings of runs, by name, size and epochs."""
    runs = list(runs)
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        groups[_key(run)].append(run)
    labels = _labels(runs)
    settings = []
    for members in groups.values():
        for same in _with_own_seeds(members):
            same.sort(key=lambda run: (run.seed is None, run.seed, run.folder))
            label = labels[same[0].folder]
            if len(same) < len(members) and same[0].overrides is None:
                label += f" ({same[0].folder})"  # all that tells it from the others
            settings.append(Setting(label, tuple(same)))
    return sorted(settings, key=_order)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other one beats, by rising cost.

    Args:
        points: cost and accuracy of each; less and more are better.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _key(run: Run) -> Hashable:
    costs = (run.size_bytes, run.tested_bytes, run.bit_operations)
    network = (run.weight_bits, run.activation_bits, run.method)
    return (run.name, run.state, run.epochs, *costs, *network, tuple(sorted(_words(run))))


def _with_own_seeds(runs: list[Run]) -> list[list[Run]]:
    """Split runs by their initial weights if a seed is there twice: these are what was compared.

    Of runs that have not recorded what was given each stands alone then.
    """
    if len({run.seed for run in runs}) == len(runs):
        return [runs]
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        weights = tuple(x for x in run.overrides or () if _of(x) == "init_weights")
        groups[run.folder if run.overrides is None else weights].append(run)
    return list(groups.values())


def _words(run: Run) -> list[str]:
    """Return the overrides of a run that all its seeds share."""
    return [word for word in run.overrides or () if _of(word) not in OF_THE_SEED]


def _of(override: str) -> str:
    """Return the key of an override such as ``+quant.rules.mid={...}``."""
    return override.partition("=")[0].lstrip("+~")


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """Return the label of each run, by its folder."""
    shared: dict[str, set[str]] = {}
    for run in runs:
        words = set(_words(run))
        shared[run.name] = shared.get(run.name, words) & words
    return {
        run.folder: " ".join([run.name, *(x for x in _words(run) if x not in shared[run.name])])
        for run in runs
    }


def _order(setting: Setting) -> tuple[str, int, str, str]:
    run = setting.facts
    return run.name, run.size_bytes or 0, run.epochs, setting.label
