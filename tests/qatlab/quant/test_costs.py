"""What a network computes for one image: multiply-accumulates and bit operations."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from qatlab.models import LeNet, MobileNetV1, MobileNetV2, ResNet
from qatlab.quant import LsqActivation, LsqWeight, ModelTable, Rule, float_table, quantize


def table_of(
    model: nn.Module, image: Tensor, weight: int | None, activation: int | None
) -> ModelTable:
    rules = [Rule.parse("first", {"index": 0, "weight": {"bits": 8}})] if weight else []
    return quantize(
        model,
        partial(LsqWeight, bits=weight) if weight else None,
        partial(LsqActivation, bits=activation) if activation else None,
        rules,
        image,
    )[1]


# Size of the output times weights of each channel: 5x5 convolutions of 32x32 images, fc layers.
LENET = {
    "conv1": 28 * 28 * 6 * 25,
    "conv2": 10 * 10 * 16 * 6 * 25,
    "conv3": 120 * 16 * 25,
    "fc1": 84 * 120,
    "fc2": 10 * 84,
}


def test_lenet_by_hand() -> None:
    table = table_of(LeNet(10, 1), torch.zeros(1, 1, 32, 32), 4, 3)
    rows = {row.name: row for row in table.layers if row.part == "weight"}
    assert {name: row.macs for name, row in rows.items()} == LENET
    assert {name: row.input_bits for name, row in rows.items()} == {
        **dict.fromkeys(LENET, 3),
        "conv1": 8,
    }
    inner = sum(LENET.values()) - LENET["conv1"]
    assert table.macs == sum(LENET.values()) == 416_520
    assert table.bit_operations == LENET["conv1"] * 8 * 8 + inner * 4 * 3
    json = table.to_json()
    assert (json["macs"], json["bit_operations"]) == (table.macs, table.bit_operations)


@pytest.mark.parametrize(
    ("weight", "activation", "first", "inner"),
    [(None, 3, 32 * 8, 32 * 3), (4, None, 8 * 8, 4 * 32)],
)
def test_what_stays_float_counts_as_32_bits(
    weight: int | None, activation: int | None, first: int, inner: int
) -> None:
    table = table_of(LeNet(10, 1), torch.zeros(1, 1, 32, 32), weight, activation)
    macs = LENET["conv1"]
    assert table.bit_operations == macs * first + (table.macs - macs) * inner


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (MobileNetV1(1000, 3), 569),  # Howard et al. 2017, table 4
        (MobileNetV2(1000, 3), 301),  # Sandler et al. 2018, table 4: 300
        (ResNet(1000, 3, 18), 1814),
    ],
)
def test_published_networks(model: nn.Module, millions: int) -> None:
    image = torch.zeros(1, 3, 224, 224)
    table = float_table(model, image)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    assert 2 * table.macs == counter.get_total_flops()
    assert round(table.macs / 1e6) == millions
    assert table.float_macs == 0


class Mixed(nn.Module):
    """A shared layer, a transposed one, two sources of one layer and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.both = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = F.relu(self.shared(x))
        z = F.relu(self.shared(y))
        w: Tensor = self.both(torch.cat([y, z], 1))
        w = w + 0 * self.up(z).mean()
        return torch.bmm(w.flatten(2), w.flatten(2).transpose(1, 2))


def test_every_call_counts_and_the_widest_input() -> None:
    model, image = Mixed(), torch.zeros(1, 2, 6, 6)
    rules = [Rule.parse("y", {"name": "relu_2", "activation": {"bits": 5}})]
    _, table = quantize(
        model, partial(LsqWeight, bits=4), partial(LsqActivation, bits=2), rules, image
    )
    rows = {row.name: (row.macs, row.input_bits) for row in table.layers if row.part == "weight"}
    assert rows == {
        "first": (36 * 4 * 2, 8),
        "shared": (2 * 36 * 4 * 4 * 9, 2),
        "both": (36 * 3 * 8, 5),
        "up": (36 * 4 * 4 * 4, 5),  # stays float itself
    }
    assert table.float_macs == 3 * 36 * 3


class Again(nn.Module):
    """A layer that reads first one tensor and then another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.shared(F.relu(self.shared(x)))


def test_each_call_of_a_layer_costs_the_bits_that_it_reads() -> None:
    rules = [Rule.parse("x", {"name": "relu", "activation": {"bits": 8}})]
    image = torch.zeros(1, 2, 8, 8)
    _, table = quantize(
        Again(), partial(LsqWeight, bits=4), partial(LsqActivation, bits=2), rules, image
    )
    (row,) = (row for row in table.layers if row.name == "shared")
    once = 4 * 4 * 9  # for each place of the result
    assert row.macs == (36 + 16) * once
    assert row.bit_operations == (36 * 8 + 16 * 2) * once * 4
    assert (row.input_bits, row.parameters, row.size_bytes) == (8, once, once // 2)


def test_memory_of_lenet_by_hand() -> None:
    table = table_of(LeNet(10, 1), torch.zeros(1, 1, 32, 32), 4, 4)
    image, sizes = 32 * 32, [28 * 28 * 6 // 2, 10 * 10 * 16 // 2, 120 // 2, 84 // 2]
    pairs = zip([image, *sizes], sizes, strict=False)
    most = max(before + own for before, own in pairs)
    assert table.peak_bytes == most == table.to_json()["peak_bytes"]


class Residual(nn.Module):
    """What is added is kept over the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 1)
        self.relu = nn.ReLU()
        self.narrow = nn.Conv2d(8, 2, 1)
        self.narrow_relu = nn.ReLU()
        self.wide = nn.Conv2d(2, 8, 1)
        self.sum_relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y: Tensor = self.sum_relu(self.wide(self.narrow_relu(self.narrow(x))) + x)
        return y


@pytest.mark.parametrize("bits", [None, 8])
def test_a_shortcut_is_kept_until_it_is_added(bits: int | None) -> None:
    table = table_of(Residual(), torch.zeros(1, 1, 10, 10), 4, bits)
    one = 100 * (4 if bits is None else 1)  # bytes of a channel
    # The sum takes the place of neither of its two parts.
    assert table.peak_bytes == 24 * one


def test_a_shortcut_is_kept_over_the_branch() -> None:
    rules = [Rule.parse("sum", {"name": "sum_relu", "activation": {"bits": 1}})]
    site, image = partial(LsqActivation, bits=8), torch.zeros(1, 1, 10, 10)
    _, table = quantize(Residual(), partial(LsqWeight, bits=4), site, rules, image)
    # The shortcut, what the last convolution reads and what it makes; the sum is an eighth of it.
    assert table.peak_bytes == 100 * (8 + 2 + 8)
