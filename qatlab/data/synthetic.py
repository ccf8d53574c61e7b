"""Images made in memory: an easy problem for tests and for trying the tool without any files."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from qatlab.data.sources import LabelledImages
from qatlab.data.transforms.limits import MOST_CLASSES, height_and_width, whole_number
from qatlab.errors import wrong

_PATTERN_CELLS = 4  # a pattern is smooth: this many random values along each side
_CONTRAST = 100.0  # standard deviation of a pattern before clipping, in grey levels


class Synthetic:
    """Every class has one smooth random pattern of bright areas on black; an image adds noise.

        pixel = clip(100 * pattern[label] + noise * normal(0, 1), 0, 255)

    Labels are balanced up to one image. The same arguments give the same images; the test images
    have other noise than the training images.

    Args:
        training_images: number of images for training and validation.
        test_images: number of test images.
        num_classes: number of classes.
        channels: C of the images.
        size: height and width.
        noise: standard deviation of the noise in grey levels; patterns have one of 100.
        seed: of patterns and noise.
    """

    def __init__(
        self,
        training_images: int,
        test_images: int,
        num_classes: int,
        channels: int,
        size: Sequence[int],
        noise: float,
        seed: int,
    ) -> None:
        self.training_images = whole_number("data.source.training_images", training_images, 1)
        self.test_images = whole_number("data.source.test_images", test_images, 1)
        self.channels = whole_number("data.source.channels", channels, 1)
        self.size = height_and_width("data.image_size or data.source.size", size)
        self.seed = whole_number("data.source.seed", seed, 0)
        if not noise >= 0:
            raise wrong("data.source.noise", noise, "a number of at least 0")
        self.noise = noise
        n_classes = whole_number("data.source.num_classes", num_classes, 2, highest=MOST_CLASSES)
        self.class_names = tuple(f"pattern {label}" for label in range(n_classes))

    def training_set(self) -> LabelledImages:
        """Make the training images."""
        return self._make(self.training_images, stream=1)

    def test_set(self) -> LabelledImages:
        """Make the test images."""
        return self._make(self.test_images, stream=2)

    def _make(self, n_images: int, stream: int) -> LabelledImages:
        n_classes = len(self.class_names)
        rng = torch.Generator().manual_seed(3 * self.seed)  # streams 0, 1, 2 of each seed
        cells = (n_classes, self.channels, _PATTERN_CELLS, _PATTERN_CELLS)
        coarse = torch.randn(cells, generator=rng)

        rng.manual_seed(3 * self.seed + stream)
        labels = torch.randperm(n_images, generator=rng) % n_classes
        noise = torch.randn((n_images, self.channels, *self.size), generator=rng)
        shown, place = torch.unique(labels, return_inverse=True)  # of many classes few may be
        patterns = F.interpolate(coarse[shown], self.size, mode="bilinear")
        patterns /= patterns.std(dim=(1, 2, 3), keepdim=True, correction=0)
        pixels = _CONTRAST * patterns[place] + self.noise * noise
        return LabelledImages(pixels.round_().clamp_(0, 255).byte(), labels)
