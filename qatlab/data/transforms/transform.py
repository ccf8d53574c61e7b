"""What all transforms of images have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
from torch import Tensor

from qatlab.data.transforms.limits import choice
from qatlab.errors import ConfigError, wrong

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


class Transform(ABC):
    """Changes a batch of images; the steps of N2D2's ``[sp.Transformation-...]`` sections.

    Images are uint8, or float32 once a transform has made them so, (N, C, H, W). What a transform
    is given it never changes in place.

    Args:
        apply_to: parts of the data set whose images are changed, of ``training``, ``validation``
            and ``test``; None for all.

    Attributes:
        random: whether each image is changed in its own way; else once and for all.
        per_pixel: whether a pixel depends on that pixel alone and is quickly computed. Such steps
            cost no more for each batch than it costs to keep their floats in memory.
        resizes: whether the result has another size than the image. Images of files have many
            sizes; behind the last of these steps they have one, and a batch can be formed.
        key: where the transform stands in the configuration, as far as it is known.
    """

    per_pixel: ClassVar[bool] = False
    resizes: ClassVar[bool] = False

    def __init__(self, apply_to: Sequence[str] | None = None) -> None:
        self.random = False
        self.key = f"data.transforms: {type(self).__name__}"
        parts = PARTS if apply_to is None else apply_to
        key = self.key_of("apply_to")
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) == 0:
            raise wrong(key, parts, f"a list of {', '.join(PARTS)}")
        self.apply_to = tuple(choice(key, part, PARTS) for part in parts)

    def key_of(self, argument: str) -> str:
        """Return the name of an argument as a user finds it in the configuration."""
        return f"{self.key}.{argument}"

    def channels(self, given: int) -> int:
        """Return C of the result for images of ``given`` channels.

        Raises:
            ConfigError: if it cannot be applied to them.
        """
        return given

    @abstractmethod
    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the changed images.

        Args:
            images: uint8 or float32, (N, C, H, W).
            rng: all that is random comes from here.

        Returns:
            uint8 or float32, (N, C', H', W'), on the device of ``images``.
        """

    def per_channel(self, argument: str, values: tuple[float, ...], channels: int) -> None:
        """Raise a ConfigError unless there is one value, or one for each channel."""
        if len(values) not in (1, channels):
            raise ConfigError(
                f"{self.key_of(argument)} has {len(values)} numbers for images of {channels} "
                "channels; give one number, or one for each channel."
            )

    def grey_only(self, channels: int, instead: str = "") -> None:
        """Raise a ConfigError unless there is one channel."""
        if channels != 1:
            advice = "put a ChannelExtraction with channel: gray in front of it"
            raise ConfigError(
                f"{self.key} takes images of one channel, not of {channels}; {instead or advice}."
            )
