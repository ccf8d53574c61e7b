"""Batches from images that lie in memory, in an order that a resumed run finds again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qatlab.data import augment
from qatlab.errors import ConfigError


class EpochDraw(NamedTuple):
    """What is random in one epoch: which image comes at each place and how it is changed."""

    order: Tensor  # int64, (N,), indices into the data set
    down: Tensor  # int64, (N,), pixels
    right: Tensor  # int64, (N,), pixels
    mirrored: Tensor  # bool, (N,)


class EpochSampler:
    """Draws the random numbers of an epoch as a pure function of (seed, epoch).

    Lightning finds it as ``loader.sampler`` and calls ``set_epoch`` before each epoch.
    """

    def __init__(self, n_images: int, seed: int, shuffle: bool, random_shift: int) -> None:
        self.n_images = n_images
        self.seed = seed
        self.shuffle = shuffle
        self.random_shift = random_shift
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next ``draw`` belongs to."""
        self.epoch = epoch

    def draw(self, device: torch.device) -> EpochDraw:
        """Return the random numbers of this epoch; each is drawn whether it is used or not.

        A run without augmentation therefore sees its images in the same order as one with it.
        """
        rng = np.random.default_rng((self.seed, self.epoch))
        permutation = rng.permutation(self.n_images)
        order = permutation if self.shuffle else np.arange(self.n_images)
        limit = self.random_shift
        down, right = rng.integers(-limit, limit, size=(2, self.n_images), endpoint=True)
        mirrored = rng.random(self.n_images) < 0.5
        numbers = (torch.from_numpy(x).to(device) for x in (order, down, right, mirrored))
        return EpochDraw(*numbers)


class BatchLoader:
    """Iterates over labelled images in batches: one ``index_select`` each, no work per image.

    Everything random is a pure function of (seed, epoch, batch), and ``state_dict`` holds the
    number of batches handed out: a run resumed in the middle of an epoch sees the batches that the
    uninterrupted run would have seen.

    Args:
        images: uint8, (N, C, H, W).
        labels: int64, (N,), on the device of ``images``.
        batch_size: images per batch; the last batch of an epoch holds the rest.
        shuffle: whether each epoch has its own random order.
        seed: of the order and of the augmentation, >= 0.
        random_shift: largest random shift in pixels, each way; 0 for none.
        random_flip: whether every second image, on average, is mirrored left to right.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        random_shift: int = 0,
        random_flip: bool = False,
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.random_shift = random_shift
        self.random_flip = random_flip
        self.batch_sampler = None  # Lightning asks for it wherever there is a sampler
        self.sampler = EpochSampler(len(images), seed, shuffle, random_shift)
        self._position = (0, 0)  # epoch, batches of it that were handed out
        self._resuming = False

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) for the rest of a resumed epoch, or else for a whole one.

        x: float32 in [0, 1], (B, C, H, W). y: int64, (B,).
        """
        # A generator: nothing here runs before the first batch is asked for. Lightning makes
        # iterators which it never uses, and makes them before it calls `set_epoch`.
        epoch = self.sampler.epoch
        start = self._position[1] if self._resuming and self._position[0] == epoch else 0
        self._resuming = False
        draw = self.sampler.draw(self.images.device)
        for batch in range(start, len(self)):
            self._position = (epoch, batch + 1)
            yield self._batch(draw, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and what gives it its meaning, as plain integers."""
        epoch, batches = self._position
        return {"epoch": epoch, "batches": batches, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration go on where the state was taken, if it is still that epoch."""
        for key, value in self._identity().items():
            if state_dict.get(key) != value:
                raise ConfigError(
                    f"data.{key} is {value}, but the checkpoint was saved inside an epoch with "
                    f"{key} {state_dict.get(key)}; a run can only be resumed with the same value."
                )
        self._position = (state_dict["epoch"], state_dict["batches"])
        self._resuming = True
        self.sampler.set_epoch(state_dict["epoch"])

    def _identity(self) -> dict[str, int]:
        """Return the numbers without which a position says nothing about images."""
        return {
            "training_images": len(self.images),
            "batch_size": self.batch_size,
            "shuffle_seed": self.sampler.seed,
        }

    def _batch(self, draw: EpochDraw, batch: int) -> tuple[Tensor, Tensor]:
        part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        index = draw.order[part]
        x = self.images.index_select(0, index)
        if self.random_shift:
            x = augment.shift(x, draw.down[part], draw.right[part], self.random_shift)
        if self.random_flip:
            x = augment.flip(x, draw.mirrored[part])
        # A product, as in N2D2: a division differs from it in the last bit for half of the levels.
        return x.float().mul_(1 / 255), self.labels.index_select(0, index)
