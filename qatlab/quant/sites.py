"""Finds, in a traced network, where tensors are quantized."""

from __future__ import annotations

import operator
import re
from collections import Counter
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
    nn.SELU: False,
    nn.CELU: False,
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
    F.mish: nn.Mish,
}
# Those that may have arguments stay where they are; whether their output is never negative.
OTHER_ACTIVATION_CALLS: dict[Any, bool] = {
    F.softplus: True,
    F.leaky_relu: False,
    F.prelu: False,
    F.elu: False,
    F.selu: False,
    F.celu: False,
    F.gelu: False,
    F.hardtanh: False,
}
WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
# These hand on the values they get, so their output lies on the grid of their input.
SAME_VALUES = (
    *(nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten),
    *(nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.UpsamplingNearest2d),
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.cat),
    *(torch.unsqueeze, torch.stack, torch.swapaxes, torch.movedim, torch.roll, torch.flip),
    *(F.max_pool2d, F.adaptive_max_pool2d, F.dropout, F.dropout2d, F.pad, operator.getitem),
    *(F.channel_shuffle, F.pixel_shuffle, F.pixel_unshuffle),
    *(torch.amax, "amax", torch.maximum, "maximum"),
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "contiguous", "size"),
    *("unsqueeze", "swapaxes", "movedim", "roll", "flip", "expand", "repeat", "clone"),
    *("chunk", "split", "unbind", torch.chunk, torch.split, torch.unbind),
)
# Classes of libraries that are not imported here. They leave out branches, or blocks of values, of
# some images in training, as dropout does single values.
SAME_VALUES_BY_NAME = ("StochasticDepth", "DropPath", "DropBlock2d")
# Averages of values that are not negative are not negative either.
AVERAGES = (
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
    *(torch.mean, "mean"),
)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")


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
    paths = _paths(traced.graph)
    for node in traced.graph.nodes:
        kind = _kind(node, modules)
        inputs = node.all_input_nodes[: 1 if kind is operator.getitem else None]
        adds = kind in (*ADDITIONS, *SUBTRACTIONS) and node in tensors
        shift = _shift(node, tensors) if adds else None
        if _is_weight_layer(node, modules) or (adds and shift is None):
            for source in dict.fromkeys(s for n in inputs for s in sources[n] if s not in sites):
                name = _unique(f"{paths[source]}_site", taken | modules.keys())
                type_name = _type_name(source, modules)
                sites[source] = Site(source, name, type_name, nn.Identity(), signed[source], False)
                taken.add(name)
        factor = _factor(node) if node in tensors else None
        several = kind is operator.getitem and _makes_several(inputs[0], tensors, modules)
        hands_on = (_hands_on(kind) and not several) or factor is not None
        sources[node] = tuple(dict.fromkeys(s for n in inputs for s in sources[n]))
        if node.op in ("placeholder", "get_attr"):
            sources[node] = ()
        elif shift is not None and not sources[node]:
            pass  # the image, shifted by a number, is still the image
        elif not hands_on:
            sources[node] = (node,) if node in tensors else ()
        signed[node] = node in tensors or bool(sources[node])  # else it is a size
        if inputs and (hands_on or kind in (*AVERAGES, *ADDITIONS, *PRODUCTS)):
            below = any(number is not None and number < 0 for number in (factor, shift))
            signed[node] = below or any(signed[n] for n in inputs)
        activation = _activation(node, modules)
        if activation is not None:
            signed[node], function = activation
            replaces = function is not None
            path = paths[node] if replaces else f"{paths[node]}_site"
            name = _unique(path, taken | (modules.keys() - {str(node.target)}))
            taken.add(name)
            type_name = _type_name(node, modules) if function is None else type(function).__name__
            stands = function or nn.Identity()
            sites[node] = Site(node, name, type_name, stands, signed[node], replaces)
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


def _hands_on(kind: Any) -> bool:
    """Tell whether what a node calls hands on the values it gets."""
    return kind in SAME_VALUES or getattr(kind, "__name__", None) in SAME_VALUES_BY_NAME


def _makes_several(
    node: fx.Node, tensors: Container[fx.Node], modules: dict[str, nn.Module]
) -> bool:
    """Tell whether a node makes several tensors at once, with values that it did not get."""
    return node not in tensors and not _hands_on(_kind(node, modules))


def _activation(
    node: fx.Node, modules: dict[str, nn.Module]
) -> tuple[bool, nn.Module | None] | None:
    """Return whether an activation function can be negative, and the module to replace it by.

    That is None where the node has to stay, as its parameters keep their names or it has arguments;
    and the whole is None for what is no activation function.
    """
    kind = _kind(node, modules)
    if node.op == "call_module" and kind in ACTIVATION_MODULES:
        module = modules[str(node.target)]
        signed = not ACTIVATION_MODULES[kind]
        if isinstance(module, nn.Hardtanh):
            signed = module.min_val < 0
        return signed, None if list(module.parameters()) else module
    if node.op in ("call_function", "call_method") and kind in ACTIVATION_CALLS:
        function = ACTIVATION_CALLS[kind]()
        return not ACTIVATION_MODULES[type(function)], function
    if node.op == "call_function" and kind in OTHER_ACTIVATION_CALLS:
        return not OTHER_ACTIVATION_CALLS[kind], None
    return None


def _factor(node: fx.Node) -> float | None:
    """Return the number by which the node multiplies a tensor: a grid times it is a grid."""
    if node.kwargs or len(node.args) != 2:
        return None
    if node.target in QUOTIENTS and isinstance(node.args[1], (int, float)) and node.args[1]:
        return 1 / node.args[1]
    factors = [x for x in node.args if isinstance(x, (int, float))]
    return factors[0] if node.target in PRODUCTS and len(factors) == 1 else None


def _shift(node: fx.Node, tensors: Container[fx.Node]) -> float | None:
    """Return the number that the node adds to a tensor, or None if it adds two tensors."""
    terms = [*node.args, *node.kwargs.values()]
    numbers = [x for x in terms if isinstance(x, (int, float))]
    sizes = [x for x in terms if isinstance(x, fx.Node) and x not in tensors]
    return numbers[0] if numbers else 0.0 if sizes else None


def _paths(graph: fx.Graph) -> dict[fx.Node, str]:
    """Return the path of each module called, and of each function the module that calls it.

    The second addition of ``layer1.0`` is ``layer1.0.add_1``; fx itself counts those of a network.
    """
    paths: dict[fx.Node, str] = {}
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            paths[node] = str(node.target)
            continue
        callers = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        path = ".".join((*callers[-1:], re.sub(r"_\d+$", "", node.name)))
        paths[node] = f"{path}_{counts[path]}" if counts[path] else path
        counts[path] += 1
    return paths


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 0, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique
