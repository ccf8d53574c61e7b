"""Batches of image files, which are decoded and transformed while the network computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qatlab.data.batches import ALONE, EpochSampler, ResumableLoader, Share, transform_rng
from qatlab.data.decode import read_image
from qatlab.data.file_sources import LabelledFiles
from qatlab.data.transforms.pipeline import apply, check_shape, to_unit
from qatlab.data.transforms.transform import Transform
from qatlab.errors import QatlabError

_NOBODYS = np.random.default_rng(0)  # for transforms that do not draw


class Order(NamedTuple):
    """What a worker needs to know to make one batch."""

    epoch: int
    first: int  # place of its first image in the epoch
    images: list[int]  # indices into the data set


class FileBatches(Dataset[tuple[Tensor, Tensor] | QatlabError]):
    """Makes whole batches from files; what is random depends on seed, epoch and place only.

    Args:
        files: and their labels.
        channels: that files are decoded to: 3 for RGB, 1 for grey.
        transforms: what is done to each image by itself. Bytes that come out are multiplied by
            1/255.
        shape: C, H and W of what must come out.
        seed: of random transforms.
        part: what messages call these images.
    """

    def __init__(
        self,
        files: LabelledFiles,
        channels: int,
        transforms: Sequence[Transform],
        shape: tuple[int, int, int],
        seed: int,
        part: str,
    ) -> None:
        self.files = files
        self.channels = channels
        self.transforms = transforms
        self.shape = shape
        self.seed = seed
        self.part = part
        self._draws = any(transform.random for transform in transforms)

    def __getitem__(self, order: Order) -> tuple[Tensor, Tensor] | QatlabError:
        """Return (x, y) of a batch; an error is returned, not raised.

        What is raised in a worker arrives as a page of text.
        """
        images = []
        for place, index in enumerate(order.images, order.first):
            try:
                images.append(self._image(order.epoch, place, index))
            except QatlabError as error:
                return error
        labels = torch.from_numpy(self.files.labels[order.images])
        return to_unit(torch.cat(images)), labels

    def _image(self, epoch: int, place: int, index: int) -> Tensor:
        file = self.files.file(index)
        image = read_image(file, self.channels)[None]
        try:
            rng = transform_rng(self.seed, epoch, place) if self._draws else _NOBODYS
            image = apply(self.transforms, image, rng)
            check_shape(image, self.shape[0], self.shape[1:], f"of {file} an image of")
        except QatlabError as error:
            if str(file) in str(error):
                raise
            raise type(error)(f"{file}: {error}") from None
        return image


class FileLoader(ResumableLoader):
    """Batches of image files, the same for any number of workers.

    Args:
        batches: makes them.
        batch_size: images per batch; the last batch of an epoch holds the rest.
        workers: processes that make batches; 0 makes them in this one.
        device: where batches are handed out.
        shuffle: whether each epoch has its own random order.
        share: what this process takes of each batch.
    """

    def __init__(
        self,
        batches: FileBatches,
        batch_size: int,
        workers: int,
        device: torch.device,
        shuffle: bool = False,
        share: Share = ALONE,
    ) -> None:
        n_images = len(batches.files.labels)
        super().__init__(n_images, batch_size, EpochSampler(n_images, batches.seed, shuffle), share)
        self.batches = batches
        self.workers = workers
        self.device = device

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.sampler.draw(torch.device("cpu")).order.tolist()
        places = [self._places(batch) for batch in range(start, len(self))]
        orders = [Order(epoch, p.start, order[p.start : p.stop]) for p in places]
        on_gpu = self.device.type == "cuda"
        loader: DataLoader[tuple[Tensor, Tensor] | QatlabError] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=orders,
            num_workers=self.workers,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # the global one is not for the order of images
        )
        for made in loader:
            if isinstance(made, QatlabError):
                raise made
            x, y = made
            yield x.to(self.device, non_blocking=on_gpu), y.to(self.device, non_blocking=on_gpu)
