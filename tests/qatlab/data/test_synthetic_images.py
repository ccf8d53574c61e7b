from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qatlab.data import BatchLoader, Synthetic
from qatlab.errors import ConfigError


def synthetic(**changes: Any) -> Synthetic:
    arguments: dict[str, Any] = {
        "training_images": 60,
        "test_images": 20,
        "num_classes": 4,
        "channels": 3,
        "size": (9, 7),
        "noise": 80.0,
        "seed": 0,
    }
    return Synthetic(**{**arguments, **changes})


def test_sizes_and_class_count_are_as_asked() -> None:
    source = synthetic()
    training, test = source.training_set(), source.test_set()
    assert training.images.shape == (60, 3, 9, 7)
    assert test.images.shape == (20, 3, 9, 7)
    assert training.images.dtype == torch.uint8
    assert training.labels.bincount().tolist() == [15] * 4
    assert len(source.class_names) == 4
    assert source.channels == 3


def test_images_are_a_function_of_the_arguments() -> None:
    first, again, other = synthetic(), synthetic(), synthetic(seed=1)
    assert torch.equal(first.training_set().images, again.training_set().images)
    assert torch.equal(first.test_set().labels, again.test_set().labels)
    assert not torch.equal(first.training_set().images, other.training_set().images)


def test_without_noise_an_image_is_the_pattern_of_its_class_in_both_sets() -> None:
    source = synthetic(noise=0.0)
    training, test = source.training_set(), source.test_set()
    for label in range(4):
        pattern = training.images[training.labels == label][:1]
        for part in (training, test):
            images = part.images[part.labels == label]
            assert torch.equal(images, pattern.expand_as(images))


def test_test_images_have_noise_of_their_own() -> None:
    source = synthetic(test_images=60)
    assert not torch.equal(source.training_set().images, source.test_set().images)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training_images", 0),
        ("test_images", 2.5),
        ("num_classes", 1),
        ("channels", 0),
        ("size", (9,)),
        ("noise", -1.0),
        ("noise", float("nan")),
        ("seed", -1),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"data\.source\.{key}=.* is wrong\. Accepted: "):
        synthetic(**{key: value})


def test_a_small_network_learns_it_in_two_epochs() -> None:
    torch.manual_seed(0)
    source = synthetic(
        training_images=3000, test_images=500, num_classes=10, channels=1, size=(16, 16)
    )
    network = nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    loader = BatchLoader(*source.training_set(), batch_size=64, shuffle=True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    x, y = next(iter(BatchLoader(*source.test_set(), batch_size=500)))
    assert (network(x).argmax(1) == y).float().mean() > 0.9
