"""Searches the bits of each layer of a trained run: what ``qatlab search`` does."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from rich.table import Table

from qatlab.config.folders import own_words
from qatlab.config.search import Settings
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.targets import PACKAGES, TARGETS, Target, missing_for
from qatlab.errors import ConfigError, wrong
from qatlab.mixed_precision import (
    TABLE_COSTS,
    Assignment,
    Choice,
    Cost,
    Found,
    Limit,
    ProgramCosts,
    Programs,
    Sensitivity,
    Tensor,
    best,
    loss_of,
    losses_to_json,
    measured,
    nearest,
    rules_text,
    second_order,
    smallest,
)
from qatlab.quant.rules import PARTS
from qatlab.results import bits_figure
from qatlab.results.record import find_run
from qatlab.run.belonging import own_checkpoint
from qatlab.run.mixed import Subject
from qatlab.sweep import setting
from qatlab.system import files
from qatlab.system.progress import progress
from qatlab.system.terminal import say, show

OF_PROGRAMS = ("flash", "ram", "instructions")
BATCH = 64  # images that are computed at once, with all that lies between layers kept
TRIES = 8  # corrections of what a program is said to take by what it does take
NO_PHASES_BEFORE = ("first_epochs=null", "float_epochs=0", "clamp_epochs=0")
CORE = "cortex-m4"  # that programs are built for, if no other is asked for


def run(
    folder: Path,
    checkpoint: str,
    settings: Settings,
    budgets: Mapping[str, Sequence[float]],
    output: Path | None,
) -> None:
    """Search, print what was found, and write it.

    Args:
        folder: of the run.
        checkpoint: of the run.
        settings: what was asked for.
        budgets: numbers by the name of a budget; several of one for a front.
        output: file of rules to write; beside ``rules.yaml`` a record, ``rules.search.json``, and a
            picture, ``rules.search.svg``.

    Raises:
        QatlabError: for a run that cannot be searched, and a budget that cannot be met.
    """
    search = Search(find_run(folder), checkpoint, settings, list(budgets))
    fronts = _front(search, settings.front, budgets)
    for limits in fronts:
        search.check(limits)  # before anything is measured
    search.measure(settings.estimate, settings.images)
    found = [search.found(limits, exact=len(fronts) == 1) for limits in fronts]
    if len(found) == 1:
        print_found(search, found[0])
        if output is not None:
            files.write_text(output, rules_text(found[0], about(folder, found[0])))
    else:
        _print_front(search, found)
        if output is not None:
            for i, own in enumerate(found, 1):
                place = output.with_name(f"{output.stem}_{i}{output.suffix}")
                files.write_text(place, rules_text(own, about(folder, own)))
    if output is not None:
        record = {
            "run": str(folder),
            "images": search.sensitivity.images,
            "losses": losses_to_json(search.sensitivity),
            "found": [own.to_json() for own in found],
            "uniform": [own.to_json() for own in search.uniform()],
        }
        beside = {kind: output.with_suffix(f".search.{kind}") for kind in ("json", "svg")}
        files.write_text(beside["json"], json.dumps(record, indent=2) + "\n")
        _draw(search, found, beside["svg"])
        say(f"Written: {output if len(found) == 1 else beside['json']}.")
        if len(found) == 1:
            say(f"Train it: {_train_command(search, folder, checkpoint, output)}")


class Search:
    """What is known of a run, for all budgets.

    Args:
        folder: of the run.
        checkpoint: of the run.
        settings: what was asked for.
        kinds: the budgets that are given.

    Attributes:
        subject: the run.
        choices: the widths of each tensor.
        costs: by the name of a budget.
        sensitivity: what each loses, once it was measured.
    """

    def __init__(
        self, folder: Path, checkpoint: str, settings: Settings, kinds: Sequence[str]
    ) -> None:
        self.leaves = bool({*kinds} & {*OF_PROGRAMS})
        target = _target(settings.target, kinds) if self.leaves else None
        if settings.target is not None and not self.leaves:
            takes = " or ".join(f"budget.{kind}" for kind in OF_PROGRAMS)
            raise ConfigError(f"target={settings.target} has no effect without {takes}.")
        allow = settings.allow or ()
        names = [allow] if isinstance(allow, str) else list(allow)
        self.subject = Subject.of(folder, checkpoint, names, settings.quant, self.leaves)
        self.quant = settings.quant
        self.choices = self.subject.choices(settings.widths)
        self.subject.data.prepare_data()
        self.subject.data.setup("fit")
        self._images = self.subject.calibration()
        self._programs: Programs | None = None
        self.costs = self._costs(kinds, target)

    def measure(self, estimate: str, images: int, known: Sensitivity | None = None) -> None:
        """Measure, or estimate, what each width loses.

        Args:
            estimate: ``measured`` or ``second_order``.
            images: on how many.
            known: what was measured by an earlier command.
        """
        self._batches, held = self.subject.held_out(images, BATCH)
        few = [self._images[0][:BATCH]]  # the least error is searched for, which takes time
        self._candidates = self.subject.candidates(self.choices, few, start="mse")
        if known is not None:
            self.sensitivity = known
            return
        begun, loss = time.monotonic(), self.subject.loss
        count = sum(len(labels) for _, labels in self._batches)
        if estimate == "second_order":
            with progress("losses", count) as advance:
                found = second_order(self._candidates, self._batches, loss, advance)
        else:
            steps = len(list(self.choices.all())) * len(self._batches)
            with progress("losses", steps) as advance:
                found = measured(self._candidates, self._batches, loss, advance)
        self.sensitivity = found
        where = "held out of the training" if held else "of the training, as none are held out"
        say(
            f"{len(self.choices.widths)} weights and sites, {len(list(self.choices.all()))} widths "
            f"in all; losses on {count} images {where}: {time.monotonic() - begun:.1f} s"
        )

    def check(self, limits: Mapping[str, float]) -> None:
        """Raise a ConfigError if no widths are within some budgets, by the costs that are known."""
        best(self.choices, {}, [Limit(self.costs[name], most) for name, most in limits.items()])

    def _costs(self, kinds: Sequence[str], target: Target | None) -> dict[str, Cost]:
        table, data = self.subject.table, self.subject.data
        found = {name: make(self.choices, table) for name, make in TABLE_COSTS.items()}
        if not self.leaves:
            return found
        if target is None:
            say(
                "Flash is that of constants alone, and memory is without the stack: "
                f"{' and '.join(missing_for())} are missing."
            )
        candidates = self.subject.candidates(self.choices, self._images, fill=True)
        self._programs = Programs(
            *(candidates, pixel_codes(data), data.example_input(), self.subject.class_names, target)
        )
        counted = "instructions" in kinds
        begun = time.monotonic()
        with progress("programs", 0) as advance:
            costs = ProgramCosts(self._programs, counted, advance.to)
        say(f"Programs: {time.monotonic() - begun:.1f} s")
        found |= {"flash": costs.flash, "ram": costs.ram}
        if counted:
            found["instructions"] = costs.instructions
        return found

    def found(
        self,
        limits: Mapping[str, float],
        exact: bool,
        aims: Mapping[Choice, float] | None = None,
        soft: str | None = None,
    ) -> Found:
        """Return the best widths within some budgets.

        Args:
            limits: by the name of the budget.
            exact: let the exporter write and build the program of what was found, correct what it
                was said to take, and search again if it is not within the budget, or far from it.
            aims: what the best ones have the least sum of; by default what was measured.
            soft: name of the budget that programs need not keep, but predictions.

        Raises:
            ConfigError: if no widths are within them.
        """
        own = [Limit(self.costs[name], most) for name, most in limits.items()]
        aims = self.sensitivity.losses if aims is None else aims
        widths: Assignment = best(self.choices, aims, own)
        costs = self.predicted(widths)
        if exact and self._programs is not None:
            widths, costs = self._corrected(own, widths, aims, soft)
        both = None
        if exact:
            both = loss_of(self._candidates, widths, self._batches, self.subject.loss)
        return Found(widths, self.sensitivity.of(widths), costs, dict(limits), both)

    def predicted(self, widths: Assignment) -> dict[str, float]:
        """Return what an assignment costs, by the name of the budget."""
        return {name: cost.of(widths) for name, cost in self.costs.items()}

    def _corrected(
        self,
        limits: Sequence[Limit],
        widths: Assignment,
        aims: Mapping[Choice, float],
        soft: str | None,
    ) -> tuple[Assignment, dict[str, float]]:
        """Return widths whose program is within the limits, and its exact costs."""
        assert self._programs is not None
        kept: tuple[Assignment, dict[str, float]] | None = None
        seen: list[Assignment] = []

        def loss(own: Assignment) -> float:
            return sum(aims[choice] for choice in own.items())

        asked = list(limits)
        for _ in range(TRIES):
            seen.append(widths)
            figures = self._programs.sample(widths).figures
            exact = {
                **self.predicted(widths),
                **{k: v for k, v in vars(figures).items() if k in self.costs and v is not None},
            }
            hard = [own for own in limits if own.cost.name != soft]
            within = all(exact[own.cost.name] <= own.most for own in hard)
            if within and (kept is None or loss(widths) < loss(kept[0])):
                kept = widths, exact
            off = {own.cost.name: exact[own.cost.name] - own.cost.of(widths) for own in hard}
            asked = [replace(own, most=own.most - off.get(own.cost.name, 0.0)) for own in limits]
            try:
                widths = best(self.choices, aims, asked)
            except ConfigError:
                if kept is None:
                    raise
                break
            if widths in seen:
                break
        if kept is None:
            names = ", ".join(f"budget.{own.cost.name}" for own in limits)
            raise ConfigError(
                f"{names}: programs took more than was predicted, {TRIES} times; give a little "
                "more."
            )
        return kept

    def loss_of(self, tensor: Tensor, bits: int) -> float:
        """Return the increase of the loss by one tensor alone."""
        return self.sensitivity.losses[tensor, bits]

    def uniform(self) -> list[Found]:
        """Return what one width for all costs and loses, for each width."""
        found = []
        for bits in sorted({bits for _, bits in self.choices.all()}):
            widths = {t: nearest(own, bits) for t, own in self.choices.widths.items()}
            found.append(Found(widths, self.sensitivity.of(widths), self.predicted(widths)))
        return found


def _target(name: str | None, kinds: Sequence[str]) -> Target | None:
    """Return the core that programs are built for; None where that cannot be done."""
    if name is not None and name not in TARGETS:
        raise wrong("target", name, TARGETS)
    if not (missing := missing_for()):
        return TARGETS[name or CORE]
    if "instructions" in kinds or name is not None:
        what = "budget.instructions" if name is None else f"target={name}"
        raise ConfigError(f"{what} takes {' and '.join(missing)}: {PACKAGES}.")
    return None


def _front(
    search: Search, count: int | None, budgets: Mapping[str, Sequence[float]]
) -> list[dict[str, float]]:
    """Return the budgets of each point of a front; one if no front was asked for."""
    if count is None:
        length = max(map(len, budgets.values()))
        return [
            {name: own[min(i, len(own) - 1)] for name, own in budgets.items()}
            for i in range(length)
        ]
    name = next(iter(budgets), "size")
    cost = search.costs[name]
    rest = {other: own[0] for other, own in budgets.items() if other != name}
    within = [Limit(search.costs[other], most) for other, most in rest.items()]
    widths = smallest(search.choices, cost, within)
    if widths is None:
        search.check(rest)  # which says why
    assert widths is not None
    low = cost.of(widths)
    high = cost.of({tensor: max(own) for tensor, own in search.choices.widths.items()})
    high = min([high, *budgets.get(name, ())])
    if high < low:
        search.check({**rest, name: high})  # likewise
    step = (high - low) / max(count - 1, 1)
    return [{**rest, name: low + i * step} for i in range(count)]


def print_found(search: Search, found: Found) -> None:
    """Print the bits of each layer, what they lose and cost, and what decides each budget."""
    table = Table("layer", "type", "weight bits", "activation bits", "loss of these widths")
    rows: dict[str, dict[str, int]] = {}
    for tensor, bits in found.assignment.items():
        rows.setdefault(tensor.name, {})[tensor.part] = bits
    types = {row.name: row.type for row in search.subject.table.layers}
    for name, own in rows.items():
        lost = sum(
            search.sensitivity.losses[tensor, bits]
            for tensor, bits in found.assignment.items()
            if tensor.name == name
        )
        cells = [str(own.get(part, "")) for part in PARTS]
        table.add_row(name, types[name], *cells, f"{lost:+.4f}")
    show(table)
    reference = search.sensitivity.reference
    say(f"Loss: {reference:.4f} with the highest widths, {found.loss:.4f} predicted with these.")
    if found.measured is not None:
        loss, accuracy = found.measured
        right = f", {100 * accuracy:.2f} % right" if search.subject.class_names else ""
        say(f"All of them together: {loss:.4f}{right}, before any training with them.")
    for name, value in found.costs.items():
        cost, most = search.costs[name], found.limits.get(name)
        unit = "" if name == "instructions" else f" {cost.unit}"
        words = [f" of {most:,.6g}", cost.decides(found.assignment)] if most is not None else [""]
        say(f"{name}: {value:,.6g}{unit}{'; '.join(filter(None, words))}")
    within = [
        own
        for own in search.uniform()
        if all(own.costs[name] <= most for name, most in found.limits.items())
    ]
    if within:
        least = min(within, key=lambda own: own.loss)
        say(f"The best uniform width within these budgets: {_words(least)}, loss {least.loss:.4f}.")
    else:
        say("No uniform width is within these budgets.")


def _print_front(search: Search, found: Sequence[Found]) -> None:
    limited = list(found[0].limits)
    names = [*limited, *(name for name in found[0].costs if name not in limited)]
    table = Table("", *[f"budget {name}" for name in limited], "predicted loss", *names)
    for i, own in enumerate(found, 1):
        cells = [f"{own.limits[name]:,.6g}" for name in limited]
        costs = [f"{own.costs[name]:,.6g}" for name in names]
        table.add_row(str(i), *cells, f"{own.loss:.4f}", *costs)
    for own in search.uniform():
        costs = [f"{own.costs[name]:,.6g}" for name in names]
        table.add_row(_words(own), *[""] * len(limited), f"{own.loss:.4f}", *costs)
    show(table)


def _draw(search: Search, found: Sequence[Found], path: Path) -> None:
    """Draw the bits of one assignment, or the front of several."""
    if len(found) == 1:
        rows = [
            {"name": t.name, "part": t.part, "bits": bits, "increase": search.loss_of(t, bits)}
            for t, bits in found[0].assignment.items()
        ]
        bits_figure.bits_of_layers(rows, path, path.stem)
        return
    limits = [own.limits for own in found]
    changing = [name for name in limits[0] if len({own[name] for own in limits}) > 1]
    name = (changing or list(limits[0]))[0]
    cost = search.costs[name]
    uniform = [
        (own.costs[name], own.loss, round(mean(own.assignment.values())))
        for own in search.uniform()
    ]
    points = [(own.costs[name], own.loss) for own in found]
    bits_figure.front(points, uniform, f"{name} ({cost.unit})", path, path.stem)


def _words(found: Found) -> str:
    """Return the bits of an assignment: one width, or the range."""
    low, high = min(found.assignment.values()), max(found.assignment.values())
    return f"{low} bits" if low == high else f"{low} to {high} bits"


def about(folder: Path, found: Found) -> str:
    """Return what a file of rules says at its head."""
    budgets = " ".join(f"budget.{name}={most:.6g}" for name, most in found.limits.items())
    return f"qatlab search {folder} {budgets}"


def _train_command(search: Search, folder: Path, checkpoint: str, output: Path) -> str:
    """Return what to type next."""
    words = train_words(folder, checkpoint, search.quant, search.leaves)
    words.insert(words.index("schedule=quantize_only"), setting("rules", output))
    return shlex.join(["qatlab", "train", *words, setting("name", output.stem)])


def train_words(folder: Path, checkpoint: str, quant: str | None, leaves: bool) -> list[str]:
    """Return the words of a run for a quantize phase from its weights.

    Args:
        folder: of the run.
        checkpoint: of the run.
        quant: a preset in the place of that of the run.
        leaves: whether the network has to leave as C.
    """
    keys = "schedule|hydra|init_weights|rules|name|resume|target"
    left_out = re.compile(rf"[+~]*({keys}{'|quant' * (quant is not None)})\b")
    words = [word for word in own_words(find_run(folder)) if not left_out.match(word)]
    words += [f"quant={quant}"] * (quant is not None)
    weights = folder if checkpoint == "best" else own_checkpoint(find_run(folder), checkpoint)
    words += ["schedule=quantize_only", setting("init_weights", weights)]
    if any(word.startswith("experiment=") for word in words):  # which may have epochs of its own
        words[-1:-1] = [f"schedule.{key}" for key in NO_PHASES_BEFORE]
    return [*words, *["target=c"] * leaves]
