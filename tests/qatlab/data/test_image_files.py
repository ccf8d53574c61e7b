from __future__ import annotations

import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qatlab.data import FileLoader, ImageFiles, ImageFolder, resize_bilinear
from qatlab.data.decode import read_image
from qatlab.data.transforms import (
    ChannelExtraction,
    ColorSpace,
    Flip,
    PadCrop,
    RandomResizeCrop,
    RangeAffine,
    Rescale,
    SliceExtraction,
    Transform,
)
from qatlab.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 colour images of two classes and of many sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(40):
        file = folder / ("bright", "dark")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        size = 10 + number % 7, 11 + number % 5, 3
        pixels = rng.integers(0, 128, size, dtype=np.uint8) + 127 * (number % 2 == 0)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def image_files(folder: Path, **changes: Any) -> ImageFiles:
    arguments: dict[str, Any] = {
        "image_size": (8, 6),
        "batch_size": 8,
        "eval_batch_size": 5,
        "split": "random",
        "split_seed": 0,
        "shuffle_seed": 3,
        "workers": 0,
        "transforms": None,
    }
    source = changes.pop("source", None) or ImageFolder(str(folder), 0.5, 0.25)
    return ImageFiles(source, **{**arguments, **changes})


def random_ones() -> dict[str, Transform]:
    return {
        "part": RandomResizeCrop(6, 8, (0.3, 1.0), (0.7, 1.4), apply_to=["training"]),
        "flip": Flip(random_horizontal=True, apply_to=["training"]),
        "rescale": Rescale(9, 9, apply_to=["validation", "test"]),
        "crop": PadCrop(6, 8, apply_to=["validation", "test"]),
        "bgr": ColorSpace("bgr"),
        "range": RangeAffine("minus", [1, 2, 3], "divides", 100),
    }


def content(loader: Any, epoch: int = 0) -> tuple[Tensor, Tensor]:
    assert isinstance(loader, FileLoader)
    loader.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_parts_have_their_sizes_and_batches(folder: Path) -> None:
    data = image_files(folder)
    data.setup("fit")
    data.setup("test")
    assert (data.num_classes, data.class_names, data.in_channels) == (2, ("bright", "dark"), 3)
    assert data.validation == 10
    assert data.example_input().shape == (1, 3, 8, 6)
    assert [len(y) for _, y in data.train_dataloader()] == [8, 8, 4]
    assert [len(y) for _, y in data.val_dataloader()] == [5, 5]
    assert [len(y) for _, y in data.test_dataloader()] == [5, 5]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (8, 3, 8, 6)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_without_transforms_images_are_resized_as_opencv_does(folder: Path) -> None:
    data = image_files(folder, split="in_order")
    x, y = content(data.test_dataloader())
    assert y.tolist() == [0] * 5 + [1] * 5  # sorted by name, the last quarter of each class
    first = read_image(folder / "bright" / "30.png", 3)
    assert torch.equal(x[0], resize_bilinear(first[None], (8, 6))[0].float() * np.float32(1 / 255))


def test_labels_belong_to_their_images(folder: Path) -> None:
    data = image_files(folder)
    orders = []
    for epoch in (0, 1):
        x, y = content(data.train_dataloader(), epoch)
        assert torch.equal(x.mean(dim=(1, 2, 3)) < 0.5, y == 1)
        assert y.bincount().tolist() == [10, 10]
        orders.append(y.tolist())
    assert len({str(order) for order in [*orders, sorted(orders[0])]}) == 3  # shuffled anew


def test_each_image_goes_through_the_transforms_of_its_part(folder: Path) -> None:
    data = image_files(folder, transforms=random_ones())
    x, _ = content(data.test_dataloader())
    file = data.source.files("test", "random", 0).file(0)
    resized = resize_bilinear(read_image(file, 3)[None], (9, 9))[0, :, :8, 1:7].flip(0)
    assert torch.allclose(x[0], (resized - torch.tensor([1, 2, 3]).view(3, 1, 1)) / 100)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(folder: Path, workers: int) -> None:
    alone = image_files(folder, transforms=random_ones())
    shared = image_files(folder, transforms=random_ones(), workers=workers)
    x, y = content(alone.train_dataloader(), epoch=2)
    x_shared, y_shared = content(shared.train_dataloader(), epoch=2)
    assert torch.equal(x, x_shared)
    assert torch.equal(y, y_shared)


def test_batches_are_a_function_of_seed_and_epoch(folder: Path) -> None:
    def seen(epoch: int, seed: int = 3) -> Tensor:
        data = image_files(folder, transforms=random_ones(), shuffle_seed=seed)
        return content(data.train_dataloader(), epoch)[0]

    state = torch.get_rng_state()
    first = seen(1)
    assert torch.equal(torch.get_rng_state(), state)  # dropout sees the same numbers as without
    assert torch.equal(first, seen(1))
    assert not torch.equal(first, seen(2))
    assert not torch.equal(first, seen(1, seed=4))


def test_images_do_not_depend_on_the_size_of_batches(folder: Path) -> None:
    few, many = (
        content(image_files(folder, transforms=random_ones(), batch_size=n).train_dataloader())
        for n in (3, 20)
    )
    assert torch.equal(few[0], many[0])


def test_equal_images_are_changed_in_different_ways(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    for number in range(10):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    crop = SliceExtraction(6, 8, random_offset_x=True, random_offset_y=True)
    data = image_files(
        tmp_path, source=ImageFolder(str(tmp_path), 1), transforms={"crop": crop}, batch_size=4
    )
    x = torch.cat([content(data.train_dataloader(), epoch)[0] for epoch in (0, 1)])
    assert len(x.unique(dim=0)) == 20


def test_a_state_leads_back_into_the_epoch(folder: Path) -> None:
    data = image_files(folder, transforms=random_ones())
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    whole = list(loader)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {
        "epoch": 1,
        "batches": 1,
        "training_images": 20,
        "batch_size": 8,
        "shuffle_seed": 3,
    }
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed)
    assert len(rest) == 2
    for (x, y), (x_whole, y_whole) in zip(rest, whole[1:], strict=True):
        assert torch.equal(x, x_whole)
        assert torch.equal(y, y_whole)
    other = image_files(folder, batch_size=9).train_dataloader()
    with pytest.raises(ConfigError, match=r"data\.batch_size is 9"):
        other.load_state_dict(loader.state_dict())


def test_grey_images_are_decoded_as_such(folder: Path) -> None:
    source = ImageFolder(str(folder), 1, channels=1)
    data = image_files(folder, source=source)
    assert data.in_channels == 1
    assert next(iter(data.train_dataloader()))[0].shape == (8, 1, 8, 6)
    assert image_files(folder, transforms={"grey": ChannelExtraction("gray")}).in_channels == 1
    with pytest.raises(ConfigError, match=r"data\.transforms\.hsv .* 3 channels, not of 1"):
        image_files(folder, source=source, transforms={"hsv": ColorSpace("hsv")})


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_reported_in_a_sentence(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_text("nothing")
    data = image_files(tmp_path, source=ImageFolder(str(tmp_path), 1), workers=workers)
    with pytest.raises(
        DataError,
        match=r"^/\S*broken\.png is not an image, or has an unknown format.*"
        r" data\.bad_images=skip leaves out up to 5% of them\.$",
    ):
        next(iter(data.train_dataloader()))


def test_what_a_transform_cannot_do_is_reported_with_the_file(folder: Path) -> None:
    data = image_files(folder, transforms={"slice": SliceExtraction(6, 30)})
    expected = r"\.png: data\.transforms\.slice wants 30x6 pixels .* of an image of"
    with pytest.raises(DataError, match=expected):
        next(iter(data.train_dataloader()))
    data = image_files(folder, transforms={"scale": Rescale(6, 8, keep_aspect_ratio=True)})
    expected = r"data\.image_size is \[8, 6\], but data\.transforms makes of /\S*\.png an image"
    with pytest.raises(ConfigError, match=expected):
        next(iter(data.train_dataloader()))


def test_a_part_without_images_is_reported_unless_it_is_validation(folder: Path) -> None:
    data = image_files(folder, source=ImageFolder(str(folder), 1, test=0))
    data.setup("fit")
    assert data.validation == 0
    assert data.val_dataloader() == []
    with pytest.raises(DataError, match=r"data\.source has no test images in"):
        data.setup("test")


def test_processes_share_the_batches_that_they_make_together(folder: Path) -> None:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    parts = []
    for rank in range(2):
        data = image_files(folder, batch_size=4, transforms=random_ones())
        trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)
        data.trainer = trainer  # type: ignore[assignment]
        data.setup("fit")
        parts.append(list(data.train_dataloader()))
    alone = image_files(folder, batch_size=8, transforms=random_ones())
    whole = list(alone.train_dataloader())
    assert [len(y) for _, y in whole] == [8, 8, 4]
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *parts, strict=True):
        assert torch.equal(x, torch.cat([x0, x1]))  # drawn for each image by its place
        assert torch.equal(y, torch.cat([y0, y1]))


@pytest.mark.parametrize(
    ("key", "value"), [("workers", -1), ("batch_size", 0), ("image_size", [3]), ("split_seed", -1)]
)
def test_an_impossible_value_is_refused_with_its_key(folder: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}=.* is wrong\. Accepted: "):
        image_files(folder, **{key: value})
    with pytest.raises(ConfigError, match=r"data\.split=ordered is wrong"):
        image_files(folder, split="ordered")


def test_photographs_are_learned_from(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "cifar10_jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip("CIFAR-10 as JPEG files is not there (../shared/data/cifar10_jpeg.tar.xz)")
    with tarfile.open(archive) as files:
        taken = 0
        for member in files:  # the archive is long: only its beginning is read
            if member.isfile() and taken < 300:
                files.extract(member, tmp_path, filter="data")
                taken += 1
            if taken == 300:
                break
    folder = next(path.parent.parent for path in tmp_path.rglob("*.jpg"))
    source = ImageFolder(str(folder), 0.8, 0.1, per_label=False)
    transforms: dict[str, Transform] = {
        "rescale": Rescale(36, 36),
        "crop": SliceExtraction(32, 32, random_offset_x=True, apply_to=["training"]),
        "middle": PadCrop(32, 32, apply_to=["validation", "test"]),
    }
    data = image_files(folder, source=source, image_size=(32, 32), transforms=transforms)
    data.setup("fit")
    assert len(data.train_dataloader().batches.files.labels) == 240
    x, y = content(data.train_dataloader())
    assert x.shape == (240, 3, 32, 32)
    assert 0 <= x.min() < 0.1
    assert 0.9 < x.max() <= 1
    assert 0.35 < x.mean() < 0.6  # 0.47 over all of CIFAR-10
    assert y.max() < data.num_classes
