"""Colour and shape of each method, the same in the page and in the picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Mark(NamedTuple):
    """How the points of a method look."""

    color: str
    symbol: str  # of plotly
    marker: str  # of matplotlib


# Colours of Okabe and Ito, which differ with every kind of colour blindness.
KNOWN = {
    "SAT": Mark("#0072B2", "circle", "o"),
    "LSQ": Mark("#D55E00", "square", "s"),
    "LSQ+": Mark("#009E73", "diamond", "D"),
    "PACT": Mark("#CC79A7", "triangle-up", "^"),
    "DoReFa": Mark("#E69F00", "triangle-down", "v"),
    "float": Mark("#000000", "cross", "P"),
    "": Mark("#555555", "circle-open", "x"),  # not recorded
}
FURTHER = (
    Mark("#56B4E9", "star", "*"),
    Mark("#882255", "hexagon", "h"),
    Mark("#666600", "pentagon", "p"),
)


def marks(methods: Iterable[str]) -> dict[str, Mark]:
    """Return the mark of each method; those of unknown ones are repeated after the third."""
    unknown = sorted({method for method in methods if method not in KNOWN})
    return KNOWN | {method: FURTHER[i % len(FURTHER)] for i, method in enumerate(unknown)}
