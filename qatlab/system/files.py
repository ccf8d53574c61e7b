"""Writes files so that they are there whole or not at all; reads files that anyone may have made.

A file is written to a temporary name beside its place, synced to the disk and renamed: neither a
kill nor a power cut leaves a half of it. Readers take regular files of bounded size and depth only.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from qatlab.errors import ConfigError

LARGEST = 64 << 20  # bytes of a text that is read as a whole
DEEPEST = 50  # mappings and lists inside of each other, in YAML
MOST_VALUES = 20_000  # of YAML, whose reader takes a kilobyte for each
MOST_PARTS = 500_000  # of JSON: mappings, lists and texts, which take more than their characters
LONGEST_NUMBER = 1000  # characters, in YAML
NUMBER = re.compile(r"[-+0-9a-fA-FxX_.:]*")
TEMPORARY = ".tmp"


def write_text(path: Path, text: str) -> None:
    """Write a file of text; see :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it; its folder is made where it is missing.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # a link there is not followed
            file.write(content)
        put(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def temporary_of(path: Path) -> Path:
    """Return the name beside a file under which its new content is written; it keeps the suffix."""
    return path.with_name(f".{path.stem}{TEMPORARY}{path.suffix}")


def final(path: Path) -> Path:
    """Return the file whose new content is written under this name, for messages."""
    place = path.with_name(path.stem.removeprefix(".").removesuffix(TEMPORARY) + path.suffix)
    return place if temporary_of(place) == path else path


def put(temporary: Path, path: Path) -> None:
    """Sync a file that was written under another name to the disk, and let it be ``path``.

    Raises:
        OSError: if the file system refuses it.
    """
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: if they cannot be written there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with two-space indents, a list of numbers in one line; see :func:`write_bytes`."""
    write_text(path, _json(content) + "\n")


def _json(value: Any, margin: str = "\n") -> str:
    inner = margin + "  "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(str(key))}: {_json(item, inner)}" for key, item in value.items()]
        return "{" + inner + f",{inner}".join(rows) + margin + "}"
    if isinstance(value, (list, tuple)) and not all(isinstance(x, (int, float)) for x in value):
        return "[" + inner + f",{inner}".join(_json(item, inner) for item in value) + margin + "]"
    return json.dumps(value)


def check_regular(path: Path, largest: int | None = None) -> None:
    """Raise unless ``path`` is a regular file of at most ``largest`` bytes.

    Reading anything else may never end: a FIFO, a device.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {path}: {reason}") from error
    if stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"cannot read {path}: it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"cannot read {path}: it is not a regular file, but a pipe or a device")
    if largest is not None and found.st_size > largest:
        raise ConfigError(
            f"cannot read {path}: it has {_size(found.st_size)}, and at most {_size(largest)} are "
            "read"
        )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a file of text in UTF-8.

    Raises:
        ConfigError: if it is missing, too large, no regular file, or no UTF-8.
    """
    check_regular(path, largest)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot read {path}: it is not UTF-8 text (byte {error.start})"
        ) from error


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Read a mapping from a JSON file.

    Raises:
        ConfigError: if it is missing or damaged, holds anything else, a number too large, or more
            than 500,000 mappings, lists and texts.
    """
    text = read_text(path, largest)
    if text.count("{") + text.count("[") + text.count('"') // 2 > MOST_PARTS:
        raise ConfigError(
            f"cannot read {path}: it holds more than {MOST_PARTS:,} mappings, lists and texts"
        )
    try:
        content = json.loads(text, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"cannot read {path}: {reason}") from error
    return _mapping(path, content)


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def read_yaml(path: Path, largest: int = LARGEST) -> Any:
    """Read YAML of plain values, without the extensions of OmegaConf.

    Raises:
        ConfigError: if it is missing or damaged, has tags, is nested deeper than 50, has more than
            20,000 values or refers to other parts of itself: a few lines of that make a file that
            fills the memory.
    """
    text = read_text(path, largest)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if it is there
    try:
        _check_events(text, loader)
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from error


def read_yaml_mapping(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Read a mapping from a YAML file; see :func:`read_yaml`."""
    return _mapping(path, read_yaml(path, largest))


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        what = "a mapping with other keys than texts" if isinstance(content, dict) else "no mapping"
        raise ConfigError(f"cannot read {path}: it holds {what}")
    return content


def _reason(error: Exception) -> str:
    """Return a reader's message in one line, with the line of the file."""
    mark = getattr(error, "problem_mark", None)
    words = str(getattr(error, "problem", None) or error)[:200]
    return " ".join(words.split()) + (f" (line {mark.line + 1})" if mark else "")


def _check_events(text: str, loader: Any) -> None:
    """Raise a YAMLError for what a file of plain values has not, before anything is built of it."""
    depth = values = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            problem = f"*{event.anchor:.40} refers to another part of the file"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:  # readers of "!!bool x" end in any error
            problem = f"{event.tag:.40} is not a plain value"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _too_long(event.value):
            problem = f"a number of more than {LONGEST_NUMBER} characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        values += isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if values > MOST_VALUES:
            problem = f"it has more than {MOST_VALUES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem="it is nested too deep", problem_mark=event.start_mark
            )


def _too_long(text: str) -> bool:
    """Return whether a text may be a number of too many digits: reading 1:1:1... takes minutes."""
    return len(text) > LONGEST_NUMBER and NUMBER.fullmatch(text) is not None
