"""Names that are given once."""

from __future__ import annotations

from collections.abc import Container


def unique_key(wanted: str, taken: Container[str]) -> str:
    """Return ``wanted``, or with a number from 2 on behind it if that is taken."""
    number, unique = 2, wanted
    while unique in taken:
        unique, number = f"{wanted}_{number}", number + 1
    return unique
