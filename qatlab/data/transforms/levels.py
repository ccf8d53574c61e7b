"""Transforms of pixel values that look at a whole image: its range, its norm, its histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from qatlab.data.transforms.histograms import clahe, equalized, otsu_threshold
from qatlab.data.transforms.limits import choice, number, whole_number
from qatlab.data.transforms.transform import Transform
from qatlab.errors import DataError

Norm = Literal["min_max", "l1", "l2", "linf"]
Operation = Literal["binary", "binary_inverted", "truncate", "to_zero", "to_zero_inverted"]


class Normalize(Transform):
    """Scales each image to a range, or to a norm, as OpenCV's ``normalize``; the result is float.

    N2D2's ``NormalizeTransformation``: Norm, NormValue, NormMin, NormMax, PerChannel.

    Args:
        norm: ``min_max``: the lowest value becomes ``norm_min`` and the highest ``norm_max``;
            ``l1``, ``l2``, ``linf``: sum of absolute values, root of the sum of squares, or largest
            absolute value becomes ``norm_value``.
        norm_value: see there.
        norm_min: see there.
        norm_max: see there.
        per_channel: for each channel by itself, else for all channels of an image together.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        norm: Norm = "min_max",
        norm_value: float = 1.0,
        norm_min: float = 0.0,
        norm_max: float = 1.0,
        per_channel: bool = False,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.norm = choice(self.key_of("norm"), norm, get_args(Norm))
        self.norm_value = number(self.key_of("norm_value"), norm_value)
        self.norm_min = number(self.key_of("norm_min"), norm_min)
        self.norm_max = number(self.key_of("norm_max"), norm_max)
        self.by_channel = per_channel

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Scale."""
        x = images.double()
        axes = (2, 3) if self.by_channel else (1, 2, 3)
        if self.norm == "min_max":
            lowest, highest = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
            spread = highest - lowest
            scale = torch.where(spread > 0, (self.norm_max - self.norm_min) / spread, 0)
            return ((x - lowest) * scale + self.norm_min).float()
        if self.norm == "linf":
            size = x.abs().amax(axes, keepdim=True)
        elif self.norm == "l1":
            size = x.abs().sum(axes, keepdim=True)
        else:
            size = x.square().sum(axes, keepdim=True).sqrt()
        return (x * torch.where(size > 0, self.norm_value / size, 0)).float()


class Threshold(Transform):
    """Compares each value with a threshold, as OpenCV's ``threshold``.

    N2D2's ``ThresholdTransformation``: Threshold, OtsuMethod, Operation, MaxValue.

    Args:
        threshold: in the range of the image, 0 to 255 for bytes.
        otsu: take the threshold that separates the two groups of values of an image best instead;
            for bytes of one channel.
        operation: what becomes of values above the threshold, and of the others: ``binary``
            (max_value, 0), ``binary_inverted`` (0, max_value), ``truncate`` (the threshold, kept),
            ``to_zero`` (kept, 0), ``to_zero_inverted`` (0, kept).
        max_value: see there.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        otsu: bool = False,
        operation: Operation = "binary",
        max_value: float = 1.0,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.threshold = number(self.key_of("threshold"), threshold)
        self.otsu = otsu
        self.operation = choice(self.key_of("operation"), operation, get_args(Operation))
        self.max_value = number(self.key_of("max_value"), max_value)

    def channels(self, given: int) -> int:
        """Refuse Otsu's method for several channels."""
        if self.otsu:
            self.grey_only(given)
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Compare."""
        threshold = torch.full((1, 1, 1, 1), self.threshold, device=images.device)
        if self.otsu:
            threshold = otsu_threshold(bytes_only(self, images)).float().view(-1, 1, 1, 1)
        above, limit = images > threshold, threshold
        top = torch.full_like(threshold, self.max_value)
        if not images.is_floating_point():
            limit, top = (x.clamp(0, 255) for x in (threshold.floor(), top.round()))
        limit, top = limit.to(images.dtype), top.to(images.dtype)
        zero = images.new_zeros(())
        chosen = {
            "binary": (top, zero),
            "binary_inverted": (zero, top),
            "truncate": (limit, images),
            "to_zero": (images, zero),
            "to_zero_inverted": (zero, images),
        }
        return torch.where(above, *chosen[self.operation])


class Equalize(Transform):
    """Spreads the grey levels of 8-bit images, as OpenCV's ``equalizeHist`` and ``CLAHE`` do.

    N2D2's ``EqualizeTransformation``: Method, CLAHE_ClipLimit, CLAHE_GridSize.

    Args:
        method: ``standard``, or ``clahe``: in each cell of a grid by itself, with limited contrast.
        clip_limit: of ``clahe``: how often a level may occur, in multiples of the mean.
        grid_size: of ``clahe``: number of cells along each side.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        method: Literal["standard", "clahe"] = "standard",
        clip_limit: float = 40.0,
        grid_size: int = 8,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.method = choice(self.key_of("method"), method, ("standard", "clahe"))
        self.clip_limit = number(self.key_of("clip_limit"), clip_limit, low=0)
        self.grid_size = whole_number(self.key_of("grid_size"), grid_size, 1)

    def channels(self, given: int) -> int:
        """Refuse several channels."""
        self.grey_only(given)
        return 1

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Equalize."""
        bytes_only(self, images)
        if self.method == "standard":
            return equalized(images)
        return clahe(images, self.clip_limit, self.grid_size)


def bytes_only(transform: Transform, images: Tensor) -> Tensor:
    """Return the images, or raise a DataError if they are floats."""
    if images.dtype != torch.uint8:
        raise DataError(
            f"{transform.key} takes 8-bit images; put it in front of what makes them floats."
        )
    return images
