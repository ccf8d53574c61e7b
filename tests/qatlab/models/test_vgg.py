"""VGG against the published ones, and its names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from qatlab.errors import ConfigError
from qatlab.models import VGG

small = partial(VGG, 7, 3, hidden=16, pooled=2)


@pytest.mark.parametrize("depth", [11, 16])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_vgg_computes_what_torchvisions_does(depth: int, batch_norm: bool) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):  # torchvision's first fully-connected layer has 103 million weights
        other = get_model(f"vgg{depth}{'_bn' * batch_norm}")
    other.avgpool = nn.AdaptiveAvgPool2d(2)
    other.classifier[0] = nn.Linear(512 * 2 * 2, 16)
    other.classifier[3] = nn.Linear(16, 16)
    other.classifier[6] = nn.Linear(16, 7)
    other.features.to_empty(device="cpu")
    for module in other.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias)
            if batch_norm:  # which would take it out again
                module.bias = None
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.normal_(module.running_mean)
    model = small(depth=depth, batch_norm=batch_norm).eval()
    values = list(other.state_dict().values())
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), other.eval()(images))


@pytest.mark.parametrize(
    # Simonyan and Zisserman 2014, table 2: 133, 133, 138 and 144 million parameters.
    ("depth", "millions"),
    [(11, 133), (13, 133), (16, 138), (19, 144)],
)
def test_a_vgg_has_the_published_parameters(depth: int, millions: int) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in VGG(1000, 3, depth, batch_norm=False).parameters())
        assert count == sum(p.numel() for p in get_model(f"vgg{depth}").parameters())
    assert round(count / 1e6) == millions


def test_layers_with_weights_are_as_many_as_the_depth_and_have_names_for_globs() -> None:
    model = small(depth=16)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 16
    assert layers[:3] == ["stages.0.conv1", "stages.0.conv2", "stages.1.conv1"]
    assert layers[-4:] == ["stages.4.conv3", "fc1", "fc2", "classifier"]
    names = dict(model.named_modules())
    assert isinstance(names["stages.4.bn3"], nn.BatchNorm2d)
    assert isinstance(names["stages.4.relu3"], nn.ReLU)


@pytest.mark.parametrize(("halvings", "size"), [(5, 2), (3, 8), (0, 64)])
def test_the_first_halvings_can_be_left_out(halvings: int, size: int) -> None:
    model = small(depth=11, halvings=halvings)
    assert model.stages(torch.zeros(1, 3, 64, 64)).shape == (1, 512, size, size)
    assert isinstance(model.stages[4].pool, nn.MaxPool2d) == (halvings > 0)  # type: ignore[union-attr]


def test_an_image_of_32x32_needs_no_larger_map_than_one_pixel() -> None:
    model = VGG(10, 1, 11, hidden=16, pooled=1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert model.fc1.in_features == 512


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(VGG, 10, 3, 18), r"model\.depth=18 is wrong. Accepted: 11, 13, 16, 19"),
        (partial(VGG, 10, 3, hidden=0), r"model\.hidden=0 is wrong. Accepted: a whole number"),
        (partial(VGG, 10, 3, pooled=1.5), r"model\.pooled=1\.5 is wrong"),
        (partial(VGG, 10, 3, hidden=True), r"model\.hidden=true is wrong"),
        (
            partial(VGG, 10, 3, dropout=1.0),
            r"model\.dropout=1\.0 is wrong\. Accepted: a probability",
        ),
        (
            partial(VGG, 10, 3, dropout=-0.1),
            r"model\.dropout=-0\.1 is wrong\. Accepted: a probability",
        ),
        (partial(VGG, 10, 3, halvings=6), r"model\.halvings=6 .* from 0 to 5"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
