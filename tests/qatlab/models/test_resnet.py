"""Residual networks against the published ones, and their names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from qatlab.errors import ConfigError
from qatlab.models import ResNet, SmallResNet
from qatlab.models.starts import first_ones


def take_in_order(model: nn.Module, other: nn.Module) -> None:
    """Copy parameters and statistics of ``other``, which holds the same ones in the same order."""
    values = list(other.state_dict().values())
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, values, strict=True)))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_a_resnet_computes_what_torchvisions_does(depth: int) -> None:
    torch.manual_seed(0)
    other = get_model(f"resnet{depth}", num_classes=7).eval()
    model = ResNet(7, 3, depth).eval()
    take_in_order(model, other)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@pytest.mark.parametrize(("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_a_resnet_for_imagenet_has_the_published_parameters(depth: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet(1000, 3, depth).parameters()) == count


@pytest.mark.parametrize(
    # He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
    ("depth", "millions"),
    [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)],
)
def test_a_small_resnet_has_the_published_parameters(depth: int, millions: float) -> None:
    count = sum(p.numel() for p in SmallResNet(10, 3, depth).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if depth == 110 else 0.005)


def test_the_layers_of_a_small_resnet_are_as_many_as_its_depth() -> None:
    layers = [m for m in SmallResNet(10, 3, 32).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 32  # shortcuts have none


def test_a_shortcut_without_parameters_strides_and_adds_channels_of_zeros() -> None:
    shortcut = SmallResNet(10, 3, 20).stages[1][0].shortcut  # type: ignore[index, union-attr]
    x = torch.randn(2, 16, 8, 8)
    y = shortcut(x)  # type: ignore[operator]
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert y.shape == (2, 32, 4, 4)
    assert not y[:, 16:].any()


@pytest.mark.parametrize(("halvings", "size"), [(5, 2), (4, 4), (3, 8)])
def test_the_first_halvings_of_a_resnet_can_be_left_out(halvings: int, size: int) -> None:
    model = ResNet(10, 3, 18, width=8, halvings=halvings)
    shapes = []
    model.pool.register_forward_hook(lambda m, args, out: shapes.append(args[0].shape))
    model(torch.zeros(2, 3, 64, 64))
    assert shapes == [(2, 64, size, size)]
    assert model.stem.kernel_size == ((7, 7) if halvings == 5 else (3, 3))


def test_strides_become_1_from_the_front() -> None:
    assert first_ones([2, 1, 2, 2], 3) == [2, 1, 2, 2]
    assert first_ones([2, 1, 2, 2], 2) == [1, 1, 2, 2]
    assert first_ones([2, 1, 2, 2], 1) == [1, 1, 1, 2]
    assert first_ones([2, 1, 2, 2], 0) == [1, 1, 1, 1]


def test_names_are_made_for_globs() -> None:
    names = dict(ResNet(10, 3, 18).named_modules())
    assert {"stem", "stages.0.0.conv1", "stages.3.1.conv2", "classifier"} <= names.keys()
    assert isinstance(names["stages.1.0.shortcut.conv"], nn.Conv2d)
    assert isinstance(names["stages.1.1.shortcut"], nn.Identity)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            partial(ResNet, 10, 3, 20),
            r"model\.depth=20 .* 18, 34, 50. model=resnet20 has depths 20, 32",
        ),
        (partial(SmallResNet, 10, 3, 18), r"model\.depth=18 is wrong. Accepted: 6 n \+ 2"),
        (partial(SmallResNet, 10, 3, 2), r"model\.depth=2 is wrong"),
        (partial(ResNet, 10, 3, 18, width=0), r"model\.width=0 is wrong"),
        (partial(SmallResNet, 10, 3, 20, width=1.5), r"model\.width=1\.5 is wrong"),
        (partial(ResNet, 10, 3, 18, halvings=6), r"model\.halvings=6 .* from 0 to 5"),
        (partial(ResNet, 10, 3, 18, halvings=True), r"model\.halvings=true is wrong"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
