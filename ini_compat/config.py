"""The parameters of a cell: what N2D2 reads from its ``ConfigSection`` and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ini_compat.errors import IniError, did_you_mean
from ini_compat.resolve import Document, Section


class Config:
    """Config sections of one cell, or of the environment; later ones override earlier ones."""

    def __init__(self, sections: Iterable[Section] = ()) -> None:
        self.sections = list(sections)

    @classmethod
    def of(cls, document: Document, section: Section, model: str) -> Config:
        """Find the sections that ``ConfigSection`` or ``ConfigSection(Model)`` names.

        Raises:
            IniError: if one does not exist.
        """
        given = [
            key for key in section.keys() if key.startswith("ConfigSection(") and key.endswith(")")
        ]
        key = "ConfigSection"
        for candidate in given:
            pattern = candidate.removeprefix("ConfigSection(").removesuffix(")")
            if fnmatchcase(model, pattern):
                key = candidate
        if not section.has(key):
            return cls()
        names = section.text(key).split(",")
        return cls(document.section(name, section.place(key)) for name in names)

    def owner(self, key: str) -> Section | None:
        """Return the section whose value of ``key`` counts."""
        return next((s for s in reversed(self.sections) if s.has(key)), None)

    def boolean(self, key: str, default: bool) -> bool:
        """Return a switch."""
        owner = self.owner(key)
        return default if owner is None else owner.boolean(key)

    def real(self, key: str, default: float) -> float:
        """Return a number."""
        owner = self.owner(key)
        return default if owner is None else owner.real(key)

    def unsigned(self, key: str, default: int) -> int:
        """Return a whole number from 0 on."""
        owner = self.owner(key)
        return default if owner is None else owner.unsigned(key)

    def choice(self, key: str, accepted: Iterable[str], default: str) -> str:
        """Return one of the accepted words."""
        owner = self.owner(key)
        return default if owner is None else owner.choice(key, tuple(accepted))

    def prefixed(self, prefix: str) -> dict[str, tuple[Section, str]]:
        """Return, for keys ``prefix + X``, X with the section and the key that count."""
        found: dict[str, tuple[Section, str]] = {}
        for section in self.sections:
            for suffix, key in section.prefixed(prefix).items():
                found[suffix] = (section, key)
        return found

    def unknown(self, accepted: Iterable[str], prefixes: Iterable[str] = ()) -> list[IniError]:
        """Return an error for each key that N2D2 would refuse as an unknown parameter.

        Args:
            accepted: names of the parameters.
            prefixes: keys that begin so are checked by who reads them.
        """
        accepted, starts = list(accepted), tuple(prefixes)
        errors = []
        for section in self.sections:
            for key in section.keys():
                if key in accepted or key.startswith(starts or ("\0",)):
                    continue
                hint = did_you_mean(key, accepted)
                known = ", ".join([*accepted, *(f"{start}*" for start in starts)])
                errors.append(
                    IniError(
                        f"[{section.name}] {key} is no parameter of the cells that use this "
                        f"section, and N2D2 does not load the file.{hint} Accepted: {known}",
                        section.place(key),
                    )
                )
        return errors
