"""Traces a network, and tells the shapes of its tensors and what it takes to compute them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from qatlab.errors import ConfigError
from qatlab.quant.sites import SAME_VALUES_BY_NAME


class _Tracer(fx.Tracer):
    """A tracer that does not look into modules which drop whole branches in training.

    What it would find there depends on whether they train.
    """

    proxy_buffer_attributes = True  # what is computed from a buffer is computed at each pass

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m).__name__ in SAME_VALUES_BY_NAME
        is_norm = isinstance(m, _BatchNorm) and not list(m.children())
        return known or is_norm or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the graph of a network, which shares its parameters.

    Raises:
        ConfigError: if it cannot be traced, or computes differently in training.
    """
    name = type(model).__name__
    try:
        with _mode_of(model, training=False):
            evaluating = _graph_module(model)
        with _mode_of(model, training=True):
            traced = _graph_module(model)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{name} cannot be traced, so its sites cannot be found: {reason}"
        ) from error
    for line, other in zip_longest(traced.code.splitlines(), evaluating.code.splitlines()):
        if line != other:
            raise ConfigError(
                f"{name} computes differently in training and in evaluation, which a trace cannot "
                f"follow: '{str(line or other).split(';')[0].strip()}'; use a module there, such "
                "as nn.Dropout instead of F.dropout"
            )
    traced.training = model.training
    return traced


def _graph_module(model: nn.Module) -> fx.GraphModule:
    """Trace a network in the mode in which it is, and leave it as it was."""
    before = set(vars(model))
    graph = _Tracer().trace(model)
    if isinstance(model, fx.GraphModule):  # was traced before, and knows which module calls what
        known = {node.name: node.meta for node in model.graph.nodes}
        for node in graph.nodes:
            node.meta.update(known.get(node.name, {}))
    traced = fx.GraphModule(model, graph, type(model).__name__)
    for name in vars(model).keys() - before:  # tensors made in a forward pass
        delattr(model, name)
        traced.register_buffer(name, getattr(traced, name), persistent=False)
    return traced


def compute_out_of_place(traced: fx.GraphModule, modules: bool) -> None:
    """Replace what is computed in place: it would overwrite what a quantizer keeps for backward.

    Args:
        traced: its calls are replaced, such as ``y.add_(x)`` by ``y = y.add(x)``.
        modules: change modules too; they are shared with the float network.
    """
    for module in traced.modules() if modules else ():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        if "inplace" in node.kwargs:
            node.update_kwarg("inplace", False)
        if node.op == "call_method" and node.target.endswith("_"):
            node.target = node.target.rstrip("_")
            later = {user for user in node.args[0].users if order[user] > order[node]}
            node.args[0].replace_all_uses_with(node, delete_user_cb=later.__contains__)


@contextmanager
def _mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Set all modules to training or to evaluation for a while."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


class Measures(NamedTuple):
    """What a network computes of one image, node by node."""

    shapes: dict[fx.Node, tuple[int, ...]]  # of each tensor
    macs: dict[fx.Node, int]  # multiply-accumulates, where there are any


class _Measuring(fx.Interpreter):
    """Computes a network and notes the shape of each tensor, and what it took to make it."""

    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(traced)
        self.counter = counter
        self.measures = Measures({}, {})

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.measures.shapes[n] = tuple(result.shape)
        if macs := (self.counter.get_total_flops() - before) // 2:  # a product and a sum each
            self.measures.macs[n] = macs
        return result


def measure(traced: fx.GraphModule, example_input: Tensor) -> Measures:
    """Return what a network makes of ``example_input`` ``(1, C, H, W)``.

    Multiply-accumulates are those that ``torch.utils.flop_counter`` counts: of convolutions, linear
    layers and products of matrices.
    """
    counter = FlopCounterMode(display=False)
    interpreter = _Measuring(traced, counter)
    try:
        with torch.no_grad(), _mode_of(traced, training=False), counter:
            interpreter.run(example_input)
    except RuntimeError as error:
        shape, reason = tuple(example_input.shape), str(error).splitlines()[0]
        raise ConfigError(
            f"data.image_size: the network cannot compute images of shape {shape}: {reason}"
        ) from error
    return interpreter.measures
