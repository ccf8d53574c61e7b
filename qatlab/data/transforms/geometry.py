"""Transforms of size and place: rescaled, cropped, mirrored and reshaped images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qatlab.data.transforms import augment
from qatlab.data.transforms.borders import BORDERS, Border, window
from qatlab.data.transforms.limits import LONGEST_SIDE, choice, interval, numbers, whole_number
from qatlab.data.transforms.opencv_resize import resize_bilinear
from qatlab.data.transforms.transform import Transform
from qatlab.errors import ConfigError


class Rescale(Transform):
    """Resizes as OpenCV does with ``INTER_LINEAR``; 8-bit images bit for bit.

    N2D2's ``RescaleTransformation``: Width, Height, KeepAspectRatio, ResizeToFit.

    Args:
        width: of the result, in pixels.
        height: likewise.
        keep_aspect_ratio: keep the shape of the image: one side of the result is then as asked,
            and the other one follows, cut to a whole number.
        resize_to_fit: which side that is with ``keep_aspect_ratio``: true, the result fits into
            the size asked for; false, it covers it.
        apply_to: see :class:`Transform`.
    """

    resizes = True

    def __init__(
        self,
        width: int,
        height: int,
        keep_aspect_ratio: bool = False,
        resize_to_fit: bool = True,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.width = whole_number(self.key_of("width"), width, 1, LONGEST_SIDE)
        self.height = whole_number(self.key_of("height"), height, 1, LONGEST_SIDE)
        self.keep_aspect_ratio = keep_aspect_ratio
        self.resize_to_fit = resize_to_fit

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Resize."""
        height, width = images.shape[2:]
        size = self.height, self.width
        if self.keep_aspect_ratio:
            ratios = self.width / width, self.height / height
            ratio = min(ratios) if self.resize_to_fit else max(ratios)
            size = max(1, int(height * ratio)), max(1, int(width * ratio))
        return images if size == (height, width) else resize_bilinear(images, size)


class PadCrop(Transform):
    """Cuts off or adds the same at both sides, so that the size is as asked.

    Where that is odd, the lower and the right side get the pixel more.
    N2D2's ``PadCropTransformation``: Width, Height, AdditiveWH, BorderType, BorderValue.

    Args:
        width: of the result, in pixels.
        height: likewise.
        additive: the two are added to the size of the image (and may be negative).
        border: what is added: ``reflect_101`` (gfedcb|abcdefgh; N2D2's MinusOneReflectBorder),
            ``reflect`` (fedcba|abcdefgh), ``replicate`` (the pixel at the edge), ``wrap`` (the
            opposite side), or ``constant``.
        border_value: for ``constant``: a number, or one for each channel.
        apply_to: see :class:`Transform`.
    """

    resizes = True

    def __init__(
        self,
        width: int,
        height: int,
        additive: bool = False,
        border: Border = "reflect_101",
        border_value: float | Sequence[float] = 0.0,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        lowest = -(1 << 31) if additive else 1
        self.width = whole_number(self.key_of("width"), width, lowest, LONGEST_SIDE)
        self.height = whole_number(self.key_of("height"), height, lowest, LONGEST_SIDE)
        self.additive = additive
        self.border = choice(self.key_of("border"), border, BORDERS)
        self.border_value = numbers(self.key_of("border_value"), border_value)

    def channels(self, given: int) -> int:
        """Check the border value."""
        self.per_channel("border_value", self.border_value, given)
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Pad and crop."""
        height, width = images.shape[2:]
        size = self.height, self.width
        if self.additive:
            size = height + self.height, width + self.width
            if min(size) < 1:
                raise ConfigError(
                    f"{self.key}: nothing is left of an image of {height}x{width} pixels; "
                    "additive width and height must leave at least one pixel."
                )
        top, left = _middle(height, size[0]), _middle(width, size[1])
        return window(images, top, left, size, self.border, self.border_value)


class Flip(Transform):
    """Mirrors images, all of them or every second one, drawn at random.

    N2D2's ``FlipTransformation``: HorizontalFlip, VerticalFlip, RandomHorizontalFlip,
    RandomVerticalFlip.

    Args:
        horizontal: mirror all images left to right.
        vertical: mirror all images upside down.
        random_horizontal: mirror an image left to right with a probability of one half.
        random_vertical: mirror an image upside down with a probability of one half.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        horizontal: bool = False,
        vertical: bool = False,
        random_horizontal: bool = False,
        random_vertical: bool = False,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.always = {3: horizontal, 2: vertical}  # by axis
        self.sometimes = {3: random_horizontal, 2: random_vertical}
        self.random = random_horizontal or random_vertical

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Mirror."""
        axes = [axis for axis, flips in self.always.items() if flips]
        images = images.flip(axes) if axes else images
        for axis, flips in self.sometimes.items():
            chosen = rng.random(images.shape[0]) < 0.5 if flips else np.zeros(1, dtype=bool)
            if chosen.all():  # or none, as often when it is one image; to choose takes far longer
                images = images.flip(axis)
            elif chosen.any():
                images = augment.flip(images, torch.from_numpy(chosen).to(images.device), axis)
        return images


class RandomResizeCrop(Transform):
    """Cuts out a random part of random size and shape, and resizes it.

    Area and shape are drawn as in torchvision's ``RandomResizedCrop``: the area uniformly, the
    logarithm of the aspect ratio uniformly; a part that is larger than the image is drawn again,
    and after ten times the middle of the image is taken.
    N2D2's ``RandomResizeCropTransformation``: Width, Height, ScaleMin, ScaleMax, RatioMin,
    RatioMax.

    Args:
        width: of the result, in pixels.
        height: likewise.
        scale: smallest and largest area, as a share of the image's, in (0, 1].
        ratio: smallest and largest width / height of the part.
        apply_to: see :class:`Transform`.
    """

    resizes = True

    def __init__(
        self,
        width: int,
        height: int,
        scale: Sequence[float] = (1.0, 1.0),
        ratio: Sequence[float] = (1.0, 1.0),
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.random = True
        self.width = whole_number(self.key_of("width"), width, 1, LONGEST_SIDE)
        self.height = whole_number(self.key_of("height"), height, 1, LONGEST_SIDE)
        self.scale = interval(self.key_of("scale"), scale, above=0.0, high=1.0)
        self.ratio = interval(self.key_of("ratio"), ratio, above=0.0)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Cut and resize, image by image: each part has its own size."""
        size = self.height, self.width
        results = []
        for number in range(images.shape[0]):
            top, left, height, width = self._part(images.shape[2], images.shape[3], rng)
            part = images[number : number + 1, :, top : top + height, left : left + width]
            results.append(resize_bilinear(part, size))
        return results[0] if len(results) == 1 else torch.cat(results)

    def _part(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height and width."""
        lowest, highest = (math.log(ratio) for ratio in self.ratio)
        for _ in range(10):
            # Four numbers at once: single ones from NumPy take as long as a tenth of the resizing.
            of_scale, of_ratio, down, right = rng.random(4).tolist()
            area = height * width * (self.scale[0] + of_scale * (self.scale[1] - self.scale[0]))
            ratio = math.exp(lowest + of_ratio * (highest - lowest))
            part_width = round(math.sqrt(area * ratio))
            part_height = round(math.sqrt(area / ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                top = int(down * (height - part_height + 1))
                left = int(right * (width - part_width + 1))
                return top, left, part_height, part_width
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        part_height = max(1, min(height, round(width / ratio)))
        part_width = max(1, min(width, round(height * ratio)))
        return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


class Reshape(Transform):
    """Reads the same values in another shape, as OpenCV's ``Mat::reshape`` does.

    Values are taken in OpenCV's order: row by row, all channels of a pixel together.
    N2D2's ``ReshapeTransformation``: NbRows, NbCols, NbChannels.

    Args:
        rows: height of the result.
        columns: width of the result; 0 for what the number of values demands.
        n_channels: channels of the result; 0 for those of the image.
        apply_to: see :class:`Transform`.
    """

    resizes = True

    def __init__(
        self,
        rows: int,
        columns: int = 0,
        n_channels: int = 0,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.rows = whole_number(self.key_of("rows"), rows, 1)
        self.columns = whole_number(self.key_of("columns"), columns, 0)
        self.n_channels = whole_number(self.key_of("n_channels"), n_channels, 0)

    def channels(self, given: int) -> int:
        """Return the new number of channels."""
        return self.n_channels or given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Reshape."""
        n, channels, height, width = images.shape
        channels_out = self.channels(channels)
        values = channels * height * width
        columns = self.columns or values // (self.rows * channels_out)
        if self.rows * columns * channels_out != values:
            raise ConfigError(
                f"{self.key} cannot make {self.rows} rows of {self.columns or 'some'} columns and "
                f"{channels_out} channels of the {values} values of an image of {height}x{width} "
                f"pixels and {channels} channels."
            )
        pixels = images.permute(0, 2, 3, 1).reshape(n, self.rows, columns, channels_out)
        return pixels.permute(0, 3, 1, 2).contiguous()


def _middle(given: int, wanted: int) -> int:
    """Return the first pixel of a stretch in the middle; negative if pixels are to be added."""
    return (given - wanted) // 2 if given >= wanted else -((wanted - given) // 2)
