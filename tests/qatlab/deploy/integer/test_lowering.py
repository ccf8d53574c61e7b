"""Integer networks against the fake-quantized networks that they are made of, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from networks import EXAMPLE, METHODS, NETWORKS, PIXEL, PIXELS, convert, sites
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import quant
from qatlab.deploy.integer import Codes, compute, lower
from qatlab.deploy.integer.folding import site_codes
from qatlab.deploy.integer.operations import Gather
from qatlab.deploy.integer.weights import integer_weight, integer_weights, largest_accumulator
from qatlab.errors import ConfigError
from qatlab.quant.layers import QuantConv2d, QuantLinear, quantized_weight
from qatlab.quant.learned import ActivationQuantizer


def keep_codes(
    codes: dict[str, Tensor], path: str, site: ActivationQuantizer, inputs: Any, y: Tensor
) -> None:
    step = site.parameter.detach().abs() / site.grid.divisor
    offset = 0 if site.learned_offset is None else site.learned_offset.detach()
    codes[path] = ((y - offset) / step).round()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_integer_network_answers_what_its_origin_does(name: str, method: str, bits: int) -> None:
    torch.manual_seed(1)
    model = convert(NETWORKS[name](), method, bits)
    codes: dict[str, Tensor] = {}
    for path, site in sites(model).items():
        site.register_forward_hook(partial(keep_codes, codes, path))
    computed = compute(lower(model, [PIXEL] * 3, EXAMPLE), PIXELS)
    outputs = model(PIXELS.double() / 255)
    assert codes.keys() == computed.codes.keys()
    for path, found in codes.items():
        assert torch.equal(found, computed.codes[path]), path
    assert sum(found.unique().numel() > 1 for found in codes.values()) > 1
    torch.testing.assert_close(computed.outputs, outputs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_channel_may_have_a_step_of_its_own(name: str) -> None:
    torch.manual_seed(1)
    everywhere = {"name": "*", "weight": {"per_channel": True}}
    model = convert(NETWORKS[name](), "lsq", 4, all=everywhere)
    steps = [step for _, step in integer_weights(model).values()]
    assert any(step.ndim == 1 and len(np.unique(step)) > 1 for step in steps)
    computed = compute(lower(model, [PIXEL] * 3, EXAMPLE), PIXELS)
    torch.testing.assert_close(computed.outputs, model(PIXELS.double() / 255), rtol=1e-9, atol=1e-9)


def test_a_sum_of_accumulators_needs_no_sites_of_its_own() -> None:
    torch.manual_seed(1)
    without = {"name": ["shortcut_site", "bn_site"], "activation": None}
    model = convert(NETWORKS["projected shortcut"](), sites=without)
    assert sites(model).keys() == {"stem_relu", "relu", "pool_site"}
    computed = compute(lower(model, [PIXEL] * 3, EXAMPLE), PIXELS)
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
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    codes, _ = integer_weight(model.get_submodule("0"))
    below = np.where(codes < 0, -codes, 0).reshape(6, -1).sum(1).max()
    above = np.where(codes > 0, codes, 0).reshape(6, -1).sum(1).max()
    assert network.accumulator_bits["0"] == int(max(below, above) * 255).bit_length() + 1
    assert network.accumulator_bits["6"] == (4 * 255).bit_length() + 1


@pytest.mark.parametrize(
    ("activation", "low", "high"), [(nn.Identity(), 0, 15), (nn.ReLU(), 2, 15), (nn.ReLU6(), 2, 8)]
)
def test_an_activation_function_cuts_codes_off(activation: nn.Module, low: int, high: int) -> None:
    site = quant.LsqPlusActivation(activation, bits=4, step_size=1.0)
    site.offset.data.fill_(-2.0)
    assert site_codes("relu", site) == Codes(low, high, 1.0, -2.0)


def test_sums_of_some_products_are_bounded_too() -> None:
    weight = np.array([[3, -3], [1, 1]])
    # Where codes begin at 10, all products together are 30 * 2 at most; one alone is 3 * 20.
    assert largest_accumulator(weight, Codes(10, 20, 1.0), "fc") == 60
    assert largest_accumulator(weight, Codes(-7, 4, 1.0), "fc") == 33


@pytest.mark.parametrize(
    ("moves", "rows", "columns"),
    [
        (lambda x: F.interpolate(x, size=(3, 8)), (0, 1, 2), (0, 0, 1, 1, 2, 2, 3, 3)),
        (lambda x: F.interpolate(x, scale_factor=(1, 1.5)), (0, 1, 2), (0, 0, 1, 2, 2, 3)),
        (lambda x: x.flip(2), (2, 1, 0), (0, 1, 2, 3)),
        (lambda x: torch.roll(x, (1, -1), (2, 3)), (2, 0, 1), (1, 2, 3, 0)),
        (lambda x: x[:, :, [0, 2, 2]], (0, 2, 2), (0, 1, 2, 3)),
        (lambda x: x.amax((2, 3), keepdim=True).expand(-1, -1, 2, 3), (0, 0), (0, 0, 0)),
    ],
)
def test_rows_and_columns_are_read_where_they_lie(
    moves: Callable[[Tensor], Tensor], rows: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = convert(nn.Sequential(nn.Conv2d(3, 2, (6, 5)), nn.ReLU(), Moved(moves)))
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    found = [(op.rows, op.columns) for op in network.operations if isinstance(op, Gather)]
    assert found == [(rows, columns)]
    computed = compute(network, PIXELS).outputs
    torch.testing.assert_close(computed, model(PIXELS.double() / 255), rtol=1e-9, atol=1e-9)


class Moved(nn.Module):
    def __init__(self, moves: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.moves, self.conv = moves, nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.moves(x)).flatten(1)


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
        (
            Activated(F.silu),
            {},
            r"silu \(SiLU\) reads conv, .* set quant\.inputs_of_functions=true",
        ),
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
            "2 reads 1, which is float",
        ),
        (
            Activated(torch.relu),
            {"a": {"name": "conv", "weight": {"clamp_only": True}}},
            "conv has no grid",
        ),
    ],
)
def test_what_has_no_integer_form_is_reported(
    network: nn.Module, settings: dict[str, Any], words: str
) -> None:
    model = convert(network, "sat", 4, **settings)
    with pytest.raises(ConfigError, match=words):
        lower(model, [PIXEL] * 3, EXAMPLE)


def test_a_float_network_is_reported() -> None:
    with pytest.raises(ConfigError, match="the network is float, and so has no integer form"):
        lower(NETWORKS["chain"](), [PIXEL] * 3, EXAMPLE)


def test_a_network_of_another_phase_is_reported() -> None:
    model = convert(NETWORKS["chain"]())
    quant.set_phase(model, quant.Phase.CLAMP)
    with pytest.raises(ConfigError, match="is in the clamp phase"):
        lower(model, [PIXEL] * 3, EXAMPLE)


def test_an_accumulator_that_32_bits_do_not_hold_is_reported() -> None:
    model = convert(NETWORKS["chain"](), "sat", 16)
    with pytest.raises(ConfigError, match=r"4: an accumulator can become .*32 bits do not hold"):
        lower(model, [PIXEL] * 3, EXAMPLE)


class Unused(nn.Module):
    """A site whose channels are joined to others, and then cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.used, self.unused = nn.ReLU(), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.used(self.conv(x)), self.unused(x)], 1).chunk(2, 1)[0].mean((2, 3))


def test_a_site_of_which_nothing_reaches_the_output_is_none_of_the_network() -> None:
    model = convert(Unused(), "sat", 4)
    assert "unused" in sites(model)
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    assert "used" in network.sites
    assert "unused" not in network.sites
    names = {op.name for op in network.operations}
    assert all(names.issuperset(parts) for parts in network.sites.values())
