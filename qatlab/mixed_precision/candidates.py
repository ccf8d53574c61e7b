"""A network whose layers and sites take quantizers of any of several widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor as Numbers
from torch import nn

from qatlab.mixed_precision.choices import Assignment, Choices, Tensor
from qatlab.quant import Quantizer, quantizers, start_quantizers
from qatlab.quant.layers import WEIGHT_QUANTIZER
from qatlab.quant.learned import LearnedQuantizer


class Candidates:
    """One network with all widths.

    It is the network of the highest width; quantizers of the others are put into it.

    Args:
        networks: by bits: the same trained network, with all that has a choice at these bits.
        choices: the widths of each tensor.
        images: batches ``(N, C, H, W)`` that quantizers of activations start from.
        start: see :class:`~qatlab.quant.learned.LearnedQuantizer`; None for that of the method.
            Those that come with a trained step or clip value keep it.
        fill: let weights reach both ends of each grid, as training may: their programs then have
            the most constants. What the network answers means nothing any more.

    Attributes:
        model: the network, with the widths that were assigned last.
    """

    def __init__(
        self,
        networks: Mapping[int, nn.Module],
        choices: Choices,
        images: Sequence[Numbers],
        start: str | None = None,
        fill: bool = False,
    ) -> None:
        self.choices = choices
        self.model = networks[max(networks)]
        layers = [tensor for tensor in choices.widths if tensor.part == "weight"]
        for network in networks.values():
            network.eval()
            if start is not None:
                _start_with(network, start)
        # Those of activations start behind weights of the highest width: behind low ones without a
        # training they would see what no network computes.
        for network in networks.values():
            own = {tensor: _quantizer(network, tensor) for tensor in layers}
            for tensor in layers:
                _put(network, tensor, _quantizer(self.model, tensor))
            start_quantizers(network, images)
            for tensor, quantizer in own.items():
                _put(network, tensor, quantizer)
            start_quantizers(network, ())  # these, too
        self._quantizers = {
            (tensor, bits): _quantizer(networks[bits], tensor) for tensor, bits in choices.all()
        }
        if fill:
            for tensor in layers:
                self._fill(tensor)
        self.assign({tensor: max(widths) for tensor, widths in choices.widths.items()})

    def assign(self, assignment: Assignment) -> None:
        """Give each tensor its width."""
        for tensor, bits in assignment.items():
            _put(self.model, tensor, self._quantizers[tensor, bits])

    @torch.no_grad()
    def _fill(self, tensor: Tensor) -> None:
        """Put a weight beyond either end of all grids that are not made of the largest weight."""
        weight = self.model.get_parameter(f"{tensor.name}.weight")
        for bits in self.choices.widths[tensor]:
            quantizer = self._quantizers[tensor, bits]
            if isinstance(quantizer, LearnedQuantizer):
                beyond = (1 << bits) * quantizer.weight_step(weight).max().item()
                weight.view(-1)[0] = max(weight.max().item(), beyond)
                weight.view(-1)[-1] = min(weight.min().item(), -beyond)

    def quantizer(self, tensor: Tensor, bits: int) -> Quantizer:
        """Return the quantizer of a tensor at a width."""
        return self._quantizers[tensor, bits]


def _start_with(network: nn.Module, start: str) -> None:
    for quantizer in quantizers(network):
        if isinstance(quantizer, LearnedQuantizer) and start in quantizer.starts:
            quantizer.start = start


def _quantizer(network: nn.Module, tensor: Tensor) -> Quantizer:
    module = network.get_submodule(tensor.name)
    found = getattr(module, WEIGHT_QUANTIZER) if tensor.part == "weight" else module
    assert isinstance(found, Quantizer)
    return found


def _put(network: nn.Module, tensor: Tensor, quantizer: Quantizer) -> None:
    if tensor.part == "weight":
        setattr(network.get_submodule(tensor.name), WEIGHT_QUANTIZER, quantizer)
        return
    parent, _, child = tensor.name.rpartition(".")
    setattr(network.get_submodule(parent), child, quantizer)
