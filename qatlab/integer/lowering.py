"""Turns a trained network with quantizers into an integer network.

Between two sites everything is linear: a convolution, its batch norm, an addition. So what reaches
a site is a sum of accumulators, each times a number for each channel, and one more number; that is
what a ``Rescale`` holds, and nothing of it is rounded but the code at its end. A concatenation
stays apart in its parts, which may have other steps: a layer that reads it is the sum of layers
that read one part each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.integer.layers import float_layer, layer, norm, site, total
from qatlab.integer.network import (
    Channels,
    Codes,
    Input,
    IntegerNetwork,
    Output,
)
from qatlab.integer.pools import adaptive_max_pool, average, max_pool, whole_map
from qatlab.integer.state import Parts, State
from qatlab.integer.values import Coded, linear
from qatlab.integer.views import (
    added_channels,
    flatten,
    is_flat,
    is_whole_map,
    padded,
    same,
    stride_of,
    subsampled,
)
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

SAME = (nn.Dropout, nn.Dropout2d, nn.Identity)
ACTIVATIONS = (ACTIVATION_MODULES, ACTIVATION_CALLS, OTHER_ACTIVATION_CALLS)
ADDITIONS = (add, add_apart, operator.add, torch.add)
CONCATENATIONS = (torch.cat, torch.concat)
FLATTENINGS = (torch.flatten, torch.reshape, "flatten", "reshape", "view")
MEANS = (torch.mean, "mean")
CALLS: dict[Any, tuple[type[nn.Module], Callable[..., Parts]]] = {
    F.max_pool2d: (nn.MaxPool2d, max_pool),
    F.avg_pool2d: (nn.AvgPool2d, average),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, whole_map),
    F.adaptive_max_pool2d: (nn.AdaptiveMaxPool2d, adaptive_max_pool),
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


class _Lowering(State):
    def __init__(
        self,
        model: fx.GraphModule,
        input_codes: Sequence[Codes],
        shapes: Mapping[fx.Node, tuple[int, ...]],
    ) -> None:
        super().__init__(shapes)
        self.model, self.input_codes = model, input_codes
        self.modules = dict(model.named_modules())
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
            elif node.op == "call_module":
                self.values[node] = self._of_module(node)
            elif node.op != "get_attr" and node in self.shapes:  # not what a size is read from
                self.values[node] = self._of_call(node)
        return IntegerNetwork(tuple(self.operations))

    def _image(self, node: fx.Node) -> Parts:
        """Return the image, as one part where all its channels have the same codes."""
        _, channels, height, width = self.shapes[node]
        first = self.input_codes[0]
        self.add(Input(node.name, (), first, (channels, height, width)))
        if all(codes == first for codes in self.input_codes):
            return (Coded(node.name, first, channels),)
        return tuple(
            Coded(self.add(Channels(f"{node.name}[{i}]", (node.name,), i, i + 1)), codes, 1)
            for i, codes in enumerate(self.input_codes)
        )

    def _output(self, node: Any) -> None:
        if not isinstance(node, fx.Node):
            raise ConfigError("a network with several outputs has no integer form.")
        parts = self.parts(node)
        if len(parts) > 1:
            raise ConfigError(f"{node.name} is a concatenation, which no output can be.")
        value = linear(parts[0])
        names, numbers = zip(*value.terms, strict=True)
        self.add(Output("output", names, numbers, value.bias, value.from_offsets))

    def _of_module(self, node: fx.Node) -> Parts:
        path, module = str(node.target), self.modules[str(node.target)]
        for kinds, made in MODULES.items():
            if isinstance(module, kinds):
                return made(self, path, module, node.args[0])
        return _refused(f"{path} ({type(module).__name__})", type(module))

    def _of_call(self, node: fx.Node) -> Parts:
        name, function, given = node.name, node.target, node.args
        if function in CALLS:
            kind, made = CALLS[function]
            return made(self, name, kind(*given[1:], **node.kwargs), given[0])
        if function in ADDITIONS and len(given) == 2 and not node.kwargs:
            return total(self, node)
        if function in CONCATENATIONS and (given[1:] or (node.kwargs["dim"],)) == (1,):
            joined: Any = given[0]
            return tuple(part for one in joined for part in self.parts(one))
        if function in FLATTENINGS and is_flat(self, node):
            return flatten(self, name, None, given[0])
        if function in MEANS and is_whole_map(node):
            return whole_map(self, name, nn.AdaptiveAvgPool2d(1), given[0], flat=True)
        if function is operator.getitem and (stride := stride_of(given[1])):
            return subsampled(self, node, stride)
        if function is F.pad and (channels := added_channels(node)):
            return padded(self, node, channels)
        return _refused(f"{name} ({getattr(function, '__name__', function)})", function)


def _refused(name: str, kind: Any) -> Parts:
    if any(kind in known for known in ACTIVATIONS):
        raise ConfigError(f"{name} is a float site, and so has no integer form: give it bits.")
    raise ConfigError(f"{name} has no integer form.")


MODULES: dict[Any, Callable[..., Parts]] = {
    (QuantConv2d, QuantLinear): layer,
    (nn.Conv2d, nn.Linear): float_layer,
    nn.BatchNorm2d: norm,
    ActivationQuantizer: site,
    nn.MaxPool2d: max_pool,
    nn.AdaptiveMaxPool2d: adaptive_max_pool,
    nn.AvgPool2d: average,
    nn.AdaptiveAvgPool2d: whole_map,
    nn.Flatten: flatten,
    SAME: same,
}
