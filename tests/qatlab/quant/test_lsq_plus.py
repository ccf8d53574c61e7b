"""LsqPlusActivation: its range starts where the activations lie, and its offset is learned."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from methods import randn, saved_and_loaded
from torch import Tensor, nn

from qatlab.errors import QuantRuleError, TrainingError
from qatlab.quant import LsqPlusActivation, LsqWeight, Phase, quantize, start_quantizers


def site_at(activation: nn.Module, **options: Any) -> LsqPlusActivation:
    return LsqPlusActivation(activation, **{"bits": 4, **options})


def range_of(site: LsqPlusActivation) -> tuple[float, float]:
    """What the lowest and the highest index stand for."""
    step, offset = site.step_size.item(), site.offset.item()
    return offset + site.grid.q_min * step, offset + site.grid.q_max * step


# ---- the start


@pytest.mark.parametrize("signed", [False, True])
def test_min_max_gives_the_ends_of_the_grid_to_the_ends_of_the_values(signed: bool) -> None:
    x = torch.tensor([-1.0, 0.3, 6.5])
    site = site_at(nn.Identity(), start="min_max", signed=signed)
    start_quantizers(site, [x])
    assert range_of(site) == pytest.approx((-1.0, 6.5))
    assert site.step_size.item() == pytest.approx(7.5 / 15)
    assert site(x).tolist() == pytest.approx([-1.0, 0.5, 6.5], abs=1e-6)  # no value is clipped


def test_mean_std_starts_three_deviations_around_the_mean_but_within_the_values() -> None:
    # 100 times 0 and one 101: mean 1, deviation sqrt(101 - 1) = 10
    x = torch.tensor([0.0] * 100 + [101.0])
    site = site_at(nn.Identity())
    start_quantizers(site, [x])
    assert range_of(site) == pytest.approx((0.0, 1 + 3 * 10.0), rel=1e-6)


def test_percentile_leaves_out_its_rest_on_each_side() -> None:
    site = site_at(nn.Identity(), start="percentile", percentile=90)
    start_quantizers(site, [torch.arange(10.0)])
    assert range_of(site) == pytest.approx((1.0, 8.0))


def test_the_range_starts_from_what_the_activation_function_lets_through() -> None:
    x = torch.linspace(-6, 6, 4001)
    site = site_at(nn.SiLU(), start="min_max")
    start_quantizers(site, [x])
    assert range_of(site) == pytest.approx((nn.functional.silu(x).min().item(), 5.985), abs=1e-3)
    assert len(site(x).unique()) == 16  # no level is wasted


def test_a_given_step_starts_with_an_offset_of_0() -> None:
    site = site_at(nn.ReLU(), step_size=0.5)
    site(torch.tensor([100.0]))
    assert (site.step_size.item(), site.offset.item()) == (0.5, 0.0)


def test_activations_that_are_all_equal_have_no_range() -> None:
    site = site_at(nn.ReLU())
    site.layer = "relu2"
    with pytest.raises(TrainingError, match=r"^relu2: .*step_size.*\(0\.0\); set step_size to a"):
        start_quantizers(site, [torch.full((8,), 3.0)])


# ---- sites


def test_it_follows_relu_and_never_takes_its_place() -> None:
    site = site_at(nn.ReLU(), step_size=1.0)
    with torch.no_grad():
        site(torch.ones(1))
        site.offset.fill_(-2.0)
    x = torch.tensor([-1.5, 0.2, 3.9], requires_grad=True)
    y = site(x)
    assert y.tolist() == [0.0, 0.0, 4.0]  # not -2 at x = -1.5, although that is a level
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1]
    assert not site.clips


def test_relu6_keeps_its_own_limit() -> None:
    site = site_at(nn.ReLU6(), step_size=1.0)
    assert site(torch.tensor([3.2, 6.0, 9.0])).tolist() == [3, 6, 6]


def test_a_converted_network_keeps_its_activation_functions() -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 2))
    model, table = quantize(
        nn.Sequential(*layers),
        partial(LsqWeight, bits=4),
        partial(LsqPlusActivation, bits=3),
        (),
        randn(1, 6),
    )
    sites = [m for m in model.modules() if isinstance(m, LsqPlusActivation)]
    assert [type(site.activation) for site in sites] == [nn.ReLU, nn.SiLU]
    x = randn(64, 6)
    start_quantizers(model, [x])
    names = {name for name, _ in model.named_parameters()}
    assert {"1.step_size", "1.offset", "3.step_size", "3.offset"} <= names
    assert {row.quantizer["method"] for row in table.layers if row.part == "activation"} == {
        "LsqPlusActivation"
    }
    assert sites[0].offset.item() == pytest.approx(0, abs=1e-6)  # where a ReLU begins
    assert range_of(sites[1])[0] < 0  # SiLU goes below zero
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_in_the_float_phase_it_is_the_activation_function() -> None:
    x, site = randn(100), site_at(nn.SiLU())
    for phase in (Phase.FLOAT, Phase.CLAMP):
        site.phase = phase
        assert torch.equal(site(x), nn.functional.silu(x))
    assert not site.initialized


# ---- learning


# Two bits, steps of 1 from 1 on: the levels are 1, 2, 3 and 4.
@pytest.mark.parametrize(
    ("x", "y", "grad_step", "grad_offset"),
    [
        (-9.0, 1.0, 0.0, 1.0),  # below: all that is left of the step is the offset
        (2.25, 2.0, -0.25, 0.0),
        (3.75, 4.0, 0.25, 0.0),
        (9.0, 4.0, 3.0, 1.0),  # above
    ],
)
@pytest.mark.parametrize("scale", ["none", "paper", "n2d2"])
def test_step_and_offset_learn_by_the_formulas(
    x: float, y: float, grad_step: float, grad_offset: float, scale: str
) -> None:
    site = site_at(nn.Identity(), bits=2, step_size=1.0, gradient_scale=scale)
    values = torch.full((5, 4), x)
    with torch.no_grad():
        site(values)
        site.offset.fill_(1.0)
    result = site(values)
    result.sum().backward()
    factor = {"none": 1.0, "paper": 1 / math.sqrt(4 * 3), "n2d2": 1 / math.sqrt(20 * 3)}[scale]
    assert result.unique().tolist() == [y]
    assert site.step_size.grad is not None
    assert site.offset.grad is not None
    assert site.step_size.grad.item() == pytest.approx(20 * grad_step * factor, abs=1e-5)
    assert site.offset.grad.item() == pytest.approx(20 * grad_offset * factor, abs=1e-5)


def test_a_range_that_lies_wrong_is_learned() -> None:
    x = torch.linspace(-3, 1, 201)
    site = site_at(nn.Identity(), bits=3, step_size=0.2, gradient_scale="none")
    site(x)

    def error() -> Tensor:
        return (site(x) - x).square().mean()

    before = error().item()
    learned = [site.step_size, site.offset]
    for _ in range(300):
        gradients = torch.autograd.grad(error(), learned)
        with torch.no_grad():
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.sub_(0.05 * gradient)
    low, high = range_of(site)
    assert (low, high) == pytest.approx((-3, 1), abs=0.4)
    assert error().item() < before / 50


def test_a_checkpoint_holds_step_and_offset() -> None:
    site, other, x = site_at(nn.SiLU()), site_at(nn.SiLU()), randn(300)
    start_quantizers(site, [x])
    other.load_state_dict(saved_and_loaded(site))
    assert (other.step_size.item(), other.offset.item()) == (site.step_size.item(), site.offset)
    start_quantizers(other, [9 * x])
    assert torch.equal(other(x), site(x))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"start": "mean"}, "start=mean is wrong. .*Accepted: mean_std, min_max, percentile, mse"),
        ({"start": "mean"}, "start=mean is wrong. Did you mean 'mean_std'"),
        ({"gradient_scale": "papers"}, "Did you mean 'paper'.*Accepted: paper, n2d2, none"),
        ({"step_size": -1.0}, "step_size=-1.0 is wrong. Accepted: auto, a number above 0"),
        ({"ewgs": -0.5}, "ewgs=-0.5 is wrong. Accepted: a number of at least 0"),
        ({"percentile": 0}, "percentile=0 is wrong. Accepted: a number in"),
        ({"bits": 0}, "bits=0 is wrong. Accepted: a whole number from 1 to 16"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(QuantRuleError, match=told):
        site_at(nn.ReLU(), **options)
