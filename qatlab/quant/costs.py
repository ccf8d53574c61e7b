"""What a network computes for one image, and what it keeps in memory meanwhile."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import fx

from qatlab.quant.sites import Site
from qatlab.quant.table import FLOAT_BITS, LayerRecord, packed_bytes
from qatlab.quant.trace import Measures

IMAGE_BITS = 8


class Costs:
    """Operations and memory of a network, for whatever bits its layers and sites will have.

    Written to memory are the image, what comes out of sites, and the outputs. All else takes no
    memory: a layer hands its sums on to the quantizer as it makes them, and what only hands on
    values, such as max pooling, works where they stand.

    Args:
        graph: of the float network.
        sites: in the order of computation.
        measures: of its nodes.
    """

    def __init__(self, graph: fx.Graph, sites: Sequence[Site], measures: Measures) -> None:
        shapes = measures.shapes
        self._sites = {site.node: site.name for site in sites}
        self._images = {n for n in graph.nodes if n.op == "placeholder" and n in shapes}
        outputs = {n for n in graph.output_node().all_input_nodes if n in shapes}
        kept = self._images | self._sites.keys() | outputs
        reads: dict[fx.Node, list[fx.Node]] = {}  # kept tensors, also through what is not kept
        self._sizes: dict[fx.Node, int] = {}  # numbers in each kept tensor, in order
        # What each call of a layer reads, and its multiply-accumulates.
        self._calls: dict[str, list[tuple[list[fx.Node], int]]] = defaultdict(list)
        for node in graph.nodes:
            inputs = [i for i in node.all_input_nodes if i in shapes]
            read = (n for i in inputs for n in ([i] if i in kept else reads[i]))
            reads[node] = list(dict.fromkeys(read))
            if node in kept:
                self._sizes[node] = math.prod(shapes[node])
            if node.op == "call_module":
                self._calls[str(node.target)].append((reads[node], measures.macs.get(node, 0)))
        self._last_use: dict[fx.Node, int] = {}
        for i, node in enumerate(self._sizes):
            self._last_use |= dict.fromkeys([node, *reads[node]], i)
        self.macs = sum(measures.macs.values())

    def add_to(self, records: Iterable[LayerRecord]) -> tuple[list[LayerRecord], int]:
        """Return the records with their costs, and the most bytes of activations at a time.

        A tensor is kept until the last one that is made of it has been written.
        """
        rows = list(records)
        bits_of = {row.name: row.bits for row in rows if row.part == "activation"}
        bits = {
            node: IMAGE_BITS if node in self._images else bits_of.get(self._sites.get(node, ""))
            for node in self._sizes
        }
        n_bytes = [packed_bytes(size, bits[node]) for node, size in self._sizes.items()]
        rows = [row if row.part == "activation" else self._with_costs(row, bits) for row in rows]
        return rows, self._peak(n_bytes)

    def reads(self, layer: str) -> list[tuple[tuple[str | int, ...], int]]:
        """Return, for each call of a layer, what it reads, and its multiply-accumulates.

        What it reads are names of sites, or bits: of an image, or of what stays float.
        """

        def source(node: fx.Node) -> str | int:
            return IMAGE_BITS if node in self._images else self._sites.get(node, FLOAT_BITS)

        calls = self._calls.get(layer, [])
        return [(tuple(map(source, read)) or (FLOAT_BITS,), macs) for read, macs in calls]

    def _with_costs(self, row: LayerRecord, bits: Mapping[fx.Node, int | None]) -> LayerRecord:
        """Return a layer with the costs of all its calls."""
        calls = [
            (_most([bits[node] for node in read]), macs) for read, macs in self._calls[row.name]
        ]
        return replace(
            row,
            macs=sum(macs for _, macs in calls),
            input_bits=_most([own for own, _ in calls]),
            mac_bits=sum((own or FLOAT_BITS) * macs for own, macs in calls),
        )

    def _peak(self, n_bytes: Sequence[int]) -> int:
        """Return the most bytes of all that is kept when a tensor has just been written."""
        ends = [self._last_use[node] for node in self._sizes]
        return max(
            sum(own for own, end in zip(n_bytes[: i + 1], ends, strict=False) if end >= i)
            for i in range(len(n_bytes))
        )


def _most(bits: Sequence[int | None]) -> int | None:
    """Return the most of several bit widths, None if one is float, or there is none."""
    return None if None in bits else max((own for own in bits if own), default=None)
