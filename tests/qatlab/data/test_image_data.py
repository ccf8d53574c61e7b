from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qatlab.data import BatchLoader, ImageData, LabelledImages, resize_bilinear
from qatlab.errors import ConfigError, DataError


class Numbered:
    """Image n of 100 is all n, its label n % 2; counts how often each part is read."""

    class_names = ("even", "odd")
    channels = 1

    def __init__(self) -> None:
        self.reads: list[str] = []

    def training_set(self) -> LabelledImages:
        self.reads.append("training")
        return self.numbered(100)

    def test_set(self) -> LabelledImages:
        self.reads.append("test")
        return self.numbered(30)

    def numbered(self, n_images: int) -> LabelledImages:
        numbers = torch.arange(n_images)
        images = numbers.byte().view(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous()
        return LabelledImages(images, numbers % 2)


def image_data(source: Any = None, **changes: Any) -> ImageData:
    arguments: dict[str, Any] = {
        "image_size": [6, 6],
        "batch_size": 16,
        "eval_batch_size": 25,
        "validation": 20,
        "split_seed": 0,
        "shuffle_seed": 0,
        "random_shift": 0,
        "random_flip": False,
    }
    return ImageData(Numbered() if source is None else source, **{**arguments, **changes})


def shown(x: torch.Tensor) -> list[int]:
    """Return which images these are."""
    result: list[int] = (x[:, 0, 0, 0] * 255).round().int().tolist()
    return result


def numbers(loader: Any) -> list[int]:
    """Return which images a loader yields, in its order."""
    assert isinstance(loader, BatchLoader)
    return [int(n) for x, _ in loader for n in x[:, 0, 0, 0].mul(255).round()]


def ready(stage: str = "fit", **changes: Any) -> ImageData:
    data = image_data(**changes)
    data.setup(stage)
    return data


def test_what_a_model_needs_is_known_before_anything_is_read() -> None:
    source = Numbered()
    data = image_data(source, image_size=[8, 10])
    assert (data.num_classes, data.in_channels, data.image_size) == (2, 1, (8, 10))
    assert data.class_names == ("even", "odd")
    assert data.example_input().shape == (1, 1, 8, 10)
    assert data.example_input().dtype == torch.float32
    assert source.reads == []


def test_each_part_is_read_once_and_the_test_set_only_for_testing() -> None:
    source = Numbered()
    data = image_data(source)
    for stage in ("fit", "validate", "fit"):
        data.setup(stage)
    assert source.reads == ["training"]
    for _ in range(2):
        data.setup("test")
    assert source.reads == ["training", "test"]


def test_validation_images_are_held_out_of_the_training_images() -> None:
    data = ready()
    training, validation = numbers(data.train_dataloader()), numbers(data.val_dataloader())
    assert (len(training), len(validation)) == (80, 20)
    assert sorted(training + validation) == list(range(100))


def test_the_split_depends_on_its_own_seed_only() -> None:
    held_out = numbers(ready().val_dataloader())
    assert numbers(ready(shuffle_seed=1).val_dataloader()) == held_out
    assert numbers(ready(split_seed=1).val_dataloader()) != held_out


def test_without_validation_every_image_is_trained_on() -> None:
    data = ready(validation=0)
    assert data.val_dataloader() == []
    assert sorted(numbers(data.train_dataloader())) == list(range(100))


def test_training_images_are_shuffled_and_test_images_are_not() -> None:
    data = ready(validation=0)
    assert numbers(data.train_dataloader()) != list(range(100))
    data.setup("test")
    assert numbers(data.test_dataloader()) == list(range(30))


def test_batch_sizes_are_as_asked_and_partial_batches_are_kept() -> None:
    data = ready(validation=30)
    data.setup("test")
    assert [len(y) for _, y in data.train_dataloader()] == [16, 16, 16, 16, 6]
    assert [len(y) for _, y in data.val_dataloader()] == [25, 5]
    assert [len(y) for _, y in data.test_dataloader()] == [25, 5]


def test_shift_and_flip_change_training_images_only() -> None:
    data = ready(random_shift=2, random_flip=True, shuffle_seed=3)
    data.setup("test")
    training = data.train_dataloader()
    assert (training.random_shift, training.random_flip, training.sampler.seed) == (2, True, 3)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert isinstance(loader, BatchLoader)
        assert (loader.random_shift, loader.random_flip) == (0, False)


def test_images_of_another_size_are_resized_as_opencv_does(mnist_test: LabelledImages) -> None:
    source = Numbered()
    few = LabelledImages(mnist_test.images[:50], mnist_test.labels[:50] % 2)
    source.test_set = lambda: few  # type: ignore[method-assign]
    data = image_data(source, image_size=(32, 30), eval_batch_size=50)
    data.setup("test")
    assert torch.equal(data.test_dataloader().images, resize_bilinear(few.images, (32, 30)))


def test_images_are_moved_once_to_the_device_of_the_trainer() -> None:
    data = image_data()
    strategy = SimpleNamespace(root_device=torch.device("meta"))  # a device every machine has
    trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy)
    data.trainer = trainer  # type: ignore[assignment]
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.images.device.type == loader.labels.device.type == "meta"
    data.setup("fit")
    assert data.train_dataloader().images is loader.images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu() -> None:
    data = ready(random_shift=2, random_flip=True)
    on_cpu = data.train_dataloader()
    on_gpu = BatchLoader(
        on_cpu.images.cuda(), on_cpu.labels.cuda(), 16, True, random_shift=2, random_flip=True
    )
    for (x, y), (x_gpu, y_gpu) in zip(on_cpu, on_gpu, strict=True):
        assert x_gpu.is_cuda
        assert torch.equal(x, x_gpu.cpu())
        assert torch.equal(y, y_gpu.cpu())


def test_processes_share_the_batches_that_they_make_together() -> None:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    parts = []  # of each process, its batches of training and of validation
    for rank in range(3):
        data = image_data(batch_size=8, eval_batch_size=4, validation=20)
        trainer = SimpleNamespace(world_size=3, global_rank=rank, strategy=strategy)
        data.trainer = trainer  # type: ignore[assignment]
        data.setup("fit")
        loaders: list[Any] = [data.train_dataloader(), data.val_dataloader()]
        parts.append([[shown(x) for x, _ in loader] for loader in loaders])
        assert [len(loader) for loader in loaders] == [len(part) for part in parts[-1]]
    alone = image_data(batch_size=24, eval_batch_size=12, validation=20)
    alone.setup("fit")
    whole = [shown(x) for x, _ in alone.train_dataloader()]
    assert [len(batch) for batch in whole] == [24, 24, 24, 8]
    together = [[*a, *b, *c] for a, b, c in zip(*(training for training, _ in parts), strict=True)]
    assert together == [*whole[:3], whole[3][:6]]  # two images of each; two are left out
    seen = [number for _, validation in parts for batch in validation for number in batch]
    held_out = numbers(alone.val_dataloader())
    assert sorted(seen) == sorted(held_out)  # each image once


def test_asking_for_batches_before_setup_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"setup\('test'\)"):
        image_data().test_dataloader()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", [32]),
        ("image_size", [32, 0]),
        ("image_size", [32.0, 32]),
        ("image_size", 32),
        ("batch_size", 0),
        ("batch_size", 12.5),
        ("batch_size", True),
        ("eval_batch_size", -1),
        ("validation", -5),
        ("split_seed", -1),
        ("shuffle_seed", None),
        ("random_shift", -1),
        ("random_shift", 6),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}=.* is wrong\. Accepted: "):
        image_data(**{key: value})


@pytest.mark.parametrize("validation", [100, 101])
def test_a_validation_set_that_leaves_nothing_to_train_on_is_refused(validation: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"data\.validation={validation} is wrong\. .* below 100"
    ):
        ready(validation=validation)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (torch.zeros(2, 6, 6).byte(), torch.zeros(2).long(), r"shape \(2, 6, 6\)"),
        (torch.zeros(2, 3, 6, 6).byte(), torch.zeros(2).long(), r"\(N, 1, H, W\)"),
        (torch.zeros(2, 1, 6, 6), torch.zeros(2).long(), r"torch\.float32 images"),
        (torch.zeros(2, 1, 6, 6).byte(), torch.zeros(3).long(), "2 images and 3 labels"),
        (torch.zeros(0, 1, 6, 6).byte(), torch.zeros(0).long(), "at least one image"),
        (torch.zeros(2, 1, 6, 6).byte(), torch.tensor([0, 2]), "labels from 0 to 2; .* 0 to 1"),
    ],
)
def test_a_source_that_gives_something_else_is_refused(
    images: torch.Tensor, labels: torch.Tensor, expected: str
) -> None:
    source = Numbered()
    source.test_set = lambda: LabelledImages(images, labels)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=expected):
        image_data(source).setup("test")
