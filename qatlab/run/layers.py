"""The table of layers and sites that is printed before a training."""

from __future__ import annotations

from rich.table import Table

from qatlab.quant import ModelTable
from qatlab.system.terminal import say, show

NAMED = 5  # layers that a line names


def print_table(table: ModelTable) -> None:
    """Print the resolved table of layers and sites, and the size of the model."""
    grid = Table(title="Layers and sites", title_justify="left")
    grid.add_column("layer", no_wrap=True, min_width=max(len(x.name) for x in table.layers))
    for name in ("type", "shape", "weight bits", "activation bits"):
        grid.add_column(name, justify="right" if "bits" in name else "left")
    for name in ("grid", "scaling", "decided by", "parameters"):
        grid.add_column(name, justify="right" if name == "parameters" else "left")
    for layer in table.layers:
        bits = "float" if layer.bits is None else str(layer.bits)
        facts = layer.quantizer
        on_grid = facts.get("grid", "")
        if layer.part == "activation" and layer.bits is not None:
            on_grid = "signed" if facts.get("signed") else "unsigned"
        grid.add_row(
            layer.name,
            layer.type,
            "x".join(map(str, layer.shape if layer.part == "weight" else layer.shape[1:])),
            bits if layer.part == "weight" else "",
            bits if layer.part == "activation" else "",
            on_grid,
            {True: "yes", "fan_in": "fan_in"}.get(facts.get("scaling"), ""),
            ", ".join(layer.rules),
            str(layer.parameters or ""),
        )
    show(grid)
    say(
        f"{table.parameters:,} parameters; {table.size_bytes:,} bytes at these bits, of which "
        f"{table.weight_bytes:,} are weights; {table.float_bytes:,} bytes in float32 "
        f"({table.float_bytes / table.size_bytes:.2f}x); batch norm folded"
    )
    say(
        f"{table.macs:,} MACs per image; {table.bit_operations:,} bit operations (MACs x weight "
        f"bits x input bits); peak activation memory {table.peak_bytes:,} bytes"
    )
    if line := float_weights(table):
        say(line)


def float_weights(table: ModelTable) -> str:
    """Return a line that names the weights that stay float beside quantized ones, or nothing."""
    weights = [layer for layer in table.layers if layer.part == "weight"]
    floats = [layer for layer in weights if layer.bits is None]
    if not floats or len(floats) == len(weights):
        return ""
    names = ", ".join(f"{layer.name} ({layer.type})" for layer in floats[:NAMED])
    more = f" and {len(floats) - NAMED} more" if len(floats) > NAMED else ""
    count = sum(layer.parameters for layer in floats)
    return f"Weights that stay float: {names}{more}; {count:,} of {table.parameters:,} parameters"
