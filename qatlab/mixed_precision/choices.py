"""What is chosen: a bit width for each weight and each site of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qatlab.errors import ConfigError


class Tensor(NamedTuple):
    """What gets a bit width.

    Attributes:
        part: ``weight`` of a layer, or ``activation`` of a site.
        name: of the layer or site, its path in the network.
    """

    part: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.part})"


Choice = tuple[Tensor, int]  # a tensor, and its bits
Assignment = Mapping[Tensor, int]  # bits by tensor


@dataclass(frozen=True)
class Choices:
    """The widths that each tensor may have.

    Attributes:
        widths: by tensor, in the order of computation; ascending.
        tied: groups of tensors that have the same width.
    """

    widths: Mapping[Tensor, Sequence[int]]
    tied: Sequence[Sequence[Tensor]] = field(default=())

    def __post_init__(self) -> None:
        """Check that tied tensors have a width in common.

        Raises:
            ConfigError: if they have none.
        """
        for group in self.tied:
            common = set.intersection(*(set(self.widths[tensor]) for tensor in group))
            if not common:
                own = "; ".join(f"{t}: {', '.join(map(str, self.widths[t]))}" for t in group)
                raise ConfigError(f"tied tensors have no width in common: {own}.")

    def all(self) -> Iterable[Choice]:
        """Yield every width of every tensor."""
        for tensor, widths in self.widths.items():
            for bits in widths:
                yield tensor, bits
