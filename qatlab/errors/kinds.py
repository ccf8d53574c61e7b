"""Errors of qatlab: each message is one sentence that tells the user what to change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Of terminals, of the direction of writing, and what stands for a byte that is no UTF-8.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class QatlabError(Exception):
    """Base of all errors that a user's input can cause."""


class ConfigError(QatlabError):
    """A configuration value that cannot be used."""


class QuantRuleError(ConfigError):
    """A quantization rule or quantizer argument that cannot be applied."""


class DataError(QatlabError):
    """Images or labels that are missing or not what they should be."""


class CheckpointError(QatlabError):
    """A checkpoint or weights file that is missing, damaged or belongs to another model."""


class TrainingError(QatlabError):
    """A training that cannot go on, such as a loss that is not finite."""


LONGEST = 200  # characters of a value that a message shows


def wrong(
    key: str,
    value: Any,
    accepted: str | Iterable[str],
    advice: str = "",
    kind: type[ConfigError] = ConfigError,
) -> ConfigError:
    """Return the error "memory=compct is wrong. Did you mean 'compact'? Accepted: keep, compact."

    Args:
        key: where the value stands, as on the command line.
        value: what it is now.
        accepted: all valid names, of which the nearest is proposed; or what is accepted, in words.
        advice: a last sentence, on why or what to do instead.
        kind: class of the error.
    """
    hint = ""
    if not isinstance(accepted, str):
        names = list(accepted)
        hint, accepted = did_you_mean(str(value), names), ", ".join(names) or "nothing"
    quoted = isinstance(value, str) and not value[:1].isidentifier()  # such as '' and '1.0'
    shown = repr(value) if quoted else text(value)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    return kind(f"{key}={shown} is wrong.{hint} Accepted: {accepted}.{advice and ' '}{advice}")


def text(value: Any) -> str:
    """Return a value as a user writes it on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the accepted name nearest to ``name``, or ""."""
    nearest = get_close_matches(name, list(accepted), n=1)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def unknown(key: str, accepted: Iterable[str]) -> str:
    """Return "quant.wieght is unknown. Did you mean 'weight'? Accepted in quant: weight, ..."."""
    names = [name for name in accepted if not name.startswith("_")]
    parent, _, name = key.rpartition(".")
    where = f" in {parent}" if parent else ""
    accepted_names = ", ".join(names) or "nothing"
    return f"{key} is unknown.{did_you_mean(name, names)} Accepted{where}: {accepted_names}."


def plain(text: str) -> str:
    """Return a text of one line that a terminal only shows: controls in it are written out."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
