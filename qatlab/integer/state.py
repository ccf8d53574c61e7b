"""What lowering has made so far, and what each tensor of the network is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from qatlab.errors import ConfigError
from qatlab.integer.network import Operation, Reals
from qatlab.integer.values import Coded, Linear

Parts = tuple[Coded | Linear, ...]


class State:
    """Operations so far, and the parts of each tensor: several for a concatenation.

    Args:
        shapes: of the tensors, for one image.
    """

    def __init__(self, shapes: Mapping[fx.Node, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.values: dict[fx.Node, Parts] = {}
        self.operations: list[Operation] = []

    def add(self, operation: Operation) -> str:
        """Append an operation; return its name."""
        self.operations.append(operation)
        return operation.name

    def parts(self, node: Any) -> Parts:
        """Return what a node has made."""
        if node not in self.values:
            raise ConfigError(
                f"{getattr(node, 'target', node)} is a tensor or a number of the network itself, "
                "which has no integer form."
            )
        return self.values[node]

    def coded(self, node: Any, reader: str) -> list[Coded]:
        """Return the parts of a tensor that has to be codes."""
        given = self.parts(node)
        parts = [part for part in given if isinstance(part, Coded)]
        if len(parts) < len(given):
            raise ConfigError(
                f"{reader} reads {node.name}, which is float: give the site in front of it bits, "
                "which a rule with activation: null has taken away."
            )
        return parts

    def each(self, name: str, given: Any, made: Callable[[str, Coded], Operation]) -> Parts:
        """Apply it to a node, or to parts."""
        parts = given if isinstance(given, tuple) else self.coded(given, name)
        names = names_of(name, parts)
        return tuple(
            replace(part, name=self.add(made(own, part)))
            for own, part in zip(names, parts, strict=True)
        )


def names_of(name: str, parts: Sequence[Any]) -> list[str]:
    """Return a name for what is made of each part."""
    return [name] if len(parts) == 1 else [f"{name}[{i}]" for i in range(len(parts))]


def split(numbers: Reals, parts: Sequence[Coded | Linear]) -> list[Reals]:
    """Return the numbers of the channels of each part."""
    ends = np.cumsum([part.channels for part in parts])[:-1]
    return [np.asarray(own) for own in np.split(numbers, ends)]


def pair(value: Any) -> tuple[int, int]:
    """Return rows and columns of what may be one number for both."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
