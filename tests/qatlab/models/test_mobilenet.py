"""MobileNet-V1 and V2 against the published ones, and their names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from qatlab.errors import ConfigError
from qatlab.models import MobileNetV1, MobileNetV2


def test_v2_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    other = mobilenet_v2(num_classes=7, width_mult=0.5).eval()
    model = MobileNetV2(7, 3, width=0.5).eval()
    values = list(other.state_dict().values())
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("width", [1.4, 1.0, 0.75, 0.35, 0.25, 0.1])
def test_v2_has_the_parameters_of_torchvisions_at_each_width(width: float) -> None:
    with torch.device("meta"):
        shapes = [p.shape for p in MobileNetV2(1000, 3, width).parameters()]
        assert shapes == [p.shape for p in mobilenet_v2(width_mult=width).parameters()]


@pytest.mark.parametrize(
    # Howard et al. 2017, table 6: 4.2, 2.6, 1.3 and 0.5 million parameters.
    ("width", "millions"),
    [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)],
)
def test_v1_has_the_published_parameters_at_each_width(width: float, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in MobileNetV1(1000, 3, width).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_v1_has_4209088_weights() -> None:
    with torch.device("meta"):
        model = MobileNetV1(1000, 3)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert weights == 864 + 3_184_224 - 0 + 1_024_000 == 4_209_088  # stem, blocks, classifier
    others = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert others == 2 * 10_944 + 1000  # scale and shift of norms, biases of the classifier


@pytest.mark.parametrize("make", [MobileNetV1, MobileNetV2])
@pytest.mark.parametrize(("halvings", "size"), [(5, 2), (4, 4), (3, 8), (0, 64)])
def test_the_first_halvings_can_be_left_out(
    make: type[MobileNetV1] | type[MobileNetV2], halvings: int, size: int
) -> None:
    model = make(10, 3, width=0.1, halvings=halvings)
    shapes = []
    model.pool.register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[2:]))
    model(torch.zeros(2, 3, 64, 64))
    assert shapes == [(size, size)]


def test_names_are_made_for_globs() -> None:
    v1 = dict(MobileNetV1(10, 3, 0.25).named_modules())
    assert {"stem", "blocks.0.depthwise", "blocks.12.pointwise", "classifier"} <= v1.keys()
    v2 = dict(MobileNetV2(10, 3, 0.25).named_modules())
    assert {"stem", "blocks.1.expand", "blocks.16.project", "head", "classifier"} <= v2.keys()
    assert isinstance(v2["blocks.0.expand"], nn.Identity)  # a factor of 1 expands nothing


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            partial(MobileNetV1, 10, 3, width=0),
            r"model\.width=0 is wrong. Accepted: a number above",
        ),
        (partial(MobileNetV2, 10, 3, width="1.0"), r"model\.width='1\.0' is wrong"),
        (
            partial(MobileNetV2, 10, 3, dropout=1.0),
            r"model\.dropout=1\.0 is wrong\. Accepted: a probability",
        ),
        (partial(MobileNetV1, 10, 3, halvings=-1), r"model\.halvings=-1 .* from 0 to 5"),
    ],
)
def test_wrong_arguments_are_reported(make: partial[nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
