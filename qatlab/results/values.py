"""Takes values out of JSON that anyone may have made; each is of the kind it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qatlab.results.limits import LONGEST_TEXT

MOST = 1 << 63  # of a whole number: larger ones have no place on an axis
LONGEST = 40  # characters of a wrong value that are shown


def mapping(facts: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a mapping.

    Raises:
        KeyError: if there is none.
        ValueError: if it is something else, as all of these functions do.
    """
    value = facts[key]
    if not isinstance(value, dict):
        raise _wrong(key, value, "a mapping")
    return value


def rows(facts: Mapping[str, Any], key: str, most: int) -> list[dict[str, Any]]:
    """Return a list of at most ``most`` mappings."""
    value = facts[key]
    if isinstance(value, list) and len(value) > most:
        raise ValueError(f"{key} has {len(value):,} entries, and at most {most:,} are read")
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _wrong(key, value, "a list of mappings")
    return value


def text(facts: Mapping[str, Any], key: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text of at most ``longest`` characters."""
    value = facts[key]
    if not isinstance(value, str):
        raise _wrong(key, value, "a text")
    if len(value) > longest:
        raise ValueError(f"{key} has {len(value):,} characters, and at most {longest:,} are read")
    return value


def text_or_empty(facts: Mapping[str, Any], key: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text; an empty one where there is none, or null."""
    return "" if facts.get(key) is None else text(facts, key, longest)


def whole(facts: Mapping[str, Any], key: str) -> int:
    """Return a whole number from 0."""
    value = facts[key]
    if type(value) is not int or not 0 <= value < MOST:
        raise _wrong(key, value, "a whole number from 0 to 2^63")
    return value


def whole_or_none(facts: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number from 0, None where there is none, or null."""
    return None if facts.get(key) is None else whole(facts, key)


def number_or_none(
    facts: Mapping[str, Any], key: str, least: float = -MOST, most: float = MOST
) -> float | None:
    """Return a number in a range; None where there is none, null, NaN, or an infinite one."""
    value = facts.get(key)
    if value is None or value in (math.inf, -math.inf) or value != value:
        return None
    if type(value) not in (int, float) or not least <= value <= most:
        raise _wrong(key, value, f"a number from {least:g} to {most:g}")
    return float(value)


def check_names(key: str, facts: Mapping[str, Any], most: int, longest: int) -> None:
    """Raise a ValueError if there are more than ``most`` names, or longer ones than ``longest``."""
    if len(facts) > most or any(len(name) > longest for name in facts):
        raise ValueError(
            f"{key} has more than {most} names, or one of more than {longest} characters"
        )


def confusion(test: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return the confusion matrix of a test, or only its number of classes if it has too many."""
    matrix = test.get("confusion")
    if matrix is None:
        return {"confusion": [], "classes": 0}
    n = len(matrix) if isinstance(matrix, list) else 0
    if not n or not all(isinstance(row, list) and len(row) == n for row in matrix):
        raise ValueError("its confusion matrix is not square")
    if n > most:
        return {"confusion": [], "classes": n}
    if not all(type(count) is int and 0 <= count < MOST for row in matrix for count in row):
        raise ValueError("its confusion matrix holds something else than counts")
    return {"confusion": matrix, "classes": n}


def names(facts: Mapping[str, Any], key: str, count: int, longest: int) -> tuple[str, ...]:
    """Return ``count`` texts; an empty tuple where there are none, or null."""
    value = facts.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) != count:
        raise _wrong(key, value, f"a list of {count} names")
    if not all(isinstance(name, str) and len(name) <= longest for name in value):
        raise ValueError(f"{key} holds something else than names of up to {longest} characters")
    return tuple(value)


def _wrong(key: str, value: Any, kind: str) -> ValueError:
    shown = f"{type(value).__name__}" if isinstance(value, (dict, list)) else repr(value)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
    return ValueError(f"{key} is {shown}, not {kind}")
