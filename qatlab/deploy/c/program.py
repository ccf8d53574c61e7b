"""An integer network as a C99 program of one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qatlab.deploy.c import blocks, copies, depthwise, windows
from qatlab.deploy.c.endings import Ending, Pool, Vector, code
from qatlab.deploy.c.kernels import Kernel
from qatlab.deploy.c.memory import IMAGE, ROWS, WINDOWS, WORD, Memory, Tensor, three_sides
from qatlab.deploy.c.packing import packed
from qatlab.deploy.c.pairs import Unpack
from qatlab.deploy.c.report import layer_sizes
from qatlab.deploy.c.rescale import In32Bits, SumIn32Bits, in_32_bits, sum_in_32_bits
from qatlab.deploy.c.runtime import used
from qatlab.deploy.c.sites import (
    Layer,
    Products,
    Rows,
    Term,
    code_of_codes,
    code_of_sum,
    numbers_of,
    numbers_of_few,
    site,
)
from qatlab.deploy.c.source import API, CLASS_NAMES, LAYOUTS, MAIN, NOTES, PLACES, CProgram
from qatlab.deploy.c.tables import Tables
from qatlab.deploy.c.words import Identifiers, function, loop, size_of, string
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.narrowing import ranges
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Codes, of_kind
from qatlab.errors import ConfigError

BYTES = (0, 255)
LARGEST = (1 << 31) - 1  # of an accumulator


def c_program(
    network: IntegerNetwork,
    class_names: Sequence[str] | None,
    about: Sequence[str] = (),
    layout: str = "chw",
    pixels: Sequence[Codes] = (),
) -> CProgram:
    """Return an integer network as a program of one C99 file.

    Its outputs are those of :func:`qatlab.deploy.integer.compute`, to the last bit.

    Args:
        network: the operations, rescaled in whole numbers or in float.
        class_names: one for each output; None for outputs that are no classes, as of an
            autoencoder: they have their numbers for names.
        about: lines for the comment at its head.
        layout: of images: one of :data:`LAYOUTS`.
        pixels: what bytes of each channel of an image stand for.

    Raises:
        ConfigError: for what C is not written for, such as images that are no bytes.
    """
    return _Writer(network, layout).program(class_names, about, pixels)


def check_c(network: IntegerNetwork) -> None:
    """Raise a ConfigError for what no C is written for; the text of a program is not made."""
    _Writer(network, "chw").write()


class _Writer:
    def __init__(self, network: IntegerNetwork, layout: str) -> None:
        self.layout, self.wide = layout, np.zeros(2, int)
        self.network, self.image = network, network.input
        if (self.image.codes.low, self.image.codes.high) != BYTES:
            raise ConfigError(f"{self.image.name} has other codes than bytes, which C reads.")
        self.shapes, self.ranges = network.shapes, ranges(network)
        self.memory = Memory(network, self.shapes, layout == "hwc")
        self.tensors = self.memory.tensors
        self.identifiers = Identifiers()
        self.tables, self.rows = Tables(self.identifiers), Rows()
        self.layers: dict[str, Layer | Products] = {}
        # Blocks whose codes are made where they are read, by the site.
        self.endings: dict[str, tuple[blocks.Block, Ending]] = {}
        self.functions: list[str] = []
        self.blocked: dict[str, blocks.Blocked] = {}  # layers in blocks, by their names
        self.planes: dict[str, tuple[int, ...]] = {}  # bits of those of their weights
        self.shared: dict[str, Kernel | Unpack] = {}  # functions of several layers, by their names
        self.uses: dict[str, tuple[str, ...]] = {}  # names of these, by the operation
        # By the operation; made when it is known where tensors lie.
        self.calls: dict[str, Callable[[], str]] = {}

    def write(self) -> None:
        """Write all operations."""
        found = (self._blocked(op) for op in self.network.operations)
        self.blocked = {layer.op.name: layer for layer in found if layer is not None}
        self.planes = blocks.least(list(self.blocked.values()))
        for op in self.network.operations:
            of_kind(WRITERS, op, "C")(self, op, self.identifiers[op.name])

    def program(
        self, class_names: Sequence[str] | None, about: Sequence[str], pixels: Sequence[Codes]
    ) -> CProgram:
        """Return the program."""
        self.write()
        output = self.network.output
        classes = math.prod(self.shapes[output.name])
        class_names = tuple(map(str, range(classes))) if class_names is None else class_names
        if classes != len(class_names):
            raise ConfigError(
                f"{output.name} has {classes} numbers for {len(class_names)} classes."
            )
        memory = self.rows.declarations()
        if self.memory.size:
            memory.append(self._arena())
        kind = "int64_t" if output.whole else "double"
        kernels = [own.text() for own in self.shared.values()]
        written = "\n\n".join([*kernels, *self.functions, self._infer(classes)])
        names = ",\n    ".join(map(string, class_names))
        words = [*NOTES[kind], *API.format(layout=LAYOUTS[self.layout], main=MAIN).splitlines()]
        body = [
            PLACES,
            *used(written),
            *self.tables.declarations(),
            *(["\n".join(memory)] if memory else []),
            written,
        ]
        image = math.prod(self.image.shape)
        return CProgram(
            about="\n".join([*about, *([""] if about else []), *words]),
            interface=self._interface(kind, classes, pixels),
            body="\n\n".join(body),
            class_names=f"{CLASS_NAMES} = {{\n    {names}}};",
            image=self._image(),
            image_bytes=image,
            classes=classes,
            flash=sum(self.tables.sizes.values()),
            ram=self.memory.size + self.rows.size + image,
            layers=layer_sizes(self.network, self.shapes, self.layers, self.tables.sizes),
            identifiers={op.name: self.identifiers[op.name] for op in self.network.operations},
            left_out=output.function,
            is_whole=output.whole,
            wide=(int(self.wide[0]), int(self.wide[1])),
            memory=self.memory.used(),
            in_place=self.memory.in_place,
            calls={name: call() for name, call in self.calls.items()},
            uses=self.uses,
            stored={name: tensor.bits for name, tensor in self.tensors.items()},
        )

    def _image(self) -> str:
        """Return the sizes of an image, in words."""
        channels, height, width = three_sides(self.image.shape)
        sides = (channels, height, width) if self.layout == "chw" else (height, width, channels)
        return f"{' x '.join(map(str, sides))} bytes: {LAYOUTS[self.layout]}"

    def _interface(self, kind: str, classes: int, pixels: Sequence[Codes]) -> str:
        channels, height, width = three_sides(self.image.shape)
        scale = 1 << self.network.output.unit
        lines = [
            f"#define QATLAB_IMAGE_BYTES {channels * height * width} /* {self._image()} */",
            f"#define QATLAB_CHANNELS {channels}",
            f"#define QATLAB_ROWS {height}",
            f"#define QATLAB_COLUMNS {width}",
            f"#define QATLAB_CLASSES {classes}",
            f"#define QATLAB_OUTPUT_UNIT (1.0 / {scale}.0)",
        ]
        if pixels:  # what a byte of each channel stands for: step * byte + offset
            for name, numbers in (
                ("STEP", [codes.step for codes in pixels]),
                ("OFFSET", [codes.offset for codes in pixels]),
            ):
                lines.append(f"#define QATLAB_IMAGE_{name} {{{', '.join(map(repr, numbers))}}}")
        return "\n\n".join(
            [
                "\n".join(lines),
                f"typedef {kind} qatlab_number;",
                "int32_t qatlab_infer(const uint8_t *image, qatlab_number *outputs);",
            ]
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
        if self._is_depthwise(op):
            return
        shape = three_sides(self.shapes[op.name])
        self.functions.append(windows.convolution(op, name, layer.source, shape, layer.row))

    def _product(self, op: ops.Multiply, name: str) -> None:
        if self._block(op, name):
            return
        layer = self._layer(op, name, by_rows=False)
        text = windows.product(op, name, layer.source, layer.table, layer.weights)
        self.functions.append(text)

    def _block(self, op: ops.Convolve | ops.Multiply, name: str) -> bool:
        """Let a layer be computed in blocks, if it can be; tell whether it is."""
        if (layer := self.blocked.get(op.name)) is None:
            return False
        widths = self.planes[op.name]
        self.layers[op.name] = blocks.block(layer, name, widths, self.tables)
        return True

    def _blocked(self, op: ops.Operation) -> blocks.Blocked | None:
        """Return a layer that can be computed in blocks; None for other operations."""
        if isinstance(op, ops.Multiply):
            op = blocks.as_convolution(op)
        if not isinstance(op, ops.Convolve):
            return None
        readers = [other for other in self.network.operations if op.name in other.inputs]
        source, result = self.tensors[op.inputs[0]], self.tensors.get(readers[0].name)
        if len(readers) > 1 or not blocks.suits(op, source, readers[0], result):
            return None
        places = min(math.prod(three_sides(self.shapes[op.name])[1:]), 2)
        codes = self.network.codes[op.inputs[0]]
        return blocks.Blocked(op, packed(op.weight), source, codes, places)

    def _is_depthwise(self, op: ops.Convolve | ops.Multiply) -> bool:
        """Tell whether one site computes a convolution channel by channel."""
        readers = [other for other in self.network.operations if op.name in other.inputs]
        source, result = self.tensors[op.inputs[0]], self.tensors.get(readers[0].name)
        if len(readers) > 1 or not isinstance(op, ops.Convolve):
            return False
        return depthwise.suits(op, source, readers[0], result)

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
        if op.inputs[0] not in self.endings:
            return self._run(op, windows.largest(op, name, source, result), [source])
        windows.Window(op, source, result.shape).check(op.name)
        block, ending = self.endings[op.inputs[0]]
        ending = replace(ending, pool=Pool(op, name, source, result))
        return self._write(op, block, ending, [block.source])

    def _copy(self, op: ops.Operation, name: str) -> None:
        if (made := copies.copied(op, name, self.memory, self.tables)) is not None:
            self._run(op, *made)

    def _table(self, op: ops.Table, name: str) -> None:
        source, result = self.tensors[op.inputs[0]], self.tensors[op.name]
        self._run(op, copies.looked_up(op, name, source, result, self.tables), [source])

    def _site(self, op: ops.Weighted | ops.FixedPoint, name: str) -> None:
        terms = [self._term(own) for own in op.inputs]
        result = self.tensors.get(op.name)
        fused = [own for own in op.inputs if own in self.endings]
        if isinstance(block := terms[0].layer, blocks.Block):
            assert isinstance(op, ops.Rescale | ops.FixedRescale)
            assert result is not None
            self._end(op, block, self._of_sums(op, terms[0], result))
        elif isinstance(layer := terms[0].layer, Layer) and self._is_alone(layer, terms):
            assert isinstance(op, ops.Rescale | ops.FixedRescale)
            assert result is not None
            ending = self._of_sums(op, terms[0], result)
            shape = three_sides(self.shapes[op.name])
            text = depthwise.Writer(layer, shape, ending).functions()
            self._run(op, text, [layer.source])
        elif fused:
            assert isinstance(op, ops.Rescale | ops.FixedRescale)
            assert result is not None
            block, ending = self.endings[fused[0]]
            self._end(op, block, self._of_codes(op, terms, result, ending))
        else:
            shape = three_sides(self.shapes[op.name])
            few = self._few(op)
            self._count(op, few)
            text = site(op, terms, shape, result, self.tables, self.rows, few)
            self._run(op, text, [source for term in terms for source in term.sources])

    def _is_alone(self, layer: Layer, terms: Sequence[Term]) -> bool:
        """Tell whether a site reads one depthwise convolution."""
        one = len(terms) == 1 and isinstance(layer.op, ops.Convolve)
        return (
            one and layer.name == self.identifiers[layer.op.name] and self._is_depthwise(layer.op)
        )

    def _term(self, name: str) -> Term:
        layer = self.layers.get(name)
        if isinstance(layer, Products):
            return Term(layer.sources, layer.largest, layer)
        if layer is not None:
            return Term((layer.source,), layer.largest, layer)
        return Term((self.tensors[name],), self.network.codes[name].largest)

    def _count(self, op: ops.Operation, few: In32Bits | SumIn32Bits | None) -> None:
        """Count channels of sites, and those whose sums take 64 bits."""
        if type(op) is ops.FixedRescale:
            channels = three_sides(self.shapes[op.name])[0]
            self.wide += (0 if few else channels, channels)

    def _few(self, op: ops.Operation) -> SumIn32Bits | None:
        """Return a sum of codes in 32 bits for a site, if there is one."""
        codes = self.network.codes
        if type(op) is not ops.FixedRescale or not all(own in codes for own in op.inputs):
            return None
        return sum_in_32_bits(op, [codes[own] for own in op.inputs])

    def _of_sums(self, op: ops.Rescale | ops.FixedRescale, term: Term, result: Tensor) -> Ending:
        """Return how the sums of a block become the codes of a site."""
        few = None
        if isinstance(op, ops.FixedRescale) and op.offset.ndim < 2:
            few = in_32_bits(op, self.ranges[op.inputs[0]])
        self._count(op, few)
        lines = code_of_sum(op, term, result.kind, self.tables, few)
        site = self.identifiers[op.name]
        of_sum = code(site, result.kind, ["sum"], lines)
        if few is None or not isinstance(op, ops.FixedRescale):
            return Ending(site, result, of_sum, 0)
        factor, moved = numbers_of(op, self.tables, few)
        vector = Vector((factor,), moved, few.shift, op.codes.low, op.codes.high)
        return Ending(site, result, of_sum, few.lift, vectors=(vector,))

    def _of_codes(
        self, op: ops.Rescale | ops.FixedRescale, terms: Sequence[Term], result: Tensor, own: Ending
    ) -> Ending:
        """Return how they become those of a site that adds other codes to the ones of a block."""
        few = self._few(op)
        self._count(op, few)
        lines = code_of_codes(op, terms, result.kind, self.tables, few)
        site, numbers = self.identifiers[op.name], [f"in{i}" for i in range(len(terms))]
        at = next(i for i, term in enumerate(terms) if term.sources[0] is own.result)
        others = [term.sources[0] for i, term in enumerate(terms) if i != at]
        source = self.endings[own.result.name][0].source
        for other in others:
            if other is not source and self.memory.overwrite(op.name, other.name):
                break
        made = code(site, result.kind, numbers, lines)
        vectors: tuple[Vector, ...] = ()
        if own.vectors and few is not None:
            start, factors = numbers_of_few(op, self.tables, few)
            own_vector = Vector(factors, start, few.shift, op.codes.low, op.codes.high)
            vectors = (*own.vectors, own_vector)
        codes = (*own.of_codes, made)
        return Ending(
            *(site, result, own.of_sum, own.lift, codes, tuple(others), at),
            vectors=vectors,
        )

    def _end(self, op: ops.Operation, block: blocks.Block, ending: Ending) -> None:
        """Write a block, or let the only reader of its codes do so."""
        if self._is_taken(op, ending):
            self.endings[op.name] = block, ending
            return self.memory.fuse(op.name)
        return self._write(op, block, ending, [block.source, *ending.others])

    def _is_taken(self, op: ops.Operation, ending: Ending) -> bool:
        """Tell whether the codes of a block are made where they are read."""
        readers = [other for other in self.network.operations if op.name in other.inputs]
        if len(readers) != 1 or ending.others or not self.memory.is_alone(op.name):
            return False
        reader: Any = readers[0]
        if reader.name not in self.tensors or reader.inputs.count(op.name) > 1:
            return False
        own, result = self.tensors[op.name], self.tensors[reader.name]
        if type(reader) is ops.MaxPool:
            return reader.dilation == (1, 1) and result.strides[0] == 1 and own.bits == result.bits
        if type(reader) not in (ops.Rescale, ops.FixedRescale) or reader.below is not None:
            return False
        numbers = (*reader.multipliers, reader.offset)
        done = {other.name for other in self.network.operations[: self._step(op)]}
        others = [name for name in reader.inputs if name != op.name]
        return (
            all(number.ndim < 2 for number in numbers)
            and set(others) <= done & self.tensors.keys() - self.endings.keys()
            and all(
                tensor.shape == own.shape and tensor.strides[0] == 1 and size_of(tensor.kind) == 1
                for tensor in (result, *(self.tensors[name] for name in others))
            )
        )

    def _step(self, op: ops.Operation) -> int:
        return self.network.operations.index(op)

    def _write(
        self,
        op: ops.Operation,
        block: blocks.Block,
        ending: Ending,
        sources: Sequence[Tensor],
    ) -> None:
        """Add the functions of a block."""
        writer = blocks.Writer(block, three_sides(self.shapes[block.op.name]), ending)
        shared = {own.name: own for own in writer.shared()}
        self.shared |= shared
        self.uses[op.name] = tuple(shared)
        beyond = max(plane.kernel.reads_beyond for plane in block.planes)
        self.memory.reserve(op.name, WORD * (block.pairs * block.places + beyond))
        scratch = [(WINDOWS, "")]
        if ending.pool is not None:
            self.memory.reserve(op.name, ending.pool.size, ROWS)
            scratch.append((ROWS, ending.pool.rows.pointed))
        self._run(op, writer.functions(), sources, scratch)

    def _run(
        self,
        op: ops.Operation,
        text: str,
        sources: Sequence[Tensor],
        scratch: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Add a function, and the call that says where in memory its tensors lie."""
        result, memory = self.tensors.get(op.name), self.memory

        def call() -> str:
            places = [memory.address(source) for source in sources]
            places.append(memory.address(result) if result else "outputs")
            places += [memory.address_of_scratch(op.name, *what) for what in scratch]
            return f"run_{self.identifiers[op.name]}({', '.join(places)});"

        self.functions.append(text)
        self.calls[op.name] = call

    def _arena(self) -> str:
        """Return C of the memory of all codes."""
        members = [f"uint8_t codes[{self.memory.size}];"]
        if self.memory.has_windows:
            members.append(f"qatlab_pair windows[{self.memory.size // WORD}];")
        return f"static QATLAB_RAM union {{\n    {chr(10).join(members)}\n}} arena;".replace(
            ";\nq", ";\n    q"
        )

    def _infer(self, classes: int) -> str:
        best = ["if (outputs[k] > outputs[best]) {", "    best = k;", "}"]
        body = [
            *(call() for call in self.calls.values()),
            "int32_t best = 0;",
            *loop("k", classes, best, "1"),
            "return best;",
        ]
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
