"""Finds the bits of each layer for budgets: ``qatlab search RUN budget.flash=32kB``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

from qatlab.cli.parser import Parser
from qatlab.config.search import ESTIMATES, Settings
from qatlab.errors import ConfigError, size_of, wrong

BYTES = ("flash", "ram", "size")
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
        "widths.weight=[2,4,8]; quant=lsq_4bit for a float run; docs/mixed_precision.md",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="file of rules to write, which rules= of a training takes"
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file of the run's")
    given = parser.parse_intermixed_args(words)  # options stand anywhere
    settings = _settings(given.settings)
    budgets = _budgets(settings)
    if given.output is not None and given.output.suffix not in (".yaml", ".yml"):
        raise wrong("--output", given.output, "a file that ends in .yaml")
    if given.output is not None and given.output.is_dir():
        raise wrong("--output", given.output, "a file; there is a folder")
    if not find_spec("scipy"):
        raise ConfigError("qatlab search needs the package scipy: pip install 'qatlab[search]'.")
    # Here: what is wrong above is refused before torch is imported.
    from qatlab.run import search

    search.run(given.run, given.checkpoint, settings, budgets, given.output)


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
    for key in ("images", "front"):
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise wrong(key, value, "a whole number above 0")
    tied = settings.widths.tied
    if not isinstance(tied, list) or not all(isinstance(own, list) and own for own in tied):
        raise wrong("widths.tied", tied, "a list of lists of names, such as [[conv1,conv2]]")
    return settings


def _budgets(settings: Settings) -> dict[str, list[float]]:
    """Return the numbers of each budget that is given.

    Raises:
        ConfigError: for none, for a text that is no number, and for two fronts.
    """
    found = {}
    for key, value in vars(settings.budget).items():
        if value is not None:
            given = value if isinstance(value, list) else str(value).split(",")
            found[key] = [_number(f"budget.{key}", str(own).strip(), key) for own in given]
    if not found and settings.front is None:
        names = ", ".join(f"budget.{key}=" for key in vars(settings.budget))
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
