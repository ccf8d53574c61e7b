"""The resolved table: what each layer and each site of a network is quantized to."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import nn

from qatlab.quant.quantizer import Quantizer, quantizers
from qatlab.quant.rules import Target

if TYPE_CHECKING:
    from rich.table import Table

FLOAT_BITS = 32
NAMED = 5  # layers that a line names
LEARNED = "learned bits"  # what decides such a row, as no rule is called
TITLE = "Layers and sites"
COLUMNS = {  # of the printed table; whether they hold numbers
    **{"layer": False, "type": False, "shape": False, "weight bits": True},
    **{"activation bits": True, "grid": False, "scaling": False, "decided by": False},
    "parameters": True,
}


def packed_bytes(count: int, bits: int | None) -> int:
    """Return the bytes of so many values without gaps between them; None are float32."""
    return (count * (bits or FLOAT_BITS) + 7) // 8


@dataclass(frozen=True)
class LayerRecord:
    """One weight layer, or one site where activations are quantized.

    Attributes:
        name: path in the network.
        type: class name of the float module.
        part: ``weight`` or ``activation``.
        shape: of the weights ``(C_out, C_in, ...)``, or of one image's activations ``(1, ...)``.
        parameters: number of weights; 0 for a site.
        bits: bit width, None where the tensor stays float.
        quantizer: further facts: method, n_steps, grid, scaling, signed.
        rules: keys of the rules that had a say; the last one wins.
        macs: multiply-accumulates of a weight layer for one image.
        input_bits: of what a weight layer reads, the most if it reads several tensors; 8 for the
            bytes of an image, None for float.
        mac_bits: these multiply-accumulates, each times the bits of what is read in that call.
    """

    name: str
    type: str
    part: str
    shape: tuple[int, ...]
    parameters: int
    bits: int | None
    quantizer: dict[str, Any]
    rules: tuple[str, ...]
    macs: int = 0
    input_bits: int | None = None
    mac_bits: int = 0

    @classmethod
    def of(
        cls,
        target: Target,
        part: str,
        shape: tuple[int, ...],
        quantizer: Quantizer | None,
        rules: tuple[str, ...],
    ) -> LayerRecord:
        """Describe a target that has become ``quantizer``, or stays float."""
        count = 0
        if part == "weight":
            count = 1
            for size in shape:
                count *= size
        facts = {} if quantizer is None else quantizer.describe()
        bits = facts.pop("bits", None)
        return cls(target.name, target.type, part, shape, count, bits, facts, rules)

    @property
    def cells(self) -> tuple[str, ...]:
        """A text for each of ``COLUMNS``."""
        bits = "float" if self.bits is None else str(self.bits)
        on_grid = self.quantizer.get("grid", "")
        if self.part == "activation" and self.bits is not None:
            on_grid = "signed" if self.quantizer.get("signed") else "unsigned"
        return (
            self.name,
            self.type,
            "x".join(map(str, self.shape if self.part == "weight" else self.shape[1:])),
            bits if self.part == "weight" else "",
            bits if self.part == "activation" else "",
            on_grid,
            {True: "yes", "fan_in": "fan_in"}.get(self.quantizer.get("scaling"), ""),
            ", ".join(self.rules),
            str(self.parameters or ""),
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights at their bit width, packed without gaps."""
        return packed_bytes(self.parameters, self.bits)

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both factors; float ones count as 32."""
        return self.mac_bits * (self.bits or FLOAT_BITS)


class BitCosts(Protocol):
    """What a table knows of :class:`~qatlab.quant.costs.Costs`."""

    macs: int

    def add_to(self, records: Iterable[LayerRecord]) -> tuple[list[LayerRecord], int]: ...

    def reads(self, layer: str) -> list[tuple[tuple[str | int, ...], int]]: ...


@dataclass(frozen=True)
class ModelTable:
    """All layers and sites of a network, and its size.

    ``print(table)`` shows it as a training does; notebooks show it as HTML.

    Attributes:
        layers: weight layers and sites in the order of computation.
        parameters: all trainable parameters of the float network.
        bias_bytes: what a deployed network stores beside its weights: one float32 for each bias,
            and one for each channel of a norm, which is absorbed into the layer before it.
        float_macs: multiply-accumulates for one image that are of no row, such as products of
            activations; they count as float.
        peak_bytes: the most that is kept of activations at a time, for one image: its own bytes,
            those of the sites at their bits, the outputs in float32.
        costs: what these follow from, for other bits.
    """

    layers: tuple[LayerRecord, ...]
    parameters: int
    bias_bytes: int
    float_macs: int
    peak_bytes: int
    costs: BitCosts | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[LayerRecord], costs: BitCosts) -> ModelTable:
        """Add up a converted network."""
        rows, peak_bytes = costs.add_to(layers)
        own = [
            (module, name, parameter)
            for module in model.modules()
            if not isinstance(module, Quantizer)
            for name, parameter in module.named_parameters(recurse=False)
        ]
        biases = sum(p.numel() for _, name, p in own if name == "bias")
        parameters = sum(p.numel() for _, _, p in own)
        float_macs = costs.macs - sum(row.macs for row in rows)
        return cls(tuple(rows), parameters, 4 * biases, float_macs, peak_bytes, costs)

    def with_bits(self, bits: Mapping[str, int], decided_by: str) -> ModelTable:
        """Return the table of the same network with other bits for some layers and sites.

        Args:
            bits: by name, of layers and sites that are quantized.
            decided_by: what the table names as the last that had a say in these.
        """
        assert self.costs is not None  # only a table that was made by hand has none
        rows = [
            replace(
                row,
                bits=bits[row.name],
                quantizer={**row.quantizer, "n_steps": (1 << bits[row.name]) - 1},
                rules=(*(rule for rule in row.rules if rule != decided_by), decided_by),
            )
            if row.name in bits
            else row
            for row in self.layers
        ]
        rows, peak_bytes = self.costs.add_to(rows)
        return replace(self, layers=tuple(rows), peak_bytes=peak_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights at the chosen bits: the model size that papers report."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Model size in bytes at the chosen bits, as deployed."""
        return self.bias_bytes + self.weight_bytes

    @property
    def float_bytes(self) -> int:
        """Model size in bytes with float32 weights, as deployed."""
        return self.bias_bytes + sum(4 * layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.float_macs + sum(layer.macs for layer in self.layers)

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both factors; see :class:`LayerRecord`."""
        by_layers = sum(layer.bit_operations for layer in self.layers)
        return by_layers + self.float_macs * FLOAT_BITS**2

    def to_json(self) -> dict[str, Any]:
        """Return what ``layers.json`` holds."""
        return {
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "size_bytes": self.size_bytes,
            "float_bytes": self.float_bytes,
            "macs": self.macs,
            "bit_operations": self.bit_operations,
            "peak_bytes": self.peak_bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def with_learned_bits(self, model: nn.Module) -> ModelTable:
        """Return the table with the bits that a training of the network has learned, if any."""
        learned = {q.layer: q.bits for q in quantizers(model) if q.has_learned_bits}
        return self.with_bits(learned, LEARNED) if learned else self

    def grid(self) -> Table:
        """Return the layers and sites for a terminal."""
        from rich.table import Table  # here: the mathematics does without

        grid = Table(title=TITLE, title_justify="left")
        width = max((len(layer.name) for layer in self.layers), default=0)
        for name, numbers in COLUMNS.items():
            least = width if name == "layer" else None
            justify: Literal["left", "right"] = "right" if numbers else "left"
            grid.add_column(name, justify=justify, no_wrap=name == "layer", min_width=least)
        for layer in self.layers:
            grid.add_row(*layer.cells)
        return grid

    def totals(self) -> list[str]:
        """Return sentences about size and operations, and about what stays float."""
        size = (
            f"{self.parameters:,} parameters; {self.size_bytes:,} bytes at these bits, of which "
            f"{self.weight_bytes:,} are weights; {self.float_bytes:,} bytes in float32 "
            f"({self.float_bytes / self.size_bytes:.2f}x); batch norm folded"
        )
        operations = (
            f"{self.macs:,} MACs per image; {self.bit_operations:,} bit operations (MACs x weight "
            f"bits x input bits); peak activation memory {self.peak_bytes:,} bytes"
        )
        floats = self.float_weights()
        return [size, operations, *([floats] if floats else [])]

    def float_weights(self) -> str:
        """Return a line that names the weights that stay float beside quantized ones, or ""."""
        weights = [layer for layer in self.layers if layer.part == "weight"]
        floats = [layer for layer in weights if layer.bits is None]
        if not floats or len(floats) == len(weights):
            return ""
        names = ", ".join(f"{layer.name} ({layer.type})" for layer in floats[:NAMED])
        more = f" and {len(floats) - NAMED} more" if len(floats) > NAMED else ""
        count = sum(layer.parameters for layer in floats)
        return (
            f"Weights that stay float: {names}{more}; {count:,} of {self.parameters:,} parameters"
        )

    def __str__(self) -> str:
        """Return the table and its totals as lines, wide enough for all cells."""
        from rich.console import Console

        lines = io.StringIO()
        Console(file=lines, width=10_000, color_system=None, force_jupyter=False).print(self.grid())
        return "\n".join([*(x.rstrip() for x in lines.getvalue().splitlines()), *self.totals()])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""

        def row(kind: str, cells: Sequence[str]) -> str:
            sides = ("right" if numbers else "left" for numbers in COLUMNS.values())
            pairs = zip(sides, cells, strict=True)
            inner = (f'<{kind} style="text-align: {x}">{escape(y)}</{kind}>' for x, y in pairs)
            return f"<tr>{''.join(inner)}</tr>"

        rows = "\n".join(row("td", layer.cells) for layer in self.layers)
        totals = "".join(f"<p>{escape(line)}</p>" for line in self.totals())
        head = row("th", list(COLUMNS))
        return f"<table><caption>{TITLE}</caption>\n{head}\n{rows}\n</table>\n{totals}"
