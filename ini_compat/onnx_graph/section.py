"""The section that someone would have written for an ONNX node, so that it is read like others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from ini_compat.cells.unused_keys import why_unused
from ini_compat.errors import Deviation, Place, did_you_mean
from ini_compat.solvers.settings import Pace
from ini_compat.syntax.lexer import Entry
from ini_compat.syntax.render import Value
from ini_compat.syntax.resolve import COMPUTED_KEYS, Document, Section

SOLVERS = ("Solvers", "WeightsSolver", "BiasSolver")
WEIGHTED = ("ConfigSection", *SOLVERS, "WeightsFiller", "BiasFiller")
# What counts of a section for nodes of a kind; all else is said by the ONNX file.
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Conv": (*WEIGHTED, "QWeight", "QWeightSolver"),
    "Deconv": WEIGHTED,
    "Fc": (*WEIGHTED, "QWeight", "QWeightSolver"),
    "BatchNorm": ("ConfigSection", "Solvers", "ScaleSolver", "BiasSolver"),
    "Pool": ("ConfigSection",),
    "Dropout": ("ConfigSection",),
    "LRN": ("ConfigSection",),
    "Activation": ("ActivationFunction", "QAct", "QActSolver"),
}
OF_NODES = ("ConfigSection", "WeightsFiller", "QWeight", "QAct", "ActivationFunction")


def section_of(document: Document, onnx: Section, kind: str, name: str) -> Section | None:
    """Return the section of the .ini that holds for a node, if there is one.

    Args:
        document: the .ini.
        onnx: its section of Type=ONNX.
        kind: N2D2's Type of the node.
        name: of the node.
    """
    if kind not in PARAMETERS:
        return None
    for candidate in (name, f"{onnx.name}:{kind}_def"):
        found = document.sections.get(candidate)
        if found is not None and not found.has("Input"):
            return found
    return None


class NodeSection:
    """A section made of what a node says and of what the .ini says beside it.

    Attributes:
        section: to be read.
        pace: for the cell; names what is lost by the section of the .ini where it stands.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        said: Mapping[str, str],
        source: Section | None,
        place: Place,
        pace: Pace,
    ) -> None:
        self.source = source
        self.kind = kind
        self.section = Section(name, place, self)
        self.pace = replace(pace, note=self._note_once)
        self._note = pace.note
        for key, value in said.items():
            self.section.set(Entry(key, value, place))
        accepted = PARAMETERS.get(kind, ())
        for key in [] if source is None else source.keys():
            if any(key == word or key.startswith((f"{word}.", f"{word}(")) for word in accepted):
                self.section.set(source.entries[key])  # type: ignore[union-attr]
            else:
                self._ignore(key, f"of {kind} nodes only {', '.join(accepted)} count here")

    def value(self, section: Section, key: str) -> Value:
        """Return a value; what the .ini says is expanded where it stands."""
        entry = section.entries[key]
        if self.source is not None and self.source.entries.get(key) is entry:
            return self.source.value(key)
        return Value(entry.value)

    def computed_keys(self, section: Section, key: str) -> set[str]:
        """Return the names of the computed keys that a value of the .ini depends on."""
        if self.source is None:
            return set()
        return {name for name in COMPUTED_KEYS if self.source.depends_on(key, name)}

    def note_unused(self, accepted: Collection[str], solvers: Collection[str]) -> None:
        """Note what of the .ini nobody has read; see :func:`unused_keys.why_unused`."""
        for key in self.section.unused():
            if (
                self.source is not None
                and self.source.entries.get(key) is self.section.entries[key]
            ):
                self._ignore(key, why_unused(self.section, key, self.kind, accepted, solvers))

    def _ignore(self, key: str, reason: str) -> None:
        assert self.source is not None
        self.source.mark_used(key)
        self._note(
            Deviation(self.source.place(key), f"[{self.source.name}] {key}", "ignored", reason)
        )

    def _note_once(self, item: Deviation) -> None:
        """Note a deviation; one line of a section that many nodes share is one of them."""
        label, _, key = item.key.rpartition(" ")
        if self.source is not None and self.source.has(key) and label == f"[{self.section.name}]":
            item = replace(item, key=f"[{self.source.name}] {key}")
        self._note(item)


def note_sections(
    document: Document, onnx: Section, operators: Mapping[str, str], pace: Pace
) -> None:
    """Note sections that were written for a node, and that no node has read.

    Args:
        document: the .ini.
        onnx: its section of Type=ONNX.
        operators: of the nodes by name.
        pace: what notes them.
    """
    parents = {parent for section in document.sections.values() for parent in section.parents}
    for name, section in document.sections.items():
        keys = section.keys()
        if name in parents or section.has("Input") or len(section.unused()) < len(keys):
            continue
        if any(re.split(r"[.(]", key)[0] in OF_NODES for key in keys):
            reason = _why_unread(name, onnx.name, operators)
            pace.note(Deviation(section.header, f"[{name}]", "ignored", reason))


def _why_unread(name: str, onnx: str, operators: Mapping[str, str]) -> str:
    if name in operators:
        return f"a {operators[name]} node takes no section"
    prefix, _, rest = name.partition(":")
    if prefix == onnx and rest in operators:
        return f"the section of a node is called by its name alone: [{rest}]"
    if prefix == onnx and rest.endswith("_def"):
        kinds = ", ".join(f"{onnx}:{kind}_def" for kind in PARAMETERS if kind != "Activation")
        return f"the ONNX file has no node of that kind. There may be: {kinds}"
    return f"the ONNX file has no node of that name.{did_you_mean(name, operators)}"
