"""Where a network makes values that are not finite."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

HUGE = 2.0**100  # float32 does not hold the square


@torch.no_grad()
def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """Return what is the first to hold or make values that lead to others that are not finite.

    These are NaN, infinite values and those beyond :data:`HUGE`.

    Args:
        model: the network, in the mode and the phase in which it made them.
        images: ``(N, C, H, W)``, on its device.

    Returns:
        The end of a sentence, such as ``bn1.running_var holds NaN``; "" if there are none.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if word := _word(value):
            return f"{name} holds {word}"
    if word := _word(images):
        return f"the images hold {word}"
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    hooks = [module.register_forward_hook(partial(_note, found, names)) for module in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _note(
    found: list[str], names: dict[nn.Module, str], module: nn.Module, inputs: Any, output: Any
) -> None:
    """Note the first layer whose values are not as they should be; inner ones end first."""
    if found or not (word := _word(output)):
        return
    before = next((kind for one in inputs if (kind := _word(one))), "")
    name = names[module] or "the network"
    found.append(f"{name} is given {before}" if before else f"{name} puts out {word}")


def _word(value: Any) -> str:
    """Return what is wrong with the values of a tensor, "" if nothing is."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return ""
    largest = value.abs().max().item()
    if math.isnan(largest):
        return "NaN"
    if largest > HUGE:
        return "infinite values" if math.isinf(largest) else f"values up to {largest:.2g}"
    return ""
