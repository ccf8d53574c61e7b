"""Transforms of torchvision, and other modules, as steps among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from qatlab.data.transforms.transform import Transform
from qatlab.errors import ConfigError, QatlabError, wrong

_SIZE = 256  # height and width of the black image that a transform is tried on


class Torchvision(Transform):
    """Applies a transform of ``torchvision.transforms.v2``, or another module, to each image.

    Such a module may stand among the transforms by itself; this class says for which parts of the
    data set it is meant::

        color:
          _target_: qatlab.data.transforms.Torchvision
          transform: {_target_: torchvision.transforms.v2.ColorJitter, brightness: 0.4}
          apply_to: [training, validation]

    What it draws from torch's generators is drawn anew for each image, from the numbers of that
    image; the generators are left as they were. Most of torchvision's transforms expect floats to
    lie between 0 and 1, so bytes are what they should be given.

    Args:
        transform: is given images, uint8 or float32, (C, H, W) or (N, C, H, W), and returns them.
        apply_to: see :class:`Transform`; by default, training images alone if it draws.
    """

    resizes = True  # who knows

    def __init__(self, transform: nn.Module, apply_to: Sequence[str] | None = None) -> None:
        super().__init__(apply_to)
        if not isinstance(transform, nn.Module):
            accepted = "a mapping whose _target_ is a class of torchvision.transforms.v2"
            raise wrong(self.key_of("transform"), transform, accepted)
        self.transform = transform
        with _kept_rng_state(torch.device("cpu")):
            before = torch.get_rng_state()
            tried = self._tried(3) is not None or self._tried(1) is not None
            self.random = not (tried and torch.equal(before, torch.get_rng_state()))
        if apply_to is None and self.random:
            self.apply_to = ("training",)

    def channels(self, given: int) -> int:
        """Return how many channels an image has afterwards; a black one is tried."""
        with _kept_rng_state(torch.device("cpu")):
            image = self._tried(given)
        return given if image is None else image.shape[0]

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Transform, image by image if each is to change in its own way."""
        if not self.random:
            return self._transformed(images)
        results = []
        with _kept_rng_state(images.device):
            for image in images:
                seed = int(rng.integers(1 << 63))
                torch.default_generator.manual_seed(seed)
                if images.is_cuda:
                    torch.cuda.manual_seed(seed)
                results.append(self._transformed(image))
        return torch.stack(results)

    def _transformed(self, images: Tensor) -> Tensor:
        """Apply the transform; what a foreign one cannot do is reported with its key."""
        name = type(self.transform).__name__
        try:
            result = self.transform(images)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.key}: {name}: {error}") from error
        if not isinstance(result, Tensor):
            made = type(result).__name__
            raise ConfigError(f"{self.key}: {name} returns a {made} for an image, not a tensor.")
        return result

    def _tried(self, channels: int) -> Tensor | None:
        """Return what becomes of a black image, of bytes or else of floats; None if nothing."""
        for dtype in (torch.uint8, torch.float32):
            try:
                return self._transformed(torch.zeros(channels, _SIZE, _SIZE, dtype=dtype))
            except QatlabError:
                continue  # reported again with a real image, unless this one was too small
        return None


@contextmanager
def _kept_rng_state(device: torch.device) -> Iterator[None]:
    """Set torch's generators, which others draw from, back in the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
