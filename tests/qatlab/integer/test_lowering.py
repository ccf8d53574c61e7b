"""Integer networks against the fake-quantized networks that they are made of, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import quant
from qatlab.errors import ConfigError
from qatlab.integer import compute, lower
from qatlab.integer.network import Codes
from qatlab.integer.weights import integer_weight
from qatlab.models.resnet import PaddedShortcut
from qatlab.quant.layers import QuantConv2d, QuantLinear, quantized_weight
from qatlab.quant.learned import ActivationQuantizer

PIXEL = Codes(0, 255, 1 / 255)
PIXELS = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
EXAMPLE = PIXELS[:1].double() / 255
METHODS: dict[str, tuple[Callable[..., quant.Quantizer], Callable[..., quant.Quantizer]]] = {
    "sat": (quant.SatWeight, quant.SatActivation),
    "lsq": (quant.LsqWeight, quant.LsqActivation),
    "dorefa": (quant.DorefaWeight, quant.PactActivation),
}


def convert(network: nn.Module, method: str = "sat", bits: int = 4, **more: Any) -> nn.Module:
    """Return the network with quantizers that have started, in float64, ready to be evaluated."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):  # some of its channels turn their input around
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    weight, activation = (partial(part, bits=bits) for part in METHODS[method])
    rules = [quant.Rule.parse(key, node) for key, node in more.items()]
    images = PIXELS / 255
    model, _ = quant.quantize(network.eval(), weight, activation, rules, images[:1])
    quant.start_quantizers(model, [images])
    for number, quantizer in enumerate(sites(model).values()):
        quantizer.parameter.data.mul_(0.97 - 0.0137 * number)  # no ratio that makes ties
    return model.double().eval()


def sites(model: nn.Module) -> dict[str, ActivationQuantizer]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, ActivationQuantizer)
    }


class Residual(nn.Module):
    def __init__(self, shortcut: nn.Module, stride: int = 1, channels: int = 4) -> None:
        super().__init__()
        self.stem, self.stem_bn, self.stem_relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv = nn.Conv2d(4, channels, 3, stride, padding=1, groups=2, bias=False)
        self.bn, self.relu, self.shortcut = nn.BatchNorm2d(channels), nn.ReLU(), shortcut
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_bn(self.stem(x)))
        x = self.relu(self.bn(self.conv(x)) + self.shortcut(x))
        result: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return result


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(6, 8, (2, 3), dilation=2, padding=(2, 1)), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 5)),
    ),
    "bottleneck": lambda: nn.Sequential(  # a linear one: its site is signed
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        *(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Flatten()),
        nn.Linear(8, 5, bias=False),
    ),
    "residual": lambda: Residual(nn.Identity()),
    "padded shortcut": lambda: Residual(PaddedShortcut(2, 4), 2, 8),
    "projected shortcut": lambda: Residual(nn.Conv2d(4, 8, 1, 2), 2, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_integer_network_answers_what_its_origin_does(name: str, method: str, bits: int) -> None:
    torch.manual_seed(1)
    model = convert(NETWORKS[name](), method, bits)
    codes: dict[str, Tensor] = {}
    for path, site in sites(model).items():
        step = site.parameter.detach().abs() / site.grid.divisor
        site.register_forward_hook(
            lambda m, x, y, path=path, step=step: codes.__setitem__(path, (y / step).round())
        )
    computed = compute(lower(model, PIXEL, EXAMPLE), PIXELS)
    outputs = model(PIXELS.double() / 255)
    assert codes.keys() == computed.codes.keys()
    for path, found in codes.items():
        assert torch.equal(found, computed.codes[path]), path
        assert found.unique().numel() > 1
    torch.testing.assert_close(computed.outputs, outputs, rtol=1e-9, atol=1e-9)


def test_a_sum_of_accumulators_needs_no_sites_of_its_own() -> None:
    torch.manual_seed(1)
    without = {"name": ["shortcut_site", "bn_site"], "activation": None}
    model = convert(NETWORKS["projected shortcut"](), sites=without)
    assert sites(model).keys() == {"stem_relu", "relu", "pool_site"}
    computed = compute(lower(model, PIXEL, EXAMPLE), PIXELS)
    torch.testing.assert_close(computed.outputs, model(PIXELS.double() / 255), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("quantizer", "levels"),
    [
        (quant.SatWeight(bits=1), {-1, 1}),
        (quant.SatWeight(n_steps=2), {-2, 0, 2}),
        (quant.SatWeight(bits=2, scaling=True), {-3, -1, 1, 3}),
        (quant.SatWeight(bits=3, grid="symmetric"), set(range(-3, 4))),
        (quant.SatWeight(bits=3, grid="asymmetric", scaling="fan_in"), set(range(-4, 4))),
        (quant.SatWeight(bits=2, grid="full_range"), {-3, -1, 1, 3}),
        (quant.SatWeight(bits=2, grid="centered"), {-3, -1, 1, 3}),
        (quant.LsqWeight(bits=3), set(range(-4, 4))),
        (quant.LsqWeight(bits=2, per_channel=True), set(range(-2, 2))),
        (quant.DorefaWeight(bits=1), {-1, 1}),
        (quant.DorefaWeight(bits=2), {-3, -1, 1, 3}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 5), nn.Linear(40, 30)], ids=["conv", "linear"])
def test_weights_are_whole_numbers_times_a_step(
    quantizer: quant.Quantizer, levels: set[int], layer: nn.Conv2d | nn.Linear
) -> None:
    torch.manual_seed(1)
    layer.reset_parameters()
    quantizer = type(quantizer)(**arguments(quantizer))
    quantizer.fit(layer.weight)
    kind = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
    quantized = kind.of(layer, quantizer)  # type: ignore[arg-type]
    expected = quantized_weight(quantized).detach()
    codes, step = integer_weight(quantized)
    assert set(np.unique(codes)) <= levels
    assert len(np.unique(codes)) == len(levels) or isinstance(quantizer, quant.LsqWeight)
    shaped = step.reshape(-1, *(1,) * (codes.ndim - 1))
    torch.testing.assert_close(
        torch.from_numpy(codes * shaped).float(), expected, rtol=2e-6, atol=1e-9
    )


def arguments(quantizer: quant.Quantizer) -> dict[str, Any]:
    """Return what makes another one: its parameters take the shape of one layer only."""
    facts: dict[str, Any] = {"n_steps": quantizer.n_steps}
    for name in ("grid", "scaling", "per_channel"):
        value = getattr(quantizer, name, None)
        if isinstance(value, (str, bool)):
            facts[name] = value
    return facts


def test_accumulators_are_bounded_by_their_weights_and_codes() -> None:
    torch.manual_seed(0)
    model = convert(NETWORKS["chain"](), bits=8)
    network = lower(model, PIXEL, EXAMPLE)
    codes, _ = integer_weight(model.get_submodule("0"))
    below = np.where(codes < 0, -codes, 0).reshape(6, -1).sum(1).max()
    above = np.where(codes > 0, codes, 0).reshape(6, -1).sum(1).max()
    assert network.accumulator_bits["0"] == int(max(below, above) * 255).bit_length() + 1
    assert network.accumulator_bits["6"] == (4 * 255).bit_length() + 1


class Activated(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.function = nn.Conv2d(3, 4, 8), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(torch.flatten(self.function(self.conv(x)), 1))
        return result


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (Activated(F.silu), {}, "SiLU has no integer form; nn.ReLU and nn.ReLU6 have one"),
        (Activated(torch.relu), {"a": {"name": "fc", "weight": None}}, "fc has float weights"),
        (
            Activated(torch.relu),
            {"a": {"name": "relu", "activation": None}},
            r"relu \(relu\) is a float site",
        ),
        (
            Activated(lambda x: F.relu(x).exp()),
            {"a": {"name": "exp_site", "activation": None}},
            r"exp \(exp\) has no integer form",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 2)),
            {"a": {"name": "0_site", "activation": None}},
            "1 reads _0, which is float",
        ),
        (
            Activated(torch.relu),
            {"a": {"name": "conv", "weight": {"clamp_only": True}}},
            "conv has no grid",
        ),
    ],
)
def test_what_has_no_integer_form_is_told(
    network: nn.Module, settings: dict[str, Any], words: str
) -> None:
    model = convert(network, "sat", 4, **settings)
    with pytest.raises(ConfigError, match=words):
        lower(model, PIXEL, EXAMPLE)


def test_a_float_network_is_told() -> None:
    with pytest.raises(ConfigError, match="the network is float, and so has no integer form"):
        lower(NETWORKS["chain"](), PIXEL, EXAMPLE)


def test_a_network_of_another_phase_is_told() -> None:
    model = convert(NETWORKS["chain"]())
    quant.set_phase(model, quant.Phase.CLAMP)
    with pytest.raises(ConfigError, match="is in the clamp phase"):
        lower(model, PIXEL, EXAMPLE)


def test_an_accumulator_that_32_bits_do_not_hold_is_told() -> None:
    model = convert(NETWORKS["chain"](), "sat", 16)
    with pytest.raises(ConfigError, match=r"4: an accumulator can become .*32 bits do not hold"):
        lower(model, PIXEL, EXAMPLE)
