"""Small networks whose sites are known by hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.quant import (
    ModelTable,
    Phase,
    Rule,
    SatActivation,
    SatWeight,
    float_table,
    quantize,
    set_phase,
    start_quantizers,
)

IMAGE = torch.zeros(1, 3, 16, 16)


def convert(
    model: nn.Module, rules: Mapping[str, Any] | None = None, inputs_of_functions: bool = False
) -> tuple[nn.Module, ModelTable]:
    return quantize(
        model,
        partial(SatWeight, bits=4),
        partial(SatActivation, bits=4, percentile=100),
        [Rule.parse(key, node) for key, node in (rules or {}).items()],
        IMAGE,
        inputs_of_functions,
    )


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions, norms and a classifier for the networks below."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 2)

    def head(self, x: Tensor) -> Tensor:
        """Maxima lie on the grid of what they are taken from: no site."""
        return self.fc(torch.flatten(F.adaptive_max_pool2d(x, 1), 1))


class OneReluForAll(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.bn1(self.conv2(x)))
        return self.head(self.relu(self.conv3(x)))


class Calls(Net):
    """Activation functions without a module, some of them in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x), inplace=True)
        x = torch.relu(self.bn1(self.conv2(x)))
        x = self.conv3(x).relu_()
        return self.head(F.relu6(input=self.conv3(x), inplace=True))


class Residual(Net):
    """The residual adds a bottleneck of either sign to what ReLU made."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.conv2(x))
        y = self.bn2(self.conv3(y))
        y += x
        return self.head(self.relu(y))


class ResidualInPlace(Net):
    """The same without a ReLU behind the sum, and the sum by a method that changes ``y``."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv3(self.relu(self.conv2(x))))
        y.add_(x)
        return self.head(y)


class LinearBottleneck(Net):
    """No activation function between the second convolution and the third."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.bn1(self.conv2(x))
        return self.head(self.relu(self.conv3(x)))


class PooledBottleneck(Net):
    """The quantizer stands where the tensor is made, before the pool that hands it on."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv2(F.relu(self.conv1(x))), 2)
        return self.head(F.relu(self.conv3(x)))


class AveragePool(Net):
    """Averages of unsigned values are unsigned, those of signed values signed."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.conv1(x), 2)
        x = F.avg_pool2d(self.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x)).mean((2, 3))
        return self.fc(x)


class Concatenation(Net):
    """Both branches are quantized before they meet; the pool hands on what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.wide = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        z = self.bn1(self.conv2(y))
        x = self.pool(torch.cat([y, z], dim=1))
        return self.head(F.relu(self.wide(x)))


class ChannelShuffle(Net):
    """Shapes are computed too, and views and halves of a tensor keep its values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        left, right = x.chunk(2, dim=1)
        return self.head(F.relu(self.conv2(torch.cat((right, left), dim=1))))


class ReshapedBySizes(Net):
    """A view gets sizes beside its tensor, which say nothing about signs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = F.avg_pool2d(x.view(x.size(0), 4, x.size(2) // 2, -1), 2)
        return self.head(F.relu(self.conv2(x)))


class SumOfSums(Net):
    """A sum is no longer on a grid, so it is quantized before the next layer or sum."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        y = y + F.relu(self.conv2(y))
        return self.head(torch.add(y, F.relu(self.conv3(y))))


class Smooth(Net):
    """SiLU is followed by a signed quantizer, sigmoid by an unsigned one."""

    def __init__(self) -> None:
        super().__init__()
        self.silu = nn.SiLU(inplace=True)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = self.silu(self.conv1(x))
        x = self.sigmoid(self.conv2(x))
        x = torch.tanh(self.conv3(x))
        return self.head(F.hardswish(x))


class TimesANumber(Net):
    """A grid times a number is a grid; times a negative one, it has levels below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.Hardtanh(0.0, 0.5)  # never negative either

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(0.5 * self.clip(self.conv1(x)))
        x = self.conv3(self.relu(x) * -2)
        size = x.size(2) * -1 + 18  # no tensor
        return self.head(F.avg_pool2d(F.relu(x) * -2.0, 2)[:, :, :size])


class Gathered(Net):
    """Channels in another order, some twice, and the greater of two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([[0, 1], [1, 2], [3, 3], [2, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))[:, self.order].amax(2)
        x = torch.amax(self.relu(self.conv2(x))[:, self.order], dim=2)
        return self.head(F.relu(self.conv3(F.avg_pool2d(x, 2))))


class Prelu(Net):
    """PReLU stays where it is, so that a checkpoint finds its slopes."""

    def __init__(self) -> None:
        super().__init__()
        self.prelu = nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.prelu(self.conv2(self.prelu(self.conv1(x)))))


class ImageTwice(Net):
    """The image reaches two layers, one of them in pieces: it stays float."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([F.max_pool2d(x, 1), x], dim=1)[:, :3]
        return self.head(F.relu(self.conv1(x)) + F.relu(self.conv1(y)))


class DropoutInPlace(Net):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.relu(self.conv1(x)))
        return self.head(F.dropout(self.relu(self.conv2(x)), 0.1, True, True))


class NamesThatClash(Net):
    """The second call of ``relu`` would get the name of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.relu_1 = nn.Sequential(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        return self.head(self.relu(self.relu_1(x)))


class SqueezeExcite(Net):
    """A product of two tensors is on no grid; it is never negative if none of them is."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        scale = torch.sigmoid(self.conv2(F.adaptive_avg_pool2d(x, 1)))
        x = self.conv3(scale * x)
        return self.head(x * F.relu(x))


class Differences(Net):
    """A difference has values of either sign."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.conv3(x - self.relu(self.conv2(x)))
        return self.head(torch.sub(1.0, F.relu(x)))


class ShiftedByANumber(Net):
    """Hard swish and hard sigmoid by hand: nothing is quantized before their ReLU6."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv2(x * (F.relu6(x + 3.0) / 6.0))
        x = self.conv3(F.relu6(x + 3) / 6)
        x = F.relu(x) + 0.5
        return self.fc((F.relu(self.conv3(x)) + -0.5).mean((2, 3)))


class ShiftedImage(Net):
    """An image that the network itself brings to mean 0 stays the image."""

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * (0.2 / 0.5) + (0.4 - 0.5) / 0.5
        x = torch.cat((red, (x[:, 1:] - 0.4) / 0.2), 1)
        return self.head(F.relu(self.conv1(x)))


class MoreCalls(Net):
    """Functions with arguments of their own become modules with these arguments."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.3)
        x = F.softplus(self.conv2(x), beta=2)
        x = F.gelu(self.conv3(x), approximate="tanh")
        return self.head(F.mish(self.conv3(x)))


class SeveralTensors(Net):
    """A module that returns several tensors makes new values."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))[:, :, :2, :2]
        y = x.flatten(2).transpose(1, 2)
        y = self.attention(y, y, y)[0].transpose(1, 2).view(-1, 4, 2, 2)
        return self.head(F.relu(self.conv2(x + y)) + F.relu(self.bn1(self.conv3(x))))


class StochasticDepth(nn.Module):
    """As that of torchvision: leaves out a branch of some images in training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5)


class DropsBranches(Net):
    """What is left out in training was quantized before."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = StochasticDepth()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = x + self.drop(self.bn1(self.conv2(x)))
        return self.head(F.relu(self.conv3(x)))


class Scaled(Net):
    """Parameters and buffers that are multiplied or added are none of the sites."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = x + self.layer_scale * F.relu(self.conv2(x))
        return self.head(F.relu(self.conv3(x)) + self.mean.view(1, 4, 1, 1))


RELU = "ReLU"
KNOWN = [
    (OneReluForAll, [("relu", RELU, False), ("relu_1", RELU, False), ("relu_2", RELU, False)]),
    (
        Calls,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("relu_", RELU, False),
            ("relu6", "ReLU6", False),
        ],
    ),
    (
        Residual,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("bn2_site", "BatchNorm2d", True),
            ("relu_2", RELU, False),
        ],
    ),
    (
        ResidualInPlace,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("bn2_site", "BatchNorm2d", True),
            ("add__site", "add", True),
        ],
    ),
    (
        LinearBottleneck,
        [("relu", RELU, False), ("bn1_site", "BatchNorm2d", True), ("relu_1", RELU, False)],
    ),
    (
        PooledBottleneck,
        [("relu", RELU, False), ("conv2_site", "Conv2d", True), ("relu_1", RELU, False)],
    ),
    (
        AveragePool,
        [
            ("avg_pool2d_site", "avg_pool2d", True),
            ("relu", RELU, False),
            ("avg_pool2d_1_site", "avg_pool2d", False),
            ("relu_1", RELU, False),
            ("mean_site", "mean", False),
        ],
    ),
    (
        Concatenation,
        [("relu", RELU, False), ("bn1_site", "BatchNorm2d", True), ("relu_1", RELU, False)],
    ),
    (ChannelShuffle, [("relu", RELU, False), ("relu_1", RELU, False)]),
    (
        ReshapedBySizes,
        [
            ("relu", RELU, False),
            ("avg_pool2d_site", "avg_pool2d", False),
            ("relu_1", RELU, False),
        ],
    ),
    (
        SumOfSums,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("add_site", "add", False),
            ("relu_2", RELU, False),
            ("add_1_site", "add", False),
        ],
    ),
    (
        Smooth,
        [
            ("silu", "SiLU", True),
            ("sigmoid", "Sigmoid", False),
            ("tanh", "Tanh", True),
            ("hardswish", "Hardswish", True),
        ],
    ),
    (
        TimesANumber,
        [
            ("clip", "Hardtanh", False),
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("avg_pool2d_site", "avg_pool2d", True),
        ],
    ),
    (
        Gathered,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("avg_pool2d_site", "avg_pool2d", False),
            ("relu_2", RELU, False),
        ],
    ),
    (Prelu, [("prelu_site", "PReLU", True), ("prelu_site_1", "PReLU", True)]),
    (ImageTwice, [("relu", RELU, False), ("relu_1", RELU, False), ("add_site", "add", False)]),
    (DropoutInPlace, [("relu", RELU, False), ("relu_1", RELU, False)]),
    (NamesThatClash, [("relu", RELU, False), ("relu_2", RELU, False)]),
    (
        SqueezeExcite,
        [
            ("relu", RELU, False),
            ("adaptive_avg_pool2d_site", "adaptive_avg_pool2d", False),
            ("sigmoid", "Sigmoid", False),
            ("mul_site", "mul", False),
            ("relu_1", RELU, False),
            ("mul_1_site", "mul", True),
        ],
    ),
    (
        Differences,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("sub_site", "sub", True),
            ("relu_2", RELU, False),
            ("sub_1_site", "sub", True),
        ],
    ),
    (
        ShiftedByANumber,
        [
            ("relu6", "ReLU6", False),
            ("mul_site", "mul", True),
            ("relu6_1", "ReLU6", False),
            ("relu", RELU, False),
            ("add_2_site", "add", False),
            ("relu_1", RELU, False),
            ("mean_site", "mean", True),
        ],
    ),
    (ShiftedImage, [("relu", RELU, False)]),
    (
        MoreCalls,
        [
            ("leaky_relu", "LeakyReLU", True),
            ("softplus", "Softplus", False),
            ("gelu", "GELU", True),
            ("mish", "Mish", True),
        ],
    ),
    (
        SeveralTensors,
        [
            ("relu", RELU, False),
            ("getitem_1_site", "getitem", True),
            ("add_site", "add", True),
            ("relu_1", RELU, False),
            ("relu_2", RELU, False),
            ("add_1_site", "add", False),
        ],
    ),
    (
        DropsBranches,
        [
            ("relu", RELU, False),
            ("bn1_site", "BatchNorm2d", True),
            ("add_site", "add", True),
            ("relu_1", RELU, False),
        ],
    ),
    (
        Scaled,
        [
            ("relu", RELU, False),
            ("relu_1", RELU, False),
            ("mul_site", "mul", True),
            ("add_site", "add", True),
            ("relu_2", RELU, False),
            ("add_1_site", "add", True),
        ],
    ),
]
ALL = pytest.mark.parametrize("make", [make for make, _ in KNOWN])


@pytest.mark.parametrize(("make", "expected"), KNOWN)
def test_sites_stand_where_a_tensor_would_reach_a_layer_or_a_sum_in_float(
    make: Any, expected: list[tuple[str, str, bool]]
) -> None:
    _, table = convert(make())
    rows = [row for row in table.layers if row.part == "activation"]
    assert [(row.name, row.type, row.quantizer["signed"]) for row in rows] == expected


@ALL
def test_backward_reaches_every_parameter(make: Any) -> None:
    model, _ = convert(make())
    model.train()
    model(randn(4, 3, 16, 16) + 0.5).square().sum().backward()
    used = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert used == {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@ALL
def test_in_the_float_phase_the_network_computes_what_it_did(make: Any) -> None:
    float_model = make().eval()
    images = randn(4, 3, 16, 16)
    torch.manual_seed(0)  # one of them drops out in evaluation too
    expected = float_model(images)
    model, _ = convert(float_model)
    set_phase(model, Phase.FLOAT)
    torch.manual_seed(0)
    assert torch.equal(model(images), expected)


@ALL
def test_the_float_network_fits_with_its_keys(make: Any) -> None:
    float_model = make()
    model, _ = convert(float_model)
    own = dict(model.named_parameters())
    for name, parameter in float_model.named_parameters():
        assert own.get(name, parameter) is parameter
        layer = name.rpartition(".")[0]  # one that the network computes with is there
        assert name in own or not any(m.startswith(layer) for m in own)


@ALL
def test_every_layer_but_that_of_the_image_reads_quantized_tensors(
    make: Any, assert_inputs_are_quantized: Any
) -> None:
    model, _ = convert(make())
    images = randn(4, 3, 16, 16)
    start_quantizers(model, [images])
    assert_inputs_are_quantized(model.eval(), images, n_levels=16, first="conv1")


@ALL
def test_the_table_is_in_the_order_of_computation(make: Any) -> None:
    _, quantized = convert(make())
    null = {"w": {"weight": None}, "a": {"activation": None}}
    for table in (float_table(make(), IMAGE), convert(make(), null)[1]):
        assert [row.name for row in table.layers] == [row.name for row in quantized.layers]
    names = [row.name for row in quantized.layers if row.bits is not None]
    assert names[0] == "conv1"
    assert names[-1] == "fc"


class Swishes(Net):
    """Functions that clip, bend at 0, or do more, of sums, of codes and of a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        shortcut = self.bn2(self.conv2(x))
        x = torch.sigmoid(F.relu(shortcut)) + shortcut
        x = F.leaky_relu(self.conv3(F.hardsigmoid(x)))
        return self.fc(F.gelu(x).mean((2, 3)))


def rows_of(table: ModelTable) -> dict[str, tuple[int | None, bool]]:
    sites = (row for row in table.layers if row.part == "activation")
    return {row.name: (row.bits, row.quantizer.get("signed", False)) for row in sites}


def test_only_functions_that_are_tables_have_a_site_in_front_and_only_where_it_is_asked_for() -> (
    None
):
    plain = rows_of(convert(Swishes())[1])
    assert set(plain) == {
        *("silu", "relu", "sigmoid", "bn2_site", "hardsigmoid", "leaky_relu", "gelu"),
        *("mean_site",),
    }
    in_front = rows_of(convert(Swishes(), inputs_of_functions=True)[1])
    assert in_front == {**plain, "bn1_site": (8, True)}


def test_a_site_in_front_of_a_function_has_8_bits_unless_a_rule_says_otherwise() -> None:
    def bits(rule: dict[str, Any]) -> int | None:
        table = convert(Swishes(), {"rule": rule}, inputs_of_functions=True)[1]
        return rows_of(table)["bn1_site"][0]

    assert bits({"name": "bn1_site", "activation": {"bits": 6}}) == 6
    assert bits({"type": "BatchNorm2d", "activation": {"bits": 3}}) == 3
    steps = {"bits": None, "n_steps": 10}
    assert bits({"name": "bn1_site", "activation": steps}) == 4
    assert bits({"name": "bn1_site", "activation": None}) is None
    assert bits({"name": "silu", "activation": {"bits": 2}}) == 8


def test_a_function_reads_codes_in_training() -> None:
    model, _ = convert(Swishes(), inputs_of_functions=True)
    images = randn(4, 3, 16, 16)
    start_quantizers(model, [images])
    seen: list[Tensor] = []
    model.get_submodule("silu").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images).sum().backward()
    site: Any = model.get_submodule("bn1_site")
    codes = seen[0] / (site.alpha / 127)
    assert (codes - codes.round()).abs().max() < 1e-4
    assert codes.round().abs().max() <= 127
    assert 0 < site.alpha.grad.abs() < torch.inf


class Gated(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = x * self.bn1(self.conv2(x)) * 0.5
        return self.head(x * self.conv3(x).mean((2, 3), keepdim=True))


def test_what_is_multiplied_by_another_tensor_is_a_site_where_that_is_asked_for() -> None:
    plain = {"relu": (4, False), "mul_site": (4, True), "mul_2_site": (4, True)}
    assert rows_of(convert(Gated())[1]) == plain
    in_front = rows_of(convert(Gated(), inputs_of_functions=True)[1])
    assert in_front == {**plain, "bn1_site": (4, True), "mean_site": (4, True)}
