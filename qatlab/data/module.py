"""What the data modules of images in memory and of image files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qatlab.data.batches import ALONE, Share
from qatlab.data.transforms.limits import height_and_width, whole_number
from qatlab.data.transforms.pipeline import channels_after, named, of_part
from qatlab.data.transforms.transform import PARTS, Part, Transform


class Described(Protocol):
    """What is known of a data set before it is read."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        ...

    @property
    def channels(self) -> int:
        """C of the images."""
        ...


class ImageModule(ABC):
    """Batches (x, y) of images: x float32, (B, C, H, W); y int64, (B,).

    Args:
        source: the data set.
        image_size: height and width the network sees.
        batch_size: images per training batch and process; the last batch of an epoch may be
            smaller, and is cut to a multiple of the processes.
        eval_batch_size: images per validation and test batch and process.
        split_seed: decides which images are held out.
        shuffle_seed: of the order of the training images and of their random changes.
        transforms: by name, in order; see the data modules.

    Attributes:
        trainer: that the batches are for, if any: it knows the device and other processes.
    """

    def __init__(
        self,
        source: Described,
        image_size: Sequence[int],
        batch_size: int,
        eval_batch_size: int,
        split_seed: int,
        shuffle_seed: int,
        transforms: Mapping[str, Transform | nn.Module | None] | None,
    ) -> None:
        self.trainer: Any = None
        self.image_size = height_and_width("data.image_size", image_size)
        self.batch_size = whole_number("data.batch_size", batch_size, 1)
        self.eval_batch_size = whole_number("data.eval_batch_size", eval_batch_size, 1)
        self.split_seed = whole_number("data.split_seed", split_seed, 0)
        self.shuffle_seed = whole_number("data.shuffle_seed", shuffle_seed, 0)
        given = [] if transforms is None else named(transforms)
        self.pipelines = {part: of_part(given, part) for part in PARTS}
        self._described = source
        self._in_channels = channels_after(given, source.channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        return self._described.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, known without reading images."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """C of the images after the transforms, known without reading any."""
        return self._in_channels

    @property
    def source_channels(self) -> int:
        """C of the images before the transforms."""
        return self._described.channels

    @property
    def images_per_score(self) -> int:
        """Test images in a row that get one score together, such as windows of a clip."""
        return int(getattr(self._described, "images_per_score", 1))

    def class_counts(self, part: Part) -> tuple[int, ...]:
        """Return how many images of each class a part holds, which ``setup`` has read."""
        labels = torch.as_tensor(self._labels(part))
        return tuple(torch.bincount(labels.cpu(), minlength=self.num_classes).tolist())

    @abstractmethod
    def _labels(self, part: Part) -> Any:
        """Return the labels of a part, int64, (N,)."""

    def example_input(self) -> Tensor:
        """Return one black image, (1, C, H, W), to trace a model; reads no data set."""
        return torch.zeros(1, self.in_channels, *self.image_size)

    def device(self) -> torch.device:
        """Return where the trainer wants the batches."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def share(self, even: bool = False) -> Share:
        """Return what this process takes of each batch.

        Args:
            even: all processes take as many, which training needs.
        """
        if self.trainer is None:
            return ALONE
        return Share(self.trainer.global_rank, self.trainer.world_size, even)

    def images_of(self, size: int) -> int:
        """Return how many images make a batch of ``size`` images for each process."""
        return size * self.share().processes

    @abstractmethod
    def prepare_data(self) -> None:
        """Fetch what is missing, in one process of each machine."""

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Read the images of ``fit``, ``validate`` or ``test``."""

    @abstractmethod
    def train_dataloader(self) -> Any:
        """Return the batches of an epoch."""

    @abstractmethod
    def val_dataloader(self) -> Any:
        """Return the batches of the images that are held out; an empty list without any."""

    @abstractmethod
    def test_dataloader(self) -> Any:
        """Return the batches of the test set."""
