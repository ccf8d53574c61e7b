"""Finds the bits of each layer for budgets: ``qatlab search RUN budget.flash=32kB``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

from qatlab.cli.parser import Parser
from qatlab.config.search import ESTIMATES, METHODS, OF_TRAININGS, Budget, Settings
from qatlab.errors import ConfigError, size_of, wrong

BYTES = ("flash", "ram", "size")
COSTS = [name for name in vars(Budget()) if name != "max_drop"]
VALIDATED = "trainer.limit_val_batches"  # no training may have it: it would see other images
GROUPS = {"budget": "budget.flash=32kB", "widths": "widths.weight=[2,4,8]"}


def main(words: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="qatlab search", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument(
        "settings",
        nargs="*",
        help="budget.flash=32kB budget.ram=8kB, budget.instructions=, budget.size=, budget.bops=, "
        "budget.mean_bits=3: the most of each; several numbers, or front=20, for a front; "
        "widths.weight=[2,4,8]; quant=lsq_4bit for a float run; budget.max_drop=0.2: the smallest "
        "network that loses at most 0.2 points by a short training; method=trials trials=30: try "
        "what Optuna proposes; with both schedule.quantize_epochs=3 and others of a training; "
        "docs/mixed_precision.md",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file of rules to write, which rules= of a training takes; of searches that train, "
        "one in outputs/searches unless it is given",
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file of the run's")
    given = parser.parse_intermixed_args(words)  # options stand anywhere
    of_trainings = [word for word in given.settings if _is_of_trainings(word)]
    settings = _settings([word for word in given.settings if word not in of_trainings])
    budgets, max_drop = _budgets(settings), _max_drop(settings)
    trains = max_drop is not None or settings.method == "trials"
    _check_together(settings, budgets, of_trainings)
    if given.output is not None and given.output.suffix not in (".yaml", ".yml"):
        raise wrong("--output", given.output, "a file that ends in .yaml")
    if given.output is not None and given.output.is_dir():
        raise wrong("--output", given.output, "a file; there is a folder")
    if not find_spec("scipy"):
        raise ConfigError("qatlab search needs the package scipy: pip install 'qatlab[search]'.")
    # Here: what is wrong above is refused before torch is imported.
    if not trains:
        from qatlab.run import search

        search.run(given.run, given.checkpoint, settings, budgets, given.output)
        return
    from qatlab.run import rounds, trials
    from qatlab.run.trained_search import Asked

    asked = Asked(
        given.run,
        given.checkpoint,
        settings,
        {name: numbers[0] for name, numbers in budgets.items()},
        given.output,
        given.settings,
        of_trainings,
    )
    if max_drop is None:
        trials.run(asked)
    else:
        rounds.run(asked, max_drop)


def _is_of_trainings(word: str) -> bool:
    """Tell whether a word is a setting that each training of a search is given."""
    key = word.lstrip("+~").partition("=")[0]
    if key == VALIDATED:
        raise ConfigError(f"{key} would have trainings validated with other images than the run.")
    return any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in OF_TRAININGS)


def _check_together(
    settings: Settings, budgets: Mapping[str, Sequence[float]], of_trainings: Sequence[str]
) -> None:
    """Raise a ConfigError for settings that have no effect, or exclude each other."""
    drops, tries = settings.budget.max_drop is not None, settings.method == "trials"
    if drops and tries:
        raise ConfigError(
            "budget.max_drop cannot be combined with method=trials, which looks for the most "
            "accurate network within budgets."
        )
    several = next((f"budget.{key}" for key, own in budgets.items() if len(own) > 1), None)
    front = "front" if settings.front is not None else several
    if (drops or tries) and front is not None:
        what = "budget.max_drop" if drops else "method=trials"
        raise ConfigError(f"{what} finds one network, and {front} asks for a front of several.")
    needs = {"minimize": drops, "rounds": drops, "trials": tries}
    for key, has_effect in needs.items():
        if getattr(settings, key) is not None and not has_effect:
            what = "method=trials" if key == "trials" else "budget.max_drop="
            raise ConfigError(f"{key} has no effect without {what}.")
    if of_trainings and not drops and not tries:
        raise ConfigError(
            f"{of_trainings[0]} has no effect without budget.max_drop= or method=trials, which "
            "train; it is a setting of the training with the rules that are found."
        )


def _max_drop(settings: Settings) -> float | None:
    """Return the points of accuracy that may be lost.

    Raises:
        ConfigError: if they are no number of at least 0.
    """
    given = settings.budget.max_drop
    if given is None:
        return None
    try:
        number = float(str(given))
    except ValueError:
        number = -1.0
    if not 0 <= number < 100:
        accepted = "points of accuracy that may be lost, from 0 on, such as 0.2"
        raise wrong("budget.max_drop", given, accepted)
    return number


def _settings(words: Sequence[str]) -> Settings:
    """Return what the words say.

    Raises:
        ConfigError: for a key that does not exist.
    """
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word} has no value; settings are written key=value.")
        if example := GROUPS.get(word.removeprefix("+").partition("=")[0]):
            raise ConfigError(f"{word} names a group: give one of its keys, such as {example}.")
    plain = [word.removeprefix("+") for word in words]
    schema = OmegaConf.structured(Settings)
    found = OmegaConf.merge(schema, OmegaConf.from_dotlist(plain))
    settings = OmegaConf.to_object(found)
    assert isinstance(settings, Settings)
    if settings.estimate not in ESTIMATES:
        raise wrong("estimate", settings.estimate, ESTIMATES)
    if settings.method not in METHODS:
        raise wrong("method", settings.method, METHODS)
    if settings.minimize is not None and settings.minimize not in COSTS:
        raise wrong("minimize", settings.minimize, COSTS)
    for key in ("images", "front", "rounds", "trials"):
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise wrong(key, value, "a whole number above 0")
    tied = settings.widths.tied
    if not isinstance(tied, list) or not all(isinstance(own, list) and own for own in tied):
        raise wrong("widths.tied", tied, "a list of lists of names, such as [[conv1,conv2]]")
    return settings


def _budgets(settings: Settings) -> dict[str, list[float]]:
    """Return the numbers of each budget of a cost that is given.

    Raises:
        ConfigError: for none, for a text that is no number, and for two fronts.
    """
    found = {}
    for key in COSTS:
        if (value := getattr(settings.budget, key)) is not None:
            given = value if isinstance(value, list) else str(value).split(",")
            found[key] = [_number(f"budget.{key}", str(own).strip(), key) for own in given]
    if not found and settings.front is None and settings.budget.max_drop is None:
        keys = COSTS if settings.method == "trials" else vars(settings.budget)
        names = ", ".join(f"budget.{key}=" for key in keys)
        raise ConfigError(f"there is no budget to search within. Accepted: {names}.")
    several = [key for key, numbers in found.items() if len(numbers) > 1]
    if len(several) + (settings.front is not None and bool(several)) > 1:
        raise ConfigError(
            f"budget.{several[0]} has several numbers, which one budget can have, and none "
            "together with front=."
        )
    return found


def _number(key: str, word: str, kind: str) -> float:
    if kind in BYTES:
        return float(size_of(key, word) or 0)
    try:
        number = float(word.replace("_", ""))
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise wrong(key, word, "a number above 0")
    return number
