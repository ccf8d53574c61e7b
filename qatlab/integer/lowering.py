"""Turns a trained network with quantizers into an integer network.

Between two sites everything is linear: a convolution, its batch norm, an addition. So what reaches
a site is a sum of accumulators, each times a number for each channel, and one more number; that is
what a ``Rescale`` holds, and nothing of it is rounded but the code at its end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.integer.network import (
    Codes,
    Convolve,
    Flatten,
    Input,
    IntegerNetwork,
    MaxPool,
    Multiply,
    Operation,
    Output,
    PadChannels,
    Reals,
    Rescale,
    Subsample,
    SumPool,
)
from qatlab.integer.weights import integer_weight, largest_accumulator
from qatlab.quant import Phase, Quantizer
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.memory import add, add_apart
from qatlab.quant.sites import (
    ACTIVATION_CALLS,
    ACTIVATION_MODULES,
    OTHER_ACTIVATION_CALLS,
)
from qatlab.quant.trace import measure

Shape = tuple[int, ...]
SAME = (nn.Dropout, nn.Dropout2d, nn.Identity)
ACTIVATIONS = (ACTIVATION_MODULES, ACTIVATION_CALLS, OTHER_ACTIVATION_CALLS)
ADDITIONS = (add, add_apart, operator.add, torch.add)


@dataclass(frozen=True)
class Coded:
    """A tensor of codes: the result of an operation."""

    name: str
    codes: Codes


@dataclass(frozen=True)
class Linear:
    """A tensor that is ``sum_i terms[i] * result i + offset``, with numbers for each channel."""

    terms: tuple[tuple[str, Reals], ...]
    offset: Reals

    def scaled(self, factor: Reals, shift: Reals) -> Linear:
        """Return ``factor * self + shift``."""
        terms = tuple((name, number * factor) for name, number in self.terms)
        return Linear(terms, self.offset * factor + shift)


@torch.no_grad()
def lower(model: nn.Module, input_codes: Codes, example_input: Tensor) -> IntegerNetwork:
    """Return the integer network of a trained network.

    Args:
        model: what :func:`qatlab.quant.quantize` returned, with trained values, on the CPU.
        input_codes: those of the images.
        example_input: ``(1, C, H, W)``, for the shapes.

    Raises:
        ConfigError: for a layer, a site or an operator without an integer form, and for an
            accumulator that 32 bits may not hold.
    """
    if not isinstance(model, fx.GraphModule):  # which quantize makes of all it quantizes
        raise ConfigError("the network is float, and so has no integer form: train it with bits.")
    return _Lowering(model, input_codes, measure(model, example_input).shapes).network()


class _Lowering:
    def __init__(
        self, model: fx.GraphModule, input_codes: Codes, shapes: Mapping[fx.Node, Shape]
    ) -> None:
        self.model, self.input_codes, self.shapes = model, input_codes, shapes
        self.modules = dict(model.named_modules())
        self.values: dict[fx.Node, Coded | Linear] = {}
        self.operations: list[Operation] = []
        for quantizer in self.modules.values():
            if isinstance(quantizer, Quantizer) and quantizer.phase is not Phase.QUANTIZE:
                raise ConfigError(
                    f"{quantizer.layer} is in the {quantizer.phase.value} phase: integer networks "
                    "are made of runs that have ended with their quantize phase."
                )

    def network(self) -> IntegerNetwork:
        for node in self.model.graph.nodes:
            if node.op == "output":
                value = self._linear(node.args[0])
                names, numbers = zip(*value.terms, strict=True)
                self.operations.append(Output("output", names, numbers, value.offset))
            elif node.op == "placeholder":
                self.operations.append(Input(node.name, (), self.input_codes))
                self.values[node] = Coded(node.name, self.input_codes)
            else:
                self.values[node] = self._value(node)
        return IntegerNetwork(tuple(self.operations))

    def _value(self, node: fx.Node) -> Coded | Linear:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            for kinds, made in MODULES.items():
                if isinstance(module, kinds):
                    return made(self, str(node.target), module, node.args[0])
            name = f"{node.target} ({type(module).__name__})"
        else:
            if node.target in ADDITIONS and all(isinstance(n, fx.Node) for n in node.args):
                one, other = (self._linear(n) for n in node.args)
                return Linear((*one.terms, *other.terms), one.offset + other.offset)
            if node.target in (torch.flatten, "flatten") and node.args[1:] == (1,):
                return self._flatten(node.name, None, node.args[0])
            if node.target is operator.getitem and (stride := _stride(node.args[1])):
                source = self._coded(node.args[0], node.name)
                self._add(Subsample(node.name, (source.name,), stride))
                return Coded(node.name, source.codes)
            if node.target is F.pad and (channels := _added_channels(node)):
                source = self._coded(node.args[0], node.name)
                self._add(PadChannels(node.name, (source.name,), channels))
                return Coded(node.name, source.codes)
            name = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
        kind = type(self.modules[str(node.target)]) if node.op == "call_module" else node.target
        if any(kind in known for known in ACTIVATIONS):
            raise ConfigError(f"{name} is a float site, and so has no integer form: give it bits.")
        raise ConfigError(f"{name} has no integer form.")

    def _linear(self, node: Any) -> Linear:
        value = self.values[node]
        if isinstance(value, Linear):
            return value
        return Linear(((value.name, np.array(value.codes.step)),), np.array(0.0))

    def _coded(self, node: Any, reader: str) -> Coded:
        value = self.values[node]
        if isinstance(value, Coded):
            return value
        raise ConfigError(
            f"{reader} reads {node.name}, which is float: give the site in front of it bits, "
            "which a rule with activation: null has taken away."
        )

    def _add(self, operation: Operation) -> str:
        self.operations.append(operation)
        return operation.name

    def _layer(self, name: str, layer: QuantConv2d | QuantLinear, node: Any) -> Linear:
        source = self._coded(node, name)
        weight, step = integer_weight(layer)
        largest = largest_accumulator(weight, source.codes, name)
        if isinstance(layer, QuantConv2d):
            if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
                raise ConfigError(f"{name}: padding={layer.padding!r} has no integer form.")
            where = (_pair(layer.stride), _pair(layer.padding), _pair(layer.dilation))
            operation: Operation = Convolve(
                name, (source.name,), weight, *where, layer.groups, largest
            )
        else:
            operation = Multiply(name, (source.name,), weight, largest)
        bias = np.array(0.0) if layer.bias is None else _reals(layer.bias)
        return Linear(((self._add(operation), step * source.codes.step),), bias)

    def _float_layer(self, name: str, layer: nn.Module, node: Any) -> Linear:
        raise ConfigError(f"{name} has float weights, and so no integer form: give it bits.")

    def _norm(self, name: str, norm: nn.BatchNorm2d, node: Any) -> Linear:
        return self._linear(node).scaled(*_folded(name, norm))

    def _site(self, name: str, quantizer: ActivationQuantizer, node: Any) -> Coded:
        value = self._linear(node)
        if quantizer._norm:
            value = value.scaled(*_folded(name, quantizer._norm[0]))
        if not (quantizer.clips or isinstance(quantizer.activation, nn.Identity)):
            kind = type(quantizer.activation).__name__
            raise ConfigError(f"{name}: {kind} has no integer form; nn.ReLU and nn.ReLU6 have one.")
        if quantizer.learned_offset is not None:
            raise ConfigError(f"{name}: an offset (LSQ+) has no integer form yet.")
        grid = quantizer.grid
        step = abs(float(quantizer.parameter)) / grid.divisor
        codes = Codes(grid.q_min, grid.q_max, step)
        names, numbers = zip(*value.terms, strict=True)
        in_steps = tuple(number / step for number in numbers)
        self._add(Rescale(name, names, in_steps, value.offset / step, codes))
        return Coded(name, codes)

    def _max_pool(self, name: str, pool: nn.MaxPool2d, node: Any) -> Coded:
        source = self._coded(node, name)
        if pool.ceil_mode or pool.return_indices:
            raise ConfigError(f"{name}: MaxPool2d with ceil_mode or indices has no integer form.")
        settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        self._add(MaxPool(name, (source.name,), *map(_pair, settings)))
        return Coded(name, source.codes)

    def _average(self, name: str, pool: nn.AvgPool2d, node: Any) -> Linear:
        source = self._coded(node, name)
        if pool.ceil_mode or not (pool.count_include_pad or pool.padding in (0, (0, 0))):
            raise ConfigError(f"{name}: this AvgPool2d has no integer form.")
        kernel, stride, padding = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
        count = pool.divisor_override or math.prod(kernel)
        largest = math.prod(kernel) * max(-source.codes.low, source.codes.high)
        self._add(SumPool(name, (source.name,), kernel, stride, padding, largest))
        return Linear(((name, np.array(source.codes.step / count)),), np.array(0.0))

    def _whole_map(self, name: str, pool: nn.AdaptiveAvgPool2d, node: Any) -> Linear:
        source, (height, width) = self._coded(node, name), self.shapes[node][-2:]
        if pool.output_size not in (1, (1, 1)):
            raise ConfigError(
                f"{name}: AdaptiveAvgPool2d has an integer form for 1x1 outputs only."
            )
        count = height * width
        largest = count * max(-source.codes.low, source.codes.high)
        self._add(SumPool(name, (source.name,), (height, width), (1, 1), (0, 0), largest))
        return Linear(((name, np.array(source.codes.step / count)),), np.array(0.0))

    def _flatten(self, name: str, module: Any, node: Any) -> Coded:
        source = self._coded(node, name)
        self._add(Flatten(name, (source.name,)))
        return Coded(name, source.codes)

    def _same(self, name: str, module: nn.Module, node: Any) -> Coded | Linear:
        return self.values[node]


MODULES: dict[Any, Callable[..., Coded | Linear]] = {
    (QuantConv2d, QuantLinear): _Lowering._layer,
    (nn.Conv2d, nn.Linear): _Lowering._float_layer,
    nn.BatchNorm2d: _Lowering._norm,
    ActivationQuantizer: _Lowering._site,
    nn.MaxPool2d: _Lowering._max_pool,
    nn.AvgPool2d: _Lowering._average,
    nn.AdaptiveAvgPool2d: _Lowering._whole_map,
    nn.Flatten: _Lowering._flatten,
    SAME: _Lowering._same,
}


def _folded(name: str, norm: nn.BatchNorm2d) -> tuple[Reals, Reals]:
    """Return factor and shift of a batch norm in evaluation."""
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError(f"{name}: a batch norm without running statistics has no integer form.")
    factor = 1 / np.sqrt(_reals(norm.running_var) + norm.eps)
    if norm.weight is not None:
        factor = factor * _reals(norm.weight)
    shift = -_reals(norm.running_mean) * factor
    return factor, shift if norm.bias is None else shift + _reals(norm.bias)


def _reals(values: Tensor) -> Reals:
    return np.asarray(values.detach().double().numpy())


def _stride(index: Any) -> tuple[int, int] | None:
    """Return the strides of ``x[:, :, ::a, ::b]``, or None for another index."""
    if not (isinstance(index, tuple) and len(index) == 4):
        return None
    if not all(
        isinstance(part, slice) and (part.start, part.stop) == (None, None) for part in index
    ):
        return None
    steps = [part.step or 1 for part in index]
    return (steps[2], steps[3]) if steps[:2] == [1, 1] else None


def _added_channels(node: fx.Node) -> int:
    """Return how many channels of zeros ``F.pad`` adds behind the others, 0 if it does more."""
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    sizes: Any = given["pad"]
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    return int(sizes[5]) if zeros and len(sizes) == 6 and not any(sizes[:5]) else 0


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
