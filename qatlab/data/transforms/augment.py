"""Random changes of training images, for a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut from each image a rectangle at its own place.

    Args:
        images: (N, C, H, W), any dtype.
        top: int64, (N,), first row; in [0, H - size[0]].
        left: int64, (N,), first column; in [0, W - size[1]].
        size: height and width of the rectangle.

    Returns:
        (N, C, *size), dtype of ``images``.
    """
    n, channels, full_height, full_width = images.shape
    height, width = size
    # A row of the result is `width` neighbouring elements of `images`, so one index per row is
    # enough: ten times faster than one index per pixel.
    plane = torch.arange(n * channels, device=images.device).view(n, channels, 1)
    row = torch.arange(height, device=images.device) + top.view(n, 1, 1)
    start = (plane * full_height + row) * full_width + left.view(n, 1, 1)
    windows = images.reshape(-1).unfold(0, width, 1)
    return windows.index_select(0, start.view(-1)).view(n, channels, height, width)


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
    padded = F.pad(images, (limit, limit, limit, limit))
    height, width = images.shape[2:]
    return crop(padded, limit - down, limit - right, (height, width))


def flip(images: Tensor, chosen: Tensor, axis: int = 3) -> Tensor:
    """Mirror the chosen images left to right, or along another axis.

    Args:
        images: (N, C, H, W), any dtype.
        chosen: bool, (N,).
        axis: 3 mirrors left to right, 2 upside down.

    Returns:
        Shape and dtype of ``images``.
    """
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(axis), images)
