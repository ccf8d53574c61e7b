"""What is computed in place: later readers see it, and the float network stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.quant import Phase, SatActivation, SatWeight, quantize, set_phase, start_quantizers

IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) - 0.5


class Net(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.leaky = nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.conv1(x)))


def convert(network: nn.Module, activation: Any = SatActivation) -> nn.Module:
    made = None if activation is None else partial(activation, bits=4, percentile=100)
    model, _ = quantize(network, partial(SatWeight, bits=4), made, [], IMAGES[:1])
    return model


def relu_is_seen_by_the_sum(net: Net, x: Tensor) -> Tensor:
    y = net.relu(x)
    return x + y  # 2 * relu(x), as x has been overwritten


def branch_sees_it(net: Net, x: Tensor) -> Tensor:
    y = F.relu(x, inplace=True)
    return net.conv2(x) + y


def add_as_a_method(net: Net, x: Tensor) -> Tensor:
    y = net.conv2(x)
    y.add_(x)
    return y


def several_in_a_row(net: Net, x: Tensor) -> Tensor:
    y = net.conv2(x)
    y += x
    y *= 0.5
    y -= 0.125
    y.clamp_(-1, 1)
    torch.relu_(y)
    return y


def leaky_in_place(net: Net, x: Tensor) -> Tensor:
    net.leaky(x)
    return net.conv2(x) + x


def leaky_by_position(net: Net, x: Tensor) -> Tensor:
    F.leaky_relu(x, 0.3, True)
    return x


def through_a_function(net: Net, x: Tensor) -> Tensor:
    F.hardtanh_(x, -0.25, 0.25)
    return x + 1


def read_before(net: Net, x: Tensor) -> Tensor:
    y = net.conv2(x)  # of what x was
    return y + net.relu(x)


def of_a_norm(net: Net, x: Tensor) -> Tensor:
    x = net.norm(net.conv2(x))
    net.relu(x)
    return x


def a_view_of_it_behind(net: Net, x: Tensor) -> Tensor:
    net.relu(x)
    return x.permute(0, 1, 3, 2)


def another_name(net: Net, x: Tensor) -> Tensor:
    shortcut = x
    x += net.conv2(x)
    return x + shortcut  # which is x


def in_python_by_number(net: Net, x: Tensor) -> Tensor:
    y = x
    y *= -0.5
    x /= 2
    x -= 0.25
    return net.conv2(x)


def sizes_are_no_tensors(net: Net, x: Tensor) -> Tensor:
    height = x.size(2)
    rows = half = x.shape[3] // 2
    rows += 3
    y = x.view(-1, 4, height, half + 3)
    return F.pad(y, (0, rows - half))


def a_copy_in_front(net: Net, x: Tensor) -> Tensor:
    y = x.clone()
    net.relu(x)
    return net.conv2(x) + y


FOLLOWED = [
    *(relu_is_seen_by_the_sum, branch_sees_it, add_as_a_method, several_in_a_row, leaky_in_place),
    *(leaky_by_position, through_a_function, read_before, of_a_norm, a_view_of_it_behind),
    *(a_copy_in_front, another_name, in_python_by_number, sizes_are_no_tensors),
]
followed = pytest.mark.parametrize("function", FOLLOWED, ids=lambda f: f.__name__)


@followed
@pytest.mark.parametrize("activation", [SatActivation, None])
def test_in_the_float_phase_later_readers_see_what_was_changed(
    function: Any, activation: Any
) -> None:
    network = Net(function).eval()
    with torch.no_grad():
        expected = copy.deepcopy(network)(IMAGES)
    model = convert(network, activation)
    set_phase(model, Phase.FLOAT)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-6, atol=1e-6)


@followed
def test_what_was_in_place_trains(function: Any) -> None:
    model = convert(Net(function))
    start_quantizers(model, [IMAGES])
    model.train()
    model(IMAGES).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.get_parameter("conv1.weight").grad is not None


@followed
def test_the_float_network_stays_as_it_was(function: Any) -> None:
    network = Net(function).eval()
    with torch.no_grad():
        expected = network(IMAGES)
    modules = [(name, id(module)) for name, module in network.named_modules()]
    convert(network)
    assert network.relu.inplace is True
    assert network.leaky.inplace is True
    assert [(name, id(module)) for name, module in network.named_modules()] == modules
    with torch.no_grad():
        assert torch.equal(network(IMAGES), expected)


def view_in_front(net: Net, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    net.relu(x)
    return net.conv2(x) + flat.mean(2)[:, :, None, None]


def part_of_it(net: Net, x: Tensor) -> Tensor:
    x[:, :2].relu_()
    return net.conv2(x)


def sum_with_an_alias(net: Net, x: Tensor) -> Tensor:
    y = x.view(x.shape)
    y += 1
    return net.conv2(x)


def alias_by_dropout(net: Net, x: Tensor) -> Tensor:
    y = x.contiguous()
    F.relu(y, inplace=True)
    return net.conv2(x) + y


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (view_in_front, r"relu changes a tensor in place that mean reads under another name "),
        (part_of_it, r"relu_ changes a tensor in place that conv2 reads under another name "),
        (sum_with_an_alias, r"add changes a tensor in place that conv2 reads under another name "),
        (alias_by_dropout, r"relu changes a tensor in place that conv2 reads under another name "),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_what_is_read_under_another_name_is_refused_in_a_sentence(
    function: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{words}.*inplace=False.$") as caught:
        convert(Net(function))
    assert "\n" not in str(caught.value)
