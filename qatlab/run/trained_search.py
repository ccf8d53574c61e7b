"""What the searches that train have in common: ``budget.max_drop=`` and ``method=trials``.

Both try assignments one after the other, each in a short quantize phase from the weights of the
run, and write down each before and behind its training, so that a search that was killed goes on.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from qatlab.config.folders import leave_nothing, lock_run
from qatlab.config.search import Settings
from qatlab.errors import ConfigError, QatlabError
from qatlab.mixed_precision import Found, Record, Trained, rules_text
from qatlab.mixed_precision.found import BEGUN, DONE, FAILED, PRUNED
from qatlab.results import bits_figure, record
from qatlab.run.loading import composed
from qatlab.run.search import (
    OF_PROGRAMS,
    Search,
    about,
    print_found,
    train_words,
)
from qatlab.run.short_runs import ACCURACY, ShortRuns, Stop
from qatlab.sweep import setting
from qatlab.system import files
from qatlab.system.progress import progress
from qatlab.system.terminal import clock, say, show

PLACE = Path("outputs/searches")  # of what is found, unless -o says otherwise
CHANGEABLE = ("trials=", "budget.max_drop=")  # when a search goes on
EPOCHS = "schedule.quantize_epochs"
FEW = f"{EPOCHS}=3"  # of each training, unless the user says otherwise


@dataclass(frozen=True)
class Asked:
    """What a search that trains was asked for.

    Attributes:
        folder: of the run.
        checkpoint: of the run.
        settings: of the search.
        budgets: the most of each cost, by its name.
        output: file of rules; None for one in ``outputs/searches``.
        words: the settings as they were written.
        of_trainings: settings that each training is given.
    """

    folder: Path
    checkpoint: str
    settings: Settings
    budgets: dict[str, float]
    output: Path | None
    words: Sequence[str]
    of_trainings: Sequence[str]


class TrainedSearch:
    """A search, and what it has trained.

    Args:
        asked: what was asked for.
        cost: name of the cost that assignments are compared by, beside their accuracy.
        one: what a training is called: ``round`` or ``trial``.
        most: how many there are at most.

    Attributes:
        record: what is known of all assignments.
        seed: of the trainings.
        search: what is known of the run, once it has begun.

    Raises:
        QatlabError: for a run that cannot be searched, words that no training takes, and a file
            of another search.
    """

    search: Search

    def __init__(self, asked: Asked, cost: str, one: str, most: int) -> None:
        self.asked, self.cost, self.one, self._most = asked, cost, one, most
        self._kinds = list(dict.fromkeys([*asked.budgets, cost]))
        self._run = record.find_run(asked.folder)
        record.check_run(self._run)
        if asked.checkpoint != "best":
            raise ConfigError(
                f"--checkpoint={asked.checkpoint} cannot be combined with a search that trains: "
                "what it trains is compared with the best checkpoint of the run."
            )
        self._result = record.read_result(self._run)
        cfg = composed([*self._words(), "name=search"], "config")
        self.seed, self._epochs = int(cfg.seed), int(cfg.trainer.max_epochs)
        allow = asked.settings.allow or ()
        names = [allow] if isinstance(allow, str) else list(allow)
        self._runs = ShortRuns(int(cfg.schedule.quantize_epochs), names)
        if self._runs.epochs < 1:
            raise ConfigError(f"{EPOCHS}=0 trains nothing. Accepted: a whole number above 0.")
        words = [word for word in asked.words if not word.startswith(CHANGEABLE)]
        self.output = asked.output or self._own_place(words)
        self._place = self.output.with_suffix(".search")
        file = self.output.with_suffix(".search.json")
        if not file.exists() and any(self._place.glob(f"*/{record.CONFIG}")):
            raise ConfigError(
                f"{self._place} holds trainings of a search whose record, {file}, is gone: delete "
                "it, or give another file as -o."
            )
        accuracy = self._accuracy()
        self._lock = lock_run(self._place)  # as long as this is there
        self.record = Record.begin(file, str(self._run), words)
        self.record.accuracy = accuracy

    def _own_place(self, words: Sequence[str]) -> Path:
        """Return a file that the same command finds again, and no other one."""
        text = "\n".join([str(self._run), *sorted(words)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        name = str(self._result.get("name", self._run.name)).replace("/", "_")
        return PLACE / f"{name}_{self.one}s_{digest}.yaml"

    def _accuracy(self) -> float:
        """Return the share of validation images that the run itself has right."""
        best = self._result.get("best")
        phase = Path(self._result["checkpoint"]).stem.removeprefix("best_")
        accuracy = best.get(phase, {}).get(ACCURACY) if isinstance(best, dict) else None
        if not isinstance(accuracy, float):
            raise ConfigError(
                f"{self._run} has no {ACCURACY} in {record.RESULT}, which networks are compared "
                "by: it takes a network that classifies, and data.validation above 0."
            )
        return accuracy

    def _words(self) -> list[str]:
        """Return the words of each training, but for its rules and its name."""
        given = list(self.asked.of_trainings)
        if not any(word.startswith(f"{EPOCHS}=") for word in given):
            given.insert(0, FEW)
        keys = {word.lstrip("+~").partition("=")[0] for word in given}
        leaves = bool({*self._kinds} & {*OF_PROGRAMS})
        asked = self.asked
        # Of the run itself, not of its name, which a newer one may have had since.
        own = train_words(self._run, asked.checkpoint, asked.settings.quant, leaves)
        return [*(w for w in own if w.lstrip("+~").partition("=")[0] not in keys), *given]

    def begin(self, aim: str) -> None:
        """Say what it will take, and measure what each width loses, unless that is known.

        Args:
            aim: what is looked for, in words.

        Raises:
            QatlabError: if nothing is within the budgets, or another process searches here.
        """
        settings, known = self.asked.settings, self.record.found
        say(f"{self.asked.folder} has {self._told_accuracy()}; {aim}.")
        most = _counted(self._most, self.one)
        say(
            f"At most {most} of {_counted(self._epochs, 'epoch')} each{self._time()}. To watch: "
            f"qatlab status {self._place}. Killed, the same command goes on where it was."
        )
        done = sum(own.trained is not None and own.trained.state != BEGUN for own in known)
        if done:
            say(f"{done} of them {'is' if done == 1 else 'are'} there already.")
        try:
            self.search = Search(self._run, self.asked.checkpoint, settings, self._kinds)
            self.search.check(self.asked.budgets)
        except QatlabError:
            leave_nothing(self._place)
            raise
        self.search.measure(settings.estimate, settings.images, self.record.sensitivity)
        self.record.sensitivity = self.search.sensitivity
        self.record.uniform = self.search.uniform()
        self.record.save()

    def _told_accuracy(self) -> str:
        """Return what the run has reached, and how far that is off by the choice of images."""
        share, counts = self.record.accuracy, self._result.get("images")
        assert share is not None
        own = counts.get("validation") if isinstance(counts, dict) else None
        count = sum(own.values()) if isinstance(own, dict) else 0
        if count < 1:
            return f"{share:.2%} of the validation images right"
        error = 100 * math.sqrt(share * (1 - share) / count)
        return f"{share:.2%} of {count:,} validation images right (standard error {error:.2f})"

    def _time(self) -> str:
        """Return what the trainings will take, from what the run has taken."""
        seconds, epochs = self._result.get("seconds"), self._result.get("epochs")
        total = sum(epochs.values()) if isinstance(epochs, dict) else 0
        if not isinstance(seconds, (int, float)) or total < 1:
            return ""
        each = seconds / total
        return (
            f": {clock(each * self._epochs * self._most)} in all at the {each:.1f} s that an epoch "
            f"of {self.asked.folder} took, and {_counted(self._most, 'start')}"
        )

    def add(self, found: Found) -> None:
        """Write down an assignment that is to be trained, unless an equal one was."""
        known = self.record.found
        own = Trained(f"{self._place.name}/{self.one}_{len(known) + 1}")
        same = next((one for one in known if one.assignment == found.assignment), None)
        known.append(replace(found, trained=own if same is None else same.trained))
        self.record.save()

    def train(self, number: int, stop: Stop = lambda _: False) -> Found:
        """Train an assignment, unless that was done before; write down and say what came of it.

        Args:
            number: of the assignment, from 0.
            stop: see :class:`~qatlab.run.short_runs.ShortRuns`.

        Raises:
            QatlabError: if the very first training fails: the others would hardly fare better.
        """
        known = self.record.found
        found = known[number]
        assert found.trained is not None
        if found.trained.state == BEGUN or (found.trained.state == FAILED and number == 0):
            name = f"{self.one}_{number + 1}"
            folder = self._place / name
            rules = folder.with_suffix(".yaml")
            files.write_text(rules, rules_text(found, about(self.asked.folder, found)))
            words = [*self._words(), setting("rules", rules)]
            words.append(setting("name", f"{self.output.stem}_{name}"))
            with progress(f"{self.one} {number + 1}", self._runs.epochs) as advance:
                trained = self._runs.train(
                    words, folder, stop, lambda done: advance.to(done, self._runs.epochs)
                )
            trained = replace(trained, run=found.trained.run)
            found = known[number] = replace(found, trained=trained)
            self.record.save()
            if trained.state == FAILED and number == 0:
                raise QatlabError(f"{folder}: {trained.reason}")
        say(f"{self.one} {number + 1}: {self._told(found)}")
        return found

    def _told(self, found: Found) -> str:
        trained = found.trained
        assert trained is not None
        bits = f"{found.costs['mean_bits']:.2f} bits, {self.cost} {found.costs[self.cost]:,.6g}"
        if trained.accuracy is None:
            return f"{bits}: {_state(trained)}"
        more = f", {_state(trained)}" * (trained.state != DONE)
        return f"{bits}: {self.scored(found)}{more}"

    def scored(self, found: Found) -> str:
        """Return the accuracy of an assignment in percent, and what that is against the run's."""
        assert found.trained is not None
        assert found.trained.accuracy is not None
        return f"{found.trained.accuracy:.2%} ({_against(self.drop(found))} points)"

    def drop(self, found: Found) -> float:
        """Return the points that an assignment loses; infinite if its training has failed."""
        assert self.record.accuracy is not None
        if found.trained is None or found.trained.accuracy is None:
            return float("inf")
        return 100 * (self.record.accuracy - found.trained.accuracy)

    def finish(
        self, chosen: int | None, remark: Callable[[Found], str], line: float | None
    ) -> None:
        """Print all trainings, and write record and picture, and the rules of the one chosen.

        Args:
            chosen: which of the trainings is the answer; None if none is.
            remark: what is said of each in the table that was trained to its end.
            line: an accuracy that is marked on the picture.
        """
        self.record.chosen = chosen
        self.record.save()
        found, asked = self.record.found, self.asked
        self._print_table(chosen, remark)
        picture = self.output.with_suffix(".search.svg")
        self._draw(picture, chosen, line)
        if chosen is None:
            return
        best = found[chosen]
        assert best.trained is not None
        files.write_text(self.output, rules_text(best, about(asked.folder, best)))
        print_found(self.search, best)
        say(
            f"{self.one.capitalize()} {chosen + 1} is the answer: {self.scored(best)}, in "
            f"{self.output.parent / best.trained.run}."
        )
        say(f"Written: {self.output}, {self.record.path.name} and {picture.name} beside it.")
        rules = setting("rules", self.output)
        words = [w for w in self._words() if not w.startswith(f"{EPOCHS}=")]
        words += [rules, setting("name", self.output.stem)]
        say(f"Train it longer: {shlex.join(['qatlab', 'train', *words])}")

    def _print_table(self, chosen: int | None, remark: Callable[[Found], str]) -> None:
        unit = self.search.costs[self.cost].unit
        columns = ["mean bits", f"{self.cost} ({unit})", "top-1", "points", ""]
        table = Table(self.one, *columns)
        for i, own in enumerate(self.record.found):
            trained = own.trained
            assert trained is not None
            known = trained.accuracy is not None
            said = remark(own) if trained.state == DONE else _state(trained)
            table.add_row(
                str(i + 1),
                f"{own.costs['mean_bits']:.2f}",
                f"{own.costs[self.cost]:,.6g}",
                f"{trained.accuracy:.2%}" if known else "",
                _against(self.drop(own)) if known else "",
                Text(f"{said} (the answer)".strip() if i == chosen else said),
            )
        show(table)

    def _draw(self, path: Path, chosen: int | None, line: float | None) -> None:
        points: list[dict[str, Any]] = [
            {
                "cost": own.costs[self.cost],
                "accuracy": own.trained.accuracy,
                "whole": own.trained.state == DONE,
                "chosen": i == chosen,
            }
            for i, own in enumerate(self.record.found)
            if own.trained is not None and own.trained.accuracy is not None
        ]
        cost = self.search.costs[self.cost]
        assert self.record.accuracy is not None
        marks = {self.asked.folder.name: self.record.accuracy}
        marks |= {} if line is None else {"enough": line}
        bits_figure.trained(points, marks, f"{cost.name} ({cost.unit})", path, path.stem)


def _state(trained: Trained) -> str:
    """Return what became of a training, in words."""
    if trained.state == PRUNED:
        return f"pruned after epoch {len(trained.accuracies)}"
    return f"failed, {trained.reason}" if trained.state == FAILED else trained.state


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _against(drop: float) -> str:
    """Return what an accuracy is against the run's, in points: ``+0.20`` is better."""
    return f"{round(-drop, 2) + 0.0:+.2f}"  # not -0.00
