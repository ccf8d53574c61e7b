"""GoogLeNet against the published one, and its names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import googlenet
from torchvision.models.googlenet import BasicConv2d

from qatlab.errors import ConfigError
from qatlab.models import GoogLeNet


def as_in_the_paper() -> nn.Module:
    """Torchvision's network, whose 5x5 convolutions are 3x3 and whose last pooling is 2x2."""
    other = googlenet(num_classes=7, aux_logits=False, init_weights=False).eval()
    for name, module in other.named_children():
        if name.startswith("inception"):
            reduced, wide = module.branch3[1].conv.in_channels, module.branch3[1].conv.out_channels
            module.branch3[1] = BasicConv2d(reduced, wide, kernel_size=5, padding=2)
    other.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
            nn.init.normal_(module.running_mean)
    return other.eval()


@pytest.mark.parametrize("size", [64, 97])
def test_a_googlenet_computes_what_torchvisions_does_but_for_what_is_not_the_papers(
    size: int,
) -> None:
    torch.manual_seed(0)
    other, model = as_in_the_paper(), GoogLeNet(7, 3).eval()
    values = list(other.state_dict().values())
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@pytest.mark.parametrize(
    # Szegedy et al. 2014, table 1, column "params", in units of 1024. Those of 4c and 5a do not
    # agree with the channels in the same table.
    ("name", "thousands"),
    [
        *(("3a", 159), ("3b", 380), ("4a", 364), ("4b", 437), ("4d", 580)),
        *(("4e", 840), ("5b", 1388)),
    ],
)
def test_its_modules_have_the_published_weights(name: str, thousands: int) -> None:
    with torch.device("meta"):
        module = GoogLeNet(1000, 3).get_submodule(f"inception{name}")
    weights = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    assert weights / 1024 == pytest.approx(thousands, rel=0.02)


def test_names_are_made_for_globs() -> None:
    names = dict(GoogLeNet(10, 3).named_modules())
    assert {"stem1", "stem3", "inception3a.conv1", "inception5b.project"} <= names.keys()
    assert names["inception4c.conv5"].kernel_size == (5, 5)
    layers = [n for n, m in names.items() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 3 + 9 * 6 + 1
    assert layers[-1] == "classifier"
    assert sum(isinstance(m, nn.ReLU) for m in names.values()) == 3 + 9 * 6


@pytest.mark.parametrize(("halvings", "size"), [(5, 2), (3, 8), (2, 16)])
def test_the_first_halvings_can_be_left_out(halvings: int, size: int) -> None:
    model = GoogLeNet(10, 1, halvings=halvings).eval()
    shapes = []
    model.pool.register_forward_hook(lambda m, args, out: shapes.append(args[0].shape))
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 10)
    assert shapes == [(1, 1024, size, size)]
    assert model.stem1.kernel_size == ((7, 7) if halvings == 5 else (3, 3))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            partial(GoogLeNet, 10, 3, dropout=1.5),
            r"model\.dropout=1\.5 is wrong\. Accepted: a probability",
        ),
        (partial(GoogLeNet, 10, 3, halvings=-1), r"model\.halvings=-1 .* from 0 to 5"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
