"""Which quantizers are said to have collapsed, and which are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.quant import (
    CollapseWatch,
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    PactActivation,
    Phase,
    SatActivation,
    SatWeight,
    quantize,
    set_phase,
    start_quantizers,
    warnings_of,
)

IMAGES = torch.linspace(-1, 1, 4 * 2 * 3 * 3).reshape(4, 2, 3, 3)
Change = Callable[[nn.Module], Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(18, 3, bias=False)
        self.conv.weight.data.copy_(torch.tensor([[1.0, -0.5], [0.25, 0.75]])[..., None, None])
        self.fc.weight.data.copy_(torch.linspace(-1, 1, 54).reshape(3, 18))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.relu(self.conv(x)).flatten(1))
        return result


def network(weight: Any, activation: Any) -> nn.Module:
    model, _ = quantize(Net(), weight, activation, [], IMAGES)
    start_quantizers(model, [IMAGES])
    return model.eval()


LSQ = (partial(LsqWeight, bits=4, step_size=0.1), partial(LsqActivation, bits=4, step_size=0.1))
SAT = (partial(SatWeight, bits=4), partial(SatActivation, bits=4, alpha=1.0))
BINARY = (partial(SatWeight, bits=1), partial(SatActivation, bits=1, alpha=0.5))


@torch.no_grad()
def found(model: nn.Module, *batches: Tensor) -> dict[str, str]:
    watch = CollapseWatch(model)
    for images in batches or (IMAGES,):
        model(images)
    told = watch.end()
    assert not any(module._forward_hooks for module in model.modules())
    return {name: words for name, words in told.items() if words}


def fill(name: str, value: float) -> Change:
    return lambda model: model.get_parameter(name).data.fill_(value)


@pytest.mark.parametrize("methods", [LSQ, SAT, BINARY])
def test_quantizers_in_use_are_not_mentioned(methods: tuple[Any, Any]) -> None:
    assert found(network(*methods)) == {}


def test_ternary_weights_are_not_mentioned() -> None:
    assert found(network(partial(SatWeight, n_steps=2, grid="symmetric"), SAT[1])) == {}
    assert found(network(partial(LsqWeight, n_steps=2, step_size=0.5), SAT[1])) == {}


@pytest.mark.parametrize(
    ("methods", "change", "name", "words"),
    [
        # The site gets up to 1.5 x 1: half of a step of 100 is more.
        (LSQ, fill("relu.step_size", 100.0), "relu", "puts out one value only, 0, of values from"),
        (SAT, fill("relu.alpha", 1e30), "relu", "; its alpha is 1e+30"),
        (LSQ, fill("relu.step_size", 1e-20), "relu", "two outermost levels only, 0 and 1.5e-19"),
        (BINARY, fill("relu.alpha", 0.0), "relu", "cannot quantize: its alpha is 0"),
        (LSQ, fill("relu.step_size", -1e-31), "relu", "its step_size is 1e-31"),
        (LSQ, fill("fc.weight_quantizer.step_size", 3.0), "fc", "its weights to one value only, 0"),
        (
            LSQ,
            fill("fc.weight_quantizer.step_size", 1e-6),
            "fc",
            "-8e-06 and 7e-06, of values from",
        ),
    ],
)
def test_a_collapsed_quantizer_is_named(
    methods: tuple[Any, Any], change: Change, name: str, words: str
) -> None:
    model = network(*methods)
    change(model)
    told = found(model)
    assert told.keys() == {name}
    assert told[name].startswith(f"{name} ")
    assert words in told[name]


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (fill("conv.weight", 0.0), "relu", "relu puts out one value only, 0: its input is 0 only"),
        (
            fill("fc.weight", 0.0),
            "fc",
            "fc quantizes its weights to one value only, 0: its input is",
        ),
        (fill("conv.weight", -0.1), "relu", "one value only, 0: its input is 0 only"),
    ],
)
def test_a_quantizer_is_not_accused_of_what_it_is_given(
    change: Change, name: str, words: str
) -> None:
    model = network(*LSQ)
    change(model)
    told = found(model, IMAGES.abs())
    assert words in told[name]
    assert "its step_size" not in told[name]


def test_pruned_weights_are_reported_as_what_they_are() -> None:
    model = network(*LSQ)
    model.fc.weight_mask = torch.zeros(3, 18)
    assert found(model) == {
        "fc": "fc quantizes its weights to one value only, 0: its input is 0 only"
    }


def test_one_batch_of_one_value_is_not_enough() -> None:
    model = network(*SAT)
    assert found(model, torch.zeros(2, 2, 3, 3), IMAGES) == {}
    assert found(model, torch.zeros(2, 2, 3, 3)).keys() == {"relu"}


def test_a_site_that_is_never_called_is_not_mentioned() -> None:
    watch = CollapseWatch(network(*SAT))
    assert set(watch.end().values()) == {""}


@pytest.mark.parametrize("phase", [Phase.FLOAT, Phase.CLAMP])
def test_other_phases_are_not_looked_at(phase: Phase) -> None:
    model = network(*SAT)
    fill("relu.alpha", 1e30)(model)
    set_phase(model, phase)
    assert found(model) == {}


def test_an_offset_is_part_of_what_is_compared() -> None:
    model = network(LSQ[0], partial(LsqPlusActivation, bits=4, step_size=100.0))
    fill("relu.offset", 0.3)(model)
    assert "one value only, 0.3, of" in found(model)["relu"]


def test_a_clip_value_that_was_given_is_named() -> None:
    model = network(LSQ[0], partial(PactActivation, bits=2, alpha=1e10))
    assert "its alpha is 1e+10" in found(model)["relu"]


def test_no_more_than_five_lines_are_printed() -> None:
    lines = warnings_of(f"site{i} puts out 0" for i in range(8))
    assert lines[0] == "Warning: site0 puts out 0."
    assert lines[5:] == ["Warning: and 3 quantizers more."]
