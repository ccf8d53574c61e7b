"""Layers whose weights pass a quantizer; the float parameters keep their names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.quant.quantizer import Quantizer

WEIGHT_QUANTIZER = "weight_quantizer"  # name of the member


class QuantConv2d(nn.Conv2d):
    """``nn.Conv2d`` that computes with ``weight_quantizer(weight)``."""

    weight_quantizer: Quantizer
    held: Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d, weight_quantizer: Quantizer) -> QuantConv2d:
        """Return a layer that shares the parameters of ``conv``."""
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type] # torch declares pairs as plain tuples
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",  # nothing is allocated, and no random number is drawn
        )
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.weight_quantizer = weight_quantizer
        layer.train(conv.training)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(N, C, H, W)`` with the quantized weights."""
        result: Tensor = self._conv_forward(x, quantized_weight(self), self.bias)
        return result


class QuantLinear(nn.Linear):
    """``nn.Linear`` that computes with ``weight_quantizer(weight)``."""

    weight_quantizer: Quantizer
    held: Tensor | None = None

    @classmethod
    def of(cls, linear: nn.Linear, weight_quantizer: Quantizer) -> QuantLinear:
        """Return a layer that shares the parameters of ``linear``."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = weight_quantizer
        layer.train(linear.training)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` ``(N, ..., in_features)`` with the quantized weights."""
        return F.linear(x, quantized_weight(self), self.bias)


def quantized_weight(layer: QuantConv2d | QuantLinear) -> Tensor:
    """Return what the layer computes with."""
    if layer.held is not None and not torch.is_grad_enabled():
        return layer.held
    quantized: Tensor = layer.weight_quantizer(layer.weight)
    return quantized


@torch.no_grad()
def hold_weights(model: nn.Module) -> None:
    """Quantize all weights now, for every pass without gradients until they are released."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)):
            layer.held = layer.weight_quantizer(layer.weight).detach()


def release_weights(model: nn.Module) -> None:
    """Let the layers quantize their weights at each pass again."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)):
            layer.held = None
