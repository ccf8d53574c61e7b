from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qatlab.data import Decoded, DecodedFolder, ImageData, ImageFolder
from qatlab.data.decode import read_image
from qatlab.errors import ConfigError, DataError


def image(file: Path, level: int, size: tuple[int, int] = (6, 5)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), level, dtype=np.uint8)).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """500 training and 2 test images, each of one level that tells which it is."""
    for number in range(500):
        image(
            tmp_path / "train" / ("odd" if number % 2 else "even") / f"{number:03}.png", number // 2
        )
    image(tmp_path / "test" / "odd" / "a.png", 255)
    image(tmp_path / "test" / "even" / "b.png", 254)
    return tmp_path


def test_files_are_decoded_in_their_order_whatever_thread_does_it(folder: Path) -> None:
    source = DecodedFolder(str(folder))
    assert (source.class_names, source.channels) == (("even", "odd"), 3)
    images, labels = source.training_set()
    assert images.shape == (500, 3, 6, 5)
    assert images.dtype == torch.uint8
    assert images[:, 2, 5, 4].tolist() == [*range(250), *range(250)]
    assert labels.tolist() == [0] * 250 + [1] * 250
    images, labels = source.test_set()
    assert images.amax((1, 2, 3)).tolist() == [254, 255]
    assert labels.tolist() == [0, 1]


def test_images_for_validation_come_behind_those_for_training(folder: Path) -> None:
    for number in range(10):
        image(folder / "val" / "odd" / f"{number}.png", 7)
    images, labels = DecodedFolder(str(folder), channels=1).training_set()
    assert images.shape == (510, 1, 6, 5)
    assert (images[500:] == 7).all()
    assert (labels[500:] == 1).all()


def test_they_are_images_in_memory_like_others(folder: Path) -> None:
    source = DecodedFolder(str(folder))
    data = ImageData(source, (6, 5), 100, 100, 50, 0, 0, random_shift=0, random_flip=True)
    data.setup("fit")
    assert len(data.train_dataloader().images) == 450
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (100, 3, 6, 5)
    assert set(y.tolist()) == {0, 1}


def test_images_of_different_sizes_are_reported_with_what_is_for_them(folder: Path) -> None:
    image(folder / "train" / "odd" / "big.png", 1, size=(7, 5))
    expected = r"odd/big\.png has 7x5 pixels, but \S*even/000\.png has 6x5; data=image_folder is"
    with pytest.raises(DataError, match=expected):
        DecodedFolder(str(folder)).training_set()


def test_a_part_without_images_is_reported(tmp_path: Path) -> None:
    image(tmp_path / "train" / "a" / "1.png", 1)
    with pytest.raises(DataError, match=r"data\.source has no test images in '.*train'"):
        DecodedFolder(str(tmp_path)).test_set()


def test_an_image_that_cannot_be_decoded_is_an_error_or_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("even/010.png", "odd/499.png"):
        (folder / "train" / name).write_text("nothing")
    with pytest.raises(DataError, match=r"even/010\.png is not an image"):
        DecodedFolder(str(folder)).training_set()
    assert capsys.readouterr().out == ""
    images, labels = DecodedFolder(str(folder), bad_images="skip").training_set()
    kept = [*(n for n in range(250) if n != 5), *range(249)]
    assert images[:, 0, 0, 0].tolist() == kept
    assert labels.bincount().tolist() == [249, 249]
    told = capsys.readouterr().out
    assert told.startswith("2 of 500 training images could not be decoded and were left out; the")
    assert "the first: " in told
    assert "even/010.png is not an image" in told
    with pytest.raises(ConfigError, match=r"data\.source\.bad_images=skipp is wrong\. Did you"):
        Decoded(ImageFolder(str(folder), 1), bad_images="skipp")  # type: ignore[arg-type]


def test_that_no_image_can_be_decoded_is_reported_in_any_case(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "a" / f"{number}.png").write_text("nothing")
    with pytest.raises(DataError, match=r"none of 3 images can be decoded; the first: \S*0\.png"):
        DecodedFolder(str(tmp_path), bad_images="skip").training_set()


def test_cifar_10_is_read_from_jpeg_files(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "cifar10_jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip("CIFAR-10 as JPEG files is not there (../shared/data/cifar10_jpeg.tar.xz)")
    with tarfile.open(archive) as files:  # long: only its beginning is read
        for number, member in enumerate(files):
            files.extract(member, tmp_path, filter="data")
            if number == 100:
                break
    some = sorted(tmp_path.rglob("*.jpg"))
    for file in some:
        part = tmp_path / "few" / "train" / file.parent.name
        part.mkdir(parents=True, exist_ok=True)
        file.rename(part / file.name)
    images, _ = DecodedFolder(str(tmp_path / "few")).training_set()
    assert images.shape == (len(some), 3, 32, 32)
    first = min((tmp_path / "few").rglob("*.jpg"))
    assert torch.equal(images[0], read_image(first, 3))
