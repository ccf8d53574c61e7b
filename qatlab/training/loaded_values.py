"""What no network can compute with, among values that are loaded into one."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from qatlab.quant.learned import LearnedQuantizer


def learned_names(model: nn.Module) -> set[str]:
    """Return the names of the steps and clip values that quantizers of a network learn."""
    return {
        f"{name}.{module.learned}"
        for name, module in model.named_modules()
        if isinstance(module, LearnedQuantizer)
    }


def fault_of(name: str, value: Tensor, learned: Collection[str]) -> str:
    """Return what is wrong with a value of a network, "" if nothing is.

    Args:
        name: of the value in the network.
        value: floating point, any shape.
        learned: see :func:`learned_names`.
    """
    if not value.isfinite().all():
        return f"holds {'NaN' if value.isnan().any() else 'infinite values'}"
    if name.rpartition(".")[2] == "running_var" and (value < 0).any():
        return f"holds {value.min().item():g}, and no variance is below 0"
    if name in learned and (value == 0).any():
        return "is 0, which no grid can have as its step or end"
    return ""
