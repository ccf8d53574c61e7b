"""Transforms of each pixel by its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qatlab.data.transforms.borders import window
from qatlab.data.transforms.limits import choice, number, whole_number
from qatlab.data.transforms.transform import Transform

Operation = Literal["erode", "dilate", "opening", "closing", "gradient", "top_hat", "black_hat"]


class WallisFilter(Transform):
    """Gives the surroundings of each pixel the same mean and standard deviation; float result.

        y = (x - local mean) / (local standard deviation) * std_dev + mean

    Where all neighbours are equal, y is the mean. Channels are filtered by themselves.
    N2D2's ``WallisFilterTransformation``: Size, Mean, StdDev.

    Args:
        size: width and height of the surroundings in pixels.
        mean: see above.
        std_dev: see above.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        size: int,
        mean: float = 0.0,
        std_dev: float = 1.0,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.size = whole_number(self.key_of("size"), size, 1)
        self.mean = number(self.key_of("mean"), mean)
        self.std_dev = number(self.key_of("std_dev"), std_dev, low=0)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Filter."""
        x = images.double()
        framed = _framed(x, self.size)
        mean = F.avg_pool2d(framed, self.size, stride=1)
        variance = F.avg_pool2d(framed.square(), self.size, stride=1) - mean.square()
        scale = torch.where(variance > 1e-9, self.std_dev / variance.clamp(min=1e-9).sqrt(), 0)
        return ((x - mean) * scale + self.mean).float()


class Morphology(Transform):
    """Lowest or highest value of each neighbourhood, and what OpenCV makes of the two.

    N2D2's ``MorphologyTransformation``: Operation, Size; the neighbourhood is a square.

    Args:
        operation: ``erode`` (lowest value), ``dilate`` (highest), ``opening`` (erode, then dilate),
            ``closing`` (dilate, then erode), ``gradient`` (dilated - eroded), ``top_hat`` (image -
            opened), ``black_hat`` (closed - image).
        size: width and height of the neighbourhood in pixels.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self, operation: Operation, size: int, apply_to: Sequence[str] | None = None
    ) -> None:
        super().__init__(apply_to)
        self.operation = choice(self.key_of("operation"), operation, get_args(Operation))
        self.size = whole_number(self.key_of("size"), size, 1)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Compute."""
        x = images.float()
        made = {
            "erode": lambda: self._erode(x),
            "dilate": lambda: self._dilate(x),
            "opening": lambda: self._dilate(self._erode(x)),
            "closing": lambda: self._erode(self._dilate(x)),
            "gradient": lambda: self._dilate(x) - self._erode(x),
            "top_hat": lambda: x - self._dilate(self._erode(x)),
            "black_hat": lambda: self._erode(self._dilate(x)) - x,
        }
        result = made[self.operation]()
        return result if images.is_floating_point() else result.clamp_(0, 255).to(images.dtype)

    def _dilate(self, x: Tensor) -> Tensor:
        before = self.size // 2
        after = self.size - 1 - before
        framed = F.pad(x, (before, after, before, after), value=-torch.inf)  # beyond: not there
        return F.max_pool2d(framed, self.size, stride=1)

    def _erode(self, x: Tensor) -> Tensor:
        return -self._dilate(-x)


class GradientFilter(Transform):
    """Shows edges: half the sum of the absolute derivatives along both axes.

        y = (|scale * dx + delta| + |scale * dy + delta|) / 2

    Derivatives are Sobel's, 3x3. Bytes are cut to 255 in between, as in OpenCV's tutorial "Sobel
    Derivatives".
    N2D2's ``GradientFilterTransformation``: Scale, Delta.

    Args:
        scale: see above.
        delta: see above.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self, scale: float = 1.0, delta: float = 0.0, apply_to: Sequence[str] | None = None
    ) -> None:
        super().__init__(apply_to)
        self.scale = number(self.key_of("scale"), scale)
        self.delta = number(self.key_of("delta"), delta)

    def channels(self, given: int) -> int:
        """Refuse several channels."""
        self.grey_only(given)
        return 1

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Differentiate."""
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([sobel, sobel.T])[:, None].to(images.device)
        slopes = F.conv2d(_framed(images.float(), 3), kernels)
        slopes = (slopes * self.scale + self.delta).abs()
        if images.is_floating_point():
            return slopes.mean(1, keepdim=True)
        return slopes.round_().clamp_(0, 255).mean(1, keepdim=True).round_().byte()


def _framed(images: Tensor, size: int) -> Tensor:
    """Return images with a mirrored border, such that each pixel has ``size`` neighbours."""
    before = size // 2
    full = images.shape[2] + size - 1, images.shape[3] + size - 1
    return window(images, -before, -before, full, "reflect_101")
