"""Costs that follow from the table of a network: its size, bit operations, mean bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from qatlab.mixed_precision.choices import Choices, Tensor
from qatlab.mixed_precision.cost import Condition, Cost, Sum
from qatlab.quant import LayerRecord, ModelTable
from qatlab.quant.table import FLOAT_BITS, packed_bytes


def size(choices: Choices, table: ModelTable) -> Cost:
    """Return the bytes of weights and biases, packed without gaps, as reports give them."""
    terms: dict[Condition, float] = {}
    constant = float(table.bias_bytes)
    for row in _weights(table):
        if (tensor := Tensor("weight", row.name)) not in choices.widths:
            constant += row.size_bytes
            continue
        for bits in choices.widths[tensor]:
            terms[((tensor, bits),)] = packed_bytes(row.parameters, bits)
    return Cost("size", "bytes", [Sum("size", constant, terms)])


def mean_bits(choices: Choices, table: ModelTable) -> Cost:
    """Return the mean of the bits of all weights that have a choice."""
    rows = [row for row in _weights(table) if Tensor("weight", row.name) in choices.widths]
    count = sum(row.parameters for row in rows) or 1
    terms: dict[Condition, float] = {}
    for row in rows:
        tensor = Tensor("weight", row.name)
        for bits in choices.widths[tensor]:
            terms[((tensor, bits),)] = bits * row.parameters / count
    return Cost("mean_bits", "bits", [Sum("mean_bits", 0.0, terms)])


def bit_operations(choices: Choices, table: ModelTable) -> Cost:
    """Return multiply-accumulates times the bits of both factors, for one image.

    A layer that reads several sites at once, behind a concatenation, reads the widest of them; here
    each counts for its share, so that what the table then says can be more.
    """
    fixed = {(row.part, row.name): row.bits or FLOAT_BITS for row in table.layers}
    assert table.costs is not None  # only a table that was made by hand has none
    terms: defaultdict[Condition, float] = defaultdict(float)
    constant = float(table.float_macs * FLOAT_BITS**2)
    for row in _weights(table):
        weight = Tensor("weight", row.name)
        for read, macs in table.costs.reads(row.name):
            for source in read:  # a site, or bits
                own = macs / len(read)
                site = Tensor("activation", str(source))
                alone = source if isinstance(source, int) else fixed.get(site, FLOAT_BITS)
                for bits in choices.widths.get(weight, (None,)):
                    wide = fixed[weight] if bits is None else bits
                    for width in choices.widths.get(site, (None,)):
                        made = [] if bits is None else [(weight, bits)]
                        made += [] if width is None else [(site, width)]
                        value = own * wide * (alone if width is None else width)
                        if made:
                            terms[tuple(made)] += value
                        else:
                            constant += value
    return Cost("bops", "bit operations", [Sum("bops", constant, terms)])


def _weights(table: ModelTable) -> list[LayerRecord]:
    return [row for row in table.layers if row.part == "weight"]


TABLE_COSTS: Mapping[str, Callable[[Choices, ModelTable], Cost]] = {
    "size": size,
    "bops": bit_operations,
    "mean_bits": mean_bits,
}
