"""Where images come from: the interface of a source, and the data sets in IDX files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from qatlab.data import download
from qatlab.data.idx import read_idx
from qatlab.errors import DataError

_LARGEST = 16 + 60_000 * 28 * 28  # bytes of the file of the training images


class LabelledImages(NamedTuple):
    """Images and their classes, in memory."""

    images: Tensor  # uint8, (N, C, H, W)
    labels: Tensor  # int64, (N,), index into the class names

    def select(self, index: Tensor) -> LabelledImages:
        """Return the images at ``index``, in that order."""
        return LabelledImages(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> LabelledImages:
        """Return the same on ``device``; nothing is copied if it is there already."""
        return LabelledImages(self.images.to(device), self.labels.to(device))


class ImageSource(Protocol):
    """A data set; making the object reads nothing, each method reads its own part only."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        ...

    @property
    def channels(self) -> int:
        """C of the images."""
        ...

    def training_set(self) -> LabelledImages:
        """Return all images meant for training, those for validation among them."""
        ...

    def test_set(self) -> LabelledImages:
        """Return the images that are kept for the final evaluation."""
        ...


class Mnist:
    """The 70,000 handwritten digits of Y. LeCun, C. Cortes and C. Burges, 28x28, grey.

    Reads the archives as they are: it unpacks nothing on disk, so a folder may be read-only and
    several runs may start at once.

    Args:
        folder: holds ``MNIST/raw/`` as torchvision lays it out, or the four files themselves,
            each packed (``.gz``) or not.
    """

    class_names: tuple[str, ...] = tuple("0123456789")
    channels: int = 1

    _subfolder: ClassVar[str] = "MNIST/raw"
    _advice: ClassVar[str] = "the repository holds them in 'data'"
    # Of the unpacked content: archives of the same data set are not equal byte by byte everywhere.
    _md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def training_set(self) -> LabelledImages:
        """Read the 60,000 training images."""
        return self._read("train")

    def test_set(self) -> LabelledImages:
        """Read the 10,000 test images."""
        return self._read("t10k")

    def _read(self, part: str) -> LabelledImages:
        images, labels = (
            read_idx(self._find(name), self._md5[name], _LARGEST)
            for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        )
        return LabelledImages(images[:, None], labels.long())

    def _find(self, name: str) -> Path:
        file = self._file(name)
        if file is None:
            raise DataError(
                f"data.source.folder is '{self.folder}' ({self.folder.resolve()}), where neither "
                f"'{self._subfolder}/{name}.gz' nor '{name}.gz' exists; the four files of "
                f"{type(self).__name__} are expected there: {self._advice}."
            )
        return file

    def _file(self, name: str) -> Path | None:
        folders = (self.folder / self._subfolder, self.folder)
        files = (folder / f"{name}{suffix}" for folder in folders for suffix in ("", ".gz"))
        return next((file for file in files if file.exists()), None)


class FashionMnist(Mnist):
    """The 70,000 pictures of clothing by Zalando Research, 28x28, grey.

    Args:
        folder: holds ``FashionMNIST/raw/`` as torchvision lays it out, or the four files
            themselves, as Debian's package dataset-fashion-mnist does.
        download: let ``fetch`` download what is missing, 31 MB.
    """

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    _subfolder = "FashionMNIST/raw"
    _advice = (
        "data.source.download=true fetches them, and 'apt-get install dataset-fashion-mnist' puts "
        "them into '/usr/share/datasets/fashion-mnist'"
    )
    _md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    _url: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    _packed_md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }

    def __init__(self, folder: str, download: bool = False) -> None:
        super().__init__(folder)
        self.download = download

    def fetch(self) -> None:
        """Download what is missing, if that is allowed."""
        for name, md5 in self._packed_md5.items():
            if self.download and self._file(name) is None:
                download.file(f"{self._url}/{name}.gz", md5, self.folder / self._subfolder)
