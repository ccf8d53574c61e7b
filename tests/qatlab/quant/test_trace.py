"""What is known of a traced network: sizes, constants, and what is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.quant.trace import Measures, measure, trace

IMAGE = torch.rand(1, 3, 6, 8)


class Net(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])[:, None, None])
        self.register_buffer("mean", torch.tensor([0.5, 0.25, 0.125])[:, None, None])

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def measured(function: Any) -> tuple[dict[str, fx.Node], Measures]:
    traced = trace(Net(function))
    return {node.name: node for node in traced.graph.nodes}, measure(traced, IMAGE)


def test_a_size_that_the_network_refuses_is_told_in_its_words() -> None:
    def function(net: Net, x: Tensor) -> Tensor:
        height = x.shape[2]  # a proxy while this is traced, and so in the text
        torch._assert(height == 7, f"Input height ({height}) doesn't match model (7).")
        return x

    with pytest.raises(ConfigError, match=r": Input height doesn't match model \(7\)\.$"):
        measured(function)


def test_sizes_are_numbers_and_no_tensors() -> None:
    def function(net: Net, x: Tensor) -> Tensor:
        height = x.size(2) // 2
        return F.avg_pool2d(x, height, stride=x.shape[3])

    nodes, measures = measured(function)
    assert measures.others[nodes["size"]] == 6
    assert measures.others[nodes["floordiv"]] == 3
    assert measures.others[nodes["getitem"]] == 8
    assert {"size", "floordiv", "getattr_1", "getitem"}.isdisjoint(map(str, measures.shapes))
    assert measures.shapes[nodes["avg_pool2d"]] == (1, 3, 1, 1)
    args, kwargs = measures.arguments(nodes["avg_pool2d"])
    assert args == (nodes["x"], 3)
    assert kwargs == {"stride": 8}
    assert measures.constants == {}


@pytest.mark.parametrize(
    ("function", "expected", "learned"),
    [
        (lambda net, x: x * net.scale, [1.0, 2.0, 3.0], True),
        (lambda net, x: x * (net.scale + 1), [2.0, 3.0, 4.0], True),
        (lambda net, x: x * net.scale.exp().log(), [1.0, 2.0, 3.0], True),
        (lambda net, x: x * net.mean, [0.5, 0.25, 0.125], False),
        (lambda net, x: x * (1 / net.mean), [2.0, 4.0, 8.0], False),
        (lambda net, x: x * (net.mean * net.scale), [0.5, 0.5, 0.375], True),
        # It changes as the parameter does.
        (lambda net, x: x * net.scale.detach().clone(), [1.0, 2.0, 3.0], True),
    ],
)
def test_what_depends_on_no_image_is_a_constant_learned_or_not(
    function: Any, expected: list[float], learned: bool
) -> None:
    nodes, measures = measured(function)
    product = next(node for name, node in reversed(nodes.items()) if name.startswith("mul"))
    (image, constant), _ = measures.arguments(product)
    assert image is nodes["x"]
    torch.testing.assert_close(constant.detach().flatten(), torch.tensor(expected))
    assert measures.learned(product) is learned
    assert product not in measures.constants


def test_what_is_made_of_the_image_is_no_constant() -> None:
    nodes, measures = measured(lambda net, x: net.conv(x).mean((2, 3)) + net.scale.flatten()[0])
    assert nodes["conv"] not in measures.constants
    assert measures.macs == {nodes["conv"]: 4 * 6 * 4 * 3 * 9}
    assert measures.shapes[nodes["add"]] == (1, 4)


def test_several_results_are_neither_a_tensor_nor_a_size() -> None:
    nodes, measures = measured(lambda net, x: torch.cat(x.chunk(3, 1), 1))
    assert nodes["chunk"] not in measures.others
    assert nodes["chunk"] not in measures.shapes
    assert measures.shapes[nodes["cat"]] == (1, 3, 6, 8)


def test_measuring_leaves_the_mode_and_the_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    traced = trace(network.train())
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    measure(traced, IMAGE)
    assert all(module.training for module in traced.modules())
    assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())
