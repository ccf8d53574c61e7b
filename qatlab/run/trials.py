"""Bits found by training: ``qatlab search RUN method=trials trials=30 budget.size=24kB``.

Optuna proposes assignments; each is moved to the nearest one within the budgets, trained for a few
epochs, and ended early if it lags behind. What Optuna knows is the record: a study is made of it
for each trial, and its random numbers follow from the seed and the number of the trial. So a search
that was killed goes on with the trials that would have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qatlab.errors import ConfigError
from qatlab.mixed_precision import Assignment, Choice, Choices, Found, Tensor
from qatlab.mixed_precision.found import DONE, PRUNED
from qatlab.run.search import Search
from qatlab.run.short_runs import Stop
from qatlab.run.trained_search import Asked, TrainedSearch
from qatlab.sweep.search import derived
from qatlab.system.terminal import say

if TYPE_CHECKING:
    from optuna import Study

TRIALS = 20  # unless the user says otherwise
WHOLE = 5  # trials that are trained to their end, and known, before any is ended early or proposed
ATTEMPTS = 20  # proposals of one trial, until one is new


def run(asked: Asked) -> None:
    """Search, print what was found, and write it.

    Args:
        asked: what was asked for.

    Raises:
        QatlabError: for a run that cannot be searched, budgets that cannot be met, and if all
            trainings fail.
    """
    if not find_spec("optuna"):
        raise ConfigError("method=trials needs the package optuna: pip install 'qatlab[search]'.")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cost, count = next(iter(asked.budgets)), asked.settings.trials or TRIALS
    searched = TrainedSearch(asked, cost, "trial", count)
    within = " and ".join(f"{name} of {most:,.6g}" for name, most in asked.budgets.items())
    searched.begin(f"the most accurate network within {within} is looked for")
    first = _first(searched.search, asked.budgets)
    uniform = ", ".join(str(max(own.assignment.values())) for own in first[1:])
    also = f", then {uniform} bits for all" if uniform else "; one width for all does not fit"
    say(f"Tried first: what sums of losses find{also}.")
    known = searched.record.found
    for number in range(count):
        if number == len(known):
            found = first[number] if number < len(first) else _proposed(searched, number)
            if found is None:
                say(f"All that is proposed is known after {number} trials.")
                break
            searched.add(found)
        searched.train(number, _pruner(_study(searched, number, 0)))
    done = [i for i, own in enumerate(known) if own.trained and own.trained.state == DONE]
    # Of equal ones the smallest, and of these the first.
    chosen = min(done, key=lambda i: (searched.drop(known[i]), known[i].costs[cost]), default=None)
    searched.finish(chosen, lambda own: "", None)
    if chosen is None:
        raise ConfigError("no training has ended; what was wrong stands above.")


def _first(search: Search, budgets: Mapping[str, float]) -> list[Found]:
    """Return what is tried first: what sums of losses find, and one width for all, if it fits."""
    found = [search.found(budgets, exact=True)]
    for own in reversed(search.uniform()):
        fits = all(own.costs[name] <= most for name, most in budgets.items())
        ties = all(len({own.assignment[t] for t in group}) == 1 for group in search.choices.tied)
        if fits and ties and own.assignment not in [one.assignment for one in found]:
            found.append(Found(own.assignment, own.loss, own.costs, budgets))
    return found


def _study(searched: TrainedSearch, number: int, attempt: int) -> Study:
    """Return a study of all trials before one, with a seed of its own."""
    import optuna

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            multivariate=True,
            n_startup_trials=WHOLE,
            seed=derived(searched.seed, number, attempt),
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WHOLE),
    )
    choices = searched.search.choices
    states = {DONE: optuna.trial.TrialState.COMPLETE, PRUNED: optuna.trial.TrialState.PRUNED}
    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        str(tensor): optuna.distributions.IntDistribution(0, len(widths) - 1)
        for tensor, widths in choices.widths.items()
    }
    for own in searched.record.found[:number]:
        trained = own.trained
        if trained is None or trained.state not in states:
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trained.state],
                value=trained.accuracy,
                params={str(t): choices.widths[t].index(b) for t, b in own.assignment.items()},
                distributions=spaces,
                intermediate_values=dict(enumerate(trained.accuracies, 1)),
            )
        )
    return study


def _proposed(searched: TrainedSearch, number: int) -> Found | None:
    """Return an assignment within the budgets that is new; None if no proposal is."""
    search, budgets = searched.search, searched.asked.budgets
    known = [own.assignment for own in searched.record.found[:number]]
    for attempt in range(ATTEMPTS):
        trial = _study(searched, number, attempt).ask()
        wanted = {
            tensor: widths[trial.suggest_int(str(tensor), 0, len(widths) - 1)]
            for tensor, widths in search.choices.widths.items()
        }
        aims = distances(search.choices, wanted, search.sensitivity.losses)
        found = search.found(budgets, exact=True, aims=aims)
        if found.assignment not in known:
            return found
    return None


def distances(
    choices: Choices, wanted: Assignment, losses: Mapping[Choice, float]
) -> dict[Choice, float]:
    """Return how far each width is from the one that is wanted, in widths that lie between.

    Of two assignments that are equally near, the one with the least sum of losses counts as nearer.
    """
    largest: dict[Tensor, float] = {}
    for (tensor, _), loss in losses.items():
        largest[tensor] = max(largest.get(tensor, 0.0), loss)
    scale = 2 * sum(largest.values()) or 1.0  # all losses together are less than one width
    found: dict[Choice, float] = {}
    for tensor, widths in choices.widths.items():
        place = widths.index(wanted[tensor])
        for i, bits in enumerate(widths):
            found[tensor, bits] = abs(i - place) + losses[tensor, bits] / scale
    return found


def _pruner(study: Study) -> Stop:
    """Return what ends a trial early: Optuna's median of the trials before, epoch by epoch."""
    trial = study.ask()

    def stop(accuracies: Sequence[float]) -> bool:
        trial.report(accuracies[-1], len(accuracies))
        return bool(trial.should_prune())

    return stop
