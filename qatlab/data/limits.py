"""Checks of the numbers in the data part of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from qatlab.errors import ConfigError


def whole_number(key: str, value: object, lowest: int) -> int:
    """Return ``value``, an integer of at least ``lowest``; all else is an error naming ``key``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ConfigError(f"{key} is {value!r}; it must be an integer of at least {lowest}.")
    return value


def height_and_width(key: str, value: Sequence[int]) -> tuple[int, int]:
    """Return ``value``, two positive integers; anything else is an error naming ``key``."""
    sides = list(value) if isinstance(value, Sequence) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"{key} is {value}; it must be two positive integers, [height, width].")
    return sides[0], sides[1]
