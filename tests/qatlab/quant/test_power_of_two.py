"""Steps that are rounded to powers of two (TQT, Jain et al. 2019, arXiv:1903.08066)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.deploy.integer import Codes, compute, lower, with_rescale
from qatlab.errors import QuantRuleError
from qatlab.quant import (
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    PactActivation,
    SatActivation,
    quantize,
    start_quantizers,
)
from qatlab.quant.functional import with_power_of_two

IMAGES = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("divisor", [1.0, 15.0, 255.0])
def test_it_is_the_nearest_in_the_logarithm_with_the_gradient_of_tqt(divisor: float) -> None:
    sizes = [0.001, 0.3, 0.353, 0.354, 0.5, 0.7, 1.0, 3.0, 1000.0]
    for size in sizes:
        parameter = torch.tensor(size * divisor, requires_grad=True)
        rounded = with_power_of_two(parameter, divisor)
        assert rounded.item() / divisor == 2.0 ** round(math.log2(size))
        rounded.backward()
        # d(2^k)/d(log2 t) = 2^k ln 2, and d(log2 t)/dt = 1 / (t ln 2).
        assert parameter.grad is not None
        assert parameter.grad.item() == pytest.approx(rounded.item() / parameter.item(), rel=1e-6)


def test_a_negative_parameter_counts_by_its_size_and_0_stays() -> None:
    parameter = torch.tensor([-0.3, 0.0], requires_grad=True)
    rounded = with_power_of_two(parameter, 1.0)
    assert rounded.tolist() == [0.25, 0.0]
    rounded.sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == pytest.approx([-0.25 / 0.3, 0.0])


SITES = (LsqActivation, LsqPlusActivation, SatActivation, PactActivation)


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("signed", [False, True])
def test_levels_of_a_site_are_a_power_of_two_apart(kind: Any, signed: bool) -> None:
    site = kind(nn.Identity(), bits=4, signed=signed, power_of_two=True)
    torch.manual_seed(0)
    x = torch.randn(2000) if signed else torch.rand(2000)
    site.begin_with(x)
    made = site(3 * x)  # of which some are clipped
    offset = 0.0 if site.learned_offset is None else site.learned_offset.item()
    apart = (made.detach().unique().double() - offset).diff()
    assert apart.min().item() == pytest.approx(2.0 ** round(math.log2(apart.min().item())))
    made.square().sum().backward()
    assert site.parameter.grad is not None
    assert site.parameter.grad.abs().item() > 0
    assert site.describe()["power_of_two"] is True


def test_weights_are_multiples_of_a_power_of_two_for_each_channel() -> None:
    weight = torch.randn(5, 3, 3, 3) * torch.tensor([0.1, 0.3, 1.0, 2.0, 7.0])[:, None, None, None]
    quantizer = LsqWeight(bits=4, per_channel=True, power_of_two=True)
    quantizer.fit(weight)
    steps = quantizer.weight_step(quantizer(weight).new_empty(0))
    assert torch.equal(steps.log2(), steps.log2().round())
    assert torch.equal(quantizer(weight) / steps, (quantizer(weight) / steps).round())
    assert len(steps.unique()) == 5


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False)
        self.relu1, self.relu2, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        result: Tensor = self.fc(x.flatten(1))
        return result


@pytest.mark.parametrize("power_of_two", [True, False])
def test_shifts_alone_compute_the_network(power_of_two: bool) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"bits": 4, "power_of_two": power_of_two}
    factories = partial(LsqWeight, **settings), partial(LsqActivation, **settings)
    model, _ = quantize(Network(), *factories, (), IMAGES[:1])
    start_quantizers(model, [IMAGES])
    exact = lower(model.eval(), [Codes(0, 255, 1 / 256)] * 3, IMAGES[:1])
    pixels = torch.randint(0, 256, (50, 3, 6, 6), generator=torch.Generator().manual_seed(2))
    real, shifted = (
        compute(with_rescale(exact, rescale), pixels.to(torch.uint8))
        for rescale in ("float", "single_shift")
    )
    for site in real.codes:
        assert torch.equal(real.codes[site], shifted.codes[site]) == power_of_two
    assert torch.equal(real.outputs, shifted.outputs) == power_of_two
    # With powers of two many sums lie half way between two codes.
    assert bool((real.positions["relu2"] % 1 == 0.5).any()) == power_of_two


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(QuantRuleError, match=r"power_of_two=1 is wrong"):
        LsqWeight(bits=4, power_of_two=1)  # type: ignore[arg-type]
