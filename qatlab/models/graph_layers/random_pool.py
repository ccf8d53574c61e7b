"""Fractional max pooling; the sizes of its regions are drawn at each pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

Plane = tuple[int, int]


class FractionalMaxPool(nn.Module):
    """Maximum over regions of random sizes that cover the plane.

    Source: Graham 2014, arXiv:1412.6071.

    Args:
        plane: height and width of the input.
        pooled: those of the output.
        overlapping: let a region share its last row and column with the next.
        pseudo_random: draw one number, which shifts a regular grid; else the order of the sizes.
    """

    def __init__(self, plane: Plane, pooled: Plane, overlapping: bool, pseudo_random: bool) -> None:
        super().__init__()
        self.settings = (plane, pooled, overlapping, pseudo_random)

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x`` ``(N, C, H, W)``, all images and channels alike."""
        return max_over_random_regions(x, *self.settings)


fx.wrap("max_over_random_regions")  # else a trace would keep what was drawn while it was made


def max_over_random_regions(
    x: Tensor, plane: Plane, pooled: Plane, overlapping: bool, pseudo_random: bool
) -> Tensor:
    """Pool ``x`` ``(N, C, H, W)``; see :class:`FractionalMaxPool`."""
    for axis in (0, 1):
        edges = region_edges(plane[axis], pooled[axis], pseudo_random)
        first = edges[:-1]
        last = (edges[1:] - (0 if overlapping else 1)).clamp(max=plane[axis] - 1)
        longest = int((last - first).max()) + 1
        places = torch.minimum(first[:, None] + torch.arange(longest), last[:, None])
        spread = x.index_select(2 + axis, places.flatten().to(x.device))
        shape = (*x.shape[: 2 + axis], pooled[axis], longest, *x.shape[3 + axis :])
        x = spread.reshape(shape).amax(3 + axis)
    return x


def region_edges(size: int, count: int, pseudo_random: bool) -> Tensor:
    """Return where regions begin, from 0, and at last ``size``; ``(count + 1,)``.

    Pseudo-random: ``ceil(size / count * (i + u))``, ``u`` drawn from (0, 1). Random: the lengths
    next to ``size / count``, in an order that is drawn.
    """
    if pseudo_random:
        u = torch.rand(()).item()
        edges = [math.ceil(size * (i + u) / count) for i in range(count)]
        edges = [edge - edges[0] for edge in edges]
        return torch.tensor([*edges, size])
    short = size // count
    lengths = torch.full((count,), short)
    lengths[torch.randperm(count)[: size - short * count]] += 1
    return torch.cat([torch.tensor([0]), lengths.cumsum(0)])
