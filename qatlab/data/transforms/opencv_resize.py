"""OpenCV's bilinear resize without OpenCV: of 8-bit images in integers, and of floats."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from qatlab.data.transforms import native

_WEIGHT_BITS = 11  # a pair of neighbours shares 2**11 parts of weight
# Torch runs an operation on fewer elements than this on one thread. Such a piece also stays in the
# cache, so small pieces are faster than large ones on several threads, and memory stays small.
_ELEMENTS_PER_PIECE = 32767


def resize_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as ``cv2.resize(..., interpolation=cv2.INTER_LINEAR)`` does; bytes bit for bit.

    Along one axis, output pixel i lies at p = (i + 1/2) * source / target - 1/2 (in float32),
    between the input pixels k = floor(p) and k + 1. With f = p - k, their integer weights are

        w0 = rint(2048 * (1 - f)),   w1 = rint(2048 * f)

    The first pass runs along the rows and keeps all bits, the second along the columns and cuts
    bits off twice:

        r = w0 * x[k] + w1 * x[k + 1]
        y = ((w0 * (r[k] >> 4) >> 16) + (w1 * (r[k + 1] >> 4) >> 16) + 2) >> 2

    Indices outside the image mean its border pixel. Along the rows such a position takes the border
    pixel with full weight; along the columns it keeps both weights, and the two are cut separately.
    Floats are weighted with 1 - f and f, and nothing is rounded but to float32.

    Args:
        images: uint8 or float32, (N, C, H, W).
        size: height and width of the result.

    Returns:
        Dtype of ``images``, (N, C, *size), on their device.
    """
    if images.is_floating_point():
        return _resize_floats(images, size)
    compiled = native.resize_bilinear() if images.device.type == "cpu" else None
    if compiled is None:
        return _resize_bytes(images, size)
    resized = images.new_empty((*images.shape[:2], *size))
    compiled(images.data_ptr(), resized.data_ptr(), *images.shape, *images.stride(), *size)
    return resized


def _resize_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    device = images.device
    left, right, left_weight, right_weight = _neighbours(images.shape[3], width, device, True)
    top, bottom, top_weight, bottom_weight = _neighbours(images.shape[2], height, device, False)
    top_weight, bottom_weight = top_weight[:, None], bottom_weight[:, None]

    resized = images.new_empty((*images.shape[:2], height, width))
    elements = images.shape[1] * max(images.shape[2], height) * max(images.shape[3], width)
    n_images = max(1, _ELEMENTS_PER_PIECE // elements)
    for piece, result in zip(
        torch.split(images, n_images), torch.split(resized, n_images), strict=True
    ):
        pixels = piece.int()
        rows = pixels.index_select(3, left).mul_(left_weight)
        rows += pixels.index_select(3, right).mul_(right_weight)
        rows >>= 4
        upper = rows.index_select(2, top).mul_(top_weight)
        lower = rows.index_select(2, bottom).mul_(bottom_weight)
        upper >>= 16
        lower >>= 16
        result.copy_((upper + lower + 2) >> 2)
    return resized


def _resize_floats(images: Tensor, size: tuple[int, int]) -> Tensor:
    for axis, target in ((3, size[1]), (2, size[0])):
        lower, upper, fraction = _places(images.shape[axis], target, images.device)
        weight = fraction.view(-1, *[1] * (3 - axis))
        lesser = images.index_select(axis, lower).mul_(1 - weight)
        images = images.index_select(axis, upper).mul_(weight).add_(lesser)
    return images


@lru_cache(maxsize=64)
def _neighbours(
    source: int, target: int, device: torch.device, along_rows: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both neighbours of each output pixel along one axis, and their int32 weights."""
    lower, upper, fraction = _places(source, target, device)
    parts = 1 << _WEIGHT_BITS
    weights = ((1 - fraction) * parts).round().int(), (fraction * parts).round().int()
    if along_rows:
        outside = lower == upper
        weights[0][outside], weights[1][outside] = parts, 0
    return lower, upper, *weights


@lru_cache(maxsize=64)
def _places(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return both neighbours of each output pixel, and how far it lies beyond the first one."""
    scale = 1.0 / (target / source)  # in this order: source / target can differ in the last bit
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    first = position.floor()
    lower = first.long().clamp(0, source - 1)
    upper = (first.long() + 1).clamp(0, source - 1)
    return lower.to(device), upper.to(device), (position - first).to(device)
