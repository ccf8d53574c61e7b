"""The fixed parts of programs: ``runtime.c``, of which each takes what it calls, and ``main.c``."""

from __future__ import annotations

import re
from importlib.resources import files


def fixed_text(name: str) -> str:
    """Return a file of this package, without the empty lines at its end."""
    return (files("qatlab.deploy.c") / name).read_text(encoding="utf-8").strip()


def used(text: str) -> list[str]:
    """Return the parts of ``runtime.c`` that a text calls, and those that these call.

    A function that nobody calls is a warning of some compilers, and a question of all readers.
    """
    kept: list[str] = []
    parts = re.split(r"\n\n(?=/\*|static|typedef|#if)", fixed_text("runtime.c"))
    for part in reversed(parts):  # each calls those above it only
        name = re.search(r"(?<=[ *])(qatlab_\w+)(?=\()|(?<=\} )qatlab_\w+(?=;)", part)
        assert name, part
        if re.search(rf"\b{name.group()}\b", "\n".join([*kept, text])):
            kept.insert(0, part)
    return kept
