"""The resolved table: what each layer and each site of a network is quantized to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from qatlab.quant.quantizer import Quantizer
from qatlab.quant.rules import Target

FLOAT_BITS = 32


def packed_bytes(count: int, bits: int | None) -> int:
    """Return the bytes of so many values without gaps between them; None are float32."""
    return (count * (bits or FLOAT_BITS) + 7) // 8


@dataclass(frozen=True)
class LayerRecord:
    """One weight layer, or one site where activations are quantized.

    Attributes:
        name: path in the network.
        type: class name of the float module.
        part: ``weight`` or ``activation``.
        shape: of the weights ``(C_out, C_in, ...)``, or of one image's activations ``(1, ...)``.
        parameters: number of weights; 0 for a site.
        bits: bit width, None where the tensor stays float.
        quantizer: further facts: method, n_steps, grid, scaling, signed.
        rules: keys of the rules that had a say; the last one wins.
        macs: multiply-accumulates of a weight layer for one image.
        input_bits: of what a weight layer reads, the most if it reads several tensors; 8 for the
            bytes of an image, None for float.
        mac_bits: these multiply-accumulates, each times the bits of what is read in that call.
    """

    name: str
    type: str
    part: str
    shape: tuple[int, ...]
    parameters: int
    bits: int | None
    quantizer: dict[str, Any]
    rules: tuple[str, ...]
    macs: int = 0
    input_bits: int | None = None
    mac_bits: int = 0

    @classmethod
    def of(
        cls,
        target: Target,
        part: str,
        shape: tuple[int, ...],
        quantizer: Quantizer | None,
        rules: tuple[str, ...],
    ) -> LayerRecord:
        """Describe a target that has become ``quantizer``, or stays float."""
        count = 0
        if part == "weight":
            count = 1
            for size in shape:
                count *= size
        facts = {} if quantizer is None else quantizer.describe()
        bits = facts.pop("bits", None)
        return cls(target.name, target.type, part, shape, count, bits, facts, rules)

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights at their bit width, packed without gaps."""
        return packed_bytes(self.parameters, self.bits)

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both factors; float ones count as 32."""
        return self.mac_bits * (self.bits or FLOAT_BITS)


@dataclass(frozen=True)
class ModelTable:
    """All layers and sites of a network, and its size.

    Attributes:
        layers: weight layers and sites in the order of computation.
        parameters: all trainable parameters of the float network.
        bias_bytes: what a deployed network stores beside its weights: one float32 for each bias,
            and one for each channel of a norm, which is absorbed into the layer before it.
        float_macs: multiply-accumulates for one image that are of no row, such as products of
            activations; they count as float.
        peak_bytes: the most that is kept of activations at a time, for one image: its own bytes,
            those of the sites at their bits, the outputs in float32.
    """

    layers: tuple[LayerRecord, ...]
    parameters: int
    bias_bytes: int
    float_macs: int
    peak_bytes: int

    @classmethod
    def of(
        cls, model: nn.Module, layers: Sequence[LayerRecord], macs: int, peak_bytes: int
    ) -> ModelTable:
        """Add up a converted network, which does ``macs`` multiply-accumulates for one image."""
        own = [
            (module, name, parameter)
            for module in model.modules()
            if not isinstance(module, Quantizer)
            for name, parameter in module.named_parameters(recurse=False)
        ]
        biases = sum(p.numel() for _, name, p in own if name == "bias")
        parameters = sum(p.numel() for _, _, p in own)
        float_macs = macs - sum(layer.macs for layer in layers)
        return cls(tuple(layers), parameters, 4 * biases, float_macs, peak_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights at the chosen bits: the model size that papers report."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Model size in bytes at the chosen bits, as deployed."""
        return self.bias_bytes + self.weight_bytes

    @property
    def float_bytes(self) -> int:
        """Model size in bytes with float32 weights, as deployed."""
        return self.bias_bytes + sum(4 * layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.float_macs + sum(layer.macs for layer in self.layers)

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both factors; see :class:`LayerRecord`."""
        by_layers = sum(layer.bit_operations for layer in self.layers)
        return by_layers + self.float_macs * FLOAT_BITS**2

    def to_json(self) -> dict[str, Any]:
        """Return what ``layers.json`` holds."""
        return {
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "size_bytes": self.size_bytes,
            "float_bytes": self.float_bytes,
            "macs": self.macs,
            "bit_operations": self.bit_operations,
            "peak_bytes": self.peak_bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }
