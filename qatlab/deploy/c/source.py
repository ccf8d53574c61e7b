"""The text of a program: one file, or library, header and example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qatlab.deploy.c.memory import Used
from qatlab.deploy.c.report import LayerSize
from qatlab.deploy.c.runtime import fixed_text
from qatlab.deploy.c.words import comment

NOTES = {
    "int64_t": [
        "It computes with whole numbers alone: sums of 32 bits, rescaled in 32 bits where every",
        "sum is shown to have the same code as with 64, and else in 64.",
        "Build it: cc -std=c99 -O2 FILE.c",
    ],
    "double": [
        "It rescales in double, in the order of the network that it was made of. For the same",
        "results to the last bit, double has to be IEEE 754, and the compiler must not make one",
        "operation of a product and a sum: gcc does not with -std=c99, clang needs",
        "-ffp-contract=off. Build it: cc -std=c99 -ffp-contract=off -O2 FILE.c",
    ],
}
API = """
qatlab_infer takes the bytes of an image ({layout}), writes an output for each
class, and returns the index of the first largest one; times QATLAB_OUTPUT_UNIT, outputs are
those of the network. It needs <stdint.h>, and headers of the compiler where it uses intrinsics
(QATLAB_PLAIN leaves them out). It keeps codes in static memory, so it may not run twice at a
time.{main}
"""
MAIN = " With QATLAB_NO_MAIN defined, there is no main."
# So that a linker can put memory and constants where a board has room for them.
PLACES = """\
#ifndef QATLAB_RAM
#define QATLAB_RAM
#endif
#ifndef QATLAB_FLASH
#define QATLAB_FLASH
#endif"""
CLASS_NAMES = "static const char *const class_names[QATLAB_CLASSES]"
LAYOUTS = {"chw": "channels, rows, columns", "hwc": "rows, columns, channels"}


@dataclass(frozen=True)
class CProgram:
    """A program.

    Attributes:
        about: the comment at its head, up to what it says of ``main``.
        interface: C of its sizes, of its type of numbers and of its function.
        body: C of everything else but the example.
        class_names: C of the names of classes.
        image: sizes of an image, in words.
        image_bytes: of an image.
        classes: how many.
        flash: bytes of constants: weights, multipliers, offsets, shifts and tables.
        ram: bytes of codes, of buffers for weights, and of one image.
        layers: where constants and work lie.
        identifiers: with which the names of the functions of an operation end, by its name.
        left_out: a last function of the network that it does not compute; "" if it has none.
        is_whole: whether outputs are whole numbers, not double.
        wide: channels of sites whose sums take 64 bits, and of how many.
        memory: what lies in the arena, and when.
        in_place: operations whose results are written over another one, and that one.
        calls: the statements that compute it, by the operation at whose end they stand.
        uses: functions of several layers that an operation calls, by its name.
        stored: bits that a code takes in memory, by the operation whose result it is.
    """

    about: str
    interface: str
    body: str
    class_names: str
    image: str
    image_bytes: int
    classes: int
    flash: int
    ram: int
    layers: tuple[LayerSize, ...]
    identifiers: Mapping[str, str]
    left_out: str
    is_whole: bool
    wide: tuple[int, int]
    memory: tuple[Used, ...]
    in_place: Mapping[str, str]
    calls: Mapping[str, str]
    uses: Mapping[str, tuple[str, ...]]
    stored: Mapping[str, int]

    @property
    def fixed_memory(self) -> int:
        """Bytes of memory beside the arena and the image: buffers for weights."""
        arena = max((part.start + part.size for part in self.memory), default=0)
        return self.ram - self.image_bytes - arena

    @property
    def needed(self) -> dict[str, int]:
        """Bytes of the arena that are needed while an operation is computed, by its name."""
        names = [row.name for row in self.layers]
        at = {name: i for i, name in enumerate(names)}
        sizes = {name: 0 for name in names}
        for part in self.memory:
            for name in names[at[part.first] : at[part.last] + 1]:
                sizes[name] += part.size
        return {name: size for name, size in sizes.items() if size}

    def by_layer(self, functions: Mapping[str, int]) -> dict[str, int]:
        """Return the bytes of code of each operation, and under "" of what several share.

        Args:
            functions: bytes of each function, by its name.
        """
        found = dict.fromkeys(["", *self.identifiers], 0)
        for function, size in functions.items():
            owners = {
                len(own): name
                for name, own in self.identifiers.items()
                if re.fullmatch(rf"[a-z]+_{re.escape(own)}", function)
            }
            found[owners[max(owners)] if owners else ""] += size
        return found

    @property
    def source(self) -> str:
        """Its text as one file."""
        parts = [
            *(comment([*self.about.splitlines()]), "#include <stdint.h>", self.interface),
            *(self.body, "#ifndef QATLAB_NO_MAIN", _main_of(self.class_names), "#endif"),
        ]
        return "\n\n".join(parts) + "\n"

    @property
    def source_with_steps(self) -> str:
        """The same with ``QATLAB_STEP(i)`` behind the i-th of its calls, for counting."""
        source = self.source
        for i, call in enumerate(self.calls.values()):
            source = source.replace(f"    {call}", f"    {call}\n    QATLAB_STEP({i})", 1)
        return source

    @property
    def header(self) -> str:
        """Its header as a file of its own."""
        parts = [
            *(comment(self._about_library()), "#ifndef QATLAB_MODEL_H\n#define QATLAB_MODEL_H"),
            *("#include <stdint.h>", '#ifdef __cplusplus\nextern "C" {\n#endif', self.interface),
            *("#ifdef __cplusplus\n}\n#endif", "#endif"),
        ]
        return "\n\n".join(parts) + "\n"

    def library(self, header: str) -> str:
        """Return the network as a file of its own that includes a header."""
        return (
            "\n\n".join([comment(self._about_library()), f'#include "{header}"', self.body]) + "\n"
        )

    def main(self, header: str) -> str:
        """Return the example as a file of its own."""
        about = comment(["Classifies the images of a file: bytes, one image after the other."])
        return "\n\n".join([about, f'#include "{header}"', _main_of(self.class_names)]) + "\n"

    def _about_library(self) -> list[str]:
        return self.about.replace(MAIN, "").splitlines()


def _main_of(class_names: str) -> str:
    includes = "\n".join(f"#include <{name}.h>" for name in ("stdio", "stdlib", "string", "time"))
    return "\n\n".join([includes, class_names, fixed_text("main.c")])
