"""Writes an experiment as YAML that people read: one layer, rule or group in a line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
# Backslashes in front of an interpolation are escaped with it, elsewhere they stand for themselves.
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_UNSEEN = (0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)  # ends of lines, and what YAML refuses
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}


def scalar(value: Any) -> str:
    """Return a value as YAML writes it.

    Texts come out as they are read: neither YAML nor OmegaConf may take a part of one for a
    number, a list or an interpolation.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    return key(_INTERPOLATION.sub(r"\1\1\\${", str(value)))


def key(text: str) -> str:
    """Return a key as YAML writes it; OmegaConf sees no interpolation there."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    parts = ['"']
    for character in text:
        code = ord(character)
        if character in '"\\':
            parts.append("\\" + character)
        elif code < 32 or 127 <= code < 160 or code in _UNSEEN:
            parts.append(f"\\u{code:04x}")
        elif 0xD800 <= code < 0xE000 or code > 0xFFFF:
            parts.append(f"\\U{code:08x}")
        else:
            parts.append(character)
    return "".join([*parts, '"'])


def _number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if e and "." not in mantissa:
        mantissa += ".0"  # without a point, YAML 1.1 takes it for a text
    return f"{mantissa}{e}{exponent}"


def flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return scalar(value)


def block(
    node: Mapping[str, Any],
    opened: Iterable[str] = (),
    comments: Mapping[str, str] | None = None,
    path: str = "",
) -> list[str]:
    """Return the lines of a mapping.

    Args:
        node: the mapping.
        opened: paths of the mappings, such as ``model.layers``, that get a line for each key;
            others stand on one line.
        comments: by path, to stand behind a line.
        path: of ``node``.
    """
    opened, comments = set(opened), comments or {}
    lines = []
    for name, value in node.items():
        place = f"{path}.{name}".lstrip(".")
        remark = f"   # {comments[place]}" if place in comments else ""
        if place in opened and isinstance(value, Mapping) and value:
            lines.append(f"{key(str(name))}:{remark}")
            lines += ["  " + line for line in block(value, opened, comments, place)]
        else:
            lines.append(f"{key(str(name))}: {flow(value)}{remark}")
    return lines


def comment(text: str) -> str:
    """Return a line of comment; what would end it is shown instead."""
    return "# " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
