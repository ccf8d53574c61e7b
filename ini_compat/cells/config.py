"""The parameters of a cell: what N2D2 reads from its ``ConfigSection`` and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ini_compat.errors import IniError, did_you_mean
from ini_compat.syntax.resolve import Document, Section


class Config:
    """Config sections of one cell, or of the environment; later ones override earlier ones."""

    def __init__(self, sections: Iterable[Section] = ()) -> None:
        self.sections = list(sections)

    @classmethod
    def of(cls, document: Document, section: Section, model: str) -> Config:
        """Find the sections that ``ConfigSection(model)`` names, or else ``ConfigSection``.

        Raises:
            IniError: if one does not exist.
        """
        of_model = f"ConfigSection({model})"
        key = of_model if section.has(of_model) else "ConfigSection"
        if not section.has(key):
            return cls()
        names = section.text(key).split(",")
        if "" in names:
            raise section.wrong(key, "names of sections with a comma between them")
        return cls(document.section(name, section.place(key)) for name in names)

    def owner(self, key: str) -> Section | None:
        """Return the section whose value of ``key`` counts; the others' count as read."""
        owners = [section for section in self.sections if section.has(key)]
        for section in owners:
            section.mark_used(key)
        return owners[-1] if owners else None

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
                section.mark_used(key)
                found[suffix] = (section, key)
        return found

    def unknown(self, accepted: Iterable[str], prefixes: Iterable[str] = ()) -> list[IniError]:
        """Return an error for each key that N2D2 would refuse as an unknown parameter.

        Args:
            accepted: names of the parameters.
            prefixes: keys that begin so are checked by who reads them.
        """
        accepted, starts = list(accepted), tuple(prefixes)
        known = ", ".join([*accepted, *(f"{start}*" for start in starts)]) or "none"
        return [
            IniError(
                f"[{section.name}] {key} is not a parameter of the cells that use this section, "
                f"and N2D2 does not load the file.{did_you_mean(key, accepted)} Accepted: {known}",
                section.place(key),
            )
            for section in self.sections
            for key in section
            if key not in accepted and not key.startswith(starts)
        ]


def check_word(section: Section, key: str, known: Collection[str], what: str) -> str:
    """Return the value of a key that has to be one of the known words.

    Raises:
        IniError: if it is none; ``what`` they are all.
    """
    word = section.text(key)
    if word not in known:
        raise section.wrong(key, known)
    return word


def check_parameters(section: Section, key: str, accepted: Sequence[str]) -> None:
    """Check the parameters of what ``key`` names, such as those of ``WeightsFiller=HeFiller``.

    Raises:
        IniError: for the first key ``<key>.X`` where X is not accepted.
    """
    for suffix, full in section.prefixed(f"{key}.").items():
        if suffix not in accepted:
            raise IniError(
                f"[{section.name}] {full}: {section.text(key)} has no parameter {suffix}, and "
                f"N2D2 does not load the file.{did_you_mean(suffix, accepted)} Accepted: "
                f"{', '.join(accepted) or 'none'}",
                section.place(full),
            )
