from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from qatlab.data import ImageData, ImageFiles, ImageFolder, LabelledImages
from qatlab.data.transforms import PadCrop, Torchvision, Transform
from qatlab.data.transforms.pipeline import named
from qatlab.errors import ConfigError

ALL = ("training", "validation", "test")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photographs(n: int = 40) -> Tensor:
    """No image equals the inverse of another one."""
    return torch.randint(0, 100, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for number, image in enumerate(photographs()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a" / f"{number:02}.png")
    return tmp_path


def image_files(folder: Path, transforms: dict[str, Any], **changes: Any) -> ImageFiles:
    arguments: dict[str, Any] = {
        **{"image_size": (8, 8), "batch_size": 8, "eval_batch_size": 8, "split": "in_order"},
        **{"split_seed": 0, "shuffle_seed": 3, "workers": 0, "transforms": transforms},
    }
    return ImageFiles(ImageFolder(str(folder), 1), **{**arguments, **changes})


def seen(data: ImageFiles, epoch: int = 0) -> Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([x for x, _ in loader])


def test_each_image_is_changed_in_its_own_way() -> None:
    images = photographs()
    result = Torchvision(v2.RandomInvert(0.5))(images, rng())
    inverted = [torch.equal(x, 255 - y) for x, y in zip(result, images, strict=True)]
    kept = [torch.equal(x, y) for x, y in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(inverted, kept, strict=True))
    assert 7 <= sum(inverted) <= 33  # of 40: within four standard deviations of 3.2


def test_the_numbers_of_the_image_decide_and_nobody_elses_are_touched() -> None:
    jitter = Torchvision(v2.ColorJitter(brightness=0.5))
    state = torch.get_rng_state()
    first = jitter(photographs(), rng(1))
    torch.rand(3)
    assert torch.equal(first, jitter(photographs(), rng(1)))
    assert not torch.equal(first, jitter(photographs(), rng(2)))
    torch.set_rng_state(state)
    Torchvision(v2.RandomInvert())(photographs(), rng())
    assert torch.equal(state, torch.get_rng_state())


def test_a_module_may_stand_among_the_transforms_itself(folder: Path) -> None:
    first, crop, last = named(
        {
            "invert": v2.RandomInvert(),
            "nothing": None,
            "crop": PadCrop(8, 8),
            "grey": v2.Grayscale(),
        }
    )
    assert isinstance(first, Torchvision)
    assert isinstance(last, Torchvision)
    assert (first.key, crop.key) == ("data.transforms.invert", "data.transforms.crop")
    data = image_files(folder, {"invert": v2.RandomInvert(p=1.0)})
    levels = 255 - photographs().sum((1, 2, 3)).float() / 192
    means = seen(data).mean((1, 2, 3)) * 255
    assert torch.allclose(means.sort().values, levels.sort().values, atol=1e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_are_the_same_for_any_number_of_workers(folder: Path, workers: int) -> None:
    transforms = {"augment": v2.TrivialAugmentWide(), "crop": v2.RandomCrop(8, padding=2)}
    state = torch.get_rng_state()
    alone = seen(image_files(folder, transforms), 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(alone, seen(image_files(folder, transforms, workers=workers), 2))
    assert torch.equal(alone, seen(image_files(folder, transforms, on_device=True), 2))
    assert not torch.equal(alone, seen(image_files(folder, transforms), 3))


@pytest.mark.parametrize(
    ("transform", "parts"),
    [
        (v2.RandomHorizontalFlip(0.1), ("training",)),
        (v2.ColorJitter(hue=0.1), ("training",)),
        (v2.RandomCrop(1000), ("training",)),  # too large to be tried
        (v2.Compose([v2.Resize(9), v2.RandomAutocontrast()]), ("training",)),
        (v2.Resize((4, 4)), ALL),
        (v2.ToDtype(torch.float32, scale=True), ALL),
        (v2.Normalize([0.5], [0.5]), ALL),  # takes floats alone
        (nn.Identity(), ALL),
    ],
)
def test_what_draws_is_for_training_images_unless_it_is_said(
    transform: nn.Module, parts: tuple[str, ...]
) -> None:
    assert Torchvision(transform).apply_to == parts
    assert Torchvision(transform).random == (parts != ALL)
    assert Torchvision(transform, apply_to=["test"]).apply_to == ("test",)


def test_what_does_not_draw_is_done_once_to_images_in_memory() -> None:
    class Noted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            shapes.append(tuple(images.shape))
            return 255 - images

    class Source:
        class_names, channels = ("a",), 3

        def training_set(self) -> LabelledImages:
            return LabelledImages(photographs(), torch.zeros(40, dtype=torch.int64))

        test_set = training_set

    shapes: list[tuple[int, ...]] = []
    transforms = {"invert": Noted()}
    data = ImageData(Source(), (8, 8), 10, 10, 0, 0, 0, 0, False, transforms=transforms)
    data.setup("fit")
    before = len(shapes)
    batches = list(data.train_dataloader())
    assert len(shapes) == before
    assert (40, 3, 8, 8) in shapes
    total = sum(int((x * 255).round().sum()) for x, _ in batches)
    assert total == int((255 - photographs().int()).sum())


def test_channels_of_the_result_are_found_out() -> None:
    assert Torchvision(v2.Grayscale()).channels(3) == 1
    assert Torchvision(v2.Grayscale(num_output_channels=3)).channels(1) == 3
    assert Torchvision(v2.RandomCrop(1000)).channels(1) == 1


def test_what_it_cannot_do_is_reported_with_its_key(folder: Path) -> None:
    data = image_files(folder, {"cut": v2.RandomCrop(30)})
    with pytest.raises(ConfigError, match=r"00\.png: data\.transforms\.cut: RandomCrop: .*size"):
        data.train_dataloader().batches._transformed("00.png", torch.zeros(1, 3, 8, 8), 0, 0)
    (five,) = named({"five": v2.FiveCrop(4)})
    with pytest.raises(
        ConfigError, match=r"transforms\.five: FiveCrop returns a tuple for an image, not a tensor"
    ):
        five(photographs(2), rng())
    with pytest.raises(
        ConfigError, match=r"Torchvision\.transform=flip is wrong\. Accepted: a mapping"
    ):
        Torchvision("flip")  # type: ignore[arg-type]


def test_a_transform_must_be_one() -> None:
    expected = r"data\.transforms\.x=.* is wrong\. .*torchvision\.transforms\.v2"
    wrong: dict[str, Any] = {"x": Transform}
    with pytest.raises(ConfigError, match=expected):
        named(wrong)
