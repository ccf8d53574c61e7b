"""What the parameters of a network are for, and how many bits its weights have."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from qatlab.quant.layers import WEIGHT_QUANTIZER
from qatlab.quant.quantizer import Quantizer

GROUPS = ("weights", "depthwise", "norms_and_biases", "quantizers")


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort the trainable parameters of ``model`` into those of `GROUPS` that are not empty.

    Parameters owned by a quantizer are ``quantizers``. Of the others, the weights of depthwise
    convolutions are ``depthwise``, all else with two or more dimensions is ``weights``, and the
    rest is ``norms_and_biases``. A shared one is in the group of its first owner.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if isinstance(module, Quantizer):
                groups["quantizers"].append(parameter)
            elif parameter.ndim < 2:
                groups["norms_and_biases"].append(parameter)
            else:
                groups["depthwise" if _is_depthwise(module) else "weights"].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


def network_bits(model: nn.Module) -> int | None:
    """Return the bit width that most weights of ``model`` have, None if they are float.

    The layers that a preset keeps at 8 bits do not count for more than they hold.
    """
    sizes: Counter[int | None] = Counter()
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim >= 2:
            quantizer: Any = getattr(layer, WEIGHT_QUANTIZER, None)
            rounds = isinstance(quantizer, Quantizer) and quantizer.on_grid
            sizes[int(quantizer.bits) if rounds else None] += weight.numel()
    return max(sizes, key=lambda bits: sizes[bits], default=None)


def _is_depthwise(module: nn.Module) -> bool:
    """Tell whether a module convolves each of its input channels by itself."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
