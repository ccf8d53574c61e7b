"""A transform that hides parts of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.data.transforms.limits import interval, number, numbers
from qatlab.data.transforms.transform import Transform
from qatlab.errors import wrong

_DRAWS = 100  # of a rectangle, until one lies in the image: at the defaults a third do


class RandomErasing(Transform):
    """Fills a random rectangle of an image, now and then.

    Its area, as a share of the image's, is drawn uniformly, and so are height / width and the upper
    left corner; if it reaches beyond the image, all three are drawn again.

        height = sqrt(area * ratio),   width = sqrt(area / ratio)

    Source: Zhong et al. 2017, arXiv:1708.04896, algorithm 1 and its settings in section 4.

    Args:
        probability: that an image loses a rectangle.
        area: smallest and largest area, as a share of the image's, in (0, 1].
        ratio: smallest and largest height / width.
        value: what it is filled with: ``random``, for each value of it another one from 0 to 255
            (of floats, from the lowest to the highest of the image); a number, or one for each
            channel.
        apply_to: see :class:`Transform`; by default training images alone.
    """

    def __init__(
        self,
        probability: float = 0.5,
        area: Sequence[float] = (0.02, 0.4),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        value: str | float | Sequence[float] = "random",
        apply_to: Sequence[str] | None = ("training",),
    ) -> None:
        super().__init__(apply_to)
        self.random = True
        self.probability = number(self.key_of("probability"), probability, low=0, high=1)
        self.area = interval(self.key_of("area"), area, above=0.0, high=1.0)
        self.ratio = interval(self.key_of("ratio"), ratio, above=0.0)
        if isinstance(value, str) and value != "random":
            raise wrong(self.key_of("value"), value, "random, a number, one for each channel")
        self.value = () if isinstance(value, str) else numbers(self.key_of("value"), value)

    def channels(self, given: int) -> int:
        """Check the number of values."""
        if self.value:
            self.per_channel("value", self.value, given)
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Erase; an image in which no rectangle fits stays as it is."""
        height, width = images.shape[2:]
        chosen, boxes = self._rectangles(len(images), height, width, rng)
        if len(chosen) == 0:
            return images
        top, left, box_height, box_width = boxes.T[..., None]
        rows, columns = np.arange(height), np.arange(width)
        within_rows = (rows >= top) & (rows < top + box_height)
        within_columns = (columns >= left) & (columns < left + box_width)
        erased = torch.from_numpy(within_rows[:, None, :, None] & within_columns[:, None, None, :])
        places = torch.from_numpy(chosen).to(images.device)
        parts = images.index_select(0, places)
        filled = torch.where(erased.to(images.device), self._filling(parts, rng), parts)
        return images.index_copy(0, places, filled)

    def _rectangles(
        self, n: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw which images lose a rectangle, and for each top, left, height and width of it."""
        chosen = np.flatnonzero(rng.random(n) < self.probability)
        boxes = np.zeros((len(chosen), 4), dtype=np.int64)
        pending = np.arange(len(chosen))
        for _ in range(_DRAWS):
            if len(pending) == 0:
                break
            area, ratio = (rng.uniform(*ends, len(pending)) for ends in (self.area, self.ratio))
            sides = np.sqrt(height * width * area * np.stack([ratio, 1 / ratio]))
            box_height, box_width = np.rint(sides).astype(np.int64).clip(min=1)
            top, left = (rng.integers(0, side, len(pending)) for side in (height, width))
            fits = (top + box_height <= height) & (left + box_width <= width)
            boxes[pending[fits]] = np.stack([top, left, box_height, box_width], 1)[fits]
            pending = pending[~fits]
        return chosen, boxes

    def _filling(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return what replaces ``images`` where they are erased, of their shape or (C, 1, 1)."""
        if self.value:
            values = torch.tensor(self.value, dtype=torch.float32, device=images.device)
            values = values.view(-1, 1, 1)
            whole = values.round().clamp(0, 255)
            return values if images.is_floating_point() else whole.to(images.dtype)
        if not images.is_floating_point():
            drawn = rng.integers(0, 256, tuple(images.shape), dtype=np.uint8)
            return torch.from_numpy(drawn).to(images.device)
        shares = rng.random(tuple(images.shape), dtype=np.float32)
        low, high = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        return torch.from_numpy(shares).to(images.device).mul_(high - low).add_(low)
