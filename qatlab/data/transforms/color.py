"""Transforms between colour spaces, and to a single channel of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from qatlab.data.transforms.color_spaces import convert, luma
from qatlab.data.transforms.limits import choice
from qatlab.data.transforms.transform import Transform
from qatlab.errors import ConfigError

Space = Literal["rgb", "bgr", "hsv", "hls", "ycrcb", "cielab", "cieluv"]
Channel = Literal["red", "green", "blue", "gray", "hue", "saturation", "value", "y", "cr", "cb"]
# Which channel of which colour space each one is.
_PLACES = {
    "red": ("rgb", 0),
    "green": ("rgb", 1),
    "blue": ("rgb", 2),
    "hue": ("hsv", 0),
    "saturation": ("hsv", 1),
    "value": ("hsv", 2),
    "y": ("ycrcb", 0),
    "cr": ("ycrcb", 1),
    "cb": ("ycrcb", 2),
}


class ColorSpace(Transform):
    """Converts colours as OpenCV's ``cvtColor`` does, with its ranges of values.

    8-bit images stay 8-bit (H from 0 to 179); float images are taken to lie in 0..1.
    N2D2's ``ColorSpaceTransformation``: ColorSpace. There, ``HSV`` means BGR to HSV, which is
    ``{given: bgr, to: hsv}`` here; ``HLS_to_RGB`` is ``{given: hls, to: rgb}``.

    Args:
        to: rgb, bgr, hsv, hls, ycrcb, cielab or cieluv. Grey images become three equal channels
            with rgb and bgr, and are refused with the others.
        given: colour space of the images; the sources of qatlab give rgb.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self, to: Space, given: Space = "rgb", apply_to: Sequence[str] | None = None
    ) -> None:
        super().__init__(apply_to)
        self.to = choice(self.key_of("to"), to, get_args(Space))
        self.given = choice(self.key_of("given"), given, get_args(Space))

    def channels(self, given: int) -> int:
        """Return 3; refuse what has no colours."""
        greys = {self.to, self.given} <= {"rgb", "bgr"}
        if given != 3 and not (given == 1 and greys):
            raise ConfigError(
                f"{self.key} converts {self.given} to {self.to}, which takes images of 3 channels, "
                f"not of {given}."
            )
        return 3

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Convert."""
        if images.shape[1] == 1:
            return images.repeat(1, 3, 1, 1)
        return convert(images, self.given, self.to)


class ChannelExtraction(Transform):
    """Keeps a single channel, as OpenCV computes it.

    N2D2's ``ChannelExtractionTransformation``: CSChannel.

    Args:
        channel: red, green, blue, gray (0.299 R + 0.587 G + 0.114 B), hue (0 to 179 of 8-bit
            images), saturation, value, y, cr or cb.
        given: colour space of the images; the sources of qatlab give rgb.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self, channel: Channel, given: Space = "rgb", apply_to: Sequence[str] | None = None
    ) -> None:
        super().__init__(apply_to)
        self.channel = choice(self.key_of("channel"), channel, get_args(Channel))
        self.given = choice(self.key_of("given"), given, get_args(Space))

    def channels(self, given: int) -> int:
        """Return 1; refuse what has no colours."""
        if given != 3 and not (given == 1 and self.channel == "gray"):
            raise ConfigError(f"{self.key} takes images of 3 channels, not of {given}.")
        return 1

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Extract."""
        if images.shape[1] == 1:
            return images
        if self.channel == "gray":
            return luma(convert(images, self.given, "rgb"))
        space, place = _PLACES[self.channel]
        return convert(images, self.given, space)[:, place : place + 1].contiguous()
