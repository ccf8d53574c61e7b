"""Whether values can be negative, by what computes them and with which arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.quant import ModelTable, SatActivation, SatWeight, quantize
from qatlab.quant.bounds import Bounds, hull

Function = Callable[[Tensor], Tensor]
r = torch.relu


class Net(nn.Module):
    """A function between two layers, and a pooling of single places that makes its result a site.

    Whatever only moves or scales values would lie on the grid of what it reads.
    """

    zeros: Tensor

    def __init__(self, function: Callable[..., Tensor], of_network: bool = False) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.function, self.of_network = function, of_network
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("kept", torch.ones(4, 1, 1))
        self.register_buffer("zeros", torch.zeros(1), persistent=False)
        self.register_buffer("ends", torch.tensor([-1.0, 2.0, 0.0, 1.0])[:, None, None], False)
        self.register_buffer("halves", torch.full((4, 1, 1), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.function(self, x) if self.of_network else self.function(x)
        return self.last(F.avg_pool2d(x, 1))


def table_of(network: nn.Module) -> ModelTable:
    activation = partial(SatActivation, bits=4, percentile=100)
    return quantize(network, partial(SatWeight, bits=4), activation, [], torch.zeros(1, 3, 6, 6))[1]


def is_signed(network: nn.Module) -> bool:
    rows = [row for row in table_of(network).layers if row.type == "avg_pool2d"]
    return bool(rows[-1].quantizer["signed"])


NOT_NEGATIVE: list[Function] = [
    lambda x: torch.clamp(x, 0, 6),
    lambda x: torch.clamp(x, min=0),
    lambda x: torch.clamp(x, max=6, min=0.5),
    lambda x: torch.clip(x, 0, 1),
    lambda x: x.clamp(0, 6),
    lambda x: x.clamp(min=0),
    lambda x: x.clip(min=0, max=1),
    lambda x: x.clamp_min(0),
    lambda x: torch.clamp_min(x, 0.25),
    lambda x: torch.clamp_min(x, min=0),
    lambda x: r(x).clamp_max(6),
    lambda x: F.hardtanh(x, 0.0, 6.0),
    lambda x: F.hardtanh(x, max_val=6.0, min_val=0.0),
    lambda x: F.relu(x, True),
    lambda x: F.relu(x, inplace=True),
    lambda x: F.relu6(x, True),
    lambda x: F.threshold(x, 0, 0),
    lambda x: F.threshold(x, 0.5, 0.0),
    lambda x: F.threshold(x, 0.1, 20.0, True),
    nn.Threshold(0.1, 20.0),
    nn.Hardtanh(0, 6),
    abs,
    torch.abs,
    lambda x: x.abs(),
    torch.square,
    lambda x: x.square(),
    lambda x: x**2,
    lambda x: torch.pow(x, 4),
    lambda x: x.pow(exponent=2),
    lambda x: r(x) ** 3,
    lambda x: x * x,
    lambda x: torch.mul(x, x),
    lambda x: r(x) * r(-x),
    torch.exp,
    lambda x: r(x).sqrt(),
    lambda x: torch.softmax(x, 1),
    nn.Softmax2d(),
    torch.sigmoid,
    lambda x: 1 - x.sigmoid(),
    lambda x: torch.rsub(torch.sigmoid(x), 1),
    lambda x: 1 - x.clamp(0, 1),
    lambda x: 1 + x.tanh(),
    F.hardsigmoid,
    F.softplus,
    lambda x: torch.maximum(x, torch.zeros_like(x)),
    lambda x: torch.max(x, r(-x)),
    lambda x: torch.minimum(r(x), r(-x)),
    lambda x: F.leaky_relu(r(x), 0.2),
    lambda x: F.gelu(x.abs()),
    lambda x: torch.neg(-r(x)),
    lambda x: r(x) + r(-x),
    lambda x: r(x) + 0.5,
    lambda x: r(x) * 0.5,
    lambda x: 2 * r(x),
    lambda x: r(x) / 2,
    lambda x: -r(x) / -2,
    lambda x: 1 / (r(x) + 1),
    lambda x: torch.sub(r(x), r(-x), alpha=-1),
    lambda x: torch.add(r(x), -r(-x), alpha=-2),
    lambda x: F.pad(r(x), (0, 1), value=1.0),
    lambda x: F.pad(x.clamp(min=1), (0, 1, 0, 0), "reflect"),
    lambda x: F.max_pool2d(r(x), 2),
    lambda x: F.avg_pool2d(r(x), 2, 2, 1),
    lambda x: r(x).mean((2, 3), keepdim=True),
    lambda x: r(x).sum((2, 3), keepdim=True),
    lambda x: torch.var(x, 1, keepdim=True).expand(-1, 4, -1, -1),
    lambda x: torch.cat([r(x)[:, :2], x[:, 2:].exp()], 1),
    lambda x: torch.chunk(r(x), 2, 1)[1].repeat(1, 2, 1, 1),
    lambda x: F.dropout(r(x), training=False),
    lambda x: F.interpolate(r(x), scale_factor=2),
]
NEGATIVE: list[Function] = [
    lambda x: torch.clamp(x, -1, 1),
    lambda x: torch.clamp(x, max=6),
    lambda x: x.clamp_max(6),
    lambda x: torch.clamp_max(x, max=0),
    lambda x: r(x).clamp(max=-1),
    F.hardtanh,
    lambda x: F.hardtanh(x, -2.0),
    lambda x: F.hardtanh(x, max_val=6.0),
    nn.Hardtanh(),
    lambda x: F.threshold(x, 0.1, -1.0),
    lambda x: F.threshold(x, -1.0, 0.0),
    lambda x: x.pow(3),
    lambda x: x * r(-x),
    lambda x: F.log_softmax(x, 1),
    F.logsigmoid,
    torch.tanh,
    F.softsign,
    F.elu,
    F.gelu,
    F.silu,
    F.mish,
    lambda x: F.leaky_relu(x, 0.2, True),
    lambda x: x.sigmoid() - 1,
    lambda x: 1 - r(x),
    lambda x: r(x) - 0.5,
    lambda x: r(x) - r(-x),
    lambda x: torch.add(r(x), r(-x), alpha=-1),
    lambda x: torch.rsub(r(x), 1, alpha=2),
    lambda x: -r(x),
    lambda x: r(x) * -0.5,
    lambda x: r(x) / -2,
    lambda x: torch.maximum(x, -x - 2),
    lambda x: torch.minimum(r(x), x),
    lambda x: x.max(1, keepdim=True)[0].expand(-1, 4, -1, -1),
    lambda x: torch.max(x, 1, True)[0].expand(-1, 4, -1, -1),
    lambda x: F.pad(r(x), (0, 1), value=-1.0),
    lambda x: x.mean((2, 3), keepdim=True),
    lambda x: x.sum((2, 3), keepdim=True),
    lambda x: torch.cat([r(x)[:, :2], x[:, 2:]], 1),
    lambda x: torch.zeros_like(x) + x,
]


def values(function: Function) -> Tensor:
    return function(torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 4)


@pytest.mark.parametrize("function", NOT_NEGATIVE)
def test_where_nothing_is_below_0_no_level_is(function: Function) -> None:
    assert values(function).min() >= 0
    assert not is_signed(Net(function))


@pytest.mark.parametrize("function", NEGATIVE)
def test_where_something_is_below_0_levels_are(function: Function) -> None:
    assert values(function).min() < 0
    assert is_signed(Net(function))


@pytest.mark.parametrize(
    ("function", "signed"),
    [
        (lambda net, x: torch.maximum(x, net.zeros), False),
        (lambda net, x: r(x) * net.halves, False),
        (lambda net, x: r(x) * net.ends, True),
        (lambda net, x: r(x) + net.ends, True),
        (lambda net, x: x.sigmoid() + net.ends + 1, False),
        # A checkpoint may bring others.
        (lambda net, x: r(x) * net.kept, True),
        (lambda net, x: torch.maximum(x, net.kept), True),
        (lambda net, x: r(x) * net.scale, True),
    ],
)
def test_tensors_of_the_network_count_where_no_checkpoint_changes_them(
    function: Any, signed: bool
) -> None:
    assert is_signed(Net(function, of_network=True)) is signed


@pytest.mark.parametrize(
    ("function", "kind", "signed"),
    [
        (lambda x: torch.clamp(x, 0, 6), "Clamp", False),
        (lambda x: torch.clamp(x, -1, 1), "Clamp", True),
        (lambda x: x.clamp_min(0), "Clamp", False),
        (lambda x: F.hardtanh(x, 0.0, 6.0), "Hardtanh", False),
        (lambda x: F.hardtanh(x), "Hardtanh", True),
        (lambda x: F.threshold(x, 0.5, 0.0), "Threshold", False),
        (lambda x: F.leaky_relu(x, 0.2, True), "LeakyReLU", True),
        (lambda x: F.leaky_relu(x.abs(), 0.2), "LeakyReLU", False),
        (lambda x: F.relu(x, True), "ReLU", False),
    ],
)
def test_the_site_of_an_activation_function_is_signed_likewise(
    function: Function, kind: str, signed: bool
) -> None:
    (row,) = (row for row in table_of(Net(function)).layers if row.type == kind)
    assert row.quantizer["signed"] is signed


def test_a_hull_holds_all_intervals() -> None:
    assert hull([Bounds(0, 1), Bounds(-2, 0.5), Bounds(0, math.inf)]) == (-2, math.inf)
