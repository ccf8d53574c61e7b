"""Turns a trained network with quantizers into an integer network.

Between two sites everything is linear: a convolution, its batch norm, an addition. So what reaches
a site is a sum of accumulators, each times a number for each channel, and one more number; that is
what a ``Rescale`` holds, and nothing of it is rounded but the code at its end. A concatenation
stays apart in its parts, which may have other steps: a layer that reads it is the sum of layers
that read one part each.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.integer.folding import folded, reals, site_codes
from qatlab.integer.network import (
    Channels,
    Codes,
    Concatenate,
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
from qatlab.integer.values import NOTHING, Coded, Linear, added, linear
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
Parts = tuple[Coded | Linear, ...]
SAME = (nn.Dropout, nn.Dropout2d, nn.Identity)
ACTIVATIONS = (ACTIVATION_MODULES, ACTIVATION_CALLS, OTHER_ACTIVATION_CALLS)
ADDITIONS = (add, add_apart, operator.add, torch.add)
CONCATENATIONS = (torch.cat, torch.concat)
FLATTENINGS = (torch.flatten, torch.reshape, "flatten", "reshape", "view")
CALLS: dict[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}


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
    if not isinstance(model, fx.GraphModule):  # which quantize makes of all it quantizes
        raise ConfigError("the network is float, and so has no integer form: train it with bits.")
    return _Lowering(model, input_codes, measure(model, example_input).shapes).network()


class _Lowering:
    def __init__(
        self, model: fx.GraphModule, input_codes: Sequence[Codes], shapes: Mapping[fx.Node, Shape]
    ) -> None:
        self.model, self.input_codes, self.shapes = model, input_codes, shapes
        self.modules = dict(model.named_modules())
        self.values: dict[fx.Node, Parts] = {}
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
                self._output(node.args[0])
            elif node.op == "placeholder":
                self.values[node] = self._image(node)
            elif node.op != "get_attr" and node in self.shapes:  # not what a size is read from
                self.values[node] = self._value(node)
        return IntegerNetwork(tuple(self.operations))

    def _image(self, node: fx.Node) -> Parts:
        """Return the image, as one part where all its channels have the same codes."""
        _, channels, height, width = self.shapes[node]
        first = self.input_codes[0]
        self._add(Input(node.name, (), first, (channels, height, width)))
        if all(codes == first for codes in self.input_codes):
            return (Coded(node.name, first, channels),)
        return tuple(
            Coded(self._add(Channels(f"{node.name}[{i}]", (node.name,), i, i + 1)), codes, 1)
            for i, codes in enumerate(self.input_codes)
        )

    def _output(self, node: Any) -> None:
        if not isinstance(node, fx.Node):
            raise ConfigError("a network with several outputs has no integer form.")
        parts = self._parts(node)
        if len(parts) > 1:
            raise ConfigError(f"{node.name} is a concatenation, which no output can be.")
        value = linear(parts[0])
        names, numbers = zip(*value.terms, strict=True)
        self._add(Output("output", names, numbers, value.bias, value.from_offsets))

    def _value(self, node: fx.Node) -> Parts:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            for kinds, made in MODULES.items():
                if isinstance(module, kinds):
                    return made(self, str(node.target), module, node.args[0])
            name = f"{node.target} ({type(module).__name__})"
        else:
            if node.target in CALLS:
                module = CALLS[node.target](*node.args[1:], **node.kwargs)
                made = next(made for kinds, made in MODULES.items() if isinstance(module, kinds))
                return made(self, node.name, module, node.args[0])
            if node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs:
                return self._sum(node)
            if node.target in CONCATENATIONS and (node.args[1:] or (node.kwargs["dim"],)) == (1,):
                joined: Any = node.args[0]
                return tuple(part for n in joined for part in self._parts(n))
            if node.target in FLATTENINGS and self._is_flat(node):
                return self._flatten(node.name, None, node.args[0])
            if node.target in (torch.mean, "mean") and _is_whole_map(node):
                return self._whole_map(node.name, nn.AdaptiveAvgPool2d(1), node.args[0], flat=True)
            if node.target is operator.getitem and (stride := _stride(node.args[1])):
                return self._each_coded(
                    node, lambda name, part: Subsample(name, (part.name,), stride)
                )
            if node.target is F.pad and (channels := _added_channels(node)):
                return self._padded(node, channels)
            name = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
        kind = type(self.modules[str(node.target)]) if node.op == "call_module" else node.target
        if any(kind in known for known in ACTIVATIONS):
            raise ConfigError(f"{name} is a float site, and so has no integer form: give it bits.")
        raise ConfigError(f"{name} has no integer form.")

    def _parts(self, node: Any) -> Parts:
        """Return what a node has made."""
        if node not in self.values:
            raise ConfigError(
                f"{getattr(node, 'target', node)} is a tensor or a number of the network itself, "
                "which has no integer form."
            )
        return self.values[node]

    def _sum(self, node: fx.Node) -> Parts:
        terms = [self._parts(n) for n in node.args]
        splits = {tuple(part.channels for part in parts) for parts in terms}
        if len(splits) > 1:
            raise ConfigError(f"{node.name} adds to a concatenation, which has no integer form.")
        return tuple(added(map(linear, pair)) for pair in zip(*terms, strict=True))

    def _coded(self, node: Any, reader: str) -> list[Coded]:
        """Return the parts of a tensor that has to be codes."""
        given = self._parts(node)
        parts = [part for part in given if isinstance(part, Coded)]
        if len(parts) < len(given):
            raise ConfigError(
                f"{reader} reads {node.name}, which is float: give the site in front of it bits, "
                "which a rule with activation: null has taken away."
            )
        return parts

    def _each_coded(self, node: fx.Node, made: Callable[[str, Coded], Operation]) -> Parts:
        """Apply an operation that hands on codes to each part."""
        return self._each(node.name, node.args[0], made)

    def _each(self, name: str, given: Any, made: Callable[[str, Coded], Operation]) -> Parts:
        """Apply it to a node, or to parts."""
        parts = given if isinstance(given, tuple) else self._coded(given, name)
        names = _names(name, parts)
        return tuple(
            replace(part, name=self._add(made(own, part)))
            for own, part in zip(names, parts, strict=True)
        )

    def _padded(self, node: fx.Node, channels: int) -> Parts:
        """Return a tensor with channels of zeros behind the others."""
        *others, last = self._coded(node.args[0], node.name)
        padded = Coded(
            self._add(PadChannels(node.name, (last.name,), channels)),
            replace(last.codes, offset=0.0),
            last.channels + channels,
        )
        if last.codes.offset == 0:
            return (*others, padded)
        # No code stands for 0 there, so the new channels are no codes of that tensor.
        offsets = np.repeat([last.codes.offset, 0.0], [last.channels, channels])
        return (*others, replace(linear(padded), from_offsets=offsets))

    def _add(self, operation: Operation) -> str:
        self.operations.append(operation)
        return operation.name

    def _layer(self, name: str, layer: QuantConv2d | QuantLinear, node: Any) -> Parts:
        parts = self._coded(node, name)
        weight, step = integer_weight(layer)
        groups = layer.groups if isinstance(layer, QuantConv2d) else 1
        channels = sum(part.channels for part in parts)
        results, first = [], 0
        for own, part in zip(_names(name, parts), parts, strict=True):
            part_of = slice(first, first + part.channels)
            first = part_of.stop
            if groups == 1:  # the sum over all parts
                taken, scale, own_groups = weight[:, part_of], step, 1
            else:  # each part makes channels of its own
                own_groups, rest = divmod(part.channels * groups, channels)
                if rest or part_of.start * groups % channels:
                    raise ConfigError(
                        f"{name}: a group reads across the parts of a concatenation, which has no "
                        "integer form."
                    )
                of = slice(*(at * len(weight) // channels for at in (part_of.start, first)))
                taken, scale = weight[of], step[of] if step.ndim else step
            results.append(self._accumulators(own, layer, part, taken, scale, own_groups, node))
        parts_of_result = results if groups > 1 else [added(results)]
        if layer.bias is None:
            return tuple(parts_of_result)
        biases = _split(reals(layer.bias), parts_of_result)
        return tuple(
            replace(part, bias=part.bias + bias)
            for part, bias in zip(parts_of_result, biases, strict=True)
        )

    def _accumulators(
        self,
        name: str,
        layer: QuantConv2d | QuantLinear,
        part: Coded,
        weight: Any,
        step: Reals,
        groups: int,
        node: fx.Node,
    ) -> Linear:
        """Return what a layer, or what of it reads one part, makes of codes."""
        largest = largest_accumulator(weight, part.codes, name)
        if isinstance(layer, QuantConv2d):
            if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
                raise ConfigError(f"{name}: padding={layer.padding!r} has no integer form.")
            where = (_pair(layer.stride), _pair(layer.padding), _pair(layer.dilation))
            self._add(Convolve(name, (part.name,), weight, *where, groups, largest))
            ones = torch.ones(1, part.channels, *self.shapes[node][2:], dtype=torch.double)
            sums = F.conv2d(ones, torch.from_numpy(weight).double(), None, *where, groups)[0]
            inside = sums.numpy() if any(where[1]) else sums[:, 0, 0].numpy()
        else:
            self._add(Multiply(name, (part.name,), weight, largest))
            inside = weight.sum(1).astype(np.float64)
        own = np.asarray(step).reshape(-1, *(1,) * (inside.ndim - 1))
        offsets = inside * own * part.codes.offset if part.codes.offset else NOTHING
        terms = ((name, np.asarray(step * part.codes.step)),)
        return Linear(terms, NOTHING, offsets, len(weight))

    def _float_layer(self, name: str, layer: nn.Module, node: Any) -> Parts:
        raise ConfigError(f"{name} has float weights, and so no integer form: give it bits.")

    def _norm(self, name: str, norm: nn.BatchNorm2d, node: Any) -> Parts:
        parts = [linear(part) for part in self._parts(node)]
        numbers = zip(*(_split(all_of, parts) for all_of in folded(name, norm)), strict=True)
        return tuple(
            part.scaled(factor, shift) for part, (factor, shift) in zip(parts, numbers, strict=True)
        )

    def _site(self, name: str, quantizer: ActivationQuantizer, node: Any) -> Parts:
        codes = site_codes(name, quantizer)
        parts = self._parts(node)
        if quantizer._norm:
            parts = self._norm(name, quantizer._norm[0], node)
        names, channels = _names(name, parts), sum(part.channels for part in parts)
        for own, part in zip(names, parts, strict=True):
            value = linear(part)
            inputs, numbers = zip(*value.terms, strict=True)
            in_steps = tuple(number / codes.step for number in numbers)
            bias = (value.bias - codes.offset) / codes.step
            self._add(Rescale(own, inputs, in_steps, bias, value.from_offsets / codes.step, codes))
        if len(parts) > 1:
            self._add(Concatenate(name, tuple(names)))
        return (Coded(name, codes, channels),)

    def _max_pool(self, name: str, pool: nn.MaxPool2d, node: Any) -> Parts:
        if pool.return_indices:
            raise ConfigError(f"{name}: MaxPool2d with indices has no integer form.")
        stride = pool.kernel_size if pool.stride is None else pool.stride
        settings = map(_pair, (pool.kernel_size, stride, pool.padding, pool.dilation))
        kernel, stride, padding, dilation = settings
        ceil_mode = bool(pool.ceil_mode)
        if ceil_mode:  # where windows fit, it means nothing
            spans = (dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1))
            sizes = self.shapes[node][2:]
            rests = [
                (size + 2 * pad - span) % step
                for size, pad, span, step in zip(sizes, padding, spans, stride, strict=True)
            ]
            ceil_mode = any(rests)
        where = (kernel, stride, padding, dilation, ceil_mode)
        return self._each(name, node, lambda own, x: MaxPool(own, (x.name,), *where))

    def _adaptive_max_pool(self, name: str, pool: nn.AdaptiveMaxPool2d, node: Any) -> Parts:
        kernel = self._adaptive(name, pool, node)
        if kernel == (1, 1):
            return self._parts(node)
        where = (kernel, kernel, (0, 0), (1, 1))
        return self._each(name, node, lambda own, x: MaxPool(own, (x.name,), *where))

    def _adaptive(
        self, name: str, pool: nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d, node: Any
    ) -> tuple[int, int]:
        """Return the kernel, which is the stride, too."""
        given, size = _pair(pool.output_size), self.shapes[node][-2:]
        if any(s % g for s, g in zip(size, given, strict=True)):
            kind = type(pool).__name__
            raise ConfigError(
                f"{name}: {kind} has an integer form only where its outputs divide its inputs, "
                f"not for {given[0]}x{given[1]} of {size[0]}x{size[1]}."
            )
        return size[0] // given[0], size[1] // given[1]

    def _average(self, name: str, pool: nn.AvgPool2d, node: Any) -> Parts:
        if pool.ceil_mode or not (pool.count_include_pad or pool.padding in (0, (0, 0))):
            raise ConfigError(f"{name}: this AvgPool2d has no integer form.")
        stride = pool.kernel_size if pool.stride is None else pool.stride
        where = [_pair(part) for part in (pool.kernel_size, stride, pool.padding)]
        count = pool.divisor_override or math.prod(where[0])
        return self._sums(name, node, where, count)

    def _whole_map(
        self, name: str, pool: nn.AdaptiveAvgPool2d, node: Any, flat: bool = False
    ) -> Parts:
        kernel = self._adaptive(name, pool, node)
        if kernel == (1, 1):
            parts = self._parts(node)
        else:
            parts = self._sums(name, node, [kernel, kernel, (0, 0)], math.prod(kernel))
        if flat:
            return self._each(f"{name}_flat", parts, lambda own, x: Flatten(own, (x.name,)))
        return parts

    def _sums(self, name: str, node: Any, where: list[tuple[int, int]], count: int) -> Parts:
        """Return averages over windows of ``where``: kernel, stride, padding."""
        kernel, stride, padding = where
        results, parts = [], self._coded(node, name)
        for own, part in zip(_names(name, parts), parts, strict=True):
            codes, area = part.codes, math.prod(kernel)
            if codes.offset and any(padding):
                raise ConfigError(
                    f"{name}: an average over zeros beyond the border has no integer form behind "
                    "a site with an offset (LSQ+)."
                )
            lowest = min(codes.low, 0) if any(padding) else codes.low
            total = Codes(
                area * lowest, area * codes.high, codes.step / count, codes.offset * area / count
            )
            self._add(SumPool(own, (part.name,), kernel, stride, padding, total))
            results.append(Coded(own, total, part.channels))
        return tuple(results)

    def _is_flat(self, node: fx.Node) -> bool:
        """Tell whether a tensor has become ``(N, features)``."""
        before: Any = node.args[0]
        return self.shapes[node] == (1, math.prod(self.shapes[before]))

    def _flatten(self, name: str, module: Any, node: Any) -> Parts:
        shape, given = self.shapes[node], self._parts(node)
        area = math.prod(shape[2:])
        if len(shape) == 2:
            return given  # it is flat
        if area == 1 and any(isinstance(part, Linear) for part in given):
            return given  # the output is made flat anyway
        parts = self._each(name, node, lambda own, part: Flatten(own, (part.name,)))
        return tuple(replace(part, channels=part.channels * area) for part in parts)

    def _same(self, name: str, module: nn.Module, node: Any) -> Parts:
        return self._parts(node)


MODULES: dict[Any, Callable[..., Parts]] = {
    (QuantConv2d, QuantLinear): _Lowering._layer,
    (nn.Conv2d, nn.Linear): _Lowering._float_layer,
    nn.BatchNorm2d: _Lowering._norm,
    ActivationQuantizer: _Lowering._site,
    nn.MaxPool2d: _Lowering._max_pool,
    nn.AdaptiveMaxPool2d: _Lowering._adaptive_max_pool,
    nn.AvgPool2d: _Lowering._average,
    nn.AdaptiveAvgPool2d: _Lowering._whole_map,
    nn.Flatten: _Lowering._flatten,
    SAME: _Lowering._same,
}


def _names(name: str, parts: Sequence[Any]) -> list[str]:
    """Return a name for what is made of each part."""
    return [name] if len(parts) == 1 else [f"{name}[{i}]" for i in range(len(parts))]


def _split(numbers: Reals, parts: Sequence[Coded | Linear]) -> list[Reals]:
    """Return the numbers of the channels of each part."""
    ends = np.cumsum([part.channels for part in parts])[:-1]
    return [np.asarray(own) for own in np.split(numbers, ends)]


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


def _is_whole_map(node: fx.Node) -> bool:
    """Tell whether a mean is that of all rows and columns, without keeping them as dimensions."""
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
    dims: Any = given.get("dim")
    is_map = isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]
    return is_map and not given.get("keepdim")


def _added_channels(node: fx.Node) -> int:
    """Return how many channels of zeros ``F.pad`` adds behind the others, 0 if it does more."""
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    sizes: Any = given["pad"]
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    return int(sizes[5]) if zeros and len(sizes) == 6 and not any(sizes[:5]) else 0


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
