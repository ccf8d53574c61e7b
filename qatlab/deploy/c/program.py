"""An integer network as a C99 program of one file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qatlab.deploy.c import copies, windows
from qatlab.deploy.c.memory import IMAGE, Memory, Tensor, three_sides
from qatlab.deploy.c.packing import packed
from qatlab.deploy.c.report import LayerSize, layer_sizes
from qatlab.deploy.c.runtime import fixed_text, used
from qatlab.deploy.c.sites import Layer, Rows, Term, site
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import Identifiers, comment, function, loop, string
from qatlab.deploy.integer.network import (
    Convolve,
    FixedOutput,
    FixedPoint,
    Input,
    IntegerNetwork,
    MaxPool,
    Multiply,
    Operation,
    Reinterpret,
    Reshape,
    SumPool,
    Weighted,
)
from qatlab.deploy.integer.vectorised import shapes
from qatlab.errors import ConfigError

BYTES = (0, 255)
LARGEST = (1 << 31) - 1  # of an accumulator
NOTES = {
    "int64_t": [
        "It computes with whole numbers alone: sums of 32 bits, rescaled in 64 bits.",
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
qatlab_infer takes the bytes of an image (channels, rows, columns), writes an output for each
class, and returns the index of the first largest one; times QATLAB_OUTPUT_UNIT, outputs are
those of the network. It needs <stdint.h> only. It keeps codes in static memory, so it may not
run twice at a time. With QATLAB_NO_MAIN defined, there is no main.
"""


@dataclass(frozen=True)
class CProgram:
    """A program.

    Attributes:
        source: its text.
        flash: bytes of constants: weights, multipliers, offsets, shifts and tables.
        ram: bytes of codes, of buffers for weights, and of one image.
        layers: where constants and work lie.
    """

    source: str
    flash: int
    ram: int
    layers: tuple[LayerSize, ...]


def c_program(
    network: IntegerNetwork, class_names: Sequence[str], about: Sequence[str] = ()
) -> CProgram:
    """Return an integer network as a program of one C99 file.

    Its outputs are those of :func:`qatlab.deploy.integer.compute`, to the last bit.

    Args:
        network: the operations, rescaled in whole numbers or in float.
        class_names: one for each output.
        about: lines for the comment at its head.

    Raises:
        ConfigError: for what C is not written for, such as images that are no bytes.
    """
    return _Writer(network).program(class_names, about)


def check_c(network: IntegerNetwork) -> None:
    """Raise a ConfigError for what no C is written for; the text of a program is not made."""
    _Writer(network).write()


class _Writer:
    def __init__(self, network: IntegerNetwork) -> None:
        self.network, self.image = network, network.input
        if (self.image.codes.low, self.image.codes.high) != BYTES:
            raise ConfigError(f"{self.image.name} has other codes than bytes, which C reads.")
        self.shapes = shapes(network)
        self.memory = Memory(network, self.shapes)
        self.tensors = self.memory.tensors
        self.identifiers = Identifiers()
        self.tables, self.rows = Tables(self.identifiers), Rows()
        self.layers: dict[str, Layer] = {}
        self.functions: list[str] = []
        self.calls: list[str] = []

    def write(self) -> None:
        """Write all operations."""
        for op in self.network.operations:
            self._write(op)

    def program(self, class_names: Sequence[str], about: Sequence[str]) -> CProgram:
        """Return the program."""
        self.write()
        output = self.network.operations[-1]
        classes = math.prod(self.shapes[output.name])
        if classes != len(class_names):
            raise ConfigError(
                f"{output.name} has {classes} numbers for {len(class_names)} classes."
            )
        memory = self.rows.declarations()
        if self.memory.size:
            memory.append(f"static uint8_t arena[{self.memory.size}];")
        shift = int(output.shift.flat[0]) if isinstance(output, FixedOutput) else 0
        kind = "int64_t" if isinstance(output, FixedPoint) else "double"
        image = math.prod(self.image.shape)
        written = "\n\n".join([*self.functions, self._infer(classes)])
        names = ",\n    ".join(map(string, class_names))
        parts = [
            comment([*about, *([""] if about else []), *NOTES[kind], *API.splitlines()]),
            "#include <stdint.h>",
            f"#define QATLAB_IMAGE_BYTES {image} /* {' x '.join(map(str, self.image.shape))} */\n"
            f"#define QATLAB_CLASSES {classes}\n"
            f"#define QATLAB_OUTPUT_UNIT {(2.0**-shift).hex()}",
            f"typedef {kind} qatlab_number;",
            "int32_t qatlab_infer(const uint8_t *image, qatlab_number *outputs);",
            *used(written),
            *self.tables.declarations(),
            *(["\n".join(memory)] if memory else []),
            written,
            "#ifndef QATLAB_NO_MAIN",
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <time.h>",
            f"static const char *const class_names[QATLAB_CLASSES] = {{\n    {names}}};",
            fixed_text("main.c"),
            "#endif",
        ]
        return CProgram(
            source="\n\n".join(parts) + "\n",
            flash=sum(self.tables.sizes.values()),
            ram=self.memory.size + self.rows.size + image,
            layers=layer_sizes(self.network, self.shapes, self.layers, self.tables.sizes),
        )

    def _write(self, op: Operation) -> None:
        name = self.identifiers[op.name]
        if isinstance(op, (Input, Reshape, Reinterpret)):  # numbers that are there already
            if op.name not in self.tensors:
                self.layers[op.name] = self.layers[op.inputs[0]]
            return
        if isinstance(op, (Convolve, Multiply)):
            self._add_layer(op, name)
        elif isinstance(op, SumPool) and op.codes is None:
            self._add_sums(op, name)
        elif isinstance(op, (Weighted, FixedPoint)):
            self._add_site(op)
        elif isinstance(op, (MaxPool, SumPool)):
            source, result = self.tensors[op.inputs[0]], self.tensors[op.name]
            self._run(op, windows.pooling(op, name, source, result), [source])
        elif type(op) in copies.COPIES:
            if (made := copies.copied(op, name, self.memory, self.tables)) is not None:
                self._run(op, *made)
        else:
            raise ConfigError(f"{op.name} is a {type(op).__name__}, which no C is written for.")

    def _add_sums(self, op: SumPool, name: str) -> None:
        """Add sums over windows of accumulators, which are computed where they are read."""
        of = self.layers[op.inputs[0]]
        self.layers[op.name] = replace(of, name=name, largest=op.largest)
        inner, result = (three_sides(self.shapes[n]) for n in (op.inputs[0], op.name))
        grouped = isinstance(of.op, Convolve) and of.op.groups > 1
        head = f"const {of.source.pointed} *in, const {of.row} *row"
        head, arguments = (head + ", int32_t c", "in, row, c") if grouped else (head, "in, row")
        text = windows.pooled_sums(op, name, of.name, inner, result, head, arguments)
        self.functions.append(text)

    def _add_layer(self, op: Convolve | Multiply, name: str) -> None:
        if op.largest > LARGEST:
            raise ConfigError(f"{op.name}: an accumulator may not fit into 32 bits.")
        try:
            weights = packed(op.weight)
        except ValueError as error:
            raise ConfigError(
                f"{op.name} has weights that no C is written for: {error}."
            ) from error
        table = self.tables.weights(op.name, weights)
        layer = Layer(op, name, self.tensors[op.inputs[0]], weights, table, op.largest)
        self.layers[op.name] = layer
        if isinstance(op, Convolve):
            result = three_sides(self.shapes[op.name])
            text = windows.convolution(op, name, layer.source, result, layer.row)
        else:
            text = windows.product(op, name, layer.source, table, weights)
        self.functions.append(text)

    def _add_site(self, op: Weighted | FixedPoint) -> None:
        terms = [
            Term(self.layers[name], self.layers[name].largest)
            if name in self.layers
            else Term(self.tensors[name], self.network.codes[name].largest)
            for name in op.inputs
        ]
        shape, result = three_sides(self.shapes[op.name]), self.tensors.get(op.name)
        text = site(op, terms, shape, result, self.tables, self.rows)
        sources = [t.value if isinstance(t.value, Tensor) else t.value.source for t in terms]
        self._run(op, text, sources)

    def _run(self, op: Operation, text: str, sources: Sequence[Tensor]) -> None:
        """Add a function, and the call that says where in memory its tensors lie."""
        result = self.tensors.get(op.name)
        places = [f"{source.address}" for source in sources]
        places.append(result.address if result else "outputs")
        self.functions.append(text)
        self.calls.append(f"run_{self.identifiers[op.name]}({', '.join(places)});")

    def _infer(self, classes: int) -> str:
        best = ["if (outputs[k] > outputs[best]) {", "    best = k;", "}"]
        body = [*self.calls, "int32_t best = 0;", *loop("k", classes, best, "1"), "return best;"]
        head = f"int32_t qatlab_infer(const uint8_t *{IMAGE}, qatlab_number *outputs)"
        return function(head, body)
