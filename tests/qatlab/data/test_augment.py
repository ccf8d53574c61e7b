from __future__ import annotations

import torch

from qatlab.data.transforms import augment

IMAGE = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)  # 1 2 3 / 4 5 6 / 7 8 9


def shifted(down: int, right: int) -> list[list[int]]:
    moved = augment.shift(IMAGE, torch.tensor([down]), torch.tensor([right]), limit=2)
    rows: list[list[int]] = moved[0, 0].tolist()
    return rows


def test_shift_moves_down_and_right_and_fills_with_zeros() -> None:
    assert shifted(1, 0) == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert shifted(0, 1) == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert shifted(-1, -2) == [[6, 0, 0], [9, 0, 0], [0, 0, 0]]
    assert shifted(0, 0) == IMAGE[0, 0].tolist()


def test_each_image_is_shifted_by_its_own_amount_in_all_channels() -> None:
    images = torch.randint(1, 256, (4, 3, 7, 9), dtype=torch.uint8)
    down, right = torch.tensor([0, 2, -1, -2]), torch.tensor([1, -2, 0, 2])
    # roll() moves the same way but wraps around, so look at images with a border that is black.
    images[:, :, :2], images[:, :, -2:], images[..., :2], images[..., -2:] = 0, 0, 0, 0
    moved = augment.shift(images, down, right, limit=2)
    for image, result, dy, dx in zip(images, moved, down.tolist(), right.tolist(), strict=True):
        assert torch.equal(result, image.roll((dy, dx), dims=(1, 2)))


def test_only_chosen_images_are_mirrored_left_to_right() -> None:
    images = IMAGE.repeat(2, 1, 1, 1)
    flipped = augment.flip(images, torch.tensor([True, False]))
    assert flipped[0, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert torch.equal(flipped[1], images[1])
