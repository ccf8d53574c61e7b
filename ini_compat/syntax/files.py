"""Which files an .ini may read: itself, and templates below a few directories."""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from ini_compat.errors import IniError, Place
from ini_compat.syntax import limits

VARIABLE = re.compile(r"\$\{([^{}]*)\}")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MODELS = "N2D2_MODELS"


@dataclass(frozen=True)
class Source:
    """A file that was read: its name as the user knows it, its directory and its text."""

    name: str
    folder: str
    text: str


class Files:
    """Reads an .ini and the templates it includes.

    A template must lie, symbolic links resolved, in the directory of the .ini, in its nearest
    ancestor called ``models``, or in the directory that N2D2_MODELS names.
    """

    def __init__(
        self, ini: str, environment: Mapping[str, str], notices: list[str] | None = None
    ) -> None:
        self.ini = ini
        self.environment = environment
        self.notices = [] if notices is None else notices
        self.templates: dict[str, Source] = {}
        try:
            self.folder = os.path.realpath(os.path.dirname(ini))
            given = environment.get(MODELS, "")
            roots = [self.folder, _models_above(self.folder)]
            roots += [os.path.realpath(given)] if given else []
        except (OSError, ValueError) as error:
            raise IniError(f"{ini!r} cannot be read: {error}.") from None
        self.roots = [root for root in roots if root]
        self.models = self.roots[-1] if given else _models_above(self.folder) or self.folder
        self.models_are_guessed = not given

    def read_ini(self) -> Source:
        """Return the .ini itself."""
        path = os.path.join(self.folder, os.path.basename(self.ini))
        text = self._text(path, self.ini, limits.FILE_BYTES, None)
        return Source(self.ini, self.folder, text)

    def read_template(self, path: str, including: Source, place: Place) -> Source:
        """Return a template; a relative path begins where the including file lies."""
        try:
            found = os.path.join(including.folder, self._expanded(path))
            real = os.path.realpath(found)
            allowed = any(_is_inside(real, root) for root in self.roots)
            name = self._name(found)
        except (OSError, ValueError) as error:
            raise IniError(f"the template {path!r} cannot be read: {error}.", place) from None
        if not allowed:
            accepted = ", ".join(dict.fromkeys(self.roots))
            raise IniError(
                f"the template {path!r} lies outside the directories that templates may "
                f"come from: {accepted} (the environment variable {MODELS} adds one).",
                place,
            )
        if name not in self.templates:
            text = self._text(real, name, limits.TEMPLATE_BYTES, place)
            self.templates[name] = Source(name, os.path.dirname(found), text)
        return self.templates[name]

    def _expanded(self, path: str) -> str:
        """Replace ``${NAME}`` from the environment, by nothing when it is not set."""
        if self.models_are_guessed and "${" + MODELS + "}" in path:
            notice = f"{MODELS} is not set: it is taken to be {self._name(self.models)}."
            if notice not in self.notices:
                self.notices.append(notice)

        def value(match: re.Match[str]) -> str:
            name = match.group(1)
            return self.models if name == MODELS else self.environment.get(name, "")

        return VARIABLE.sub(value, path)

    def _name(self, path: str) -> str:
        """Return the path as the user would write it: relative where the .ini's was."""
        if os.path.isabs(self.ini):
            return os.path.normpath(path)
        relative = os.path.relpath(path)
        return os.path.normpath(path) if relative.startswith("..") else relative

    def _text(self, path: str, name: str, most: int, place: Place | None) -> str:
        data = _read(path, name, most, place)
        if data.startswith(UTF_16) or b"\0" in data[:2]:
            raise IniError(
                f"{name!r} is not UTF-8 text, but in UTF-16, or none at all. Accepted: UTF-8, "
                "as iconv -f UTF-16 -t UTF-8 makes it.",
                place,
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            notice = f"{name} is not UTF-8: it is read as Latin-1."
            if notice not in self.notices:
                self.notices.append(notice)
            return data.decode("latin-1")


def _models_above(folder: str) -> str | None:
    """Return the nearest directory called "models" among the folder and those above it."""
    while os.path.basename(folder) != "models":
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    return folder


def _is_inside(path: str, root: str) -> bool:
    try:
        return os.path.commonpath([path, root]) == root
    except ValueError:  # different drives
        return False


def _read(path: str, name: str, most: int, place: Place | None) -> bytes:
    """Read a regular file; opening a pipe must neither wait nor succeed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise IniError(f"{name!r} is not a regular file.", place)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise IniError(f"{name!r} cannot be read: {reason}.", place) from None
    if len(data) > most:
        raise IniError(f"{name!r} is larger than {most} bytes.", place)
    return data
