from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import BatchLoader
from qatlab.data.batches import Share
from qatlab.errors import ConfigError

LABELS = torch.arange(10)
IMAGES = LABELS.byte().view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()  # image n is all n


def label_batches(loader: BatchLoader) -> list[list[int]]:
    return [y.tolist() for _, y in loader]


def test_batches_are_floats_in_unit_range_with_their_labels() -> None:
    x, y = next(iter(BatchLoader(torch.full((2, 3, 4, 5), 255).byte(), torch.tensor([7, 1]), 2)))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x, torch.ones(2, 3, 4, 5))
    assert y.tolist() == [7, 1]


def test_every_grey_level_is_multiplied_by_the_float32_nearest_to_one_255th() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x, _ = next(iter(BatchLoader(levels.view(256, 1, 1, 1), torch.zeros(256).long(), 256)))
    factor = np.float32(1 / 255)  # what N2D2 and OpenCV do; a division rounds differently
    assert x.flatten().tolist() == (np.arange(256, dtype=np.float32) * factor).tolist()
    assert x.max() == 1


def test_without_shuffling_images_come_in_order_and_the_last_batch_holds_the_rest() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4)
    assert len(loader) == 3
    assert label_batches(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_shuffled_epoch_shows_every_image_once_with_its_own_label() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4, shuffle=True)
    seen = []
    for x, y in loader:
        assert torch.equal(x[:, 0, 0, 0].mul(255).round().long(), y)
        seen += y.tolist()
    assert sorted(seen) == list(range(10))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = BatchLoader(IMAGES, LABELS, 4, shuffle=True, seed=seed)
        loader.sampler.set_epoch(epoch)
        torch.rand(1)  # the global generator plays no part
        return label_batches(loader)

    assert order(0, 3) == order(0, 3)
    orders = {str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def augmented(epoch: int, shift: int = 1, flip: bool = True) -> list[Tensor]:
    images = torch.randint(0, 256, (10, 2, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    loader = BatchLoader(
        images, LABELS, 4, shuffle=True, seed=5, random_shift=shift, random_flip=flip
    )
    loader.sampler.set_epoch(epoch)
    return [x for x, _ in loader]


def test_augmentation_is_repeated_within_an_epoch_and_new_in_the_next() -> None:
    assert all(map(torch.equal, augmented(1), augmented(1)))
    assert not all(map(torch.equal, augmented(1), augmented(2)))


def test_augmentation_leaves_the_order_as_it_is() -> None:
    plain = BatchLoader(IMAGES, LABELS, 4, shuffle=True, seed=5)
    changed = BatchLoader(IMAGES, LABELS, 4, shuffle=True, seed=5, random_shift=1, random_flip=True)
    assert label_batches(plain) == label_batches(changed)


def test_shifts_reach_the_limit_both_ways_and_not_beyond() -> None:
    point = torch.zeros(500, 1, 7, 7, dtype=torch.uint8)
    point[:, :, 3, 3] = 255
    x, _ = next(iter(BatchLoader(point, torch.zeros(500).long(), 500, random_shift=2)))
    _, _, row, column = x.nonzero(as_tuple=True)
    assert len(row) == 500  # no point left the view
    assert set(row.tolist()) == set(column.tolist()) == {1, 2, 3, 4, 5}


def test_about_every_second_image_is_mirrored() -> None:
    left = torch.zeros(1000, 1, 1, 2, dtype=torch.uint8)
    left[..., 0] = 255
    x, _ = next(iter(BatchLoader(left, torch.zeros(1000).long(), 1000, random_flip=True)))
    assert 400 < x[..., 1].sum() < 600  # 6 standard deviations of a fair coin


def test_state_counts_the_batches_handed_out() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4, shuffle=True, seed=3)
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    next(batches)
    next(batches)
    state = loader.state_dict()
    assert state == {
        "epoch": 2,
        "batches": 2,
        "training_images": 10,
        "batch_size": 4,
        "shuffle_seed": 3,
    }


def test_a_loaded_state_skips_what_was_handed_out_once_only() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4, shuffle=True)
    loader.sampler.set_epoch(1)
    whole = label_batches(loader)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 2})
    assert loader.state_dict()["batches"] == 2
    assert label_batches(loader) == whole[2:]
    assert label_batches(loader) == whole


def test_a_state_of_another_epoch_skips_nothing() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 3})
    loader.sampler.set_epoch(2)
    assert len(label_batches(loader)) == 3


def test_iterators_that_are_never_used_do_not_move_the_position() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4)
    loader.load_state_dict({**loader.state_dict(), "batches": 2})
    iter(loader)
    assert label_batches(loader) == [[8, 9]]


def test_a_state_taken_with_another_batch_size_is_refused() -> None:
    state = BatchLoader(IMAGES, LABELS, 4).state_dict()
    with pytest.raises(ConfigError, match=r"data\.batch_size is 5, .* with batch_size 4;"):
        BatchLoader(IMAGES, LABELS, 5).load_state_dict(state)


def test_a_batch_is_formed_in_a_small_part_of_a_training_step() -> None:
    images = torch.zeros(20_000, 1, 32, 32, dtype=torch.uint8)
    loader = BatchLoader(images, torch.zeros(20_000).long(), 256, shuffle=True)
    start = time.process_time()
    batches = sum(1 for _ in loader)
    # 0.1 ms each on one core, against 45 ms for a step; the limit leaves room for a busy machine.
    assert (time.process_time() - start) / batches < 5e-3


@pytest.mark.parametrize(
    ("count", "even", "expected"),
    [
        (6, True, [[0, 1], [2, 3], [4, 5]]),
        (8, True, [[0, 1], [2, 3], [4, 5]]),  # what is left over is left out
        (2, True, [[], [], []]),
        (8, False, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (2, False, [[0], [1], []]),
        (0, False, [[], [], []]),
    ],
)
def test_processes_take_neighbouring_images(
    count: int, even: bool, expected: list[list[int]]
) -> None:
    assert [list(Share(rank, 3, even).of(count)) for rank in range(3)] == expected


def test_each_process_draws_other_random_changes() -> None:
    class Noise:
        random = True

        def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
            return torch.from_numpy(rng.random(images.shape))

    shares = [Share(rank, 2, True) for rank in range(2)]
    loaders = [BatchLoader(IMAGES, LABELS, 10, transforms=[Noise()], share=s) for s in shares]  # type: ignore[list-item]
    (x, _), (other, _) = (next(iter(loader)) for loader in loaders)
    assert not torch.equal(x, other)


def test_a_loader_for_all_processes_hands_out_whole_batches() -> None:
    loader = BatchLoader(IMAGES, LABELS, 4, share=Share(1, 2, True))
    assert label_batches(loader) == [[2, 3], [6, 7], [9]]
    assert label_batches(loader.of_all_processes()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]  # type: ignore[arg-type]
