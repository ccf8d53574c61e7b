"""Starting values of learned steps, taken from the tensors they will quantize."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qatlab.quant.grid import Grid, fake_quantize

STARTS = ("mean", "mean_std", "min_max", "percentile", "mse")


def start_parameter(
    values: Tensor, grid: Grid, start: str, percentile: float = 99.9, per_channel: bool = False
) -> Tensor:
    """Return a starting value of the parameter of a grid, whose step is that / ``divisor``.

    ==============  ==========================================================================
    start           step
    ==============  ==========================================================================
    ``mean``        ``2 mean|v| / sqrt(q_max)`` (LSQ)
    ``mean_std``    ``max(|m - 3 d|, |m + 3 d|) / max(q_max, -q_min)``, mean and deviation (LSQ+)
    ``min_max``     the smallest that clips nothing
    ``percentile``  the smallest that clips no more than the rest of this percentage of ``|v|``
    ``mse``         of 80 parts of ``min_max`` that of the smallest squared error
    ==============  ==========================================================================

    Source: Esser et al. 2019 (LSQ), section 2.1; Bhalgat et al. 2020 (LSQ+), section 3.3; the
    others are those of post-training quantization.

    Args:
        values: weights ``(C_out, ...)`` or activations, any shape.
        grid: its levels.
        start: one of :data:`STARTS`.
        percentile: above 0, at most 100.
        per_channel: a step for each index of the first dimension.

    Returns:
        A scalar or, per channel, of shape ``(C_out, 1, ...)``. Not above 0, or not finite, if the
        values are all 0, or not finite.
    """
    rows = (values.flatten(1) if per_channel else values.flatten()[None]).float()
    if start == "mean":
        found = 2 * rows.abs().mean(1) * (grid.divisor / math.sqrt(grid.q_max))
    elif start == "mean_std":
        mean, deviation = rows.mean(1), rows.std(1, correction=0)
        furthest = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
        found = furthest / (max(grid.q_max, -grid.q_min) / grid.divisor)
    elif start == "percentile":
        rank = max(1, math.ceil(percentile * rows.shape[1] / 100))
        found = rows.abs().kthvalue(rank, 1).values / (grid.q_max / grid.divisor)
    else:
        found = _min_max(rows, grid)
        if start == "mse":
            found = _least_error(rows, grid, found)
    if not per_channel:
        return found[0]
    # A channel of zeros: any step will do for it.
    found = torch.where(found > 0, found, found.max())
    return found.reshape(-1, *(1,) * (values.ndim - 1))


def _min_max(rows: Tensor, grid: Grid) -> Tensor:
    above = rows.amax(1).clamp(min=0) / (grid.q_max / grid.divisor)
    return torch.maximum(above, rows.amin(1) / (grid.q_min / grid.divisor)) if grid.q_min else above


def _least_error(rows: Tensor, grid: Grid, largest: Tensor) -> Tensor:
    best, least = largest, torch.full_like(largest, math.inf)
    for part in range(80, 0, -1):
        found = largest * (part / 80)
        error = (fake_quantize(rows, found[:, None], grid) - rows).square().sum(1)
        best = torch.where(error < least, found, best)
        least = torch.minimum(error, least)
    return best


def start_range(
    values: Tensor, grid: Grid, start: str, percentile: float = 99.9
) -> tuple[Tensor, Tensor]:
    """Return lowest and highest value of the range that a step with an offset starts with.

    ``mean_std`` is mean - 3 and + 3 standard deviations, but within the values' own range;
    ``min_max`` is that range, ``percentile`` the one that leaves out its rest on each side, and
    ``mse`` of 80 parts of ``min_max`` that of the smallest squared error.

    Source: Bhalgat et al. 2020 (LSQ+), section 3.3, which minimizes the squared error.
    """
    flat = values.flatten().float()
    low, high = flat.amin(), flat.amax()
    if start == "mean_std":
        mean, reach = flat.mean(), 3 * flat.std(correction=0)
        return torch.maximum(low, mean - reach), torch.minimum(high, mean + reach)
    if start == "percentile":
        rank = max(1, math.ceil(percentile * flat.numel() / 100))
        return flat.kthvalue(flat.numel() + 1 - rank).values, flat.kthvalue(rank).values
    if start == "mse":
        errors = []
        for part in range(80, 0, -1):
            step, offset = affine(low * (part / 80), high * (part / 80), grid)
            quantized = fake_quantize(flat, step, grid, offset=offset)
            errors.append((quantized - flat).square().sum())
        best = (80 - torch.stack(errors).argmin()) / 80
        return low * best, high * best
    return low, high


def affine(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return step and offset of the grid whose ends are ``low`` and ``high``."""
    step = (high - low) / (grid.q_max - grid.q_min)
    return step, low - grid.q_min * step
