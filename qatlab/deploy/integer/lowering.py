"""Turns a trained network with quantizers into an integer network.

Between two sites everything is linear: a convolution, its batch norm, an addition. So what reaches
a site is a sum of accumulators, each times a number for each channel, and one more number; that is
what a ``Rescale`` holds, and nothing of it is rounded but the code at its end. A concatenation
stays apart in its parts, which may have other steps: a layer that reads it is the sum of layers
that read one part each.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.layers import (
    float_layer,
    layer,
    moved,
    norm,
    prelu,
    reinterpreted,
    site,
    total,
)
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Codes
from qatlab.deploy.integer.pools import (
    adaptive_average,
    adaptive_max_pool,
    average,
    largest_of_map,
    max_pool,
    over_the_map,
    pad,
)
from qatlab.deploy.integer.products import product_of_two
from qatlab.deploy.integer.state import Made, State
from qatlab.deploy.integer.values import Coded, Function, Parts, linear
from qatlab.deploy.integer.views import apart, rearranged
from qatlab.errors import ConfigError, TrainingError
from qatlab.quant import Phase, Quantizer
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.ops import ACTIVATIONS, affine, kind_of
from qatlab.quant.sites import preserves_values
from qatlab.quant.trace import measure


@torch.no_grad()
def lower(model: nn.Module, input_codes: Sequence[Codes], example_input: Tensor) -> IntegerNetwork:
    """Return the integer network of a trained network.

    Args:
        model: what :func:`qatlab.quant.quantize` returned, with trained values, on the CPU.
        input_codes: those of each channel of the images.
        example_input: ``(1, C, H, W)``, for the shapes.

    Raises:
        ConfigError: for a layer, a site or an operator without an integer form, and for an
            accumulator that 32 bits may not hold.
    """
    return Lowering(model, input_codes, example_input).network()


@torch.no_grad()
def try_to_lower(
    model: nn.Module, input_codes: Sequence[Codes], example_input: Tensor
) -> tuple[IntegerNetwork, tuple[Obstacle, ...]]:
    """Return the integer network, and what has no place in it.

    Where something has none, the network is not the one that was trained. Arguments and errors
    that concern the whole network: see :func:`lower`.
    """
    lowering = Lowering(model, input_codes, example_input, goes_on=True)
    return lowering.network(), tuple(lowering.obstacles)


@dataclass(frozen=True)
class Obstacle:
    """Why a network has no integer form, at one place.

    Attributes:
        layer: path of the layer, site or function.
        operator: what it calls.
        reason: one sentence.
        in_float: whether it is a part that files of floats compute as it is.
    """

    layer: str
    operator: str
    reason: str
    in_float: bool = False


class Lowering(State):
    """Lowers a network node by node.

    Args:
        model: see :func:`lower`.
        input_codes: likewise.
        example_input: likewise.
        goes_on: note what has no integer form, let codes stand for it and go on; if not, raise.

    Attributes:
        obstacles: what was noted.
    """

    def __init__(
        self,
        model: nn.Module,
        input_codes: Sequence[Codes],
        example_input: Tensor,
        goes_on: bool = False,
    ) -> None:
        if not isinstance(model, fx.GraphModule):  # which quantize makes of all it quantizes
            raise ConfigError(
                "the network is float, and so has no integer form: train it with bits."
            )
        super().__init__(model, measure(model, example_input))
        self.model, self.input_codes, self.goes_on = model, input_codes, goes_on
        self.obstacles: list[Obstacle] = []
        for quantizer in self.modules.values():
            if isinstance(quantizer, Quantizer) and quantizer.phase is not Phase.QUANTIZE:
                raise ConfigError(
                    f"{quantizer.layer} is in the {quantizer.phase.value} phase: integer networks "
                    "are made of runs that have ended with their quantize phase."
                )

    def network(self) -> IntegerNetwork:
        """Lower all nodes."""
        for node in self.model.graph.nodes:
            try:
                self._lower(node)
            except (ConfigError, TrainingError) as error:
                if not self.goes_on:
                    raise
                self._note(node, str(error))
            except Exception:
                if not self.obstacles:
                    raise
                self._stand_in(node)  # what stands for an obstacle need not fit what reads it
        operations = _needed(list(self.operations.values()))
        there = {op.name for op in operations}
        # A site of which nothing reaches the output is left out like its operations.
        sites = {name: parts for name, parts in self.sites.items() if there.issuperset(parts)}
        return IntegerNetwork(operations, sites)

    def _note(self, node: fx.Node, reason: str) -> None:
        name = "output" if node.op == "output" else self.paths[node]
        operator = "" if node.op == "output" else self.called(node).partition(" (")[2].rstrip(")")
        self.obstacles.append(Obstacle(name, operator, reason))
        self._stand_in(node)

    def _stand_in(self, node: fx.Node) -> None:
        """Let codes stand for what a node makes."""
        if node in self.shapes:
            shape = self.shapes[node][1:]
            channels, height, width = (*shape, 1, 1, 1)[:3]
            codes, name = Codes(0, 15, 1 / 15), self.free(node.name)
            self.add(ops.Input(name, (), codes, (channels, height, width)))
            inner = shape if len(shape) < 2 else (channels, height, width)
            self.values[node] = Parts((Coded(name, codes, inner),))

    def _lower(self, node: fx.Node) -> None:
        if node.op == "output":
            self._output(node.args[0])
        elif node.op == "placeholder":
            if node in self.shapes:
                self.values[node] = self._image(node)
        elif node.op == "call_module":
            self.values[node] = self._of_module(node)
        elif node.op != "get_attr" and self._is_of_the_image(node):
            self.values[node] = self._of_call(node)

    def _is_of_the_image(self, node: fx.Node) -> bool:
        """Tell whether a function makes tensors of the image, and no size or constant."""
        return node not in self.measures.others and node not in self.measures.constants

    def _image(self, node: fx.Node) -> Parts:
        """Return the image, as one part where all its channels have the same codes."""
        shape: Any = self.shapes[node][1:]
        first = self.input_codes[0]
        name = self.add(ops.Input(self.free(node.name), (), first, shape))
        parts = Parts((Coded(name, first, shape),))
        if all(codes == first for codes in self.input_codes):
            return parts
        values = []
        for part, codes in zip(apart(self, name, parts).values, self.input_codes, strict=True):
            assert isinstance(part, Coded)
            factor = codes.step / first.step
            shift = codes.offset - first.offset * factor
            values.append(reinterpreted(self, f"{part.name}_values", part, factor, shift))
        return Parts(tuple(values))

    def _output(self, node: Any) -> None:
        if not isinstance(node, fx.Node):
            kind = "dictionary" if isinstance(node, dict) else "tuple"
            count = f"a {kind} of {len(node)}" if isinstance(node, (tuple, list, dict)) else node
            raise ConfigError(
                f"the network returns {count}, which has no integer form: return one tensor."
            )
        raw, function, places = self.raw(node), "", None
        if raw.function is not None and raw.function.kind in LAST:
            function, raw = raw.function.kind, replace(raw, function=None)
        if raw.index is not None and _is_an_order(raw) and not raw.pools:
            places, raw = raw.index.ravel(), replace(raw, index=None)
        if raw.function is not None or raw.pools or raw.index is not None or raw.bordered:
            self.parts(node)  # which tells why not
        if len(raw.values) > 1 or raw.order is not None:
            raise ConfigError(
                f"{self.paths[node]} is a concatenation, which no output can be; put a layer "
                "behind it."
            )
        value = linear(raw.values[0])
        names, numbers = zip(*value.terms, strict=True)
        facts = (self.shapes[node][1:], function, places)
        self.add(
            ops.Output(self.free("output"), names, numbers, value.bias, value.from_offsets, *facts)
        )

    def _of_module(self, node: fx.Node) -> Made:
        path, module = str(node.target), self.modules[str(node.target)]
        for kinds, made in MODULES.items():
            if isinstance(module, kinds):
                return made(self, path, module, node.all_input_nodes[0])
        return self._of_call(node)

    def _of_call(self, node: fx.Node) -> Made:
        kind, name = kind_of(node, self.modules), self.paths[node]
        args, kwargs = self.measures.arguments(node)
        if (by_numbers := affine(kind, args, kwargs)) is not None:
            return moved(self, name, node, by_numbers)
        if kind in ("view", "interpolate") and preserves_values(node, kind, self.modules):
            return rearranged(self, name, node)
        function = CALLS.get(kind or "")
        if function is None:
            raise self._refused(node, kind)
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            names = list(inspect.signature(function).parameters)[4:]
            kwargs |= {key: getattr(module, key) for key in names if hasattr(module, key)}
            kwargs |= PADDINGS.get(type(module), lambda module: {})(module)
        try:
            given = inspect.signature(function).bind(self, name, node, *args, **kwargs)
        except TypeError as error:
            raise self._refused(node, kind) from error
        return function(*given.args, **given.kwargs)

    def _refused(self, node: fx.Node, kind: str | None) -> ConfigError:
        described = self.called(node)
        if kind in ACTIVATIONS:
            return ConfigError(
                f"{described} is a float site, and so has no integer form: give it bits."
            )
        return ConfigError(f"{described} has no integer form.")


LAST = ("softmax", "log_softmax")
MODULES: dict[Any, Callable[..., Parts]] = {
    (QuantConv2d, QuantLinear): layer,
    (nn.Conv2d, nn.Linear): float_layer,
    _BatchNorm: norm,
    ActivationQuantizer: site,
}
PADDINGS: Mapping[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.ZeroPad2d: lambda module: {"pad": module.padding},
    nn.ConstantPad2d: lambda module: {"pad": module.padding, "value": module.value},
    nn.ReflectionPad2d: lambda module: {"pad": module.padding, "mode": "reflect"},
    nn.ReplicationPad2d: lambda module: {"pad": module.padding, "mode": "replicate"},
    nn.CircularPad2d: lambda module: {"pad": module.padding, "mode": "circular"},
}


def _sum_of_two(
    state: State, name: str, node: fx.Node, input: Any, other: Any, *, alpha: Any = 1
) -> Parts:
    return total(state, name, node, [input, other], np.array([1.0, float(alpha)]))


def _difference_of_two(
    state: State, name: str, node: fx.Node, input: Any, other: Any, *, alpha: Any = 1
) -> Parts:
    return total(state, name, node, [input, other], np.array([1.0, -float(alpha)]))


def _reversed_difference(
    state: State, name: str, node: fx.Node, input: Any, other: Any, *, alpha: Any = 1
) -> Parts:
    return total(state, name, node, [input, other], np.array([-float(alpha), 1.0]))


def _same(state: State, name: str, node: fx.Node, input: fx.Node, *_: Any, **__: Any) -> Parts:
    return state.raw(input)


def _dropout(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Parts:
    if training and p > 0:
        raise ConfigError(
            f"{state.called(node)} drops values in evaluation, too, which has no integer form; "
            "give it training=self.training, or use nn.Dropout."
        )
    return state.raw(input)


def _softmax(
    state: State,
    name: str,
    node: fx.Node,
    input: fx.Node,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: Any = None,
) -> Parts:
    shape, kind = state.shapes[input], kind_of(node, state.modules)
    axis = None if dim is None else dim % len(shape)
    if axis != 1 or max(shape[2:], default=1) > 1:
        raise ConfigError(
            f"{state.called(node)} has an integer form over the classes only, as the last step."
        )
    return replace(state.parts(input), function=Function(str(kind)))


def _is_an_order(parts: Parts) -> bool:
    """Tell whether a tensor has each place of its parts once."""
    count = sum(math.prod(value.shape) for value in parts.values)
    return parts.index is not None and np.array_equal(
        np.sort(parts.index.ravel()), np.arange(count)
    )


def _needed(operations: Sequence[ops.Operation]) -> tuple[ops.Operation, ...]:
    """Return the operations that the last one is made of, and the image."""
    wanted = {operations[-1].name}
    kept = []
    for op in reversed(operations):
        if op.name in wanted or not op.inputs:
            wanted |= set(op.inputs)
            kept.append(op)
    return tuple(reversed(kept))


CALLS: dict[str, Callable[..., Parts]] = {
    "max_pool2d": max_pool,
    "avg_pool2d": average,
    "adaptive_avg_pool2d": adaptive_average,
    "adaptive_max_pool2d": adaptive_max_pool,
    "mean": over_the_map,
    "sum": over_the_map,
    "amax": largest_of_map,
    "add": _sum_of_two,
    "sub": _difference_of_two,
    "rsub": _reversed_difference,
    "mul": product_of_two,
    "pad": pad,
    "prelu": lambda state, name, node, input, weight: prelu(state, name, input, weight),
    "same": _same,
    "dropout": _dropout,
    "softmax": _softmax,
    "log_softmax": _softmax,
}
