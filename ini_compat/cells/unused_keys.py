"""Why nobody has read a key of a cell section."""

from __future__ import annotations

import re
from collections.abc import Collection

from ini_compat.cells.activations import KEY as FUNCTION
from ini_compat.syntax.resolve import Document, Section

QUANTIZED = ("Conv", "Fc")  # have a quantizer of weights
SIZES = re.compile(
    r"(?P<window>Kernel|Pool)(Dims|Size|Width|Height|Depth)|"
    r"(?P<step>Stride|Padding|Dilation|SubSample)(Dims|[XYZ])?"
)
SIZED = {  # what is read in one of these forms
    "Conv": ("Kernel", "Stride", "Padding", "Dilation", "SubSample"),
    "Deconv": ("Kernel", "Stride", "Padding", "Dilation"),
    "Pool": ("Pool", "Stride", "Padding"),
    "Unpool": ("Pool", "Stride", "Padding"),
}


def writer(document: Document, section: Section, key: str) -> Section:
    """Return the section that a key is written in: this one, or one that it inherits from."""
    entry, found = section.entries[key], section
    while True:
        parents = [document.sections[name] for name in found.parents]
        heirs = [parent for parent in parents if parent.entries.get(key) is entry]
        if not heirs:
            return found
        found = heirs[0]


def why_unused(
    section: Section, key: str, kind: str, accepted: Collection[str], solvers: Collection[str]
) -> str:
    """Return the reason for one key.

    Args:
        section: of a cell, already read.
        key: that was not.
        kind: N2D2's Type of the cell.
        accepted: names of the parameters that such a cell has in its config sections.
        solvers: what begins the keys of its solvers there.
    """
    word = re.split(r"[.(]", key, maxsplit=1)[0]
    if key in accepted:
        return "N2D2 reads it from a ConfigSection only, so it has no effect there either"
    if word == "ConfigSection":
        return "it is for cells of another Model, or one for this Model stands beside it"
    if f"{word}." in solvers:
        if section.has(word):
            return "a ConfigSection or another solver stands in its place"
        return f"N2D2 reads it only beside {word}= or from a ConfigSection"
    if word in ("QAct", "QActSolver", "QWeight", "QWeightSolver"):
        return _of_quantizer(section, word, kind)
    if word in ("WeightsFiller", "BiasFiller", FUNCTION) and not section.has(word):
        return f"there is no {word}= line that it would belong to"
    if key.startswith("Mapping("):
        return "no parent of the cell has that name, or groups say it already"
    size = SIZES.fullmatch(key)
    if size and (size["window"] or size["step"]) in SIZED.get(kind, ()):
        return "another key of the cell says it already"
    return f"{kind} has no such key"


def _of_quantizer(section: Section, word: str, kind: str) -> str:
    quantizer = word.removesuffix("Solver")
    if quantizer == "QAct" and not section.has(FUNCTION):
        return f"N2D2 reads QAct only beside {FUNCTION} in the same section"
    if quantizer == "QWeight" and kind not in QUANTIZED:
        return f"N2D2 has no weight quantizer for {kind}, only for {' and '.join(QUANTIZED)}"
    if not section.has(quantizer):
        return f"there is no {quantizer}= line that it would belong to"
    if word == "QWeightSolver" and section.text(quantizer) == "SAT":
        return "QWeight=SAT learns nothing that a solver could train"
    return f"N2D2 reads it only beside {word}="
