"""What runs differ in: their configurations, bits and results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.results import limits, record, values

ABSENT = "-"
ALWAYS = ("test.top1", "test.loss", "size_bytes", "seconds")  # shown where they are equal, too
TOO_LONG = ("name", "test.confusion", "class_names")  # the name stands in the configuration

Facts = dict[str, str]


def configuration(run: Path) -> Facts:
    """Return all keys of a run's configuration.

    Raises:
        ConfigError: if the folder holds no run, or a damaged one.
    """
    record.check_run(run)
    file = run / record.CONFIG
    return _facts(file, limits.read_yaml_mapping(file), without=("folder",))


def bits(run: Path) -> Facts:
    """Return the bits of each weight layer and each site of a run.

    Raises:
        ConfigError: if its ``layers.json`` is damaged.
    """
    file = run / limits.LAYERS
    content = _read(file)
    try:
        layers = {
            values.text(x, "name", limits.LONGEST_NAME): values.whole_or_none(x, "bits")
            for x in (values.rows(content, "layers", limits.MOST_LAYERS) if content else ())
        }
    except (KeyError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{file} does not hold the layers of a run: {reason}") from error
    return {name: "float" if bits is None else str(bits) for name, bits in layers.items()}


def results(run: Path) -> Facts:
    """Return what a finished run has reached, and where it was made; nothing of another one.

    Raises:
        ConfigError: if its ``result.json`` is damaged.
    """
    file = run / record.RESULT
    content = _read(file)
    if os.path.lexists(file) and not isinstance(content.get("test"), dict):
        raise ConfigError(f"{file} is not the result of a run: it has no scores of a test")
    return _facts(file, content, TOO_LONG)


def _facts(file: Path, content: dict[str, Any], without: Sequence[str]) -> Facts:
    """Return the values of a file but a few.

    Raises:
        ConfigError: if there are too many of them, or too long or too deep keys.
    """
    facts: Facts = {}
    try:
        for key, value in flat(content):
            if key not in without:
                facts[key] = value
            if len(facts) > limits.MOST_KEYS:
                raise ValueError(f"it has more than {limits.MOST_KEYS:,} keys")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"cannot read {file}: {reason}") from error
    return facts


def differences(facts: Sequence[Facts], always: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return a row for each key whose values differ; ``-`` where a run has none.

    Args:
        facts: of each run.
        always: keys that have a row even if they do not, if any run has them.
    """
    keys = dict.fromkeys(key for one in facts for key in one)
    rows = {key: [one.get(key, ABSENT) for one in facts] for key in keys}
    return {key: row for key, row in rows.items() if key in always or len(set(row)) > 1}


def _read(file: Path) -> dict[str, Any]:
    """Read what a run has already written."""
    return limits.read_json(file) if os.path.lexists(file) else {}


def flat(value: Any, key: str = "", exact: bool = False) -> Iterator[tuple[str, str]]:
    """Yield all values of nested dictionaries as texts, with their keys joined by dots.

    Args:
        value: a dictionary, or a value of one.
        key: in front of all keys.
        exact: write floats to the last bit, and not as a table shows them.

    Raises:
        ValueError: if a key is too long: each of its values would have all of it.
    """
    if len(key) > limits.LONGEST_TEXT:
        raise ValueError(f"it has a key of more than {limits.LONGEST_TEXT:,} characters")
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name), exact)
    else:
        yield key, f"{value:.6g}" if isinstance(value, float) and not exact else _word(value)


def _word(value: Any) -> str:
    """Return a value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
