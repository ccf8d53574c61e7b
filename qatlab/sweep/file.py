"""A sweep in a file: a YAML of settings and lists, for ``-m sweep=FILE`` of any command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError, wrong
from qatlab.system.files import read_yaml_mapping

LARGEST = 1 << 20  # bytes
WORD = re.compile(r"\+*sweep=(?P<file>.+\.ya?ml)")
PLAIN = re.compile(r"[\w./*?@:+-]+(?<!:)", re.ASCII)  # what Hydra reads as it is, without quotes


def expanded(words: Sequence[str]) -> list[str]:
    """Return words of a command line with those of a file in the place of ``sweep=FILE``.

    A setting that is given beside the file counts, and the file's does not.

    Raises:
        ConfigError: for more than one file, another kind of file, or one that holds anything but
            settings.
    """
    for word in words:
        if re.match(r"\+*sweep=(?!\{)", word) and not WORD.fullmatch(word):
            raise wrong("sweep", word.partition("=")[2], "a file that ends in .yaml")
    files = [found["file"] for word in words if (found := WORD.fullmatch(word))]
    if not files:
        return list(words)
    if len(files) > 1:
        raise ConfigError(f"sweep={files[1]} cannot be combined with sweep={files[0]}; give one.")
    others = [word for word in words if not WORD.fullmatch(word)]
    given = {_key(word) for word in others if not word.startswith("-")}
    of_file = [word for word in words_of(Path(files[0])) if _key(word) not in given]
    return [*of_file, *others]


def is_file(word: str) -> bool:
    """Tell whether a word names a sweep in a file."""
    return WORD.fullmatch(word) is not None


def words_of(file: Path) -> list[str]:
    """Return the settings of a file as words of a command line.

    Raises:
        ConfigError: naming the key that has no values, or holds a mapping.
    """
    words = []
    for key, value in read_yaml_mapping(file, LARGEST).items():
        if isinstance(value, dict):
            raise ConfigError(
                f"{file}: {key} holds a mapping. Accepted: keys as on the command line, such as "
                f"{key}.{next(iter(value), 'bits')}: [2, 4]."
            )
        if value == []:
            raise ConfigError(f"{file}: {key} has no values, so the sweep would have no jobs.")
        if key.startswith("~") and value is None:
            words.append(key)
        elif isinstance(value, list) and not key.startswith("hydra."):
            words.append(f"{key}={','.join(map(_text, value))}")
        else:
            # A text stands as on the command line: range(2,9), interval(0.1,0.2), 2,4.
            words.append(f"{key}={value if isinstance(value, str) else _text(value)}")
    return words


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _text(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str) or PLAIN.fullmatch(value):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
