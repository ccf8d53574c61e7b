"""Batches of images in an order that a resumed run finds again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qatlab.data.transforms import augment
from qatlab.data.transforms.pipeline import apply, to_unit
from qatlab.data.transforms.transform import Transform
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

    def __init__(self, n_images: int, seed: int, shuffle: bool, random_shift: int = 0) -> None:
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


def transform_rng(seed: int, epoch: int, number: int) -> np.random.Generator:
    """Return what the transforms of one batch, or image, of an epoch draw from."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(number,)))


class Share(NamedTuple):
    """Which images of a batch this process takes, of several that train together.

    Attributes:
        rank: number of this process, from 0.
        processes: how many there are.
        even: each of them takes as many, and what is left over is left out; if not, nothing is, and
            the last processes may get fewer or none.
    """

    rank: int = 0
    processes: int = 1
    even: bool = False

    def of(self, count: int) -> range:
        """Return the places of this process's images among ``count``; next to each other."""
        size = count // self.processes if self.even else -(-count // self.processes)
        return range(count)[self.rank * size : (self.rank + 1) * size]


ALONE = Share()


class ResumableLoader(ABC):
    """Hands out the batches of an epoch, and knows how many of them it has handed out.

    Everything random is a pure function of (seed, epoch, batch), and ``state_dict`` holds the
    number of batches handed out: a run resumed in the middle of an epoch sees the batches that the
    uninterrupted run would have seen.

    Args:
        n_images: number of images of an epoch.
        batch_size: images per batch; the last batch of an epoch holds the rest.
        sampler: draws the order.
        share: what this process takes of each batch, which all of them make together.
    """

    def __init__(
        self, n_images: int, batch_size: int, sampler: EpochSampler, share: Share = ALONE
    ) -> None:
        self.n_images = n_images
        self.batch_size = batch_size
        self.share = share
        self.batch_sampler = None  # Lightning asks for it wherever there is a sampler
        self.sampler = sampler
        self._position = (0, 0)  # epoch, batches of it that were handed out
        self._resuming = False

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        whole, rest = divmod(self.n_images, self.batch_size)
        return whole + (len(self.share.of(rest)) > 0)

    def of_all_processes(self) -> ResumableLoader:
        """Let this loader, which is new, hand out whole batches to each process."""
        self.share = ALONE
        return self

    def _places(self, batch: int) -> range:
        """Return the places in the epoch of this process's images of a batch."""
        start = batch * self.batch_size
        part = self.share.of(min(self.batch_size, self.n_images - start))
        return range(start + part.start, start + part.stop)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, y) for the rest of a resumed epoch, or else for a whole one.

        x: float32, (B, C, H, W). y: int64, (B,).
        """
        # A generator: nothing here runs before the first batch is asked for. Lightning makes
        # iterators which it never uses, and makes them before it calls `set_epoch`.
        epoch = self.sampler.epoch
        start = self._position[1] if self._resuming and self._position[0] == epoch else 0
        self._resuming = False
        for number, batch in enumerate(self._batches(epoch, start), start + 1):
            self._position = (epoch, number)
            yield batch

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

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from number ``start`` on."""

    def _identity(self) -> dict[str, int]:
        """Return the numbers without which a position says nothing about images."""
        return {
            "training_images": self.n_images,
            "batch_size": self.batch_size,
            "shuffle_seed": self.sampler.seed,
        }


class BatchLoader(ResumableLoader):
    """Batches of labelled images in memory: one ``index_select`` each, no work per image.

    Args:
        images: uint8, or float32 if a transform has made them so, (N, C, H, W).
        labels: int64, (N,), on the device of ``images``.
        batch_size: images per batch; the last batch of an epoch holds the rest.
        shuffle: whether each epoch has its own random order.
        seed: of the order and of the augmentation, >= 0.
        random_shift: largest random shift in pixels, each way; 0 for none.
        random_flip: whether every second image, on average, is mirrored left to right.
        transforms: what remains to be done to each batch. Bytes that come out are multiplied by
            1/255. Random ones draw for each process by itself.
        share: what this process takes of each batch.
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
        transforms: Sequence[Transform] = (),
        share: Share = ALONE,
    ) -> None:
        sampler = EpochSampler(len(images), seed, shuffle, random_shift)
        super().__init__(len(images), batch_size, sampler, share)
        self.images = images
        self.labels = labels
        self.random_shift = random_shift
        self.random_flip = random_flip
        self.transforms = transforms
        self._draws = any(transform.random for transform in transforms)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        draw = self.sampler.draw(self.images.device)
        rng = transform_rng(0, 0, 0)  # for transforms that do not draw
        for batch in range(start, len(self)):
            if self._draws:
                number = batch * self.share.processes + self.share.rank
                rng = transform_rng(self.sampler.seed, epoch, number)
            yield self._batch(draw, batch, rng)

    def _batch(
        self, draw: EpochDraw, batch: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        places = self._places(batch)
        part = slice(places.start, places.stop)
        index = draw.order[part]
        x = self.images.index_select(0, index)
        if self.random_shift:
            x = augment.shift(x, draw.down[part], draw.right[part], self.random_shift)
        if self.random_flip:
            x = augment.flip(x, draw.mirrored[part])
        x = apply(self.transforms, x, rng)
        return to_unit(x), self.labels.index_select(0, index)
