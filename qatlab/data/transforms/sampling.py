"""Images looked up between their pixels: rotated, scaled and distorted ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qatlab.data.transforms.borders import constant, nearest_inside


def sample(
    images: Tensor, y: Tensor, x: Tensor, border: str, value: Sequence[float] = (0.0,)
) -> Tensor:
    """Return each image at positions between its pixels, by bilinear interpolation.

    Args:
        images: uint8 or float32, (N, C, H, W).
        y: float32, (N, height, width), in pixels; 0 is the centre of the first row.
        x: likewise, along the rows.
        border: what lies beyond the edges, one of ``BORDERS``.
        value: for ``constant``: one number, or one for each channel.

    Returns:
        (N, C, height, width), dtype of ``images``; 8-bit results are rounded, halves up.
    """
    n, channels, height, width = images.shape
    pixels = images.float()
    if border == "constant":  # a frame of one pixel in the colour of the border, repeated
        level = constant(value, images).float().expand(1, channels, 1, 1)
        framed = level.repeat(n, 1, height + 2, width + 2)
        framed[:, :, 1:-1, 1:-1] = pixels
        pixels, y, x, border = framed, y + 1, x + 1, "replicate"
        height, width = height + 2, width + 2
    flat = pixels.reshape(n, channels, height * width)
    row, column = y.floor(), x.floor()
    down, right = (y - row)[:, None], (x - column)[:, None]

    def rows(line: Tensor) -> Tensor:
        start = nearest_inside(line.long(), height, border) * width

        def at(place: Tensor) -> Tensor:
            index = (start + nearest_inside(place.long(), width, border)).view(n, 1, -1)
            return flat.gather(2, index.expand(-1, channels, -1)).view(n, channels, *y.shape[1:])

        return at(column).lerp_(at(column + 1), right)

    result = rows(row).lerp_(rows(row + 1), down)
    if images.is_floating_point():
        return result
    return result.add_(0.5).floor_().clamp_(0, 255).to(images.dtype)


def turned(
    size: tuple[int, int], centre_y: Tensor, centre_x: Tensor, degrees: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where the pixels of a rotated and magnified rectangle lie in the original image.

    Args:
        size: height and width of the rectangle.
        centre_y: float32, (N,), row of the original image that becomes its centre.
        centre_x: likewise, its column.
        degrees: float32, (N,), the content turns by this angle, anticlockwise.
        factor: float32, (N,), the content grows by this factor, > 0.

    Returns:
        Rows and columns in the original image, float32, (N, *size) each.
    """
    height, width = size
    down = torch.arange(height, device=degrees.device).view(1, -1, 1) - (height - 1) / 2
    right = torch.arange(width, device=degrees.device).view(1, 1, -1) - (width - 1) / 2
    angle = torch.deg2rad(degrees)
    cos, sin = ((f(angle) / factor).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    y = centre_y.view(-1, 1, 1) + cos * down + sin * right
    x = centre_x.view(-1, 1, 1) + cos * right - sin * down
    return y, x


def uniform_positions(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each pixel, float32, (1, H, W)."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float32, device=images.device)
    columns = torch.arange(width, dtype=torch.float32, device=images.device)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return grid[0][None], grid[1][None]
