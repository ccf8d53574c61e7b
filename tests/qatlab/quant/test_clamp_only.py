"""Weights that keep their clamped form in the quantize phase."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from methods import randn, saved_and_loaded
from torch import nn

from qatlab.errors import QuantRuleError
from qatlab.quant import Phase, Rule, SatActivation, SatWeight, quantize
from qatlab.quant.functional import GRIDS


@pytest.mark.parametrize("statistics_gradient", [False, True])
@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_quantize_phase_is_the_clamp_phase(
    grid: str, scaling: bool, statistics_gradient: bool
) -> None:
    options = {"grid": grid, "scaling": scaling, "statistics_gradient": statistics_gradient}
    found = []
    for clamp_only, phase in ((False, Phase.CLAMP), (True, Phase.CLAMP), (True, Phase.QUANTIZE)):
        quantizer = SatWeight(bits=3, clamp_only=clamp_only, **options)
        quantizer.phase = phase
        w = randn(4, 3, 3, 3).requires_grad_()
        q = quantizer(w)
        found.append((q.detach(), *torch.autograd.grad(q.pow(3).sum(), w)))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    assert len(found[2][0].unique()) == 108  # no two weights fall together


def test_the_formula_is_tanh_over_its_maximum() -> None:
    w = torch.tensor([[0.5, -2.0, 1.0]])
    expected = w.tanh() / torch.tensor(2.0).tanh()
    torch.testing.assert_close(SatWeight(bits=2, clamp_only=True)(w), expected)
    quantizer = SatWeight(bits=2, clamp_only=True)
    quantizer.phase = Phase.FLOAT
    assert torch.equal(quantizer(w), w)


def test_the_table_counts_such_a_layer_as_float() -> None:
    layers = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    rule = Rule.parse("keep", {"name": "2", "weight": {"clamp_only": True, "scaling": True}})
    activation = partial(SatActivation, bits=4)
    model, table = quantize(layers, partial(SatWeight, bits=4), activation, (rule,), randn(1, 6))
    first, _, last = table.layers
    assert (first.bits, first.size_bytes) == (4, 12)
    assert first.quantizer == {
        **{"method": "SatWeight", "n_steps": 15, "grid": "default", "scaling": False}
    }
    assert (last.bits, last.size_bytes) == (None, 48)
    assert last.quantizer == {
        **{"method": "SatWeight", "grid": "default", "scaling": True, "clamp_only": True}
    }
    assert last.rules == ("keep",)
    assert table.size_bytes == 12 + 48 + 4 * 7
    assert "clamp_only=True" in repr(model)


def test_a_checkpoint_of_one_fits_the_other() -> None:
    quantizer = SatWeight(bits=4, clamp_only=True)
    state = saved_and_loaded(quantizer)
    assert state == {"_extra_state": "quantize SatWeight 15"}
    other = SatWeight(bits=4)
    other.load_state_dict(state)
    assert other.on_grid
    assert not quantizer.on_grid


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bits": 4, "clamp_only": "yes"}, "clamp_only=yes is wrong. Accepted: true or false"),
        ({"clamp_only": True}, "set exactly one of bits and n_steps"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        SatWeight(**options)
