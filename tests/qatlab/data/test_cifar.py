from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qatlab.data import Cifar10, Cifar100, ImageData
from qatlab.errors import DataError


def row(*labels: int, red: int, green: int, blue: int, corner: int) -> bytes:
    """Return an image of one colour, whose first row ends with a red value of its own."""
    pixels = bytearray([red] * 1024 + [green] * 1024 + [blue] * 1024)
    pixels[31] = corner
    return bytes(labels) + bytes(pixels)


def test_cifar10_is_read_plane_by_plane_from_all_its_files(tmp_path: Path) -> None:
    inside = tmp_path / "cifar-10-batches-bin"
    inside.mkdir()
    for number in range(1, 6):
        file = inside / f"data_batch_{number}.bin"
        file.write_bytes(row(number, red=number, green=20, blue=30, corner=99) * 2)
    (tmp_path / "test_batch.bin").write_bytes(row(9, red=1, green=2, blue=3, corner=4))
    source = Cifar10(str(tmp_path))
    images, labels = source.training_set()
    assert labels.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert images.shape == (10, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images[0, :, 0, 31].tolist() == [99, 20, 30]
    assert images[4, :, 1, 0].tolist() == [3, 20, 30]
    images, labels = source.test_set()
    assert labels.tolist() == [9]
    assert images[0, :, 5, 5].tolist() == [1, 2, 3]
    assert source.channels == 3
    assert source.class_names[9] == "truck"


@pytest.mark.parametrize(("coarse", "label", "classes"), [(False, 77, 100), (True, 5, 20)])
def test_cifar100_has_coarse_and_fine_labels(
    tmp_path: Path, coarse: bool, label: int, classes: int
) -> None:
    (tmp_path / "train.bin").write_bytes(row(5, 77, red=1, green=2, blue=3, corner=4) * 3)
    source = Cifar100(str(tmp_path), coarse)
    images, labels = source.training_set()
    assert labels.tolist() == [label] * 3
    assert images[2, :, 0, 31].tolist() == [4, 2, 3]
    assert len(set(source.class_names)) == classes
    assert sorted(source.class_names) == list(source.class_names)


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    whole = row(1, red=1, green=2, blue=3, corner=4)
    for content in (whole[:-1], b""):
        (tmp_path / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=r"test_batch\.bin is damaged .* 3073 bytes for each"):
            Cifar10(str(tmp_path)).test_set()


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(row(10, red=1, green=2, blue=3, corner=4))
    data = ImageData(Cifar10(str(tmp_path)), (32, 32), 1, 1, 0, 0, 0, 0, False)
    with pytest.raises(DataError, match="labels from 10 to 10; they must be from 0 to 9"):
        data.setup("test")


def test_missing_files_are_named_with_the_folder_and_the_remedy(tmp_path: Path) -> None:
    expected = r"data\.source\.folder is .*'cifar-10-batches-bin/data_batch_1\.bin'.*binary version"
    with pytest.raises(DataError, match=expected):
        Cifar10(str(tmp_path)).training_set()
    with pytest.raises(DataError, match=r"'cifar-100-binary/test\.bin'.* Cifar100 is expected"):
        Cifar100(str(tmp_path)).test_set()
