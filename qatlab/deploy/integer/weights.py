"""The weights of a layer as whole numbers, and how large the sums of their products become."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from qatlab.deploy.integer.operations import Codes, Integers, Reals
from qatlab.errors import ConfigError
from qatlab.quant.layers import QuantConv2d, QuantLinear, quantized_weight

LARGEST = 2**31 - 1  # of an accumulator of 32 bits


def integer_weights(model: nn.Module) -> dict[str, tuple[Integers, Reals]]:
    """Return the weights of all quantized layers as whole numbers.

    Args:
        model: what :func:`qatlab.quantize` or :func:`qatlab.load_quantized` returned.

    Returns:
        By the path of the layer, codes ``(C_out, ...)`` and their step: the layer computes with
        ``codes * step``. The step is one number, or one for each output channel, ``(C_out,)``.

    Raises:
        ConfigError: if the weights of a layer lie on no grid.
    """
    return {
        path: integer_weight(layer)
        for path, layer in model.named_modules()
        if isinstance(layer, (QuantConv2d, QuantLinear))
    }


@torch.no_grad()
def integer_weight(layer: QuantConv2d | QuantLinear) -> tuple[Integers, Reals]:
    """Return the codes of a layer's weights, and their step: one, or one for each output channel.

    Raises:
        ConfigError: if the weights lie on no grid.
    """
    quantizer, quantized = layer.weight_quantizer, quantized_weight(layer)
    if not quantizer.on_grid:
        raise ConfigError(f"{quantizer.layer} has no grid (clamp_only), and so no integer form.")
    step = quantizer.weight_step(layer.weight).to(quantized)
    largest = quantized.abs().amax()
    if not (largest.isfinite() and step.isfinite().all() and step.all()):
        raise ConfigError(
            f"{quantizer.layer}: its weights, or the steps that they have learned, are no finite "
            "numbers above 0, so they have no integer form."
        )
    codes = (quantized / step).round()
    if largest > 0:
        # The step once more, from what the layer computes with: exact to the last bit of a weight.
        flat = codes.abs().flatten(1) if step.numel() > 1 else codes.abs().flatten()[None]
        at = flat.argmax(1, keepdim=True)
        values = quantized.abs().reshape(flat.shape).gather(1, at).double()
        step = (values / flat.gather(1, at).double().clamp(min=1)).squeeze(1)
        shaped = step.to(quantized).reshape(-1, *(1,) * (codes.ndim - 1))
        off = ((codes * shaped - quantized).abs().amax() / largest).item()
        if off > 1e-5:
            raise ConfigError(f"{quantizer.layer}: weights lie {off:.1e} off their grid.")
    steps = step.double().flatten().numpy()
    return codes.numpy().astype(np.int64), steps if len(steps) > 1 else steps[0]


def largest_accumulator(weight: Integers, codes: Codes, name: str) -> int:
    """Return the largest size of an accumulator, and of any sum of a part of its products.

    Args:
        weight: codes ``(C_out, ...)``.
        codes: those of the input.
        name: of the layer.

    Raises:
        ConfigError: if it may not fit into 32 bits.
    """
    positive = np.where(weight > 0, weight, 0).reshape(len(weight), -1).sum(1)
    negative = np.where(weight < 0, weight, 0).reshape(len(weight), -1).sum(1)
    low, high = min(codes.low, 0), max(codes.high, 0)  # beyond the border there are zeros
    highest = (positive * high + negative * low).max()
    lowest = (positive * low + negative * high).min()
    largest = int(max(highest, -lowest, 0))
    if largest > LARGEST:
        raise ConfigError(
            f"{name}: an accumulator can become {largest:,}, which 32 bits do not hold; give its "
            "weights or its input fewer bits."
        )
    return largest
