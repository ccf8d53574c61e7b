"""The Lightning data module of image files, of any number and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from qatlab.data.file_batches import FileBatches, FileLoader
from qatlab.data.file_sources import BAD_IMAGES, BadImages, FileSource, LabelledFiles
from qatlab.data.module import ImageModule
from qatlab.data.splits import Indices, Split
from qatlab.data.transforms.geometry import Rescale
from qatlab.data.transforms.limits import choice, whole_number
from qatlab.data.transforms.pipeline import split_by_size
from qatlab.data.transforms.transform import Part, Transform
from qatlab.errors import DataError


class ImageFiles(ImageModule):
    """Training, validation and test batches of image files, decoded anew in each epoch.

    Batches are (x, y): x float32, (B, C, H, W); y int64, (B,). They are the same for any number of
    workers.

    Each image goes through the transforms that apply to its part of the data set, in order; one
    that is still bytes behind the last of them is multiplied by 1/255, floats are left as they are.
    Without ``transforms``, images are resized as OpenCV does.

    With ``on_device``, workers stop behind the last step that resizes, and what follows is done to
    whole batches where the network computes: workers hand over bytes, a quarter of the floats, and
    a GPU takes over their work. Images are the same, but for random steps among these: they draw
    for a batch, not for each image by its place, so they depend on ``batch_size``.

    Args:
        source: tells the files of each part and their classes; asked in ``setup``.
        image_size: height and width the network sees; transforms must make images of that size.
        batch_size: images per training batch; the last batch of an epoch may be smaller.
        eval_batch_size: images per validation and test batch.
        split: how the source divides files: ``random``, or ``in_order`` of their names.
        split_seed: decides which files these are; not the seed of the run, so that runs with
            different seeds can be compared.
        shuffle_seed: of the order of the training images and of their random changes.
        workers: processes that decode and transform images; 0 does so between training steps.
        transforms: what is done to the images, by name.
        on_device: do what follows the last step that resizes where the network computes.
        bad_images: what an image is that cannot be decoded: an ``error``, or left out (``skip``):
            its batch is then smaller, and the epoch ends with a line that tells how many they are.
    """

    def __init__(
        self,
        source: FileSource,
        image_size: Sequence[int],
        batch_size: int,
        eval_batch_size: int,
        split: Split,
        split_seed: int,
        shuffle_seed: int,
        workers: int,
        transforms: Mapping[str, Transform | nn.Module | None] | None = None,
        on_device: bool = False,
        bad_images: BadImages = "error",
    ) -> None:
        super().__init__(
            source, image_size, batch_size, eval_batch_size, split_seed, shuffle_seed, transforms
        )
        self.source = source
        self.split = choice("data.split", split, ("random", "in_order"))
        self.workers = whole_number("data.workers", workers, 0, highest=1024)
        self.on_device = on_device
        self.bad_images = choice("data.bad_images", bad_images, BAD_IMAGES)
        if transforms is None:
            height, width = self.image_size
            for pipeline in self.pipelines.values():
                pipeline.append(Rescale(width, height))
        self._files: dict[Part, LabelledFiles] = {}

    @property
    def validation(self) -> int:
        """Number of validation images."""
        return len(self._of("validation").labels)

    def prepare_data(self) -> None:
        """Do nothing: files are read where they are."""

    def setup(self, stage: str) -> None:
        """Find the files that ``stage`` needs."""
        needed: tuple[Part, ...] = ("test",) if stage == "test" else ("training", "validation")
        for part in needed:
            files = self._of(part)
            if len(files.labels) == 0 and part != "validation":
                raise DataError(
                    f"data.source has no {part} images in '{files.folder}'; see its keys training, "
                    "validation and test."
                )

    def train_dataloader(self) -> FileLoader:
        """Return the training batches: in a new random order each epoch, randomly changed."""
        return self._loader("training", self.batch_size, shuffle=True)

    def val_dataloader(self) -> FileLoader | list[FileLoader]:
        """Return the validation batches, or ``[]`` if there are none."""
        return self._loader("validation", self.eval_batch_size) if self.validation else []

    def test_dataloader(self) -> FileLoader:
        """Return the test batches, in the order of the files."""
        return self._loader("test", self.eval_batch_size)

    def _of(self, part: Part) -> LabelledFiles:
        if part not in self._files:
            files = self.source.files(part, self.split, self.split_seed)
            labels = files.labels
            if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
                raise DataError(
                    f"data.source gave {part} images with labels from {labels.min()} to "
                    f"{labels.max()}; they must be from 0 to {self.num_classes - 1}, one per class "
                    "name."
                )
            self._files[part] = files
        return self._files[part]

    def _labels(self, part: Part) -> Indices:
        return self._of(part).labels

    def _loader(self, part: Part, batch_size: int, shuffle: bool = False) -> FileLoader:
        each, whole = self.pipelines[part], list[Transform]()
        if self.on_device:
            each, whole = split_by_size(each)
        channels = self.source.channels
        for transform in each:
            channels = transform.channels(channels)
        batches = FileBatches(
            self._of(part),
            self.source.channels,
            each,
            (channels, *self.image_size),
            self.shuffle_seed,
            leave_out=self.bad_images == "skip",
        )
        return FileLoader(
            batches,
            self.images_of(batch_size),
            self.workers,
            self.device(),
            part,
            shuffle,
            whole,
            self.share(even=part == "training"),
        )
