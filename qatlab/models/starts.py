"""What the networks of this room share: starting values, padding, strides for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qatlab.errors import wrong


def init_he_normal(model: nn.Module) -> None:
    """Draw the weights of all convolutions from a normal distribution (He et al. 2015b).

        std = sqrt(2 / fan_out),   fan_out = C_out / groups * kH * kW

    Source: arXiv:1502.01852, equation 14. Batch norms start at 1 and 0, biases of convolutions at
    0; linear layers keep what torch gives them.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def first_ones(strides: Sequence[int], halvings: int) -> list[int]:
    """Return strides of which the first are 1, so that only the last ``halvings`` of 2 are left.

    Raises:
        ConfigError: for more halvings than there are, naming ``model.halvings``.
    """
    most = sum(stride == 2 for stride in strides)
    if isinstance(halvings, bool) or not isinstance(halvings, int) or not 0 <= halvings <= most:
        raise wrong("model.halvings", halvings, f"a whole number from 0 to {most}")
    left, result = halvings, []
    for stride in reversed(strides):
        result.append(stride if stride == 1 or left > 0 else 1)
        left -= stride == 2
    return result[::-1]


def same_padding(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """Return what TensorFlow's ``same`` pads: in front of a convolution, and by itself.

    It pads as little as gives ``ceil(size / stride)`` rows, and the odd one below: of even sizes
    and stride 2, the rows and columns that PyTorch puts above and to the left are missing.

    Args:
        kernel: height and width, odd.
        stride: 1, or 2 for images of even height and width.

    Returns:
        A module to call in front of the convolution, and the ``padding`` of the convolution.
    """
    if stride == 1:
        return nn.Identity(), kernel // 2
    before = (kernel - 2) // 2
    after = kernel - 2 - before
    return nn.ZeroPad2d((before, after, before, after)), 0
