"""Checks of the values in the data part of a configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qatlab.errors import wrong

MOST_CLASSES = 1_000_000
LONGEST_SIDE = 1 << 16  # of an image, in pixels
MOST_PIXELS = 1 << 26  # of the images that a network is given


def whole_number(key: str, value: object, lowest: int, highest: int | None = None) -> int:
    """Return ``value``, an integer in [lowest, highest]; all else is an error naming ``key``."""
    if type(value) is int and highest is not None and value > highest:
        raise wrong(key, value, f"a whole number of at most {highest:,}")
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise wrong(key, value, f"a whole number of at least {lowest}")
    return value


def height_and_width(key: str, value: Sequence[int]) -> tuple[int, int]:
    """Return ``value``, two positive integers; anything else is an error naming ``key``.

    Of more than `MOST_PIXELS` no network could compute a single image.
    """
    sides = list(value) if isinstance(value, Sequence) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise wrong(key, value, "[height, width], two whole numbers above 0")
    if sides[0] * sides[1] > MOST_PIXELS:
        raise wrong(key, sides, f"[height, width] of at most {MOST_PIXELS:,} pixels")
    return sides[0], sides[1]


def number(key: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value``, a finite number in [low, high]; all else is an error naming ``key``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    result = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if not math.isfinite(result) or not low <= result <= high:
        limits = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (
            high < math.inf
        )
        wanted = " ".join(["a number", "of" * bool(limits), " and ".join(limits)]).strip()
        raise wrong(key, value, wanted)
    return result


def interval(
    key: str, value: Sequence[float], above: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """Return ``value``, two ascending numbers in (above, high]; else an error naming ``key``."""
    ends = numbers(key, value)
    if len(ends) != 2 or not above < ends[0] <= ends[1] <= high:
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"at most {high:g}"] * (
            high < math.inf
        )
        wanted = " ".join(["two numbers", " and ".join(limits)]).strip()
        raise wrong(key, list(ends), f"[lowest, highest], {wanted}")
    return ends[0], ends[1]


def numbers(key: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """Return ``value``, a number or one for each channel, as a tuple."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0:
        return tuple(number(key, one) for one in value)
    return (number(key, value),)


def choice(key: str, value: str, accepted: Sequence[str]) -> str:
    """Return ``value`` if it is accepted; the error for all else names the nearest."""
    if value not in accepted:
        raise wrong(key, value, accepted)
    return value
