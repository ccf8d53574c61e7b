"""What each layer and each addition of a quantized network reads, found by computing it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatlab.quant import ModelTable, Phase, Quantizer, set_phase
from qatlab.quant.layers import WEIGHT_QUANTIZER

ADDITIONS = {"add", "add_", "iadd", "add_inplace", "sub", "isub"}
# What hands on the values it gets: class names of modules, names of functions and methods.
HANDS_ON = {
    *("Dropout", "DropPath", "StochasticDepth", "Identity", "Flatten", "MaxPool2d"),
    *("cat", "chunk", "split", "getitem", "flatten", "view", "reshape", "contiguous"),
    *("permute", "transpose", "swapaxes", "unsqueeze", "max_pool2d", "pad"),
}
PARAMETER, IMAGE, GRID, FLOAT = "parameter", "image", "grid", "float"
WORST_LAST = (PARAMETER, IMAGE, GRID, FLOAT)


class _Walk(fx.Interpreter):
    """Computes a network, and notes for each tensor what it is."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.kinds: dict[fx.Node, str] = {}
        self.layers: dict[str, str] = {}
        self.additions: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "output" or not (isinstance(result, Tensor) or _is_tensors(result)):
            return result  # a size
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        name = type(module).__name__ if module else getattr(n.target, "__name__", n.target)
        inputs = n.all_input_nodes[: 1 if name == "getitem" else None]
        read = [self.kinds[i] for i in inputs if i in self.kinds]
        worst = max(read, key=WORST_LAST.index, default=PARAMETER)
        with_number = len(inputs) == 1 and name in (*ADDITIONS, "mul", "truediv")
        if name in ADDITIONS and not with_number:
            self.additions[n.name] = worst
        elif hasattr(module, WEIGHT_QUANTIZER):
            self.layers[n.name] = worst
        if n.op == "placeholder":
            self.kinds[n] = IMAGE
        elif n.op == "get_attr":
            self.kinds[n] = PARAMETER
        elif isinstance(module, Quantizer):
            self.kinds[n] = GRID
        elif name in HANDS_ON or (with_number and (name not in ADDITIONS or worst == IMAGE)):
            self.kinds[n] = worst
        else:
            self.kinds[n] = FLOAT
        return result


def _is_tensors(result: Any) -> bool:
    return isinstance(result, (tuple, list)) and all(isinstance(x, Tensor) for x in result)


@torch.no_grad()
def walk(model: nn.Module, images: Tensor) -> tuple[dict[str, str], dict[str, str], Tensor]:
    """Return the worst that each quant layer and each addition of two tensors reads.

    And, third, what the network computes.
    """
    walker = _Walk(model)
    outputs = walker.run(images)
    return walker.layers, walker.additions, outputs


def check_training(
    float_model: nn.Module,
    convert: Callable[[nn.Module], tuple[nn.Module, ModelTable]],
    images: Tensor,
) -> None:
    """Quantize a network, and check what it computes, what it reads, its gradients and its state.

    Args:
        float_model: the network.
        convert: quantizes it to 4 bits.
        images: ``(N, C, H, W)``.
    """
    other, _ = convert(_with_other_weights(float_model))
    float_model.eval()
    layers = [m for m in float_model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        expected = float_model(images)
    model, table = convert(float_model)
    assert sum(row.part == "weight" and row.bits == 4 for row in table.layers) == len(layers)
    assert {row.bits for row in table.layers if row.part == "activation"} == {4}
    set_phase(model, Phase.FLOAT)
    with torch.no_grad():
        assert torch.equal(model(images), expected)

    set_phase(model, Phase.QUANTIZE)
    model.train()
    model(images).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert not [n for n, g in gradients.items() if g is None or not g.isfinite().all()]

    read_by, added, outputs = walk(model.eval(), images)
    assert len(read_by) == len(layers)
    assert next(iter(read_by.values())) == IMAGE
    assert set(read_by.values()) == {IMAGE, GRID}
    assert FLOAT not in added.values()

    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(images), outputs)


@torch.no_grad()
def _with_other_weights(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.mul_(0.5)
    return other
