"""The Lightning data module of image data sets that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from qatlab.data.batches import BatchLoader
from qatlab.data.limits import height_and_width, whole_number
from qatlab.data.opencv_resize import resize_bilinear
from qatlab.data.sources import ImageSource, LabelledImages
from qatlab.errors import ConfigError, DataError


class ImageData(LightningDataModule):
    """Training, validation and test batches of one source, resized once and kept in memory.

    Batches are (x, y): x float32 in [0, 1], (B, C, H, W); y int64, (B,). On a GPU the images are
    moved there once, and batches are formed there.

    Args:
        source: gives the images; not read before ``setup``.
        image_size: height and width the network sees; other sizes are resized as OpenCV does.
        batch_size: images per training batch; the last batch of an epoch may be smaller.
        eval_batch_size: images per validation and test batch.
        validation: number of training images held out for validation; 0 trains on all of them.
        split_seed: decides which images these are; not the seed of the run, so that runs with
            different seeds can be compared.
        shuffle_seed: of the order of the training images and of their random changes.
        random_shift: largest random shift of a training image in pixels, each way; 0 for none.
        random_flip: whether training images are mirrored left to right at random.
    """

    def __init__(
        self,
        source: ImageSource,
        image_size: Sequence[int],
        batch_size: int,
        eval_batch_size: int,
        validation: int,
        split_seed: int,
        shuffle_seed: int,
        random_shift: int,
        random_flip: bool,
    ) -> None:
        super().__init__()
        self.source = source
        self.image_size = height_and_width("data.image_size", image_size)
        self.batch_size = whole_number("data.batch_size", batch_size, 1)
        self.eval_batch_size = whole_number("data.eval_batch_size", eval_batch_size, 1)
        self.validation = whole_number("data.validation", validation, 0)
        self.split_seed = whole_number("data.split_seed", split_seed, 0)
        self.shuffle_seed = whole_number("data.shuffle_seed", shuffle_seed, 0)
        self.random_shift = whole_number("data.random_shift", random_shift, 0)
        if self.random_shift >= min(self.image_size):
            raise ConfigError(
                f"data.random_shift is {random_shift}; it must be below {min(self.image_size)}, "
                "the shorter side of data.image_size, or images would be shifted out of view."
            )
        self.random_flip = random_flip
        self._training: LabelledImages | None = None
        self._validation: LabelledImages | None = None
        self._test: LabelledImages | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, known without reading the data set."""
        return len(self.source.class_names)

    @property
    def in_channels(self) -> int:
        """C of the images, known without reading the data set."""
        return self.source.channels

    def example_input(self) -> Tensor:
        """Return one black image, (1, C, H, W), to trace a model; reads no data set."""
        return torch.zeros(1, self.in_channels, *self.image_size)

    def setup(self, stage: str) -> None:
        """Read what ``stage`` needs, unless it was read before, and move it to the device."""
        device = self._device()
        if stage in ("fit", "validate"):
            if self._training is None or self._validation is None:
                self._training, self._validation = self._read_training()
            self._training = self._training.to(device)
            self._validation = self._validation.to(device)
        if stage == "test":
            if self._test is None:
                self._test = self._fit_to_network(self.source.test_set())
            self._test = self._test.to(device)

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches: in a new random order each epoch, randomly changed."""
        return BatchLoader(
            *_loaded(self._training, "fit"),
            self.batch_size,
            shuffle=True,
            seed=self.shuffle_seed,
            random_shift=self.random_shift,
            random_flip=self.random_flip,
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return the validation batches, or ``[]`` if no images were held out."""
        if self.validation == 0:
            return []
        return BatchLoader(*_loaded(self._validation, "validate"), self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches, in the order of the test set."""
        return BatchLoader(*_loaded(self._test, "test"), self.eval_batch_size)

    def _device(self) -> torch.device:
        if self.trainer is None:
            return torch.device("cpu")
        if self.trainer.world_size > 1:
            # Lightning can only share out the batches of torch's own DataLoader.
            raise ConfigError(
                f"trainer.devices asks for {self.trainer.world_size} processes, but each would see "
                "all images; data in memory is for a single device: set trainer.devices=1."
            )
        return self.trainer.strategy.root_device

    def _read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """Read the training images and hold out ``validation`` of them."""
        everything = self._fit_to_network(self.source.training_set())
        n_images = len(everything.images)
        if self.validation >= n_images:
            raise ConfigError(
                f"data.validation is {self.validation}; it must be below {n_images}, the number of "
                "training images, or none would be left to train on."
            )
        order = torch.from_numpy(np.random.default_rng(self.split_seed).permutation(n_images))
        held_out, kept = order[: self.validation], order[self.validation :]
        return everything.select(kept.sort().values), everything.select(held_out.sort().values)

    def _fit_to_network(self, given: LabelledImages) -> LabelledImages:
        """Check what the source gave, and resize it if it has another size."""
        images, labels = given
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.in_channels:
            raise DataError(
                f"data.source gave {images.dtype} images of shape {tuple(images.shape)}; they must "
                f"be torch.uint8, (N, {self.in_channels}, H, W)."
            )
        if len(labels) != len(images) or len(images) == 0:
            raise DataError(
                f"data.source gave {len(images)} images and {len(labels)} labels; there must be "
                "one label per image, and at least one image."
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise DataError(
                f"data.source gave labels from {int(labels.min())} to {int(labels.max())}; they "
                f"must be from 0 to {self.num_classes - 1}, one per class name."
            )
        if tuple(images.shape[2:]) != self.image_size:
            images = resize_bilinear(images, self.image_size)
        return LabelledImages(images, labels)


def _loaded(part: LabelledImages | None, stage: str) -> LabelledImages:
    """Return ``part``, which ``setup(stage)`` reads."""
    if part is None:
        raise RuntimeError(f"ImageData: call setup('{stage}') before asking for its batches.")
    return part
