"""Traces a network, and tells the shapes of its tensors and what it takes to compute them."""

from __future__ import annotations

import copy
import inspect
import operator
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.errors import ConfigError, QatlabError
from qatlab.quant.ops import DROPS_BRANCHES, WEIGHT_LAYERS, kind_of
from qatlab.quant.products import ProductCounter
from qatlab.quant.tracing import ASSIGNMENTS, InPlaceTracer

OWN_WEIGHTS = "own_weights"  # key of a graph's meta: classes of layers that compute their weights
IN_PLACE: dict[str, Any] = {
    function.__name__: getattr(operator, function.__name__.removeprefix("i"))
    for function in ASSIGNMENTS
}
COPIES = ("cat", "concat", "concatenate", "stack", "clone", "roll", "flip", "repeat", "tile")
DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
}
WEIGHTED: dict[Any, type[nn.Conv2d] | type[nn.Linear]] = {F.conv2d: nn.Conv2d, F.linear: nn.Linear}


class _Tracer(InPlaceTracer):
    """A tracer that does not look into modules which drop whole branches in training.

    What it would find there depends on whether they train. Nor does it look into layers of classes
    that compute as their base class does.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m).__name__ in DROPS_BRANCHES
        is_norm = isinstance(m, _BatchNorm) and not list(m.children())
        is_layer = type(m).forward in (nn.Conv2d.forward, nn.Linear.forward) and (
            getattr(type(m), "_conv_forward", None) in (None, nn.Conv2d._conv_forward)
        )
        return known or is_norm or is_layer or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the graph of a network, which shares its parameters.

    Functions become modules where a module computes the same: a dropout in training only, and a
    convolution or a product with the weights of a layer.

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
    dropouts = _dropouts_in_training(traced.graph, evaluating.graph)
    for line, other in zip_longest(_code_of(traced), _code_of(evaluating)):
        if line != other:
            raise ConfigError(
                f"{name} computes differently in training and in evaluation, which a trace cannot "
                f"follow: '{str(line or other).split(';')[0].strip()}'; use a module there, such "
                "as nn.Dropout instead of F.dropout"
            )
    for node, module in dropouts.items():
        caller = [path for path, _ in node.meta.get("nn_module_stack", {}).values()][-1:]
        _call_module(traced, node, ".".join((*caller, node.name)), module)
    _call_layers(traced, model)
    traced.graph.lint()
    traced.recompile()
    traced.training = model.training
    return traced


def _code_of(traced: fx.GraphModule) -> list[str]:
    return str(traced.graph.python_code("self").src).splitlines()


def _dropouts_in_training(graph: fx.Graph, evaluating: fx.Graph) -> dict[fx.Node, nn.Module]:
    """Find functions that drop values in training only, and the modules that do so.

    In both graphs they are then told not to train.
    """
    found: dict[fx.Node, nn.Module] = {}
    for node, other in zip(graph.nodes, evaluating.nodes, strict=False):
        if node.target in DROPOUTS and other.target is node.target:
            pairs = [_dropout(*n.args[1:], **_without(n.kwargs, "input")) for n in (node, other)]
            if pairs[0] == (pairs[1][0], True) and pairs[1][1] is False:
                found[node] = DROPOUTS[node.target](pairs[0][0])
                for n in (node, other):
                    n.args, n.kwargs = (n.all_input_nodes[0],), {"p": pairs[0][0]}
    return found


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> tuple[float, bool]:
    return p, training


def _without(kwargs: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != name}


def _call_module(traced: fx.GraphModule, node: fx.Node, path: str, module: nn.Module) -> None:
    """Let a node call a module with its first input."""
    while path in dict(traced.named_modules()):
        path += "_"
    traced.add_submodule(path, module)
    node.op, node.target = "call_module", path
    node.args, node.kwargs = (node.all_input_nodes[0],), {}


def _call_layers(traced: fx.GraphModule, model: nn.Module) -> None:
    """Let functions of a layer's weights be calls of a plain layer; note those it cannot be for.

    A class of its own may pad its input first, for example: what it does with its weights then is
    ``F.conv2d``. Where it makes other weights of them, nothing but these could be quantized.
    """
    owners = {
        f"{path}.weight": (str(path), layer)
        for path, layer in model.named_modules()
        if isinstance(layer, WEIGHT_LAYERS)
    }
    own_weights: dict[str, str] = {}
    for node in [n for n in traced.graph.nodes if n.op == "get_attr" and n.target in owners]:
        path, layer = owners[str(node.target)]
        made = [_plain(user, node, path, layer) for user in node.users]
        if not node.users:
            continue
        if None in made or any(str(one) != str(made[0]) for one in made):
            own_weights[path] = type(layer).__name__
            continue
        plain, users = made[0], list(node.users)
        assert plain is not None
        plain.weight, plain.bias = layer.weight, layer.bias
        if path not in dict(traced.named_modules()) or not isinstance(
            traced.get_submodule(path), WEIGHT_LAYERS
        ):
            parent, _, child = path.rpartition(".")
            setattr(traced.get_submodule(parent), child, plain)
        for user in users:
            user.op, user.target = "call_module", path
            user.args, user.kwargs = (user.all_input_nodes[0],), {}
    traced.graph.eliminate_dead_code(lambda n: n.op != "get_attr")
    traced.meta[OWN_WEIGHTS] = own_weights


def _plain(
    user: fx.Node, weight: fx.Node, path: str, layer: nn.Conv2d | nn.Linear
) -> nn.Conv2d | nn.Linear | None:
    """Return the layer, without weights, that computes what a function does, if there is one."""
    kind = WEIGHTED.get(user.target)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given: dict[str, Any] = dict(zip(names, user.args, strict=False)) | dict(user.kwargs)
    bias = given.pop("bias", None)
    fits = kind is not None and given.pop("weight", None) is weight and isinstance(layer, kind)
    if isinstance(bias, fx.Node):
        fits = fits and bias.op == "get_attr" and bias.target == f"{path}.bias"
    settings = {key: value for key, value in given.items() if key != "input"}
    if not fits or any(isinstance(value, fx.Node) for value in settings.values()):
        return None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta")
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type] # torch declares pairs as plain tuples
        bias=bias is not None,
        device="meta",
        **settings,
    )


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


def compute_out_of_place(
    traced: fx.GraphModule, modules: bool, others: Container[fx.Node] = ()
) -> None:
    """Replace what is computed in place: it would overwrite what a quantizer keeps for backward.

    Whoever reads a tensor after it was changed reads the result then, as it does in the network.

    Args:
        traced: its calls are replaced, such as ``y.add_(x)`` by ``y = y.add(x)``.
        modules: replace modules, too, by copies; those of the float network stay as they are.
        others: nodes that make no tensors, such as sizes.

    Raises:
        ConfigError: if another name for the tensor, such as a view of it, is read afterwards.
    """
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    # Found before anything is replaced, as a module may be called several times.
    for node in [n for n in order if _is_in_place(traced, n, modules)]:
        if node in others:  # a number keeps its value under its other names
            _out_of_place(traced, node)
            continue
        changed: fx.Node = node.all_input_nodes[0]
        for other in _aliases(traced, changed, order[node], others):
            if late := [user for user in other.users if order[user] > order[node]]:
                raise ConfigError(
                    f"{node.name} changes a tensor in place that {late[0].name} reads under "
                    f"another name ({other.name}), which a quantized network cannot follow; "
                    "compute it out of place there, such as with inplace=False."
                )
        later = {user for user in changed.users if order[user] > order[node]}
        changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        _out_of_place(traced, node)


def _is_in_place(traced: fx.GraphModule, node: fx.Node, modules: bool) -> bool:
    if node.op == "call_module":
        return modules and getattr(traced.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    function: Any = node.target
    name = getattr(function, "__name__", "")
    of_python = getattr(function, "__module__", "") == operator.and_.__module__  # and_, not_
    return (
        name in IN_PLACE
        or (name.endswith("_") and not of_python)
        or _says_in_place(node) is not None
    )


def _says_in_place(node: fx.Node) -> int | str | None:
    """Return where a function is told to work in place: a position or a keyword."""
    if node.kwargs.get("inplace") is True:
        return "inplace"
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # functions that are not written in Python have no such flag
        return None
    at = names.index("inplace") if "inplace" in names else len(node.args)
    return at if at < len(node.args) and node.args[at] is True else None


def _out_of_place(traced: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        path = str(node.target)
        module: Any = copy.copy(traced.get_submodule(path))
        module.inplace = False
        parent, _, child = path.rpartition(".")
        setattr(traced.get_submodule(parent), child, module)
        return
    function: Any = node.target
    if node.op == "call_method":
        node.target = str(function).rstrip("_")
        if not hasattr(Tensor, node.target):
            raise ConfigError(
                f"{node.name} overwrites a tensor by {function}(), which a quantized network "
                "cannot follow; make a new tensor instead."
            )
        return
    if function.__name__ in IN_PLACE:
        node.target = IN_PLACE[function.__name__]
    elif function.__name__.endswith("_"):
        name = function.__name__.rstrip("_")
        node.target = next(getattr(m, name) for m in (F, torch) if hasattr(m, name))
    at = _says_in_place(node)
    if isinstance(at, int):
        node.args = (*node.args[:at], False, *node.args[at + 1 :])
    elif at is not None:
        node.update_kwarg(at, False)


def _aliases(
    traced: fx.GraphModule, node: fx.Node, end: int, others: Container[fx.Node]
) -> list[fx.Node]:
    """Return the other names in a network for a tensor, or for a part of it.

    Args:
        traced: the network.
        node: what makes the tensor.
        end: names that are given from this node on, by its number, do not count: they are names for
            what has been made of the tensor by then.
        others: nodes that make no tensors.
    """
    modules = dict(traced.named_modules())
    before = set(list(traced.graph.nodes)[:end])

    def is_alias(other: fx.Node) -> bool:
        copies = getattr(other.target, "__name__", other.target) in COPIES
        renames = kind_of(other, modules) in ("same", "view") and not copies
        return renames and other in before and other not in others

    found, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        around = [user for user in one.users if is_alias(user)]
        if is_alias(one):
            around += one.all_input_nodes[:1]
        new = [other for other in around if other not in found]
        found.update(new)
        waiting += new
    return [other for other in found if other is not node]


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
    """What a network computes of one image, node by node.

    Attributes:
        shapes: of each tensor.
        macs: multiply-accumulates, where there are any.
        constants: tensors that depend on no image: parameters, buffers, and what is made of them.
        others: sizes, and whatever else holds no tensor.
    """

    shapes: dict[fx.Node, tuple[int, ...]]
    macs: dict[fx.Node, int]
    constants: dict[fx.Node, Tensor]
    others: dict[fx.Node, Any]

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what a node is called with: nodes only where they are tensors of the image."""
        known: dict[fx.Node, Any] = self.others | self.constants

        def seen(argument: fx.Node) -> Any:
            return known.get(argument, argument)

        return fx.map_arg(node.args, seen), dict(fx.map_arg(node.kwargs, seen))

    def learned(self, node: fx.Node) -> bool:
        """Tell whether a node reads a tensor that is trained."""
        constants = [self.constants[n] for n in node.all_input_nodes if n in self.constants]
        return any(constant.requires_grad for constant in constants)


class _Measuring(fx.Interpreter):
    """Computes a network and notes the shape of each tensor, and what it took to make it."""

    def __init__(self, traced: fx.GraphModule, counter: ProductCounter) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # an error of qatlab is one sentence
        self.counter = counter
        self.measures = Measures({}, {}, {}, {})

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.macs
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.measures.shapes[n] = tuple(result.shape)
            if n.op == "get_attr":
                self.measures.constants[n] = result
            elif self._is_constant(n):  # no_grad has forgotten whether it is learned
                learned = self.measures.learned(n)
                self.measures.constants[n] = result.detach().requires_grad_(learned)
        elif not _holds_tensors(result):
            self.measures.others[n] = result
        if macs := self.counter.macs - before:
            self.measures.macs[n] = macs
        return result

    def _is_constant(self, n: fx.Node) -> bool:
        """Tell whether a function computes a tensor from constants alone."""
        inputs, measures = n.all_input_nodes, self.measures
        known = measures.constants.keys() | measures.others.keys()
        made_of = any(i in measures.constants for i in inputs) and known.issuperset(inputs)
        return made_of and n.op in ("call_function", "call_method")


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = tuple(value.values())
    return isinstance(value, Tensor) or (
        isinstance(value, (tuple, list)) and any(map(_holds_tensors, value))
    )


def measure(traced: fx.GraphModule, example_input: Tensor) -> Measures:
    """Return what a network makes of ``example_input`` ``(1, C, H, W)``.

    Raises:
        ConfigError: if the network cannot compute such an image.
    """
    counter = ProductCounter()
    kept = next((p for p in traced.parameters() if p.is_floating_point()), example_input)
    example_input = example_input.to(kept)
    interpreter = _Measuring(traced, counter)
    try:
        with torch.no_grad(), _mode_of(traced, training=False), counter:
            interpreter.run(example_input.clone())  # some networks change their images
    except QatlabError:
        raise
    except Exception as error:  # of the network's own code: assertions about sizes, for example
        shape = tuple(example_input.shape)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = re.sub(r" \(Proxy\(\w+\)\)", "", reason)  # in words that were made while tracing
        raise ConfigError(
            f"data.image_size: the network cannot compute images of shape {shape}: {reason}"
        ) from error
    return interpreter.measures
