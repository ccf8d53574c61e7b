"""An integer network: its operations, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from qatlab.deploy.integer.operations import (
    Codes,
    FixedOutput,
    Input,
    Operation,
    Output,
    Shape,
    Sums,
)
from qatlab.errors import wrong

Kind = TypeVar("Kind", bound=Operation)


@dataclass(frozen=True)
class IntegerNetwork:
    """Operations in the order of computation; the last one is the output.

    Attributes:
        operations: all of them.
        sites: by the name of a site, the operations whose results, one after the other, are its
            codes.
        is_narrow: whether fixed point is to be computed in sums of 24 bits, see
            :mod:`~qatlab.deploy.integer.narrowing`.
    """

    operations: Sequence[Operation]
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_narrow: bool = False

    def __getitem__(self, name: str) -> Operation:
        """Return the operation of that name.

        Raises:
            ConfigError: if there is none.
        """
        found = {op.name: op for op in self.operations}
        if name not in found:
            raise wrong("operation", name, found)
        return found[name]

    def of(self, kind: type[Kind]) -> Iterator[Kind]:
        """Yield the operations of a kind, in their order."""
        return (op for op in self.operations if isinstance(op, kind))

    @property
    def codes(self) -> dict[str, Codes]:
        """Those of all results that are codes, by the name of the operation."""
        found: dict[str, Codes] = {}
        for op in self.operations:
            if (codes := op.codes_of(found)) is not None:
                found[op.name] = codes
        return found

    @property
    def shapes(self) -> dict[str, Shape]:
        """Those of all results for one image, by the name of the operation."""
        found: dict[str, Shape] = {}
        for op in self.operations:
            found[op.name] = op.shape_of(*(found[name] for name in op.inputs))
        return found

    @property
    def input(self) -> Input:
        """The image."""
        (found,) = self.of(Input)
        return found

    @property
    def output(self) -> Output | FixedOutput:
        """The answer."""
        answers: list[Output | FixedOutput] = [*self.of(Output), *self.of(FixedOutput)]
        return answers[-1]

    @property
    def accumulator_bits(self) -> dict[str, int]:
        """Width, sign included, that the accumulators of each layer need."""
        return {op.name: op.largest.bit_length() + 1 for op in self.of(Sums)}
