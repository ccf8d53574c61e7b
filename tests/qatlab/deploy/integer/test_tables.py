"""Activation functions as tables of codes: what training computes, for each code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import EXAMPLE, METHODS, PIXEL, PIXELS, convert, sites
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import quant
from qatlab.deploy.integer import Codes, IntegerNetwork, compute, lower
from qatlab.deploy.integer.folding import jump_of
from qatlab.deploy.integer.operations import Table
from qatlab.errors import ConfigError


class Activated(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.function(self.norm(self.conv(x))).mean((2, 3)))
        return result


def tables(network: IntegerNetwork) -> list[Table]:
    return [op for op in network.operations if isinstance(op, Table)]


FUNCTIONS = (
    *(nn.Sigmoid(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Mish(), nn.Tanh()),
    *(nn.ELU(), nn.CELU(0.5), nn.SELU(), nn.Softplus(), nn.Softplus(3, 1), nn.Softsign()),
    *(nn.LogSigmoid(), nn.Threshold(0.1, 0.7)),
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_an_entry_is_the_code_that_training_gives(function: nn.Module, method: str) -> None:
    model = convert(Activated(function), method, inputs_of_functions=True).float()
    before: Any = sites(model)["norm_site"]
    behind: Any = sites(model)["function"]
    (table,) = tables(lower(model, [PIXEL] * 3, EXAMPLE.float()))
    seen: list[tuple[Tensor, Tensor]] = []
    behind.register_forward_hook(lambda _, args, made: seen.append((args[0], made)))
    model(16 * torch.rand(64, 3, 8, 8) - 8)
    ((read, made),) = seen

    def codes(values: Tensor, site: Any) -> Tensor:
        offset = 0 if site.learned_offset is None else site.learned_offset.double()
        return ((values.double() - offset) / site.grid.step(site.parameter.double())).round()

    at = (codes(read, before) - table.lowest).long()
    assert len(at.unique()) > 50
    assert torch.equal(torch.from_numpy(table.entries)[at], codes(made, behind).long())
    assert table.lowest == before.grid.q_min
    assert len(table.entries) == before.grid.q_max - before.grid.q_min + 1


@pytest.mark.parametrize("function", [F.hardsigmoid, nn.Hardsigmoid(inplace=True), F.leaky_relu])
def test_what_is_one_multiplication_and_a_clip_needs_no_table(function: Any) -> None:
    torch.manual_seed(1)
    model = convert(Activated(function), inputs_of_functions=True)
    assert "norm_site" not in sites(model)
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    assert not tables(network)
    found = compute(network, PIXELS).outputs
    torch.testing.assert_close(found, model(PIXELS.double() / 255), rtol=1e-9, atol=1e-9)


def test_a_hardsigmoid_ends_at_1() -> None:
    model = convert(Activated(F.hardsigmoid), "lsq")
    site: Any = sites(model)["hardsigmoid"]
    site.step_size.data.fill_(0.1)
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    assert network.codes["hardsigmoid"] == Codes(0, 10, site.step_size.item())


def test_codes_that_a_norm_reads_are_not_looked_up() -> None:
    relu, norm = nn.ReLU(), nn.BatchNorm2d(4)
    layers = (nn.Conv2d(3, 4, 3), relu, norm, nn.SiLU(), nn.Flatten(), nn.Linear(144, 2))
    model = convert(nn.Sequential(*layers))
    with pytest.raises(ConfigError, match=r"3 \(SiLU\) reads the batch norm behind 1, which is no"):
        lower(model, [PIXEL] * 3, EXAMPLE)


def test_each_part_of_a_concatenation_has_its_table() -> None:
    torch.manual_seed(2)
    model = convert(Activated(lambda x: F.silu(torch.cat([F.relu(x), x * -0.5], 1)[:, 2:6])))
    with pytest.raises(ConfigError, match=r"silu \(SiLU\) reads getitem, which is no codes"):
        lower(model, [PIXEL] * 3, EXAMPLE)
    network = Activated(lambda x: F.silu(torch.cat([F.relu(x), x * -0.5], 1)[:, 2:6]))
    model = convert(network, inputs_of_functions=True)
    lowered = lower(model, [PIXEL] * 3, EXAMPLE)
    assert [len(table.entries) for table in tables(lowered)] == [16, 255]
    found = compute(lowered, PIXELS).outputs
    torch.testing.assert_close(found, model(PIXELS.double() / 255), rtol=1e-9, atol=1e-9)


def test_a_table_is_no_larger_than_65536_codes() -> None:
    wide = {"name": "norm_site", "activation": {"bits": 16}}
    model = convert(Activated(F.silu), inputs_of_functions=True, rule=wide)
    assert len(tables(lower(model, [PIXEL] * 3, EXAMPLE))[0].entries) == 65535
    pooled = Activated(lambda x: F.silu(F.avg_pool2d(F.relu(x), 3)))
    rules = {
        "wide": {"name": "relu", "activation": {"bits": 16}},
        "none": {"name": "avg_pool2d_site", "activation": None},
    }
    model = convert(pooled, inputs_of_functions=True, **rules)
    with pytest.raises(ConfigError, match="whose codes stand for more values than a table has"):
        lower(model, [PIXEL] * 3, EXAMPLE)


class Jumps(nn.Module):
    """Its function reads halves of pixels of 1 / 255 each."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.full((1, 1, 1, 1), 0.5))
        self.function, self.fc = nn.Threshold(threshold, 0.5), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.function(x * self.factor).mean((2, 3)))
        return result


def test_a_jump_at_a_value_that_is_read_is_refused() -> None:
    pixels = [Codes(0, 255, 1 / 255)] * 3
    message = r"^function \(Threshold\) jumps at 0\.1, a value that it reads"  # pixel 51
    with pytest.raises(ConfigError, match=message):
        lower(convert(Jumps(0.1)), pixels, PIXELS[:1] / 255)
    (table,) = tables(lower(convert(Jumps(0.1001)), pixels, PIXELS[:1] / 255))
    assert len(set(table.entries[:52])) == 1  # one below the jump


@pytest.mark.parametrize("function", [nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU()])
@pytest.mark.parametrize("largest", [1.0, 200.0, 5000.0])
def test_a_steep_function_does_not_jump(function: nn.Module, largest: float) -> None:
    site = quant.LsqActivation(function, bits=8, signed=True, step_size=1 / 127)
    site.begin_with(torch.ones(3))
    assert jump_of(site, Codes(-127, 127, largest / 127)) is None


@pytest.mark.parametrize(("place", "jumps"), [(0.0, True), (4e-7, True), (3e-6, False)])
def test_a_jump_next_to_a_value_is_one(place: float, jumps: bool) -> None:
    site = quant.LsqActivation(nn.Threshold(place, -0.5), bits=8, signed=True, step_size=1 / 127)
    site.begin_with(torch.ones(3))
    assert (jump_of(site, Codes(-127, 127, 1 / 127)) is not None) == jumps
