"""Which whole numbers stand for the images that a network gets: their bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qatlab.data import ImageModule
from qatlab.data.transforms.pipeline import apply
from qatlab.deploy.integer import Codes
from qatlab.errors import ConfigError

PROBES = (0, 51, 255)  # bytes; 51 tells whether what is between the ends lies on a line
NEAR = 1e-4  # steps that float32 may be off its byte


def pixel_codes(data: ImageModule) -> list[Codes]:
    """Return, for each channel of the images, what its bytes stand for behind the transforms.

    Raises:
        ConfigError: if the transforms do more to a pixel than to multiply and add.
    """
    grey = torch.tensor(PROBES, dtype=torch.uint8)[:, None, None, None]
    images = grey.expand(-1, data.source_channels, *data.image_size).contiguous()
    seen = apply(data.pipelines["test"], images, np.random.default_rng(0))
    seen = seen.double() / 255 if seen.dtype == torch.uint8 else seen.double()
    values = seen[:, :, seen.shape[2] // 2, seen.shape[3] // 2]
    low, middle, high = values
    steps = (high - low) / 255
    if (low + 51 * steps - middle).abs().max() > NEAR * steps.abs().max() or not steps.all():
        raise ConfigError(
            "data.transforms do more to a pixel than to multiply and add, so no bytes stand for "
            "what the network gets."
        )
    return [
        Codes(0, 255, step, offset)
        for step, offset in zip(steps.tolist(), low.tolist(), strict=True)
    ]


def bytes_of(images: Tensor, codes: Sequence[Codes]) -> Tensor:
    """Return the bytes of images, ``(N, C, H, W)``, uint8.

    Raises:
        ConfigError: if the images lie between them, as behind a transform that resizes floats.
    """
    step, offset = (
        torch.tensor([getattr(c, name) for c in codes], dtype=torch.float64)[:, None, None]
        for name in ("step", "offset")
    )
    position = (images.double() - offset) / step
    whole = position.round()
    if (position - whole).abs().max() > 100 * NEAR or whole.min() < 0 or whole.max() > 255:
        raise ConfigError(
            "the images that the network gets are no bytes times a number, as behind a transform "
            "that resizes after it has made floats; an integer network takes bytes."
        )
    return whole.to(torch.uint8)
