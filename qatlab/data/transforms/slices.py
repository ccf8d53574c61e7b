"""The transform that cuts a slice out of each image, at a fixed or a random place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.data.transforms import augment
from qatlab.data.transforms.borders import BORDERS, Border, window
from qatlab.data.transforms.limits import choice, interval, numbers, whole_number
from qatlab.data.transforms.sampling import sample, turned
from qatlab.data.transforms.transform import Transform
from qatlab.errors import DataError


class SliceExtraction(Transform):
    """Cuts a slice out of each image.

    N2D2's ``SliceExtractionTransformation``: Width, Height, OffsetX, OffsetY, RandomOffsetX,
    RandomOffsetY, RandomRotation, RandomRotationRange, RandomScaling, RandomScalingRange,
    AllowPadding, BorderType, BorderValue.

    Args:
        width: of the slice, in pixels; 0 for the whole width of the image.
        height: likewise.
        offset_x: column of the image where the slice begins.
        offset_y: row of the image where it begins.
        random_offset_x: begin anywhere instead, such that the slice lies inside the image (or the
            image inside a larger slice).
        random_offset_y: likewise.
        random_rotation: turn the content about the centre of the slice.
        rotation_range: smallest and largest angle, in degrees; positive is anticlockwise.
        random_scaling: magnify the content about the centre of the slice.
        scaling_range: smallest and largest factor; above 1 the content grows.
        allow_padding: fill a slice that reaches beyond the image; else that is an error.
        border: what it is filled with, see :class:`PadCrop`; also where rotation and scaling reach
            beyond the image.
        border_value: for ``constant``: a number, or one for each channel.
        apply_to: see :class:`Transform`.
    """

    resizes = True

    def __init__(
        self,
        width: int = 0,
        height: int = 0,
        offset_x: int = 0,
        offset_y: int = 0,
        random_offset_x: bool = False,
        random_offset_y: bool = False,
        random_rotation: bool = False,
        rotation_range: Sequence[float] = (0.0, 360.0),
        random_scaling: bool = False,
        scaling_range: Sequence[float] = (0.8, 1.2),
        allow_padding: bool = False,
        border: Border = "reflect_101",
        border_value: float | Sequence[float] = 0.0,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.width = whole_number(self.key_of("width"), width, 0)
        self.height = whole_number(self.key_of("height"), height, 0)
        self.offset_x = whole_number(self.key_of("offset_x"), offset_x, 0)
        self.offset_y = whole_number(self.key_of("offset_y"), offset_y, 0)
        self.random_offset_x = random_offset_x
        self.random_offset_y = random_offset_y
        self.rotation_range = interval(self.key_of("rotation_range"), rotation_range)
        self.scaling_range = interval(self.key_of("scaling_range"), scaling_range, above=0.0)
        self.random_rotation = random_rotation
        self.random_scaling = random_scaling
        self.allow_padding = allow_padding
        self.border = choice(self.key_of("border"), border, BORDERS)
        self.border_value = numbers(self.key_of("border_value"), border_value)
        self.random = random_offset_x or random_offset_y or random_rotation or random_scaling

    def channels(self, given: int) -> int:
        """Check the border value."""
        self.per_channel("border_value", self.border_value, given)
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Cut."""
        height, width = images.shape[2:]
        size = self.height or height, self.width or width
        if not self.random:
            self._check(size, self.offset_y, self.offset_x, height, width)
            place = self.offset_y, self.offset_x
            return window(images, *place, size, self.border, self.border_value)

        n, device = len(images), images.device
        top = self._first(self.random_offset_y, self.offset_y, height - size[0], n, rng)
        left = self._first(self.random_offset_x, self.offset_x, width - size[1], n, rng)
        self._check(size, int(top[0]), int(left[0]), height, width)
        if not self.random_rotation and not self.random_scaling:
            over = [max(0, int(x)) for x in (-top.min(), -left.min())]
            beyond = [
                max(0, int(first.max()) + wanted - given)
                for first, wanted, given in zip((top, left), size, (height, width), strict=True)
            ]
            if any(over) or any(beyond):
                padded = height + over[0] + beyond[0], width + over[1] + beyond[1]
                images = window(images, -over[0], -over[1], padded, self.border, self.border_value)
            rows, columns = (
                torch.from_numpy(x).to(device) for x in (top + over[0], left + over[1])
            )
            return augment.crop(images, rows, columns, size)

        degrees = rng.uniform(*self.rotation_range, n) if self.random_rotation else np.zeros(n)
        factor = rng.uniform(*self.scaling_range, n) if self.random_scaling else np.ones(n)
        centres = top + (size[0] - 1) / 2, left + (size[1] - 1) / 2
        described = (
            torch.from_numpy(x.astype(np.float32)).to(device) for x in (*centres, degrees, factor)
        )
        return sample(images, *turned(size, *described), self.border, self.border_value)

    def _first(
        self, draw: bool, offset: int, room: int, n: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return for each image where its slice begins, (N,)."""
        if not draw:
            return np.full(n, offset)
        return rng.integers(min(0, room), max(0, room), n, endpoint=True)

    def _check(self, size: tuple[int, int], top: int, left: int, height: int, width: int) -> None:
        """Raise unless the slice lies inside the image, or padding is allowed."""
        inside = 0 <= top <= height - size[0] and 0 <= left <= width - size[1]
        if not inside and not self.allow_padding:
            raise DataError(
                f"{self.key} wants {size[0]}x{size[1]} pixels (height x width) from row "
                f"{max(0, top)} and column {max(0, left)} of an image of {height}x{width}; set "
                "allow_padding: true, or make the images larger in front of it."
            )
