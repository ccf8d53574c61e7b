from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import BatchLoader, ImageData, LabelledImages, Synthetic
from qatlab.data.transforms import (
    ChannelExtraction,
    ColorSpace,
    Flip,
    PadCrop,
    RangeAffine,
    Rescale,
    SliceExtraction,
    Transform,
)
from qatlab.errors import ConfigError


class Counted(Transform):
    """Adds one to each pixel, and counts the images it was given."""

    def __init__(self, apply_to: Sequence[str] | None = None, random: bool = False) -> None:
        super().__init__(apply_to)
        self.random = random
        self.seen = 0

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        self.seen += len(images)
        return images + 1


def image_data(
    transforms: dict[str, Transform] | None = None, channels: int = 1, **changes: Any
) -> ImageData:
    arguments: dict[str, Any] = {
        "image_size": (12, 10),
        "batch_size": 16,
        "eval_batch_size": 25,
        "validation": 20,
        "split_seed": 0,
        "shuffle_seed": 3,
        "random_shift": 0,
        "random_flip": False,
        "transforms": transforms,
    }
    source = Synthetic(100, 30, 3, channels, (12, 10), noise=50.0, seed=0)
    return ImageData(source, **{**arguments, **changes})


def ready(*arguments: Any, **changes: Any) -> ImageData:
    data = image_data(*arguments, **changes)
    data.setup("fit")
    data.setup("test")
    return data


def loaders(data: ImageData) -> dict[str, BatchLoader]:
    found: dict[str, Any] = {
        "training": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    return found


def content(loader: BatchLoader) -> Tensor:
    return torch.cat([x for x, _ in loader])


@pytest.mark.parametrize(
    "to_floats", [{}, {"range": RangeAffine("divides", 255)}], ids=["bytes", "floats"]
)
def test_rescale_and_range_give_the_batches_of_a_run_without_transforms(
    to_floats: dict[str, Transform],
) -> None:
    plain = ready(image_size=(15, 14))
    named = ready({"rescale": Rescale(width=14, height=15), **to_floats}, image_size=(15, 14))
    for part, loader in loaders(plain).items():
        other = loaders(named)[part]
        assert other.images.dtype == torch.uint8  # small in memory
        for (x, y), (x_other, y_other) in zip(loader, other, strict=True):
            assert torch.equal(x, x_other)
            assert torch.equal(y, y_other)


def test_what_is_not_random_is_done_once() -> None:
    data = ready({"counted": (counted := Counted())})
    before = counted.seen
    assert before == 100 + 30 + 6  # and of each part one image, to see what comes out
    for _ in range(2):
        content(data.train_dataloader())
    assert counted.seen == before


def test_from_the_first_random_one_on_transforms_see_each_batch() -> None:
    data = ready(
        {"once": (once := Counted()), "flip": Flip(random_vertical=True), "each": Counted()}
    )
    before = once.seen
    each = data.train_dataloader().transforms[1]
    assert isinstance(each, Counted)
    seen = each.seen
    content(data.train_dataloader())
    assert (once.seen, each.seen) == (before, seen + 80)


def test_parts_go_through_their_own_transforms() -> None:
    plain = loaders(ready())
    changed = loaders(
        ready({"only": Counted(["validation"]), "not": Counted(["training", "test"])})
    )
    for part, more in (("training", 1), ("validation", 1), ("test", 1)):
        apart = changed[part].images.int() - plain[part].images.int()
        assert (apart % 256 == more).all()
    flipped = loaders(ready({"flip": Flip(horizontal=True, apply_to=["test"])}))
    assert torch.equal(flipped["test"].images, plain["test"].images.flip(3))
    assert torch.equal(flipped["training"].images, plain["training"].images)


def test_floats_are_left_alone_and_bytes_are_divided() -> None:
    plain, floats = ready(), ready({"range": RangeAffine("minus", 100)})
    x, _ = next(iter(floats.test_dataloader()))
    assert torch.equal(x, plain.test_dataloader().images[:25].float() - 100)
    x, _ = next(iter(ready({}).test_dataloader()))
    assert torch.equal(x, plain.test_dataloader().images[:25].float() * np.float32(1 / 255))


def test_floats_in_the_middle_of_the_pipeline_are_kept_in_memory() -> None:
    data = ready({"range": RangeAffine("divides", 255), "crop": PadCrop(8, 8)}, image_size=(8, 8))
    assert data.test_dataloader().images.dtype == torch.float32
    first = content(data.test_dataloader())
    assert torch.equal(first, content(data.test_dataloader()))


def random_ones() -> dict[str, Transform]:
    return {
        "pad": PadCrop(14, 16),
        "crop": SliceExtraction(10, 12, random_offset_x=True, random_offset_y=True),
        "flip": Flip(random_horizontal=True, apply_to=["training"]),
    }


def test_random_batches_are_a_function_of_seed_and_epoch() -> None:
    def epoch(number: int, seed: int = 3) -> Tensor:
        loader = ready(random_ones(), shuffle_seed=seed).train_dataloader()
        loader.sampler.set_epoch(number)
        return content(loader)

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    assert not torch.equal(epoch(1), epoch(1, seed=4))


def test_random_transforms_leave_the_order_as_it_is() -> None:
    plain, changed = ready(), ready(random_ones())
    labels = [
        torch.cat([y for _, y in data.train_dataloader()]) for data in (plain, changed)
    ]  # fmt: skip
    assert torch.equal(*labels)


def test_batches_of_an_epoch_differ_from_each_other() -> None:
    data = ready(random_ones())
    images = data.train_dataloader().images
    loader = BatchLoader(
        images[:1].repeat(32, 1, 1, 1),
        torch.zeros(32).long(),
        16,
        transforms=[random_ones()["crop"]],
    )
    first, second = (x for x, _ in loader)
    assert not torch.equal(first, second)


def test_an_image_is_changed_in_another_way_in_each_epoch_and_with_each_seed() -> None:
    images = ready(random_ones()).test_dataloader().images

    def changed(epoch: int, seed: int) -> Tensor:
        labels, crop = torch.zeros(len(images)).long(), random_ones()["crop"]
        loader = BatchLoader(images, labels, 16, seed=seed, transforms=[crop])
        loader.sampler.set_epoch(epoch)
        return content(loader)

    assert torch.equal(changed(1, 3), changed(1, 3))
    assert not torch.equal(changed(1, 3), changed(2, 3))
    assert not torch.equal(changed(1, 3), changed(1, 4))


def test_a_resumed_epoch_goes_on_with_the_same_random_changes() -> None:
    data = ready(random_ones())
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    whole = [x for x, _ in loader]
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    next(batches)
    next(batches)
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = [x for x, _ in resumed]
    assert len(rest) == len(whole) - 2
    assert all(map(torch.equal, rest, whole[2:]))
    assert resumed.state_dict()["batches"] == len(whole)  # and could be resumed again


def test_channels_are_known_before_anything_is_read() -> None:
    assert image_data({"grey": ChannelExtraction("gray")}, channels=3).in_channels == 1
    data = image_data({"rgb": ColorSpace("rgb"), "range": RangeAffine("minus", [1, 2, 3])})
    assert data.in_channels == 3
    assert data.example_input().shape == (1, 3, 12, 10)
    data.setup("test")
    assert next(iter(data.test_dataloader()))[0].shape == (25, 3, 12, 10)


def test_a_transform_that_does_not_fit_the_channels_is_refused_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.transforms\.hsv converts rgb to hsv, .* not of 1"
    ):
        image_data({"hsv": ColorSpace("hsv")})


def test_images_of_another_size_than_the_network_sees_are_refused() -> None:
    data = image_data({"crop": PadCrop(8, 6, apply_to=["test"])})
    data.setup("fit")
    expected = r"data\.image_size is \[12, 10\], but data\.transforms makes test images of \[6, 8\]"
    with pytest.raises(ConfigError, match=expected):
        data.setup("test")


@pytest.mark.parametrize("changes", [{"random_shift": 1}, {"random_flip": True}])
def test_shift_and_flip_have_no_place_beside_transforms(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(changes))} cannot be combined with"):
        image_data({}, **changes)


def sizes(data: ImageData) -> tuple[int, int]:
    loader = data.val_dataloader()
    held_out = len(loader.images) if isinstance(loader, BatchLoader) else 0
    return len(data.train_dataloader().images), held_out


@pytest.mark.parametrize(
    ("validation", "expected"),
    [(0.25, (75, 25)), (0.125, (88, 12)), (0.0, (100, 0)), (0, (100, 0)), (7, (93, 7))],
)
def test_validation_is_a_number_or_a_share(validation: float, expected: tuple[int, int]) -> None:
    assert sizes(ready(validation=validation)) == expected  # 87.5 up, 12.5 down


def test_the_test_set_may_be_the_validation_set() -> None:
    data = ready({"flip": Flip(horizontal=True, apply_to=["validation"])}, validation="test")
    assert sizes(data) == (100, 30)
    parts = loaders(data)
    assert torch.equal(parts["validation"].images, parts["test"].images.flip(3))
    assert torch.equal(parts["validation"].labels, parts["test"].labels)


def test_in_order_the_last_images_are_held_out() -> None:
    data = ready(split="in_order")
    images = data.source.training_set().images
    assert torch.equal(loaders(data)["training"].images, images[:80])
    assert torch.equal(loaders(data)["validation"].images, images[80:])


@pytest.mark.parametrize("validation", [1.0, -0.5, 1.5, True, "tests", None])
def test_an_impossible_validation_is_reported(validation: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.validation=.* is wrong\. .*a share below 1, test"
    ):
        image_data(validation=validation)


def test_an_unknown_split_is_reported() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.split=in_oder is wrong\. Did you mean 'in_order'"
    ):
        image_data(split="in_oder")


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        (0.9, r"=0\.9 is wrong\. Accepted: below 3"),
        (0.1, r"=0\.1 is wrong\. Accepted: 0, or a share .* of 3 training"),
    ],
)
def test_a_share_that_leaves_nothing_for_one_part_is_reported(
    validation: float, expected: str
) -> None:
    data = image_data(validation=validation)
    data.source = Synthetic(3, 1, 3, 1, (12, 10), noise=0.0, seed=0)
    with pytest.raises(ConfigError, match=rf"data\.validation{expected}"):
        data.setup("fit")


def test_labelled_images_of_floats_can_be_selected() -> None:
    some = LabelledImages(torch.rand(3, 1, 2, 2), torch.arange(3)).select(torch.tensor([2, 0]))
    assert some.labels.tolist() == [2, 0]
