from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import BatchLoader, LabelledImages, resize_bilinear


def grey(*rows: list[int]) -> Tensor:
    return torch.tensor([[rows]], dtype=torch.uint8)


def test_upscaled_row_takes_quarters_of_its_neighbours_and_keeps_its_ends() -> None:
    # Positions -1/4, 1/4, 3/4, 5/4: 0, 63.75, 191.25 and 255.
    assert resize_bilinear(grey([0, 255]), (1, 4)).tolist() == [[[[0, 64, 191, 255]]]]


def test_upscaled_column_is_the_transposed_row() -> None:
    resized = resize_bilinear(grey([0], [255]), (4, 1))
    assert resized.flatten().tolist() == [0, 64, 191, 255]


@pytest.mark.parametrize(("ones", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)])
def test_half_size_is_the_mean_of_four_pixels_with_halves_rounded_up(
    ones: int, expected: int
) -> None:
    pixels = torch.tensor([1] * ones + [0] * (4 - ones), dtype=torch.uint8).view(1, 1, 2, 2)
    assert resize_bilinear(pixels, (1, 1)).item() == expected


def test_bits_are_cut_from_both_rows_but_not_from_both_columns() -> None:
    # From 7 to 8 pixels, the second lies at 0.8125: 384/2048 * 1 + 1664/2048 * 3 = 2.625.
    # In a row that is rounded, to 3; in a column, 4 * 2.625 = 0.75 + 9.75 is cut to 0 + 9, and
    # (0 + 9 + 2) >> 2 = 2.
    levels = [1, 3, 3, 3, 3, 3, 3]
    assert resize_bilinear(grey(levels), (1, 8)).flatten()[1] == 3
    assert resize_bilinear(grey(*([level] for level in levels)), (8, 1)).flatten()[1] == 2


@pytest.mark.parametrize("size", [(32, 32), (7, 11), (28, 30), (1, 1), (90, 5)])
def test_an_image_of_one_grey_level_keeps_it(size: tuple[int, int]) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 1, 20, 13)
    resized = resize_bilinear(levels, size)
    assert torch.equal(resized, levels[:, :, :1, :1].expand(256, 1, *size))


def test_own_size_changes_nothing() -> None:
    images = torch.randint(0, 256, (3, 2, 9, 5), dtype=torch.uint8)
    assert torch.equal(resize_bilinear(images, (9, 5)), images)


def test_images_and_channels_are_resized_independently() -> None:
    # More images than one piece holds, so that pieces meet.
    images = torch.randint(0, 256, (100, 3, 14, 14), dtype=torch.uint8)
    resized = resize_bilinear(images, (20, 17))
    assert torch.equal(resized[57:58, 1:2], resize_bilinear(images[57:58, 1:2], (20, 17)))
    assert torch.equal(resized[99:, 2:], resize_bilinear(images[99:, 2:], (20, 17)))


def golden(repository: Path, name: str) -> dict[str, Tensor]:
    file = repository.parent / "shared" / "data" / "n2d2" / "golden" / name
    if not file.exists():
        pytest.skip("the golden files of N2D2 are not there (../shared/data/n2d2/golden)")
    with np.load(file) as arrays:
        keys = [key for key in arrays.files if key.startswith(("env", "test_index", "train_index"))]
        return {key: torch.from_numpy(arrays[key]) for key in keys}


def network_input(images: LabelledImages) -> Tensor:
    resized = resize_bilinear(images.images, (32, 32))
    x, _ = next(iter(BatchLoader(resized, images.labels, batch_size=len(resized))))
    return x


@pytest.mark.parametrize("weights", ["LeNet_4b", "LeNet_w1_a4", "LeNet_w4_a8"])
def test_test_images_are_bit_for_bit_what_n2d2_feeds_its_network(
    repository: Path, mnist_test: LabelledImages, weights: str
) -> None:
    arrays = golden(repository, f"golden_test_{weights}.npz")
    index = arrays["test_index"].long()
    assert torch.equal(network_input(mnist_test.select(index)), arrays["env"])


@pytest.mark.parametrize("step", ["step1", "step2"])
@pytest.mark.parametrize("run", ["clamp", "w4a4_default"])
def test_training_images_are_bit_for_bit_what_n2d2_feeds_its_network(
    repository: Path, mnist_training: LabelledImages, run: str, step: str
) -> None:
    arrays = golden(repository, f"golden_train_{run}.npz")
    index = arrays[f"train_index.{step}"].long()
    assert torch.equal(network_input(mnist_training.select(index)), arrays[f"env.{step}"])
