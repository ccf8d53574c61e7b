"""One operation, however a network writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.quant.ops import activation_module, affine, clip_range, kind_of
from qatlab.quant.trace import measure, trace

IMAGE = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 20 - 10
Function = Callable[[Tensor], Tensor]


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.number = function, nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def last_node(function: Any) -> tuple[fx.Node, dict[str, nn.Module], fx.GraphModule]:
    traced = trace(Calls(function))
    (node,) = traced.graph.output_node().all_input_nodes
    return node, dict(traced.named_modules()), traced


SPELLINGS: Mapping[str, tuple[nn.Module, list[Any]]] = {
    "relu": (
        nn.ReLU(),
        [
            *(nn.ReLU(True), F.relu, torch.relu, lambda x: x.relu()),
            *(lambda x: F.relu(x, True), lambda x: F.relu(inplace=False, input=x)),
        ],
    ),
    "relu6": (nn.ReLU6(), [nn.ReLU6(inplace=True), F.relu6, lambda x: F.relu6(x, True)]),
    "hardtanh": (
        nn.Hardtanh(0.0, 6.0),
        [
            *(nn.Hardtanh(0, 6, inplace=True), lambda x: F.hardtanh(x, 0.0, 6.0)),
            *(lambda x: F.hardtanh(x, 0, 6, True), lambda x: F.hardtanh(x, max_val=6, min_val=0)),
        ],
    ),
    "clamp": (
        nn.Hardtanh(0.0, 6.0),
        [
            *(lambda x: torch.clamp(x, 0, 6), lambda x: torch.clip(x, min=0, max=6)),
            *(lambda x: x.clamp(0, 6), lambda x: x.clamp(max=6, min=0), lambda x: x.clip(0, 6)),
        ],
    ),
    "clamp, one end": (
        nn.ReLU(),
        [
            *(lambda x: x.clamp(min=0), lambda x: torch.clamp(x, 0), lambda x: x.clamp_min(0)),
            *(lambda x: x.clamp_min(min=0), lambda x: torch.clamp_min(x, 0)),
        ],
    ),
    "clamp, the other end": (
        nn.Hardtanh(-1e9, 3.0),
        [
            *(lambda x: x.clamp(max=3), lambda x: torch.clamp(x, None, 3)),
            *(lambda x: x.clamp_max(3), lambda x: torch.clamp_max(x, max=3)),
        ],
    ),
    "threshold": (
        nn.Threshold(1.0, -2.0),
        [
            *(lambda x: F.threshold(x, 1.0, -2.0), lambda x: F.threshold(x, 1.0, -2.0, True)),
            lambda x: F.threshold(x, value=-2.0, threshold=1.0),
        ],
    ),
    "leaky_relu": (
        nn.LeakyReLU(0.2),
        [
            *(lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2, True)),
            *(lambda x: F.leaky_relu(x, negative_slope=0.2), nn.LeakyReLU(0.2, inplace=True)),
        ],
    ),
    "elu": (nn.ELU(0.5), [lambda x: F.elu(x, 0.5), lambda x: F.elu(alpha=0.5, input=x)]),
    "gelu": (nn.GELU("tanh"), [lambda x: F.gelu(x, approximate="tanh")]),
}
ALL = [
    pytest.param(kind.partition(",")[0], module, spelling, id=f"{kind}-{i}")
    for kind, (module, spellings) in SPELLINGS.items()
    for i, spelling in enumerate([module, *spellings])
    if i or ("," not in kind and kind != "clamp")
]


@pytest.mark.parametrize(("kind", "module", "spelling"), ALL)
def test_an_activation_function_is_one_module(kind: str, module: nn.Module, spelling: Any) -> None:
    node, modules, _ = last_node(spelling)
    assert kind_of(node, modules) == kind
    made = activation_module(node, modules)
    assert made is not None
    assert torch.equal(made(IMAGE.clone()), module(IMAGE.clone()))
    assert clip_range(made) == clip_range(module) or kind == "clamp"
    if node.op != "call_module":
        assert getattr(made, "inplace", False) is False


@pytest.mark.parametrize(
    ("activation", "ends"),
    [
        (nn.Identity(), (-torch.inf, torch.inf)),
        (nn.ReLU6(), (0.0, 6.0)),
        (nn.Threshold(0.0, 0.0), (0.0, torch.inf)),
        (nn.Threshold(1.0, 1.0), (1.0, torch.inf)),
        (nn.Threshold(1.0, 0.0), None),
        (nn.SiLU(), None),
    ],
    ids=repr,
)
def test_what_only_clips_is_known_by_its_ends(activation: nn.Module, ends: Any) -> None:
    assert clip_range(activation) == ends


AFFINE: list[tuple[Any, float, float]] = [
    (lambda x: x + 3, 1, 3),
    (lambda x: 3 + x, 1, 3),
    (lambda x: x.add(3), 1, 3),
    (lambda x: torch.add(x, 3, alpha=2), 1, 6),
    (lambda x: torch.add(other=3, input=x), 1, 3),
    (lambda x: x - 3, 1, -3),
    (lambda x: 3 - x, -1, 3),
    (lambda x: torch.sub(x, 3, alpha=2), 1, -6),
    (lambda x: torch.rsub(x, 3), -1, 3),
    (lambda x: torch.rsub(x, 3, alpha=2), -2, 3),
    (lambda x: x * 3, 3, 0),
    (lambda x: 3 * x, 3, 0),
    (lambda x: torch.multiply(x, 3), 3, 0),
    (lambda x: x / 4, 0.25, 0),
    (lambda x: torch.div(x, 4), 0.25, 0),
    (lambda x: torch.div(x, 4, rounding_mode=None), 0.25, 0),
    (lambda x: -x, -1, 0),
    (torch.negative, -1, 0),
    (lambda x: x * x.size(1), 3, 0),
    (lambda x: x / x.shape[2], 0.25, 0),
    (lambda x: x + torch.full((1,), 3.0), 1, 3),
]


def affine_of(function: Any) -> Any:
    node, modules, traced = last_node(function)
    measures = measure(traced, IMAGE)
    return affine(kind_of(node, modules), *measures.arguments(node))


@pytest.mark.parametrize(("function", "factor", "shift"), AFFINE)
def test_sums_and_products_with_numbers_are_a_factor_and_a_shift(
    function: Any, factor: float, shift: float
) -> None:
    found = affine_of(function)
    assert (float(found.factor), float(found.shift)) == (factor, shift)
    assert torch.allclose(function(IMAGE), IMAGE * factor + shift)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x,
        lambda x: x * x,
        lambda x: 2 / x,
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        lambda x: x**2,
        lambda x: x // 2,
    ],
)
def test_what_is_no_factor_and_shift_is_not_taken_for_one(function: Any) -> None:
    assert affine_of(function) is None
