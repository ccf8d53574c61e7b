"""Learned steps and clip values start from what they quantize, once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods import randn, saved_and_loaded
from torch import Tensor, nn

from qatlab.errors import TrainingError
from qatlab.quant import Phase, SatActivation, start_quantizers


def relu_site(**options: Any) -> SatActivation:
    return SatActivation(nn.ReLU(), **{"bits": 4, "alpha": 6.0, **options})


def test_the_start_keeps_a_trained_alpha_and_replaces_one_that_never_started() -> None:
    trained = relu_site(alpha=6.0)
    start_quantizers(trained, [])
    trained.alpha.data.fill_(2.5)
    resumed = relu_site(alpha=9.0)
    resumed.load_state_dict(saved_and_loaded(trained))
    start_quantizers(resumed, [])
    assert resumed.alpha.item() == 2.5

    clamped = relu_site(alpha=6.0)
    clamped.phase = Phase.CLAMP
    started = relu_site(alpha=9.0)
    started.load_state_dict(saved_and_loaded(clamped))
    assert started.alpha.item() == 6
    start_quantizers(started, [])
    assert started.alpha.item() == 9


def test_no_image_is_drawn_where_every_alpha_has_a_number_or_has_started() -> None:
    def images() -> Any:
        raise AssertionError("drawn")
        yield

    site = relu_site(alpha=4.0)
    start_quantizers(site, images())
    assert site.alpha.item() == 4
    auto = relu_site(alpha="auto")
    start_quantizers(auto, [torch.tensor([3.0])])
    auto.alpha.data.fill_(2.0)
    start_quantizers(auto, images())
    assert auto.alpha.item() == 2


def test_auto_takes_the_percentile_of_each_batch_and_their_mean() -> None:
    site = relu_site(alpha="auto", percentile=90)
    # ReLU leaves 0 ... 9: 90 % of ten values are nine, so 8 is the highest that stays; then 80
    batches = [torch.arange(10.0), torch.arange(10.0) * 10]
    start_quantizers(site, [b[torch.randperm(10)] for b in batches])
    assert site.alpha.item() == (8 + 80) / 2
    assert site.phase is Phase.QUANTIZE


@pytest.mark.parametrize(
    ("percentile", "count", "expected"),
    [
        (99.9, 1000, 999),
        (99.9, 3000, 2997),
        (100, 1000, 1000),
        (50, 5, 3),
        (0.001, 10, 1),
        (99.9, 10, 10),
    ],
)
def test_the_percentile_is_the_smallest_value_that_leaves_its_share_unclipped(
    percentile: float, count: int, expected: int
) -> None:
    site = relu_site(alpha="auto", percentile=percentile)
    start_quantizers(site, [torch.arange(1.0, count + 1)])
    assert site.alpha.item() == expected


def test_auto_looks_at_what_the_activation_function_lets_through() -> None:
    site = relu_site(alpha="auto", percentile=100)
    start_quantizers(site, [torch.tensor([-8.0, 3.0])])
    assert site.alpha.item() == 3
    signed = SatActivation(nn.Identity(), bits=4, percentile=100, signed=True)
    start_quantizers(signed, [torch.tensor([-8.0, 3.0])])
    assert signed.alpha.item() == 8


@pytest.mark.parametrize("images", [[], [torch.tensor([-1.0, -2.0])], [torch.tensor([math.nan])]])
def test_auto_without_anything_above_zero_is_an_error(images: list[Tensor]) -> None:
    site = relu_site(alpha="auto")
    site.layer = "blocks.3.relu"
    with pytest.raises(TrainingError, match=r"^blocks\.3\.relu: .*set alpha to a number"):
        start_quantizers(site, images)


def network(momentum: float | None = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3, momentum=momentum),
        relu_site(alpha="auto", percentile=100),
        nn.Dropout(0.5),
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2, affine=False, track_running_stats=False),
        relu_site(alpha="auto", percentile=100),
    )


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_starting_activations_leaves_everything_else_as_it_was(
    momentum: float | None, training: bool
) -> None:
    model = network(momentum).train(training)
    model[4].eval()  # a mode of its own
    images = randn(8, 2, 7, 7) + 3
    model[1](model[0](images))  # so that statistics are no longer those of a new norm
    before = {
        key: value.clone() for key, value in model.state_dict().items() if "_extra" not in key
    }
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    start_quantizers(model, [images, 2 * images])
    after = model.state_dict()
    for key, value in before.items():
        if not key.endswith(("alpha", "initialized")):
            assert torch.equal(after[key], value), key
    assert [module.training for module in model.modules()] == modes
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [momentum, 0.1]
    assert [m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [
        True,
        False,
    ]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_starting_activations_sees_batch_statistics_and_no_dropout() -> None:
    model = network()
    images = randn(8, 2, 7, 7) + 3
    conv, norm = model[0](images).detach(), model[1]
    mean, variance = conv.mean((0, 2, 3)), conv.var((0, 2, 3), correction=0)
    normed = (conv - mean.view(1, -1, 1, 1)) / (variance + norm.eps).sqrt().view(1, -1, 1, 1)
    start_quantizers(model, [images])
    assert model[2].alpha.item() == pytest.approx(normed.max().item(), rel=1e-5)
    # behind it the activations are still float, and all of them are there
    second = model[4](normed.relu()).detach()
    mean, variance = second.mean((0, 2, 3)), second.var((0, 2, 3), correction=0)
    normed = (second - mean.view(1, -1, 1, 1)) / (variance + norm.eps).sqrt().view(1, -1, 1, 1)
    assert model[6].alpha.item() == pytest.approx(normed.max().item(), rel=1e-4)
