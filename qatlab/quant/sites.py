"""Finds, in a traced network, where tensors are quantized."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from qatlab.quant.bounds import Bounds, bounds_of, bounds_of_constant
from qatlab.quant.ops import (
    ACTIVATIONS,
    WEIGHT_LAYERS,
    Affine,
    activation_module,
    affine,
    is_table,
    kind_of,
    written,
)
from qatlab.quant.quantizer import is_number
from qatlab.quant.trace import OWN_WEIGHTS, Measures

# These hand on the values they get, so their output lies on the grid of their input.
PRESERVES_VALUES = (
    *("same", "dropout", "view", "pad", "max_pool2d", "adaptive_max_pool2d", "amax"),
    *("maximum", "minimum"),
)


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
        in_front: whether a function that whole numbers have as a table reads the tensor, which no
            activation function makes.
        summed_with: name of the first of the sites that additions add up with it, or with those
            that it is added to, itself among them; "" if no addition reads it and another one.
    """

    node: fx.Node
    name: str
    type: str
    activation: nn.Module
    signed: bool
    replaces: bool
    in_front: bool = False
    summed_with: str = ""


def find_sites(
    traced: fx.GraphModule, measures: Measures, inputs_of_functions: bool = False
) -> list[Site]:
    """Return all sites in the order of computation.

    Every activation function is a site, and so is every tensor that would otherwise reach a
    weight layer or an addition in float, such as a linear bottleneck. The network's input is none.

    Args:
        traced: float network.
        measures: of its nodes.
        inputs_of_functions: what an activation function reads that does more than clip or bend its
            input, such as SiLU, is a site, too, and so is what is multiplied by another tensor.
    """
    modules = dict(traced.named_modules())
    tensors = measures.shapes
    sites: dict[fx.Node, Site] = {}
    sums: list[list[fx.Node]] = []
    taken: set[str] = set()
    sources: dict[fx.Node, tuple[fx.Node, ...]] = {}  # the nodes whose values a node hands on
    scaled: dict[fx.Node, set[fx.Node]] = {}  # those of which it is some times the values
    bounds: dict[fx.Node, Bounds] = {}
    paths = paths_of(traced.graph)
    in_front: set[fx.Node] = set()
    for node in traced.graph.nodes:
        kind = kind_of(node, modules)
        moved = affine(kind, *measures.arguments(node)) if node in tensors else None
        inputs = node.all_input_nodes[: 1 if node.target is operator.getitem else None]
        adds = kind in ("add", "sub", "rsub") and node in tensors and not _adds_a_number(moved)
        acts = kind in ACTIVATIONS and node in tensors and node not in measures.constants
        function = activation_module(node, modules) if acts else None
        looks_up = inputs_of_functions and function is not None and is_table(function)
        if looks_up:
            in_front.update(s for n in inputs for s in sources[n])
        multiplies = inputs_of_functions and kind == "mul" and node in tensors and moved is None
        if is_weight_layer(node, modules) or adds or looks_up or multiplies:
            for source in dict.fromkeys(s for n in inputs for s in sources[n] if s not in sites):
                name = _unique(f"{paths[source]}_site", taken | modules.keys())
                signed = bounds[source].low < 0
                type_name = written(source, modules)
                sites[source] = Site(source, name, type_name, nn.Identity(), signed, False)
                taken.add(name)
        several = node.target is operator.getitem and _makes_several(inputs[0], tensors, modules)
        if adds and len(node.args) == 2 and not node.kwargs:  # neither operand times a number
            sums.append([s for n in inputs for s in sources[n] if s not in scaled[n]])
        preserves = (preserves_values(node, kind, modules) and not several) or _scales(moved)
        sources[node] = tuple(dict.fromkeys(s for n in inputs for s in sources[n]))
        scaled[node] = {s for n in inputs for s in scaled[n]} | {
            s for s in sources[node] if _scales(moved)
        }
        if node.op in ("placeholder", "get_attr") or node in measures.constants:
            sources[node] = ()
        elif moved is not None and not sources[node] and not measures.learned(node):
            pass  # the image, moved by numbers, is still the image
        elif not preserves:
            sources[node] = (node,) if node in tensors else ()
        if node.op == "get_attr":
            bounds[node] = bounds_of_constant(measures.constants[node], _is_stored(traced, node))
        elif node not in measures.others:
            bounds[node] = bounds_of(node, kind, modules, bounds, measures.others)
        if acts:
            signed = bounds[node].low < 0
            replaces = function is not None
            path = paths[node] if replaces else f"{paths[node]}_site"
            name = _unique(path, taken | (modules.keys() - {str(node.target)}))
            taken.add(name)
            type_name = written(node, modules) if function is None else type(function).__name__
            sites[node] = Site(node, name, type_name, function or nn.Identity(), signed, replaces)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    firsts = _firsts_of(sums, order)
    return [
        replace(
            site,
            in_front=site.node in in_front and not site.replaces,
            summed_with=sites[firsts[site.node]].name if site.node in firsts else "",
        )
        for site in sorted(sites.values(), key=lambda site: order[site.node])
    ]


def _firsts_of(
    sums: Iterable[Sequence[fx.Node]], order: Mapping[fx.Node, int]
) -> dict[fx.Node, fx.Node]:
    """Return the first node of all that are in a sum with a node, or in one with such a node."""
    groups: list[set[fx.Node]] = []
    for nodes in sums:
        joined = set(nodes).union(*(own for own in groups if not own.isdisjoint(nodes)))
        groups = [*(own for own in groups if own.isdisjoint(nodes)), joined]
    return {n: min(own, key=order.__getitem__) for own in groups if len(own) > 1 for n in own}


def weight_layer_names(traced: fx.GraphModule) -> list[str]:
    """Return the paths of all convolutions and fully-connected layers, in order, each once.

    Among them are those that compute their weights themselves.
    """
    modules = dict(traced.named_modules())
    own = traced.meta.get(OWN_WEIGHTS, {})
    names = [
        str(node.target).removesuffix(".weight")
        for node in traced.graph.nodes
        if is_weight_layer(node, modules)
        or (node.op == "get_attr" and str(node.target).removesuffix(".weight") in own)
    ]
    return list(dict.fromkeys(names))


def is_weight_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Tell whether a node calls a layer whose weights can be quantized."""
    return node.op == "call_module" and isinstance(modules[str(node.target)], WEIGHT_LAYERS)


def preserves_values(node: fx.Node, kind: str | None, modules: dict[str, nn.Module]) -> bool:
    """Tell whether what a node makes are values that it gets, so that they lie on their grid."""
    if kind != "interpolate":
        return kind in PRESERVES_VALUES
    if node.op == "call_module":
        mode: Any = getattr(modules[str(node.target)], "mode", None)
    else:
        names = ("size", "scale_factor", "mode")
        mode = (dict(zip(names, node.args[1:], strict=False)) | node.kwargs).get("mode")
    return mode in (None, "nearest", "nearest-exact")


def _is_stored(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a tensor is in checkpoints, so that it may change."""
    path, _, name = str(node.target).rpartition(".")
    owner = traced.get_submodule(path)
    return name in owner._parameters or name not in owner._non_persistent_buffers_set


def _adds_a_number(moved: Affine | None) -> bool:
    return moved is not None and is_number(moved.shift)


def _scales(moved: Affine | None) -> bool:
    """Tell whether a node multiplies a tensor by a number: a grid times it is a grid."""
    if moved is None or not (is_number(moved.factor) and is_number(moved.shift)):
        return False
    return bool(moved.shift == 0 and moved.factor != 0)


def _makes_several(
    node: fx.Node, tensors: Container[fx.Node], modules: dict[str, nn.Module]
) -> bool:
    """Tell whether a node makes several tensors at once, with values that it did not get."""
    return node not in tensors and not preserves_values(node, kind_of(node, modules), modules)


def paths_of(graph: fx.Graph) -> dict[fx.Node, str]:
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
