"""What bits cost together, and whole bits within a budget."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qatlab.errors import ConfigError
from qatlab.models import LeNet, ResNet
from qatlab.quant import LsqActivation, LsqWeight, ModelTable, Rule, quantize
from qatlab.training.bit_budget import BitBudget, budget_of

LIMIT = 4e7  # bit operations of the small ResNet
ENDS = ("conv1", "fc2")


def table_of(net: nn.Module, image: torch.Tensor, **rules: Any) -> ModelTable:
    parsed = [Rule.parse(key, rule) for key, rule in rules.items()]
    weight, site = partial(LsqWeight, bits=4), partial(LsqActivation, bits=4)
    return quantize(net, weight, site, parsed, image)[1]


def lenet(**rules: Any) -> ModelTable:
    return table_of(LeNet(10, 1), torch.zeros(1, 1, 32, 32), **rules)


def resnet(**rules: Any) -> ModelTable:
    # Sums: a layer reads a site, and sites that no layer reads are added up.
    return table_of(
        ResNet(10, 3, depth=18, width=8, halvings=3), torch.zeros(1, 3, 16, 16), **rules
    )


def test_mean_bits_by_hand() -> None:
    budget = BitBudget(lenet(), "mean_bits", 3.0, ["conv1"], 2, 8)
    # conv1: 150 weights of 4 bits, which are kept.
    cost = (150 * 4 + 2400 * 5 + 48000 * 2.5 + 10080 * 3 + 840 * 8) / 61470
    assert budget.names == ["conv2", "conv3", "fc1", "fc2"]
    assert budget.cost(np.array([5, 2.5, 3, 8])) == pytest.approx(cost)
    assert budget.slopes(np.full(4, 3.0))[1] == pytest.approx(48000 / 61470)


@pytest.mark.parametrize("make", [lenet, resnet])
def test_costs_are_those_of_the_table(make: Any) -> None:
    table = make()
    rng = np.random.default_rng(1)
    for kind, total in (("bops", "bit_operations"), ("size", "size_bytes")):
        budget = BitBudget(table, kind, 0.7 * getattr(table, total), [], 2, 8)
        bits = rng.integers(2, 9, len(budget.names))
        chosen = dict(zip(budget.names, map(int, bits), strict=True))
        own = table.with_bits(chosen, "test")
        rules = {
            f"r{i}": {"name": row.name, row.part: {"bits": chosen[row.name]}}
            for i, row in enumerate(table.layers)
            if row.name in chosen
        }
        anew = make(**rules)
        assert [row.bits for row in own.layers] == [row.bits for row in anew.layers]
        assert own.bit_operations == anew.bit_operations
        assert (own.size_bytes, own.peak_bytes) == (anew.size_bytes, anew.peak_bytes)
        # Of bytes, each layer may begin with its own.
        cost = budget.cost(bits.astype(float))
        slack = len(bits) if kind == "size" else 1e-6 * cost
        assert getattr(own, total) <= cost + 1e-6 * cost
        assert cost == pytest.approx(getattr(own, total), abs=slack)


def test_slopes_are_differences() -> None:
    budget = BitBudget(resnet(), "bops", LIMIT, [], 2, 8)
    bits = np.random.default_rng(2).uniform(2, 8, len(budget.names))
    for i, slope in enumerate(budget.slopes(bits)):
        more = bits.copy()
        more[i] += 1e-6
        assert (budget.cost(more) - budget.cost(bits)) / 1e-6 == pytest.approx(slope, rel=1e-3)


def test_widths_are_held_to_the_budget_within_their_range() -> None:
    rng = np.random.default_rng(3)
    budget = BitBudget(resnet(), "bops", LIMIT, [], 2, 8)
    for _ in range(20):
        bits = rng.uniform(0, 12, len(budget.names))
        held = budget.held(bits, rng.uniform(0.01, 3, len(bits)))
        assert budget.cost(held) == pytest.approx(LIMIT, rel=1e-6)
        assert (held.clip(2, 8) == held).all()
    uniform = budget.uniform()
    assert np.ptp(uniform) == 0
    assert budget.cost(uniform) == pytest.approx(LIMIT, rel=1e-6)


@pytest.mark.parametrize("kind", ["bops", "size", "mean_bits"])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("make", [lenet, resnet])
def test_whole_bits_meet_the_budget(make: Any, kind: str, part: float) -> None:
    table = make()
    lowest, highest = costs_at_the_ends(table, kind)
    limit = lowest + part * (highest - lowest)
    budget = BitBudget(table, kind, limit, [], 2, 8)
    rng = np.random.default_rng(4)
    for _ in range(3):
        widths = budget.held(rng.uniform(2, 8, len(budget.names)), np.ones(len(budget.names)))
        cost = budget.cost(np.array(budget.rounded(widths), dtype=float))
        assert 0.98 * limit - 1e-6 <= cost <= limit * (1 + 1e-9)


def costs_at_the_ends(table: ModelTable, kind: str) -> list[float]:
    """Return the costs of 2 and of 8 bits for all."""
    found = []
    for bits in (2, 8):
        names = {row.name: bits for row in table.layers}
        own = table.with_bits(names, "test")
        of_kind = {"bops": own.bit_operations, "size": own.size_bytes, "mean_bits": bits}
        found.append(float(of_kind[kind]))
    return found


def test_whole_widths_within_the_budget_stay() -> None:
    budget = BitBudget(lenet(), "mean_bits", 3.0, [], 2, 8)
    bits = [8, 4, 3, 2, 8]
    cost = budget.cost(np.array(bits, dtype=float))
    assert BitBudget(lenet(), "mean_bits", cost, [], 2, 8).rounded(np.array(bits)) == bits


def test_a_budget_that_no_whole_bits_meet_is_kept_below() -> None:
    # One layer: 3 bits are all there is below 3.9.
    net = nn.Sequential(nn.Linear(4, 4, bias=False))
    budget = BitBudget(table_of(net, torch.zeros(1, 4)), "mean_bits", 3.9, [], 2, 8)
    assert budget.rounded(np.array([3.9])) == [3]


@pytest.mark.parametrize(
    ("kind", "limit", "words"),
    [
        (
            "mean_bits",
            2.0,
            "learned_bits.budget.mean_bits=2 is wrong. Accepted: a number from 2.097 bits",
        ),
        ("mean_bits", 8.0, "to below 8.000 (highest=8 everywhere)"),
        # 568 bytes of norms, 150 and 840 of the ends, a quarter of the other 60,480 weights.
        ("size", 100, "budget.size=100 is wrong. Accepted: a number from 16,678 bytes (lowest=2"),
    ],
)
def test_a_budget_out_of_reach_is_refused(kind: str, limit: float, words: str) -> None:
    ends = {"e": {"name": list(ENDS), "weight": {"bits": 8}}}
    with pytest.raises(ConfigError) as caught:
        BitBudget(lenet(**ends), kind, limit, ENDS, 2, 8)
    assert words in str(caught.value)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no bits can be learned, as rules give the bits"):
        BitBudget(lenet(), "size", 1e4, ["conv1", "conv2", "conv3", "fc1", "fc2"], 2, 8)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (None, "b=null is wrong. Accepted: one of size, bops, mean_bits, as in b.mean_bits=3."),
        ({}, "b has none. Accepted: exactly one of size, bops, mean_bits"),
        ({"size": 1, "bops": None, "mean_bits": 3}, "b has size and mean_bits. Accepted: exactly"),
        ({"bits": 3}, "b=bits is wrong. Did you mean 'mean_bits'?"),
        ({"size": -1}, "b.size=-1 is wrong. Accepted: a number above 0, of bytes."),
        ({"size": True}, "b.size=true is wrong."),
    ],
)
def test_a_wrong_budget_is_refused(budget: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        budget_of("b", budget)
    assert words in str(caught.value)


def test_one_budget_is_read() -> None:
    assert budget_of("b", {"size": None, "bops": 12, "mean_bits": None}) == ("bops", 12.0)
