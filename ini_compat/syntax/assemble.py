"""Headers and entries become sections: inheritance, templates, definitions from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ini_compat.errors import Deviation, IniError, Place, did_you_mean, label
from ini_compat.syntax import limits
from ini_compat.syntax.files import Files, Source
from ini_compat.syntax.lexer import Entry, Header, Line, lines_of, tokens
from ini_compat.syntax.limits import Budget
from ini_compat.syntax.render import Value, Work, render
from ini_compat.syntax.section import Expands, Section
from ini_compat.syntax.template import Node, parse

# As in the names of parameter files.
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')


class Assembler:
    """Reads the files of one document into its sections, in the order in which they stand."""

    def __init__(
        self,
        files: Files,
        sections: dict[str, Section],
        global_section: Section,
        expands: Expands,
        deviations: list[Deviation],
    ) -> None:
        self.files = files
        self.sections = sections
        self.globals = global_section
        self.expands = expands
        self.deviations = deviations
        self.last: Section | None = None
        self.entries = Budget(limits.ENTRIES, f"there are more than {limits.ENTRIES} keys")
        self.work = Work()
        self.templates: dict[str, list[Node]] = {}

    def read(self, defines: Mapping[str, str]) -> None:
        """Read the .ini; ``defines`` replace its global ``$`` definitions."""
        source = self.files.read_ini()
        section, include = self.globals, None
        for token in tokens(lines_of(source.text, source.name)):
            if isinstance(token, Entry):
                self._set(section, token)
                continue
            self._finish(section, include, source, defines, 0)
            section, include = self._begin(token, None), token
        self._finish(section, include, source, defines, 0)

    def _read_template(
        self, lines: list[Line], source: Source, template: Section, depth: int
    ) -> None:
        section, include = None, None
        for token in tokens(lines):
            if isinstance(token, Header):
                if section is not None:
                    self._finish(section, include, source, {}, depth)
                section, include = self._begin(token, template), token
            elif section is None:
                raise IniError("a template must begin with a section header.", token.place)
            else:
                self._set(section, token)
        if section is not None:
            self._finish(section, include, source, {}, depth)

    def _begin(self, header: Header, template: Section | None) -> Section:
        name, place = header.name, header.place
        if name in self.sections:
            earlier = self.sections[name].header
            raise IniError(f"the section [{name}] is already defined at {earlier}.", place)
        if len(self.sections) >= limits.SECTIONS:
            raise IniError(f"there are more than {limits.SECTIONS} sections.", place)
        parents = tuple(self._parent(parent, header) for parent in header.parents)
        self.entries.spend(sum(len(parent.entries) for parent in parents), place)
        previous = self.last
        if previous is None:
            before = None
        else:
            before = previous.previous if previous is template else previous.name
        section = Section(
            *(name, place, self.expands, parents),
            template=template.name if template else None,
            previous=before,
        )
        if template is not None:
            section.set(Entry("$PARENT_SECTION_NAME", template.name, place))
        self.sections[name] = self.last = section
        return section

    def _parent(self, name: str, header: Header) -> Section:
        if name not in self.sections:
            hint = did_you_mean(name, self.sections)
            raise IniError(
                f"the section [{header.name}] inherits from [{name}], which is not defined before "
                f"it.{hint}",
                header.place,
            )
        return self.sections[name]

    def _set(self, section: Section, entry: Entry) -> None:
        self.entries.spend(1, entry.place)
        earlier = section.set(entry)
        if earlier is not None and earlier.key != "$PARENT_SECTION_NAME":
            reason = f"the same key is set again at {entry.place}, which is what counts"
            key = label(section.name, entry.key)
            self.deviations.append(Deviation(earlier.place, key, "ignored", reason))

    def _finish(
        self,
        section: Section,
        include: Header | None,
        source: Source,
        defines: Mapping[str, str],
        depth: int,
    ) -> None:
        """A section is complete: its template, if it names one, comes right after it."""
        if section is self.globals:
            self._define(defines)
        if include is not None and include.template is not None:
            self._include(section, include.template, source, depth + 1)

    def _define(self, defines: Mapping[str, str]) -> None:
        definitions = {key[1:]: key for key in self.globals.entries if key.startswith("$")}
        for given, value in defines.items():
            name = given.removeprefix("$")
            if name not in definitions:
                hint = did_you_mean(name, definitions)
                raise IniError(f"-D {given}: the file does not define ${name}.{hint}")
            if len(value) > limits.VALUE:
                raise IniError(f"-D {given}: the value is longer than {limits.VALUE} characters.")
            self.globals.set(Entry(definitions[name], value, Place(f"-D {given}={value[:60]}", 0)))

    def _include(self, section: Section, path: str, including: Source, depth: int) -> None:
        if depth > limits.INCLUDE_DEPTH:
            reason = f"templates include each other more than {limits.INCLUDE_DEPTH} deep"
            raise IniError(f"{reason}.", section.header)
        source = self.files.read_template(path, including, section.header)
        if source.name not in self.templates:
            self.templates[source.name] = parse(source.text, source.name)
        lines = render(self.templates[source.name], _SectionVariables(section), self.work)
        self._read_template(lines, source, section, depth)


class _SectionVariables(Mapping[str, Value]):
    """The keys of a section as the variables of its template; reading one uses the key."""

    def __init__(self, section: Section) -> None:
        self.section = section
        name = section.name
        self.names = {
            "SECTION_NAME": Value(name),
            "SECTION_FILE_NAME": Value(_NOT_IN_FILE_NAMES.sub("_", name)),
        }

    def __getitem__(self, name: str) -> Value:
        if name in self.names:
            return self.names[name]
        if not self.section.has(name):
            raise KeyError(name)
        return self.section.value(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.names, *self.section.keys()])

    def __len__(self) -> int:
        return len(self.names) + len(self.section.keys())
