"""CIFAR-10 and CIFAR-100, from their binary versions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from qatlab.data import download
from qatlab.data.contents import read_file
from qatlab.data.sources import LabelledImages
from qatlab.errors import DataError

_PIXELS = 3 * 32 * 32  # of an image: all of red, then green, then blue, row by row
_SITE = "https://www.cs.toronto.edu/~kriz"
_ADVICE = (
    "data.source.download=true fetches it, and www.cs.toronto.edu/~kriz/cifar.html offers it as "
    "the 'binary version'"
)


class Cifar10:
    """The 60,000 colour photographs of CIFAR-10, 32x32, RGB.

    Reads the binary version, in which there is nothing but bytes.

    Args:
        folder: holds ``cifar-10-batches-bin/``, as the archive unpacks, or its files.
        download: let ``fetch`` download what is missing, 170 MB.
    """

    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    channels: int = 3

    _subfolder: ClassVar[str] = "cifar-10-batches-bin"
    _training: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    _test: ClassVar[tuple[str, ...]] = ("test_batch.bin",)
    _url: ClassVar[str] = f"{_SITE}/cifar-10-binary.tar.gz"
    _md5: ClassVar[str] = "c32a1d4ab5d03f1284b67883e8d87530"

    def __init__(self, folder: str, download: bool = False) -> None:
        self.folder = Path(folder)
        self.download = download
        self._n_labels, self._label = 1, 0  # bytes in front of an image, and which of them counts

    def fetch(self) -> None:
        """Download what is missing, if that is allowed."""
        files = (*self._training, *self._test)
        if self.download and not all(map(self._find, files)):
            download.archive(self._url, self._md5, self.folder, self._subfolder)

    def training_set(self) -> LabelledImages:
        """Read the 50,000 training images."""
        return self._read(self._training)

    def test_set(self) -> LabelledImages:
        """Read the 10,000 test images."""
        return self._read(self._test)

    def _read(self, names: tuple[str, ...]) -> LabelledImages:
        rows = torch.cat([self._rows(name) for name in names])
        labels = rows[:, self._label].long()
        return LabelledImages(rows[:, self._n_labels :].reshape(-1, 3, 32, 32), labels)

    def _rows(self, name: str) -> Tensor:
        """Return the bytes of a file, a row for each image: labels, then pixels."""
        file = self._find(name)
        if file is None:
            raise DataError(
                f"data.source.folder is '{self.folder}' ({self.folder.resolve()}), where neither "
                f"'{self._subfolder}/{name}' nor '{name}' exists; {type(self).__name__} is "
                f"expected there: {_ADVICE}."
            )
        content = read_file(file)
        length = self._n_labels + _PIXELS
        if len(content) == 0 or len(content) % length:
            raise DataError(
                f"{file} is damaged or another file: it should hold {length} bytes for each image, "
                f"but has {len(content)} bytes."
            )
        return torch.frombuffer(content, dtype=torch.uint8).view(-1, length)

    def _find(self, name: str) -> Path | None:
        files = (self.folder / self._subfolder / name, self.folder / name)
        return next((file for file in files if file.exists()), None)


class Cifar100(Cifar10):
    """The 60,000 colour photographs of CIFAR-100, 32x32, RGB.

    Args:
        folder: holds ``cifar-100-binary/``, as the archive unpacks, or its files.
        coarse: tell the 20 groups of classes apart instead of the 100 classes.
        download: let ``fetch`` download what is missing, 169 MB.
    """

    _subfolder = "cifar-100-binary"
    _training = ("train.bin",)
    _test = ("test.bin",)
    _url = f"{_SITE}/cifar-100-binary.tar.gz"
    _md5 = "03b5dce01913d631647c71ecec9e9cb8"

    def __init__(self, folder: str, coarse: bool = False, download: bool = False) -> None:
        super().__init__(folder, download)
        self._n_labels, self._label = 2, 0 if coarse else 1
        self.class_names = COARSE if coarse else FINE


COARSE = (
    *("aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables"),
    *("household_electrical_devices", "household_furniture", "insects", "large_carnivores"),
    *("large_man-made_outdoor_things", "large_natural_outdoor_scenes"),
    *("large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates", "people"),
    *("reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2"),
)
FINE = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle"),
    *("bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle"),
    *("caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch"),
    *("crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest"),
    *("fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower"),
    *("leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
    *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear"),
    *("pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit"),
    *("raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk"),
    *("skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower"),
    *("sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train"),
    *("trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
)
