"""Batches of image files, which are decoded and transformed while the network computes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from qatlab.data.batches import ALONE, EpochSampler, ResumableLoader, Share, transform_rng
from qatlab.data.decode import read_image
from qatlab.data.file_sources import MOST_BAD, LabelledFiles, check_few, left_out
from qatlab.data.transforms.pipeline import apply, check_shape, in_pieces, to_unit
from qatlab.data.transforms.transform import Part, Transform
from qatlab.errors import DataError, QatlabError
from qatlab.system.terminal import note

_UNUSED_RNG = np.random.default_rng(0)  # for transforms that do not draw
_PREFETCHED = 2  # batches that each worker makes before they are asked for
_PIECE = 1 << 16  # values that a CPU handles together, as floats they stay in its cache


class BatchRequest(NamedTuple):
    """What a worker needs to know to make one batch."""

    epoch: int
    first: int  # place of its first image in the epoch
    images: list[int]  # indices into the data set
    memory: int = 0  # which of the shared tensors it may write to


class BatchResult(NamedTuple):
    """What a worker makes of it."""

    x: Tensor | None  # uint8 or float32, (B, C, H, W); None: as bytes in the shared memory
    y: Tensor  # int64, (B,)
    bad: list[str]  # what is wrong with the images that cannot be decoded


class ImageDraws:
    """What the transforms of single images draw from, a function of seed, epoch and place.

    Philox numbers its output blocks; those of an image begin at a number with its place in front.
    To move there takes a tenth of the time that a new generator takes.

    Args:
        seed: of all images, >= 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = -1
        self._philox = np.random.Philox()
        self._generator = np.random.Generator(self._philox)

    def of(self, epoch: int, place: int) -> np.random.Generator:
        """Return the generator of one image; it is the same object as that of the last one."""
        if epoch != self._epoch:
            key = np.random.SeedSequence((self.seed, epoch)).generate_state(2, np.uint64)
            self._philox = np.random.Philox(key=key)
            self._generator = np.random.Generator(self._philox)
            self._epoch, self._start = epoch, self._philox.state
        self._start["state"]["counter"] = np.array([0, 0, 0, place], dtype=np.uint64)
        self._philox.state = self._start
        return self._generator


class FileBatches(Dataset[BatchResult | QatlabError]):
    """Makes whole batches from files; what is random depends on seed, epoch and place only.

    Args:
        files: and their labels.
        channels: that files are decoded to: 3 for RGB, 1 for grey.
        transforms: what is done to each image by itself.
        shape: C, H and W of what must come out.
        seed: of random transforms.
        leave_out: images that cannot be decoded are left out of their batch, else an error.

    Attributes:
        shared: memory for batches of bytes, each uint8, (batch_size, *shape); workers use it over
            and over, as new memory for each batch costs as much as what is done to its images.
    """

    def __init__(
        self,
        files: LabelledFiles,
        channels: int,
        transforms: Sequence[Transform],
        shape: tuple[int, int, int],
        seed: int,
        leave_out: bool = False,
    ) -> None:
        self.files = files
        self.channels = channels
        self.transforms = transforms
        self.shape = shape
        self.seed = seed
        self.leave_out = leave_out
        self.shared: list[Tensor] = []
        self._draws = ImageDraws(seed) if any(t.random for t in transforms) else None

    def __getitem__(self, order: BatchRequest) -> BatchResult | QatlabError:
        """Return a batch; an error is returned, not raised.

        What is raised in a worker arrives as a page of text.
        """
        memory = self.shared[order.memory] if self.shared else None
        images, labels, bad = list[Tensor](), list[int](), list[str]()
        try:
            for place, index in enumerate(order.images, order.first):
                file = self.files.file(index)
                try:
                    image = read_image(file, self.channels)[None]
                except DataError as error:
                    if not self.leave_out:
                        skip = "data.bad_images=skip leaves out up to"
                        raise DataError(f"{error} {skip} {MOST_BAD:.0%} of them.") from error
                    bad.append(str(error))
                    continue
                image = self._transformed(file, image, order.epoch, place)[0]
                if memory is not None and image.dtype == torch.uint8:
                    image = memory[len(images)].copy_(image)
                images.append(image)
                labels.append(int(self.files.labels[index]))
        except QatlabError as error:
            return error
        if not images:
            return DataError(f"no image of a whole batch can be decoded; the first: {bad[0]}")
        in_shared_memory = memory is not None and images[0].dtype == torch.uint8
        x = None if in_shared_memory else default_collate(images)
        return BatchResult(x, torch.tensor(labels), bad)

    def _transformed(self, file: str, image: Tensor, epoch: int, place: int) -> Tensor:
        try:
            rng = self._draws.of(epoch, place) if self._draws else _UNUSED_RNG
            image = apply(self.transforms, image, rng)
            check_shape(image, self.shape[0], self.shape[1:], f"of {file} an image of")
        except QatlabError as error:
            if file in str(error):
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
        part: what messages call these images.
        shuffle: whether each epoch has its own random order.
        transforms: what is done to whole batches, on the device (by a CPU, to a few images at a
            time); random ones draw for the batch, and for each process by itself. Bytes that come
            out are multiplied by 1/255.
        share: what this process takes of each batch.
    """

    def __init__(
        self,
        batches: FileBatches,
        batch_size: int,
        workers: int,
        device: torch.device,
        part: Part,
        shuffle: bool = False,
        transforms: Sequence[Transform] = (),
        share: Share = ALONE,
    ) -> None:
        n_images = len(batches.files.labels)
        super().__init__(n_images, batch_size, EpochSampler(n_images, batches.seed, shuffle), share)
        self.batches = batches
        self.workers = workers
        self.device = device
        self.part = part
        self.transforms = transforms
        self._draws = any(transform.random for transform in transforms)
        self._reported: set[str] = set()  # of images that cannot be decoded

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.sampler.draw(torch.device("cpu")).order.tolist()
        places = [self._places(batch) for batch in range(start, len(self))]
        # One batch is used here while others are made: all that may be, in memory of their own.
        count = min(len(places), _PREFETCHED * self.workers + 1)
        orders = [
            BatchRequest(epoch, p.start, order[p.start : p.stop], number % count)
            for number, p in enumerate(places)
        ]
        batches = copy(self.batches)
        batches.shared = shared = self._memory(orders[:count])
        on_gpu = self.device.type == "cuda"
        loader: DataLoader[BatchResult | QatlabError] = DataLoader(
            batches,
            batch_size=None,
            sampler=orders,
            num_workers=self.workers,
            prefetch_factor=_PREFETCHED if self.workers else None,
            worker_init_fn=_start,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # the global one is not for the order of images
        )
        seen, bad = 0, list[str]()
        try:
            for batch, (result, request) in enumerate(zip(loader, orders, strict=True), start):
                if isinstance(result, QatlabError):
                    raise result
                seen += len(request.images)
                bad += result.bad
                if batch == len(self) - 1:
                    # Now: who knows how many batches there are stops here.
                    self._report_bad(bad, seen)
                    if start == 0:
                        check_few(bad, seen, self.part)
                x = shared[request.memory][: len(result.y)] if result.x is None else result.x
                x = x.pin_memory() if on_gpu else x
                x, y = (part.to(self.device, non_blocking=on_gpu) for part in (x, result.y))
                yield self._transformed(x, epoch, batch), y
        finally:
            self._report_bad(bad, seen)

    def _memory(self, orders: Sequence[BatchRequest]) -> list[Tensor]:
        """Return memory for these batches, if workers make bytes, as the first image tells."""
        if self.workers == 0 or not orders:
            return []
        result = self.batches[orders[0]._replace(images=orders[0].images[:1])]
        if isinstance(result, QatlabError) or result.x is None or result.x.dtype != torch.uint8:
            return []
        shape = (max(len(order.images) for order in orders), *self.batches.shape)
        memory = (torch.empty(shape, dtype=torch.uint8) for _ in orders)
        return [x.share_memory_() for x in memory]  # type: ignore[no-untyped-call]

    def _report_bad(self, bad: Sequence[str], seen: int) -> None:
        """Print how many images were left out of those seen, if some are new."""
        if not self._reported.issuperset(bad):
            line = left_out(bad, seen, self.part)
            print(line)
            note(line)
            self._reported.update(bad)

    def _transformed(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        rng = _UNUSED_RNG
        if self._draws:
            number = batch * self.share.processes + self.share.rank
            rng = transform_rng(self.batches.seed, epoch, number)
        if x.device.type != "cpu":
            return to_unit(apply(self.transforms, x, rng))
        return in_pieces(self.transforms, x, rng, max(1, _PIECE // x[0].numel()))


def _start(worker: int) -> None:
    """Let the garbage collector of a worker not look at what it got from its parent."""
    gc.freeze()
