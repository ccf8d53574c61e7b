"""The table of layers and sites that is printed before a training."""

from __future__ import annotations

from qatlab.quant import ModelTable
from qatlab.system.terminal import say, show


def print_table(table: ModelTable) -> None:
    """Print the resolved table of layers and sites, and the size of the model."""
    show(table.grid())
    for line in table.totals():
        say(line)
