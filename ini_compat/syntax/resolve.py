"""A whole file, ready to be read: its sections, what N2D2 would compute, what was lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from ini_compat.errors import Deviation, IniError, Place, did_you_mean
from ini_compat.syntax.assemble import Assembler
from ini_compat.syntax.expand import COMPUTED_KEYS, Expander
from ini_compat.syntax.files import VARIABLE, Files
from ini_compat.syntax.section import REQUIRED, D, Required, Section

__all__ = ["COMPUTED_KEYS", "Document", "Section"]

NOTHING: Mapping[str, str] = MappingProxyType({})


class Document:
    """An .ini with its templates.

    Attributes:
        sections: name -> section in the order of the file, without the global one.
        globals: the keys before the first header, a section called "".
        deviations: what the file says twice.
        notices: how the files were read, where that is not obvious.
    """

    def __init__(self, file: str, environment: Mapping[str, str] = NOTHING) -> None:
        self.sections: dict[str, Section] = {}
        self.deviations: list[Deviation] = []
        self.notices: list[str] = []
        self.environment = environment
        self._expander = Expander(self.sections)
        self.globals = Section("", Place(file, 0), self._expander)
        self._expander.definitions = self.globals.entries

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        defines: Mapping[str, str] = NOTHING,
        environment: Mapping[str, str] = os.environ,
    ) -> Document:
        """Read an .ini and the templates it includes.

        Args:
            path: the file; places name it as given here.
            defines: replacements of the file's global definitions: ``{"LR": "0.1"}`` for ``$LR``.
            environment: what ``${NAME}`` means in the paths of templates and of data.
        """
        file = os.fspath(path)
        document = cls(file, environment)
        files = Files(file, environment, document.notices)
        Assembler(
            *(files, document.sections, document.globals, document._expander, document.deviations)
        ).read(defines)
        return document

    def has(self, name: str) -> bool:
        """Tell if there is a section of that name."""
        return name in self.sections

    def section(self, name: str, place: Place | None = None) -> Section:
        """Return a section; ``place`` is where it was asked for."""
        if name in self.sections:
            return self.sections[name]
        if not name:
            return self.globals
        hint = did_you_mean(name, self.sections)
        raise IniError(f"there is no section [{name}].{hint}", place)

    def set_computed(self, section_name: str, key: str, value: str) -> None:
        """Set what N2D2 would write back while it builds, such as ``_OutputsWidth``."""
        self._expander.computed[section_name, key] = value
        self._expander.computed_sections.add(section_name)

    def set_unknown(self, section_name: str, key: str, reason: str) -> None:
        """Say why such a value cannot be known: whoever needs it meets an UnknownValue."""
        self._expander.unknown[section_name, key] = reason
        self._expander.computed_sections.add(section_name)

    def path(self, section: Section, key: str, default: D | Required = REQUIRED) -> str | D:
        """Return a path-like value: ``${NAME}`` in it is of the environment, else empty."""
        text = section.text(key, default)
        if not isinstance(text, str):
            return text
        return VARIABLE.sub(lambda match: self.environment.get(match.group(1), ""), text)
