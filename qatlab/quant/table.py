"""The resolved table: what each layer and each site of a network is quantized to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from qatlab.quant.quantizer import Quantizer
from qatlab.quant.rules import Target


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
    """

    name: str
    type: str
    part: str
    shape: tuple[int, ...]
    parameters: int
    bits: int | None
    quantizer: dict[str, Any]
    rules: tuple[str, ...]

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
        return (self.parameters * (self.bits or 32) + 7) // 8


@dataclass(frozen=True)
class ModelTable:
    """All layers and sites of a network, and its size.

    Attributes:
        layers: weight layers and sites in the order of computation.
        parameters: all trainable parameters of the float network.
        bias_bytes: what a deployed network stores beside its weights: one float32 for each bias,
            and one for each channel of a norm, which is absorbed into the layer before it.
    """

    layers: tuple[LayerRecord, ...]
    parameters: int
    bias_bytes: int

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[LayerRecord]) -> ModelTable:
        """Add up a converted network."""
        own = [
            (module, name, parameter)
            for module in model.modules()
            if not isinstance(module, Quantizer)
            for name, parameter in module.named_parameters(recurse=False)
        ]
        biases = sum(p.numel() for _, name, p in own if name == "bias")
        return cls(tuple(layers), sum(p.numel() for _, _, p in own), 4 * biases)

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

    def to_json(self) -> dict[str, Any]:
        """Return what ``layers.json`` holds."""
        return {
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "size_bytes": self.size_bytes,
            "float_bytes": self.float_bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }
