"""What lies beyond the edges of an image, and windows that reach beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Border = Literal["reflect_101", "reflect", "replicate", "wrap", "constant"]
BORDERS: tuple[Border, ...] = get_args(Border)


def nearest_inside(position: Tensor, length: int, border: str) -> Tensor:
    """Return which pixel of a row stands for each position, as OpenCV's ``borderInterpolate``.

        reflect_101  gfedcb|abcdefgh|gfedcba      wrap       cdefgh|abcdefgh|abcdefg
        reflect      fedcba|abcdefgh|hgfedcb      replicate  aaaaaa|abcdefgh|hhhhhhh

    Args:
        position: int64, any shape; those from 0 to ``length - 1`` stand for themselves.
        length: number of pixels in the row.
        border: one of :data:`BORDERS`; for ``constant``, the pixel at the edge is returned.

    Returns:
        int64, in [0, length - 1], shape of ``position``.
    """
    if border == "wrap":
        return position % length
    if border == "reflect":
        position = position % (2 * length)
        return torch.minimum(position, 2 * length - 1 - position)
    if border == "reflect_101":
        period = max(1, 2 * (length - 1))
        position = position % period
        return torch.minimum(position, period - position).clamp(max=length - 1)
    return position.clamp(0, length - 1)


def window(
    images: Tensor,
    top: int,
    left: int,
    size: tuple[int, int],
    border: str,
    value: Sequence[float] = (0.0,),
) -> Tensor:
    """Return the same rectangle of each image; it may reach beyond the edges.

    Args:
        images: (N, C, H, W), any dtype.
        top: row of the image that becomes the first one; may be negative.
        left: its column, likewise.
        size: height and width of the rectangle.
        border: one of :data:`BORDERS`.
        value: for ``constant``: one number, or one for each channel.

    Returns:
        (N, C, *size), dtype of ``images``.
    """
    height, width = images.shape[2:]
    if top >= 0 and left >= 0 and top + size[0] <= height and left + size[1] <= width:
        return images[:, :, top : top + size[0], left : left + size[1]].contiguous()
    rows = torch.arange(top, top + size[0], device=images.device)
    columns = torch.arange(left, left + size[1], device=images.device)
    result = images.index_select(2, nearest_inside(rows, height, border))
    result = result.index_select(3, nearest_inside(columns, width, border))
    if border == "constant":
        row_is_out = (rows < 0) | (rows >= height)
        column_is_out = (columns < 0) | (columns >= width)
        outside = row_is_out[:, None] | column_is_out[None, :]
        result = torch.where(outside, constant(value, images), result)
    return result


def constant(value: Sequence[float], images: Tensor) -> Tensor:
    """Return a border value in the dtype of the images, (1, C or 1, 1, 1)."""
    level = torch.tensor(value, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
    return level if images.is_floating_point() else level.round().clamp(0, 255).to(images.dtype)
