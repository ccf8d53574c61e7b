"""Histograms of 8-bit images, and what is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor

from qatlab.data.transforms.borders import window

_LEVELS = 256


def histograms(values: Tensor) -> Tensor:
    """Count how often each level occurs.

    Args:
        values: uint8, (N, ...).

    Returns:
        int64, (N, 256).
    """
    n = len(values)
    place = values.reshape(n, -1).long() + _LEVELS * torch.arange(n, device=values.device)[:, None]
    return torch.bincount(place.view(-1), minlength=n * _LEVELS).view(n, _LEVELS)


def otsu_threshold(images: Tensor) -> Tensor:
    """Return the level that separates darker from brighter pixels best, float64, (N,).

    Source: Otsu 1979, "A threshold selection method from gray-level histograms"; the level with the
    largest variance between the two groups, the first of equals.
    """
    share = histograms(images).double() / images[0].numel()
    level = torch.arange(_LEVELS, dtype=torch.float64, device=images.device)
    darker, weighted = share.cumsum(1), (share * level).cumsum(1)
    brighter, mean = 1 - darker, weighted[:, -1:]
    between = (mean * darker - weighted).square() / (darker * brighter)
    tiny = torch.finfo(torch.float32).eps
    separates = (darker > tiny) & (brighter > tiny)
    return torch.where(separates, between, 0).argmax(1).double()


def equalized(images: Tensor) -> Tensor:
    """Return images whose levels are spread: the share of darker pixels becomes the level.

    Args:
        images: uint8, (N, 1, H, W).
    """
    count = histograms(images)
    n_pixels = images[0].numel()
    lowest = (count > 0).long().argmax(1, keepdim=True)
    others = n_pixels - count.gather(1, lowest)
    sums = (count.cumsum(1) - count.gather(1, lowest)).clamp_(min=0)
    table = (sums.float() * (255 / others.float())).round().clamp_(0, 255)
    level = torch.arange(_LEVELS, device=images.device)
    table = torch.where(others == 0, level, table)  # one level only: it stays
    return table.byte().gather(1, images.view(len(images), -1).long()).view(images.shape)


def clahe(images: Tensor, clip_limit: float, grid: int) -> Tensor:
    """Equalize in cells, whose tables are interpolated in between.

    Source: Zuiderveld 1994, "Contrast limited adaptive histogram equalization", as OpenCV does it.

    Args:
        images: uint8, (N, 1, H, W).
        clip_limit: how often a level may occur in a cell, in multiples of the mean; 0 for no limit.
        grid: number of cells along each side.
    """
    n, _, height, width = images.shape
    padded = images
    if height % grid or width % grid:
        size = height + grid - height % grid, width + grid - width % grid
        padded = window(images, 0, 0, size, "reflect_101")
    tile = padded.shape[2] // grid, padded.shape[3] // grid
    cells = padded.view(n, grid, tile[0], grid, tile[1]).transpose(2, 3)
    count = histograms(cells.reshape(n * grid * grid, -1))
    n_pixels = tile[0] * tile[1]
    if clip_limit > 0:
        count = _clipped(count, max(1, int(clip_limit * n_pixels / _LEVELS)))
    scale = torch.tensor((_LEVELS - 1) / n_pixels, dtype=torch.float32)
    tables = (count.cumsum(1).float() * scale).round().clamp_(0, 255).view(n, -1)

    rows, columns = (
        _cells_around(length, side, grid, images.device)
        for length, side in ((height, tile[0]), (width, tile[1]))
    )
    level = images.view(n, height, width).long()

    def looked_up(row: Tensor, column: Tensor) -> Tensor:
        place = (row[:, None] * grid + column[None, :]) * _LEVELS + level
        return tables.gather(1, place.view(n, -1)).view(n, height, width)

    upper, lower = (
        looked_up(row, columns[0]) * (1 - columns[2]) + looked_up(row, columns[1]) * columns[2]
        for row in rows[:2]
    )
    down = rows[2][:, None]
    return (upper * (1 - down) + lower * down).round_().clamp_(0, 255).byte()[:, None]


def _clipped(count: Tensor, limit: int) -> Tensor:
    """Cut histograms off at a limit, and share out what was cut off to all levels."""
    excess = (count - limit).clamp_(min=0).sum(1, keepdim=True)
    rest = excess % _LEVELS
    step = torch.where(rest > 0, _LEVELS // rest.clamp(min=1), 1)
    level = torch.arange(_LEVELS, device=count.device)
    extra = (level % step == 0) & (level // step < rest)
    return count.clamp(max=limit) + excess // _LEVELS + extra


def _cells_around(
    length: int, side: int, grid: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two cells whose middles a pixel lies between, and how far beyond the first."""
    place = torch.arange(length, device=device).float() * (1 / side) - 0.5
    first = place.floor()
    lower, upper = (first.long() + i for i in (0, 1))
    return lower.clamp(min=0), upper.clamp(max=grid - 1), place - first
