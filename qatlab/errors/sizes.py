"""Sizes as a user writes them."""

from __future__ import annotations

import re

from qatlab.errors.kinds import wrong

UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def size_of(option: str, word: str | None) -> int | None:
    """Return the bytes that an option allows: ``256k``, ``32kB``, ``65536``.

    Raises:
        ConfigError: for a word that is none of these.
    """
    if word is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kKmM]?)i?[bB]?", word)
    if found is None:
        raise wrong(option, word, "a size: 65536, 256k, 32kB, 1M")
    return int(float(found[1]) * UNITS[found[2].lower()])
