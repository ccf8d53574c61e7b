"""The table of layers and sites that is printed before a training."""

from __future__ import annotations

from qatlab.quant import ModelTable
from qatlab.system.terminal import is_first, wide_console


def print_table(table: ModelTable) -> None:
    """Print the resolved table of layers and sites, and the size of the model."""
    if is_first():
        wide_console().print(table.grid())
        print("\n".join(table.totals()))
