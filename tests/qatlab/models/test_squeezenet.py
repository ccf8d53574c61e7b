"""SqueezeNet against the published ones, and its names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from qatlab.errors import ConfigError
from qatlab.models import SqueezeNet

VERSIONS = pytest.mark.parametrize("version", [1.0, 1.1])


@VERSIONS
@pytest.mark.parametrize("size", [64, 97])
def test_a_squeezenet_computes_what_torchvisions_does(version: float, size: int) -> None:
    torch.manual_seed(0)
    other = get_model(f"squeezenet{str(version).replace('.', '_')}", num_classes=7).eval()
    model = SqueezeNet(7, 3, version).eval()
    values = list(other.state_dict().values())
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@VERSIONS
def test_it_has_fifty_times_fewer_parameters_than_alexnet(version: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in SqueezeNet(1000, 3, version).parameters())
        alexnet = sum(p.numel() for p in get_model("alexnet").parameters())
    assert count == {1.0: 1_248_424, 1.1: 1_235_496}[version]
    assert round(alexnet / count) >= 49  # the paper's title; its AlexNet has groups


@VERSIONS
def test_names_are_made_for_globs(version: float) -> None:
    names = dict(SqueezeNet(10, 3, version).named_modules())
    assert {f"fires.{i}.squeeze" for i in range(2, 10)} <= names.keys()
    assert {"stem", "fires.2.expand1", "fires.9.expand3", "classifier"} <= names.keys()
    relus = [name for name, module in names.items() if isinstance(module, nn.ReLU)]
    assert len(relus) == 1 + 3 * 8 + 1


def test_batch_norms_take_the_place_of_biases() -> None:
    model = SqueezeNet(10, 3, batch_norm=True)
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 * 8
    biases = [name for name, m in model.named_modules() if getattr(m, "bias", None) is not None]
    assert sorted(biases) == sorted([*norms, "classifier"])
    seen = []
    for name in norms:
        model.get_submodule(name).register_forward_hook(lambda m, *_: seen.append(m))
    model(torch.zeros(2, 3, 64, 64))
    assert len(seen) == len(norms)


@pytest.mark.parametrize(
    ("version", "halvings", "size"),
    [(1.0, 4, 3), (1.1, 4, 3), (1.0, 2, 14), (1.1, 2, 15), (1.0, 0, 58), (1.1, 0, 62)],
)
def test_the_first_halvings_can_be_left_out(version: float, halvings: int, size: int) -> None:
    model = SqueezeNet(10, 1, version, halvings=halvings).eval()
    shapes = []
    model.classifier.register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[-1]))
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 10)
    assert shapes == [size]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(SqueezeNet, 10, 3, 1.2), r"model\.version=1\.2 is wrong. Accepted: 1\.0, 1\.1"),
        (
            partial(SqueezeNet, 10, 3, dropout=1),
            r"model\.dropout=1 is wrong\. Accepted: a probability",
        ),
        (partial(SqueezeNet, 10, 3, halvings=5), r"model\.halvings=5 .* from 0 to 4"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
