"""What workers leave to the device, and the memory that they share with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qatlab.data import FileLoader, ImageFiles, ImageFolder
from qatlab.data import file_batches as module
from qatlab.data.transforms import (
    ChannelExtraction,
    ColorSpace,
    Flip,
    PadCrop,
    RandomErasing,
    RandomResizeCrop,
    RangeAffine,
    Rescale,
    Transform,
)
from qatlab.data.transforms.pipeline import apply, in_pieces, split_by_size, to_unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of many sizes; the level of each tells its number."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    (folder / "a").mkdir()
    for number in range(60):
        pixels = rng.integers(0, 4, (9 + number % 5, 8 + number % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels + np.uint8(4 * number)).save(folder / "a" / f"{number:02}.png")
    return folder


def loader(folder: Path, **changes: Any) -> FileLoader:
    arguments: dict[str, Any] = {
        **{"image_size": (8, 6), "batch_size": 4, "eval_batch_size": 4, "split": "in_order"},
        **{"split_seed": 0, "shuffle_seed": 3, "workers": 0, "on_device": True},
    }
    data = ImageFiles(ImageFolder(str(folder), 1), **{**arguments, **changes})
    return data.train_dataloader()


def steps(*behind: Transform) -> dict[str, Transform]:
    part = RandomResizeCrop(6, 8, (0.3, 1.0), (0.7, 1.4))
    return {str(number): step for number, step in enumerate((part, *behind))}


def images(loader: FileLoader, epoch: int = 0) -> Tensor:
    loader.sampler.set_epoch(epoch)
    return torch.cat([x for x, _ in loader])


NORMALIZE = RangeAffine("minus", [12, 34.5, 6], "divides", [58.395, 57.12, 57.375])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "behind",
    [(NORMALIZE,), (ColorSpace("hsv"), NORMALIZE), (ChannelExtraction("gray"),), ()],
    ids=["normalize", "hsv", "grey", "bytes"],
)
def test_images_are_the_same_wherever_steps_without_chance_are_done(
    folder: Path, behind: tuple[Transform, ...], workers: int
) -> None:
    by_workers = loader(folder, transforms=steps(*behind), on_device=False)
    on_device = loader(folder, transforms=steps(*behind), workers=workers)
    assert len(on_device.transforms) == len(behind)
    assert torch.equal(images(by_workers, 1), images(on_device, 1))


def test_without_transforms_bytes_are_handed_over_too(folder: Path) -> None:
    assert torch.equal(images(loader(folder)), images(loader(folder, on_device=False)))


def test_workers_stop_behind_the_last_step_that_resizes() -> None:
    flip, crop, grey = Flip(horizontal=True), PadCrop(3, 3), ChannelExtraction("gray")
    scale = Rescale(4, 4)
    assert split_by_size([scale, grey, crop, flip]) == ([scale, grey, crop], [flip])
    assert split_by_size([scale, crop]) == ([scale, crop], [])
    assert split_by_size([grey, flip]) == ([], [grey, flip])


@pytest.mark.parametrize("on_device", [False, True])
def test_what_workers_make_are_bytes_only_if_the_rest_is_done_on_the_device(
    folder: Path, on_device: bool
) -> None:
    batches = loader(folder, transforms=steps(NORMALIZE), on_device=on_device).batches
    made = batches[module.BatchRequest(0, 0, [5, 6])]
    assert isinstance(made, module.BatchResult)
    assert made.x is not None
    assert made.x.dtype == (torch.uint8 if on_device else torch.float32)


def test_memory_of_workers_is_used_again_only_when_its_images_were_taken(folder: Path) -> None:
    one = loader(folder, workers=1, transforms={"size": Rescale(6, 8)})
    assert len(one) == 15  # batches, in the memory of 3
    shared = []
    for number, (x, _) in enumerate(one):
        order = one.sampler.draw(torch.device("cpu")).order[4 * number : 4 * number + 4]
        shared.append(torch.equal((x * 255 / 4).floor().amax((1, 2, 3)).long(), order))
    assert shared == [True] * 15


def test_workers_write_bytes_to_shared_memory_and_hand_over_floats(folder: Path) -> None:
    batches = loader(folder, transforms=steps()).batches
    batches.shared = [torch.zeros(3, 3, 8, 6, dtype=torch.uint8) for _ in range(2)]
    made = batches[module.BatchRequest(0, 0, [7, 8], memory=1)]
    assert isinstance(made, module.BatchResult)
    assert made.x is None
    batches.shared[1], seen = torch.empty(0), batches.shared[1]
    assert (seen.flatten(1).amax(1) > 0).tolist() == [True, True, False]
    floats = loader(folder, transforms=steps(NORMALIZE), on_device=False).batches
    floats.shared = [torch.zeros(3, 3, 8, 6, dtype=torch.uint8)]
    made = floats[module.BatchRequest(0, 0, [7, 8])]
    assert isinstance(made, module.BatchResult)
    assert made.x is not None


@pytest.mark.parametrize(("on_device", "count"), [(True, 5), (False, 0)])
def test_memory_is_shared_only_where_workers_make_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, on_device: bool, count: int
) -> None:
    taken = []

    class Noted(module.DataLoader):  # type: ignore[type-arg]
        def __init__(self, batches: Any, **options: Any) -> None:
            taken.extend(tuple(x.shape) for x in batches.shared if x.is_shared())
            super().__init__(batches, **options)

    monkeypatch.setattr(module, "DataLoader", Noted)
    images(loader(folder, transforms=steps(NORMALIZE), on_device=on_device, workers=2))
    assert taken == [(4, 3, 8, 6)] * count  # two batches ahead for each worker, and one in use


def test_random_steps_of_whole_batches_are_a_function_of_seed_epoch_and_batch(
    folder: Path,
) -> None:
    def seen(epoch: int, **changes: Any) -> Tensor:
        transforms = steps(Flip(random_horizontal=True), RandomErasing(apply_to=["training"]))
        return images(loader(folder, transforms=transforms, **changes), epoch)

    first = seen(1)
    assert torch.equal(first, seen(1, workers=2))
    assert not torch.equal(first, seen(2))
    assert not torch.equal(first, seen(1, shuffle_seed=4))


def test_a_resumed_epoch_goes_on_with_the_draws_of_its_batches(folder: Path) -> None:
    transforms = steps(Flip(random_horizontal=True))
    whole = loader(folder, transforms=transforms)
    batches = list(whole)
    part = loader(folder, transforms=transforms, workers=1)
    seen = iter(part)
    for _ in range(9):
        next(seen)
    resumed = loader(folder, transforms=transforms)
    resumed.load_state_dict(part.state_dict())
    for (x, _), (expected, _) in zip(resumed, batches[9:], strict=True):
        assert torch.equal(x, expected)


def test_every_second_image_is_mirrored_on_the_device(folder: Path) -> None:
    size = {"size": Rescale(6, 8)}
    plain = images(loader(folder, transforms=size))
    flips = {**size, "flip": Flip(random_horizontal=True)}
    seen = images(loader(folder, transforms=flips))
    mirrored = [torch.equal(x, y.flip(2)) for x, y in zip(seen, plain, strict=True)]
    kept = [torch.equal(x, y) for x, y in zip(seen, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 15 <= sum(mirrored) <= 45  # of 60: within four standard deviations of 3.9
    assert len({str(mirrored[i : i + 4]) for i in range(0, 60, 4)}) > 4  # batches differ


@pytest.mark.parametrize(
    "transforms",
    [
        [NORMALIZE],
        [Flip(horizontal=True), NORMALIZE],
        [NORMALIZE, Flip(vertical=True)],  # floats
        [ChannelExtraction("gray")],  # bytes
        [RangeAffine("multiplies", 0.1, truncate=True)],
        [],
    ],
)
def test_a_few_images_at_a_time_give_what_a_whole_batch_gives(transforms: list[Transform]) -> None:
    x = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    whole = to_unit(apply(transforms, x, rng))
    for n_images in (1, 3, 7, 9):
        result = in_pieces(transforms, x, rng, n_images)
        assert result.dtype == torch.float32
        assert torch.equal(result, whole)
