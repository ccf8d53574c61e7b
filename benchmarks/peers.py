"""Other ways to put 4-bit fake quantization into a network, for ``step_cost.py --peers``.

Each is a function of a float network that returns the quantized one, or None where its library is
not installed. All learn their scales; each stands where its users put it: at the input of every
layer, or in place of ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _swap(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace modules by what ``make`` makes of them, except where that is None."""
    for name, child in model.named_children():
        new = make(child)
        if new is None:
            _swap(child, make)
        else:
            setattr(model, name, new)
    return model


class _Around(nn.Module):
    """A layer whose input and weight pass a module each."""

    def __init__(self, layer: nn.Module, on_input: nn.Module, on_weight: nn.Module) -> None:
        super().__init__()
        self.layer, self.on_input, self.on_weight = layer, on_input, on_weight

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer with both quantized."""
        layer: Any = self.layer
        x, weight = self.on_input(x), self.on_weight(layer.weight)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        result: Tensor = layer._conv_forward(x, weight, layer.bias)
        return result


class _Textbook(nn.Module):
    """LSQ as its paper's appendix writes it: autograd through each operation."""

    def __init__(self, q_min: int, q_max: int) -> None:
        super().__init__()
        self.q_min, self.q_max = q_min, q_max
        self.step = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``."""
        factor = 1 / math.sqrt(x.numel() * self.q_max)
        step = (self.step - self.step * factor).detach() + self.step * factor
        v = (x / step).clamp(self.q_min, self.q_max)
        return ((v.round() - v).detach() + v) * step


def _at_layers(model: nn.Module, make: Callable[[int, int], nn.Module]) -> nn.Module:
    def around(module: nn.Module) -> nn.Module | None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return _Around(module, make(0, 15), make(-8, 7))
        return None

    return _swap(model, around)


def textbook(model: nn.Module) -> nn.Module | None:
    """LSQ in autograd operations at each layer."""
    return _at_layers(model, _Textbook)


def torch_learnable(model: nn.Module) -> nn.Module | None:
    """torch's own fused operation with a learned scale at each layer."""

    class Learnable(nn.Module):
        def __init__(self, q_min: int, q_max: int) -> None:
            super().__init__()
            self.q_min, self.q_max = q_min, q_max
            self.scale = nn.Parameter(torch.tensor([0.1]))
            self.register_buffer("zero_point", torch.tensor([0.0]))

        def forward(self, x: Tensor) -> Tensor:
            factor = 1 / math.sqrt(x.numel() * self.q_max)
            return torch._fake_quantize_learnable_per_tensor_affine(
                x, self.scale, self.zero_point, self.q_min, self.q_max, factor
            )

    return _at_layers(model, Learnable)


def brevitas(model: nn.Module) -> nn.Module | None:
    """Brevitas's layers with 4-bit weights, and its activation functions with learned scales."""
    try:
        import brevitas.nn as qnn
    except ImportError:
        return None

    def replaced(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Conv2d):
            shape = (module.in_channels, module.out_channels, module.kernel_size)
            options = (module.stride, module.padding, module.dilation, module.groups)
            new = qnn.QuantConv2d(*shape, *options, bias=False, weight_bit_width=4)
        elif isinstance(module, nn.Linear):
            new = qnn.QuantLinear(module.in_features, module.out_features, True, weight_bit_width=4)
        elif isinstance(module, (nn.ReLU, nn.ReLU6)):
            return qnn.QuantReLU(bit_width=4)  # type: ignore[no-any-return]
        else:
            return None
        new.load_state_dict(module.state_dict(), strict=False)
        return new  # type: ignore[no-any-return]

    return _swap(model, replaced)


PEERS = {"textbook LSQ": textbook, "torch learnable": torch_learnable, "Brevitas": brevitas}
