"""An integer network as a C99 program of one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qatlab.deploy.c import blocks, copies, windows
from qatlab.deploy.c.memory import IMAGE, Memory, Tensor, three_sides
from qatlab.deploy.c.packing import packed
from qatlab.deploy.c.report import LayerSize, layer_sizes
from qatlab.deploy.c.rescale import in_32_bits
from qatlab.deploy.c.runtime import fixed_text, used
from qatlab.deploy.c.sites import Layer, Products, Rows, Term, code_of_sum, site
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import Identifiers, comment, function, loop, string
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import ranges
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import of_kind
from qatlab.errors import ConfigError

BYTES = (0, 255)
LARGEST = (1 << 31) - 1  # of an accumulator
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
        left_out: a last function of the network that it does not compute; "" if it has none.
    """

    source: str
    flash: int
    ram: int
    layers: tuple[LayerSize, ...]
    left_out: str


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
        self.shapes, self.ranges = network.shapes, ranges(network)
        self.memory = Memory(network, self.shapes)
        self.tensors = self.memory.tensors
        self.identifiers = Identifiers()
        self.tables, self.rows = Tables(self.identifiers), Rows()
        self.layers: dict[str, Layer | Products] = {}
        self.functions: list[str] = []
        self.calls: list[str] = []

    def write(self) -> None:
        """Write all operations."""
        for op in self.network.operations:
            of_kind(WRITERS, op, "C")(self, op, self.identifiers[op.name])

    def program(self, class_names: Sequence[str], about: Sequence[str]) -> CProgram:
        """Return the program."""
        self.write()
        output = self.network.output
        classes = math.prod(self.shapes[output.name])
        if classes != len(class_names):
            raise ConfigError(
                f"{output.name} has {classes} numbers for {len(class_names)} classes."
            )
        memory = self.rows.declarations()
        if self.memory.size:
            memory.append(f"static uint8_t arena[{self.memory.size}];")
        kind, unit = "int64_t" if output.whole else "double", output.unit
        image = math.prod(self.image.shape)
        written = "\n\n".join([*self.functions, self._infer(classes)])
        names = ",\n    ".join(map(string, class_names))
        parts = [
            comment([*about, *([""] if about else []), *NOTES[kind], *API.splitlines()]),
            "#include <stdint.h>",
            f"#define QATLAB_IMAGE_BYTES {image} /* {' x '.join(map(str, self.image.shape))} */\n"
            f"#define QATLAB_CLASSES {classes}\n"
            f"#define QATLAB_OUTPUT_UNIT {(2.0**-unit).hex()}",
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
            left_out=self.network.output.function,
        )

    def _view(self, op: ops.Reshape | ops.Reinterpret, name: str) -> None:
        """Add nothing: numbers that are there already, or accumulators that are computed later."""
        if op.name not in self.tensors:
            self.layers[op.name] = self.layers[op.inputs[0]]

    def _reshape(self, op: ops.Reshape, name: str) -> None:
        """Add a copy in another order, where codes do not lie in it already."""
        self._view(op, name)
        if op.name in self.tensors:
            self._copy(op, name)

    def _convolution(self, op: ops.Convolve, name: str) -> None:
        if self._block(op, name):
            return
        layer = self._layer(op, name, by_rows=True)
        shape = three_sides(self.shapes[op.name])
        self.functions.append(windows.convolution(op, name, layer.source, shape, layer.row))

    def _product(self, op: ops.Multiply, name: str) -> None:
        if self._block(blocks.as_convolution(op), name):
            return
        layer = self._layer(op, name, by_rows=False)
        text = windows.product(op, name, layer.source, layer.table, layer.weights)
        self.functions.append(text)

    def _block(self, op: ops.Convolve, name: str) -> bool:
        """Let a layer be computed in blocks, if it can be; tell whether it is."""
        readers = [other for other in self.network.operations if op.name in other.inputs]
        source, result = self.tensors[op.inputs[0]], self.tensors.get(readers[0].name)
        if len(readers) > 1 or not blocks.suits(op, source, readers[0], result):
            return False
        weights = packed(blocks.in_order(op.weight, blocks.is_planar(source)))
        table = self.tables.weights(op.name, weights)
        codes = self.network.codes[op.inputs[0]]
        settings = (op, name, source, weights, table, op.largest, True, codes.largest)
        self.layers[op.name] = blocks.Block(*settings)
        return True

    def _layer(self, op: ops.Convolve | ops.Multiply, name: str, by_rows: bool) -> Layer:
        if op.largest > LARGEST:
            raise ConfigError(f"{op.name}: an accumulator may not fit into 32 bits.")
        try:
            weights = packed(op.weight)
        except ValueError as error:
            raise ConfigError(
                f"{op.name} has weights that no C is written for: {error}."
            ) from error
        table, source = self.tables.weights(op.name, weights), self.tensors[op.inputs[0]]
        layer = Layer(op, name, source, weights, table, op.largest, by_rows)
        self.layers[op.name] = layer
        return layer

    def _of_two(self, op: ops.Product, name: str) -> None:
        one, other = (self.tensors[of] for of in op.inputs)
        shape = three_sides(self.shapes[op.name])
        self.layers[op.name] = Products(op, (one, other), shape, op.largest)

    def _sums(self, op: ops.SumPool, name: str) -> None:
        """Add sums over windows; those of accumulators are computed where they are read."""
        if op.codes is not None:
            source, result = self.tensors[op.inputs[0]], self.tensors[op.name]
            return self._run(op, windows.sums(op, name, source, result), [source])
        of = self.layers[op.inputs[0]]
        self.layers[op.name] = replace(of, name=name, largest=op.largest)
        place = "top + a", "left + b"
        if isinstance(of, Products):
            pairs = zip(of.sources, ("in", "by"), strict=True)
            head = ", ".join(f"const {source.pointed} *{pointer}" for source, pointer in pairs)
            head, tap = f"{head}, int32_t c", of.number(("in", "by"), *place)
        else:
            head, arguments = f"const {of.source.pointed} *in, const {of.row} *row", "in, row"
            if of.op.groups > 1:
                head, arguments = f"{head}, int32_t c", f"{arguments}, c"
            tap = f"sum_{of.name}({arguments}, {', '.join(place)})"
        inner, outer = (three_sides(self.shapes[n]) for n in (op.inputs[0], op.name))
        text = windows.pooled_sums(op, name, tap, inner, outer, head)
        return self.functions.append(text)

    def _largest(self, op: ops.MaxPool, name: str) -> None:
        source, result = self.tensors[op.inputs[0]], self.tensors[op.name]
        self._run(op, windows.largest(op, name, source, result), [source])

    def _copy(self, op: ops.Operation, name: str) -> None:
        if (made := copies.copied(op, name, self.memory, self.tables)) is not None:
            self._run(op, *made)

    def _table(self, op: ops.Table, name: str) -> None:
        source, result = self.tensors[op.inputs[0]], self.tensors[op.name]
        self._run(op, copies.looked_up(op, name, source, result, self.tables), [source])

    def _site(self, op: ops.Weighted | ops.FixedPoint, name: str) -> None:
        terms = []
        for name in op.inputs:
            layer = self.layers.get(name)
            if isinstance(layer, Products):
                terms.append(Term(layer.sources, layer.largest, layer))
            elif layer is not None:
                terms.append(Term((layer.source,), layer.largest, layer))
            else:
                terms.append(Term((self.tensors[name],), self.network.codes[name].largest))
        shape, result = three_sides(self.shapes[op.name]), self.tensors.get(op.name)
        if isinstance(block := terms[0].layer, blocks.Block):
            assert isinstance(op, ops.Rescale | ops.FixedRescale)
            assert result is not None
            few = (
                in_32_bits(op, self.ranges[op.inputs[0]]) if type(op) is ops.FixedRescale else None
            )
            code = code_of_sum(op, terms[0], result.kind, self.tables, few)
            text = blocks.Writer(block, self.identifiers[op.name], result, code).functions()
        else:
            text = site(op, terms, shape, result, self.tables, self.rows)
        self._run(op, text, [source for term in terms for source in term.sources])

    def _run(self, op: ops.Operation, text: str, sources: Sequence[Tensor]) -> None:
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


WRITERS: dict[type[ops.Operation], Callable[[Any, Any, str], None]] = {
    ops.Input: lambda writer, op, name: None,
    ops.Convolve: _Writer._convolution,
    ops.Multiply: _Writer._product,
    ops.Product: _Writer._of_two,
    ops.SumPool: _Writer._sums,
    ops.MaxPool: _Writer._largest,
    ops.Table: _Writer._table,
    ops.Reshape: _Writer._reshape,
    ops.Reinterpret: _Writer._view,
    **dict.fromkeys((ops.Rescale, ops.Output, ops.FixedRescale, ops.FixedOutput), _Writer._site),
    **dict.fromkeys(copies.COPIES.keys() - {ops.Reshape}, _Writer._copy),
}
