"""Finds, in a traced network, where tensors are quantized."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

# Activation functions, and whether their output is never negative.
ACTIVATION_MODULES: dict[type[nn.Module], bool] = {
    nn.ReLU: True,
    nn.ReLU6: True,
    nn.Sigmoid: True,
    nn.Hardsigmoid: True,
    nn.Softplus: True,
    nn.LeakyReLU: False,
    nn.PReLU: False,
    nn.ELU: False,
    nn.SiLU: False,
    nn.GELU: False,
    nn.Mish: False,
    nn.Hardswish: False,
    nn.Hardtanh: False,
    nn.Tanh: False,
}
# Calls without a module of their own, and the module that computes the same.
ACTIVATION_CALLS: dict[Any, Callable[[], nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.silu: nn.SiLU,
    F.hardswish: nn.Hardswish,
    F.hardsigmoid: nn.Hardsigmoid,
    torch.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh,
    "tanh": nn.Tanh,
}
WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
# These hand on the values they get, so their output lies on the grid of their input.
SAME_VALUES = (
    *(nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten),
    *(nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.ZeroPad2d),
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.cat),
    *(F.max_pool2d, F.adaptive_max_pool2d, F.dropout, F.pad, operator.getitem),
    *(torch.amax, "amax"),
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "contiguous", "size"),
    *("chunk", "split", torch.chunk, torch.split),
)
# Averages of values that are not negative are not negative either.
AVERAGES = (
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
    *(torch.mean, "mean"),
)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


@dataclass(frozen=True)
class Site:
    """A point of the network where a tensor is quantized.

    Attributes:
        node: the node of the graph that makes the tensor.
        name: path of the quantizer that will stand there.
        type: class name of the float module there, what rules call ``type``.
        activation: the float activation function it replaces or follows (identity if none).
        signed: whether values can be negative.
        replaces: whether ``node`` itself is replaced (an activation function) or followed.
    """

    node: fx.Node
    name: str
    type: str
    activation: nn.Module
    signed: bool
    replaces: bool


def find_sites(traced: fx.GraphModule, tensors: Container[fx.Node]) -> list[Site]:
    """Return all sites in the order of computation.

    Every activation function is a site, and so is every tensor that would otherwise reach a
    weight layer or an addition in float, such as a linear bottleneck. The network's input is none.

    Args:
        traced: float network.
        tensors: the nodes that make a tensor; others compute shapes.
    """
    modules = dict(traced.named_modules())
    sites: dict[fx.Node, Site] = {}
    taken: set[str] = set()
    sources: dict[fx.Node, tuple[fx.Node, ...]] = {}  # the nodes whose values a node hands on
    signed: dict[fx.Node, bool] = {}  # whether a node's values can be negative
    for node in traced.graph.nodes:
        inputs = node.all_input_nodes
        kind = _kind(node, modules)
        if _is_weight_layer(node, modules) or kind in ADDITIONS:
            for source in dict.fromkeys(s for n in inputs for s in sources[n] if s not in sites):
                name = _unique(f"{_path(source)}_site", taken | modules.keys())
                type_name = _type_name(source, modules)
                sites[source] = Site(source, name, type_name, nn.Identity(), signed[source], False)
                taken.add(name)
        factor = _factor(node) if node in tensors else None
        hands_on = kind in SAME_VALUES or factor is not None
        if kind is operator.getitem:
            inputs = inputs[:1]  # the others say which values
        sources[node] = tuple(dict.fromkeys(s for n in inputs for s in sources[n]))
        if node.op in ("placeholder", "get_attr"):
            sources[node] = ()
        elif not hands_on:
            sources[node] = (node,) if node in tensors else ()
        signed[node] = True
        if inputs and (hands_on or kind in AVERAGES or kind in ADDITIONS):
            negated = factor is not None and factor < 0
            signed[node] = negated or any(signed[n] for n in inputs)
        activation = _activation(node, modules)
        if activation is not None:
            signed[node] = not _never_negative(activation)
            replaces = not list(activation.parameters())  # those keep their names
            path = _path(node) if replaces else f"{_path(node)}_site"
            name = _unique(path, taken | (modules.keys() - {str(node.target)}))
            taken.add(name)
            type_name = type(activation).__name__
            function = activation if replaces else nn.Identity()
            sites[node] = Site(node, name, type_name, function, signed[node], replaces)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    return sorted(sites.values(), key=lambda site: order[site.node])


def weight_layer_names(traced: fx.GraphModule) -> list[str]:
    """Return the paths of all convolutions and fully-connected layers, in order, each once."""
    modules = dict(traced.named_modules())
    names = [str(n.target) for n in traced.graph.nodes if _is_weight_layer(n, modules)]
    return list(dict.fromkeys(names))


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """What the node calls: a module's class, a function or a method's name."""
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target


def _type_name(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    kind = _kind(node, modules)
    return kind if isinstance(kind, str) else kind.__name__


def _is_weight_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and _kind(node, modules) in WEIGHT_LAYERS


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    kind = _kind(node, modules)
    if node.op == "call_module" and kind in ACTIVATION_MODULES:
        return modules[str(node.target)]
    if node.op in ("call_function", "call_method") and kind in ACTIVATION_CALLS:
        return ACTIVATION_CALLS[kind]()
    return None


def _never_negative(activation: nn.Module) -> bool:
    if isinstance(activation, nn.Hardtanh):
        return activation.min_val >= 0
    return ACTIVATION_MODULES[type(activation)]


def _factor(node: fx.Node) -> float | None:
    """Return the number by which the node multiplies a tensor: a grid times it is a grid."""
    if node.target not in PRODUCTS or node.kwargs or len(node.args) != 2:
        return None
    factors = [x for x in node.args if isinstance(x, (int, float))]
    return factors[0] if len(factors) == 1 else None


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 0, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
