"""The Lightning data module of image data sets that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qatlab.data.batches import BatchLoader
from qatlab.data.download import Downloadable
from qatlab.data.module import ImageModule
from qatlab.data.sources import ImageSource, LabelledImages
from qatlab.data.splits import Split, counts
from qatlab.data.transforms.erasing import RandomErasing
from qatlab.data.transforms.limits import choice, number, whole_number
from qatlab.data.transforms.opencv_resize import resize_bilinear
from qatlab.data.transforms.pipeline import apply, apply_once, check_shape, split
from qatlab.data.transforms.transform import Part, Transform
from qatlab.errors import ConfigError, DataError, wrong


class Prepared(NamedTuple):
    """One part of the data set as it is kept, and what remains to be done for each batch."""

    images: LabelledImages
    transforms: Sequence[Transform]

    def to(self, device: torch.device) -> Prepared:
        """Return the same on ``device``; nothing is copied if it is there already."""
        return Prepared(self.images.to(device), self.transforms)


class ImageData(ImageModule):
    """Training, validation and test batches of one source, prepared once and kept in memory.

    Batches are (x, y): x float32, (B, C, H, W); y int64, (B,). On a GPU the images are moved there
    once, and batches are formed there.

    Without ``transforms``, images are resized as OpenCV does, and multiplied by 1/255. With
    them, each part of the data set goes through those that apply to it, in order; images that are
    still bytes behind the last one are multiplied by 1/255, floats are left as they are. What is
    not random is done once, and the rest for each batch.

    Args:
        source: gives the images; not read before ``setup``.
        image_size: height and width the network sees; transforms must make images of that size.
        batch_size: images per training batch; the last batch of an epoch may be smaller.
        eval_batch_size: images per validation and test batch.
        validation: number of training images held out for validation, or a share of them below 1;
            0 trains on all of them; ``test`` trains on all and validates on the test set.
        split_seed: decides which images these are; not the seed of the run, so that runs with
            different seeds can be compared.
        shuffle_seed: of the order of the training images and of their random changes.
        random_shift: largest random shift of a training image in pixels, each way; 0 for none.
        random_flip: whether training images are mirrored left to right at random.
        random_erasing: probability that a training image loses a rectangle, see
            :class:`~qatlab.data.transforms.RandomErasing`.
        split: ``random``, or ``in_order``: the last training images are held out.
        transforms: what is done to the images, by name.
    """

    def __init__(
        self,
        source: ImageSource,
        image_size: Sequence[int],
        batch_size: int,
        eval_batch_size: int,
        validation: int | float | Literal["test"],
        split_seed: int,
        shuffle_seed: int,
        random_shift: int,
        random_flip: bool,
        random_erasing: float = 0.0,
        split: Split = "random",
        transforms: Mapping[str, Transform | nn.Module | None] | None = None,
    ) -> None:
        super().__init__(
            source, image_size, batch_size, eval_batch_size, split_seed, shuffle_seed, transforms
        )
        self.source = source
        self.validation = _held_out(validation)
        self.split = choice("data.split", split, ("random", "in_order"))
        self.random_shift = whole_number("data.random_shift", random_shift, 0)
        if self.random_shift >= min(self.image_size):
            below = f"below {min(self.image_size)}, the shorter side of data.image_size"
            raise wrong("data.random_shift", random_shift, below)
        self.random_flip = random_flip
        erasing = number("data.random_erasing", random_erasing, low=0, high=1)
        self._erasing = [RandomErasing(erasing)] if erasing else []
        self.resizes = transforms is None
        asked = {"shift": random_shift, "flip": random_flip, "erasing": random_erasing}
        given = [f"random_{name}" for name, value in asked.items() if value]
        if not self.resizes and given:
            raise ConfigError(
                f"data.{given[0]} cannot be combined with data.transforms; set "
                "data.random_shift=0, data.random_flip=false and data.random_erasing=0, and use "
                "SliceExtraction, Flip or RandomErasing there."
            )
        self._parts: dict[Part, Prepared] = {}

    def prepare_data(self) -> None:
        """Let the source download what it lacks; the first process does so while others wait."""
        if isinstance(self.source, Downloadable):
            self.source.fetch()

    def setup(self, stage: str) -> None:
        """Read what ``stage`` needs, unless it was read before, and move it to the device."""
        device = self.device()
        needed: tuple[Part, ...] = ()
        if stage in ("fit", "validate"):
            needed = ("training", "validation")
            if "training" not in self._parts:
                training, validation = self._read_training()
                self._parts["training"] = self._prepare("training", training)
                self._parts["validation"] = self._prepare("validation", validation)
        if stage == "test":
            needed = ("test",)
            if "test" not in self._parts:
                self._parts["test"] = self._prepare("test", self._checked(self.source.test_set()))
        for part in needed:
            self._parts[part] = self._parts[part].to(device)

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches: in a new random order each epoch, randomly changed."""
        return BatchLoader(
            *self._loaded("training", "fit").images,
            self.images_of(self.batch_size),
            shuffle=True,
            seed=self.shuffle_seed,
            random_shift=self.random_shift,
            random_flip=self.random_flip,
            transforms=[*self._loaded("training", "fit").transforms, *self._erasing],
            share=self.share(even=True),
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return the validation batches, or ``[]`` if no images were held out."""
        if self.validation == 0:
            return []
        return self._eval_loader("validation", "validate")

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches, in the order of the test set."""
        return self._eval_loader("test", "test")

    def _eval_loader(self, part: Part, stage: str) -> BatchLoader:
        images, transforms = self._loaded(part, stage)
        size, seed = self.images_of(self.eval_batch_size), self.shuffle_seed
        return BatchLoader(*images, size, seed=seed, transforms=transforms, share=self.share())

    def _labels(self, part: Part) -> Tensor:
        return self._loaded(part, "test" if part == "test" else "fit").images.labels

    def _loaded(self, part: Part, stage: str) -> Prepared:
        """Return a part, which ``setup(stage)`` reads."""
        if part not in self._parts:
            raise RuntimeError(f"ImageData: call setup('{stage}') before asking for its batches.")
        return self._parts[part]

    def _read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """Read the training images and hold out those for validation."""
        everything = self._checked(self.source.training_set())
        if self.validation == "test":
            return everything, self._checked(self.source.test_set())
        n_images = len(everything.images)
        n_held_out = self._count(n_images)
        if n_held_out == 0 and self.validation != 0:
            share = f"0, or a share that holds at least one of {n_images} training images"
            raise wrong("data.validation", self.validation, share)
        if n_held_out >= n_images:
            below = f"below {n_images}, the number of training images"
            raise wrong("data.validation", self.validation, below)
        if self.split == "in_order":
            places = np.arange(n_images)[::-1].copy()  # the last ones are held out
        else:
            places = np.random.default_rng(self.split_seed).permutation(n_images)
        taken, kept = (
            torch.from_numpy(part).sort().values
            for part in (places[:n_held_out], places[n_held_out:])
        )
        return everything.select(kept), everything.select(taken)

    def _count(self, n_images: int) -> int:
        """Return how many training images are held out."""
        if isinstance(self.validation, float):
            return counts(n_images, 1 - self.validation, self.validation, 0.0).validation
        assert isinstance(self.validation, int)
        return self.validation

    def _prepare(self, part: Part, given: LabelledImages) -> Prepared:
        """Do what is done once."""
        images, labels = given
        if self.resizes:
            if tuple(images.shape[2:]) != self.image_size:
                images = resize_bilinear(images, self.image_size)
            return Prepared(LabelledImages(images, labels), ())
        if len(images) == 0:
            return Prepared(given, ())  # no validation
        one = apply(self.pipelines[part], images[:1], np.random.default_rng(0))
        check_shape(one, self.in_channels, self.image_size, f"{part} images of")
        once, each_time = split(self.pipelines[part])
        return Prepared(LabelledImages(apply_once(once, images), labels), each_time)

    def _checked(self, given: LabelledImages) -> LabelledImages:
        """Check what the source gave."""
        images, labels = given
        channels = self.source.channels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
            raise DataError(
                f"data.source gave {images.dtype} images of shape {tuple(images.shape)}; they must "
                f"be torch.uint8, (N, {channels}, H, W)."
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
        return given


def _held_out(value: object) -> int | float | str:
    """Check ``data.validation``."""
    if value == "test" or (isinstance(value, float) and 0 <= value < 1):
        return value or 0
    if type(value) is not int or value < 0:
        raise wrong("data.validation", value, "a number of images, a share below 1, test")
    return value
