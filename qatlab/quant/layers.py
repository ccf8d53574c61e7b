"""Layers whose weights pass a quantizer; the float parameters keep their names.

A float layer may carry a buffer ``weight_mask`` of 0 and 1, by which its weights are multiplied
(no level of a grid need be 0), and a number ``weight_dropout``, the probability that a weight is
dropped in training. The quantized layer does the same to its quantized weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import BasePruningMethod

from qatlab.quant.dispatch import linear
from qatlab.quant.memory import Memory
from qatlab.quant.quantizer import Quantizer

WEIGHT_QUANTIZER = "weight_quantizer"  # name of the member


class QuantConv2d(nn.Conv2d):
    """``nn.Conv2d`` that computes with ``weight_quantizer(weight)``."""

    weight_quantizer: Quantizer
    weight_mask: Tensor | None
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
        _take_over(layer, conv, weight_quantizer)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` ``(N, C, H, W)`` with the quantized weights."""
        result: Tensor = self._conv_forward(input, quantized_weight(self), self.bias)
        return result


class QuantLinear(nn.Linear):
    """``nn.Linear`` that computes with ``weight_quantizer(weight)``."""

    weight_quantizer: Quantizer
    weight_mask: Tensor | None
    weight_dropout: float
    held: Tensor | None = None

    @classmethod
    def of(cls, linear: nn.Linear, weight_quantizer: Quantizer) -> QuantLinear:
        """Return a layer that shares the parameters of ``linear``."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        _take_over(layer, linear, weight_quantizer)
        layer.weight_dropout = getattr(linear, "weight_dropout", 0.0)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input`` ``(N, ..., in_features)`` with the quantized weights."""
        weight = quantized_weight(self)
        if self.weight_dropout:
            weight = F.dropout(weight, self.weight_dropout, self.training)
        return linear(input, weight, self.bias)


def quantized_weight(layer: QuantConv2d | QuantLinear) -> Tensor:
    """Return what the layer computes with, before any of it is dropped."""
    if layer.held is not None and not torch.is_grad_enabled():
        return layer.held
    quantized: Tensor = layer.weight_quantizer(layer.weight)
    if layer.weight_mask is None:
        return quantized
    masked = quantized * layer.weight_mask
    if Memory.active is not None:
        Memory.active.masked(masked, quantized, layer.weight_mask)
    return masked


@torch.no_grad()
def hold_weights(model: nn.Module) -> None:
    """Quantize all weights now, for every pass without gradients until they are released."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)):
            layer.held = None
            layer.held = quantized_weight(layer).detach()


def release_weights(model: nn.Module) -> None:
    """Let the layers quantize their weights at each pass again."""
    for layer in model.modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)):
            layer.held = None


def _take_over(
    layer: QuantConv2d | QuantLinear, float_layer: nn.Conv2d | nn.Linear, quantizer: Quantizer
) -> None:
    """Let ``layer`` share what the float layer has."""
    weight = trained_weight(float_layer)
    assert weight is not None  # the caller has looked
    layer.weight, layer.bias = weight, float_layer.bias
    layer.weight_quantizer = quantizer
    mask = getattr(float_layer, "weight_mask", None)
    # A network that is made anew has its connections again, but no checkpoint's pruning.
    layer.register_buffer("weight_mask", mask, persistent="weight" not in float_layer._parameters)
    layer.train(float_layer.training)


def trained_weight(layer: nn.Module) -> nn.Parameter | None:
    """Return the weights that a layer trains; of a pruned one, those that its mask multiplies.

    None where it makes its weights of other parameters in each pass.
    """
    if "weight" in layer._parameters:
        return layer._parameters["weight"]
    pruned = any(
        isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight"
        for hook in layer._forward_pre_hooks.values()
    )
    return layer._parameters.get("weight_orig") if pruned else None
