"""Sites that an addition adds up have one step: ``quant.one_step_for_sums``."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.errors import QuantRuleError, TrainingError
from qatlab.quant import (
    DorefaActivation,
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    PactActivation,
    Rule,
    SatActivation,
    quantize,
    start_quantizers,
)

IMAGES = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LEARNING = (LsqActivation, LsqPlusActivation, SatActivation, PactActivation)


class Blocks(nn.Module):
    """Three additions; of the last one both operands are sites of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4, self.conv5 = (
            nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(5)
        )
        self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(4))
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x) + x)
        x = self.relu3(self.conv3(x) + x)
        x = self.relu4(self.conv4(self.pool(x)) + self.conv5(self.pool(x)))
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


def converted(kind: Any, one_step: bool = True, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    rules = {"addends": {"name": ["conv*_site"], "activation": {"bits": 8}}}
    model, _ = quantize(
        Blocks(),
        partial(LsqWeight, bits=4),
        partial(kind, bits=4, **more),
        [Rule.parse(key, node) for key, node in rules.items()],
        IMAGES[:1],
        one_step_for_sums=one_step,
    )
    return model


def step(model: nn.Module, site: str) -> float:
    quantizer: Any = model.get_submodule(site)
    return float(quantizer.grid.step(quantizer.size.detach().double()))


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_what_is_added_up_has_one_step_before_and_after_a_step_of_training(
    kind: Any, power_of_two: bool
) -> None:
    model = converted(kind, power_of_two=power_of_two)
    start_quantizers(model, [IMAGES])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    groups = (("conv2_site", "relu1"), ("conv3_site", "relu2"), ("conv4_site", "conv5_site"))
    before = [step(model, one) for one, _ in groups]
    for _ in range(2):
        for one, other in groups:
            assert step(model, one) == step(model, other)
        model(IMAGES).square().sum().backward()
        optimizer.step()
    assert power_of_two or before != [step(model, one) for one, _ in groups]
    alone = {step(model, site) for site in ("relu1", "relu3", "relu4")}
    assert power_of_two or len(alone) == 3


def test_it_starts_with_the_largest_of_the_steps() -> None:
    apart, together = converted(LsqActivation, one_step=False), converted(LsqActivation)
    for model in (apart, together):
        start_quantizers(model, [IMAGES])
    for group in (("conv2_site", "relu1"), ("conv4_site", "conv5_site")):
        largest = max(step(apart, site) for site in group)
        assert step(together, group[0]) == pytest.approx(largest, rel=1e-6)
    assert step(together, "relu3") == pytest.approx(step(apart, "relu3"), rel=1e-6)


def test_the_gradient_is_the_sum_over_the_sites_in_the_units_of_the_first() -> None:
    model = converted(SatActivation)
    start_quantizers(model, [IMAGES])
    first: Any = model.get_submodule("relu1")
    other: Any = model.get_submodule("conv2_site")
    assert other.alpha is first.alpha
    # Of 4 bits without a sign: its step is alpha / 15, and that of 8 bits with one, whose alpha is
    # 127 steps, too.
    assert first.shown.item() == pytest.approx(first.alpha.item())
    assert other.shown.item() == pytest.approx(first.alpha.item() * 127 / 15)
    assert other.grid.ends(other.size)[1].item() == pytest.approx(other.shown.item())
    (4 * first.shown + 3 * other.shown).backward()
    assert first.alpha.grad.item() == pytest.approx(4 + 3 * 127 / 15)
    names = [name for name, _ in model.named_parameters() if name.endswith("alpha")]
    learning = (
        "relu1",
        "relu2",
        "relu3",
        "relu4",
        "conv4_site",
        "mean_site",
    )  # three of them alone
    assert set(names) == {f"{site}.alpha" for site in learning}


def test_copies_and_checkpoints_have_one_step_too() -> None:
    model = converted(LsqActivation)
    start_quantizers(model, [IMAGES])
    twin: Any = copy.deepcopy(model)
    assert twin.conv2_site.step_size is twin.relu1.step_size is not model.relu1.step_size
    with torch.no_grad():
        twin.relu1.step_size.mul_(2)
    assert twin.conv2_site.size.item() == 2 * step(model, "relu1")
    fresh: Any = converted(LsqActivation)
    fresh.load_state_dict(twin.state_dict())
    assert fresh.conv2_site.step_size is fresh.relu1.step_size
    assert torch.equal(fresh.eval()(IMAGES), twin.eval()(IMAGES))
    state = fresh.relu1.get_extra_state()
    assert state == "quantize LsqActivation 15 shared/1"
    own: Any = converted(LsqActivation, one_step=False)
    assert fresh.relu1.understands(state)
    assert not own.relu1.understands(state)
    assert not fresh.relu1.understands(own.relu1.get_extra_state())
    assert fresh.conv2_site.describe()["step_of"] == "relu1"
    assert "step_of" not in fresh.relu3.describe()


def test_methods_without_a_learned_step_are_refused() -> None:
    with pytest.raises(QuantRuleError, match=r"quant\.one_step_for_sums: relu1 .*DorefaActivation"):
        converted(DorefaActivation)


def test_a_site_that_stays_float_shares_nothing() -> None:
    rules = [Rule.parse("float", {"name": "relu1", "activation": None})]
    parts = partial(LsqWeight, bits=4), partial(LsqActivation, bits=4)
    model: Any = quantize(Blocks(), *parts, rules, IMAGES[:1], one_step_for_sums=True)[0]
    assert model.conv2_site.describe().keys() == {"method", "bits", "n_steps", "signed"}
    assert model.conv3_site.step_size is model.relu2.step_size


@pytest.mark.parametrize("kind", [SatActivation, PactActivation])
def test_steps_are_equal_to_the_bit_whatever_the_clip_value(kind: Any) -> None:
    model: Any = converted(kind)
    start_quantizers(model, [IMAGES])
    for alpha in torch.rand(200, generator=torch.Generator().manual_seed(3)).tolist():
        model.relu1.alpha.data.fill_(10 * alpha + 0.1)
        sizes = [site.size / site.grid.divisor for site in (model.relu1, model.conv2_site)]
        assert torch.equal(*sizes)


def test_wider_phases_leave_each_site_its_range() -> None:
    model = converted(SatActivation)
    sites: list[Any] = [model.get_submodule(name) for name in ("relu1", "conv2_site")]
    for bits in (8, None):
        for site in sites:
            site.widen(bits)
        start_quantizers(model, [IMAGES])
        ends = [site.grid.ends(site.size)[1].item() for site in sites]
        values = model.get_submodule("conv1")(IMAGES).relu().quantile(0.99).item()
        assert ends[0] > 0.7 * values
        assert ends[1] > ends[0] / 3  # of as many steps above 0, or half as many


def test_a_clip_value_that_others_share_is_not_that_of_another_network() -> None:
    model: Any = converted(SatActivation)
    start_quantizers(model, [IMAGES])
    state = model.conv2_site.get_extra_state()
    assert state == "quantize SatActivation 255 shared/15"
    assert model.conv2_site.understands(state)
    for other in ("255", "255 shared/255", "15 shared/15"):
        assert not model.conv2_site.understands(f"quantize SatActivation {other}")


def test_without_a_start_it_is_refused_in_the_first_step_of_training() -> None:
    model = converted(LsqActivation)
    with pytest.raises(TrainingError, match=r"relu1, conv2_site share a step: start them with"):
        model.train()(IMAGES)


class Sums(Blocks):
    """Sums of which one operand is a number times a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x) + 0.5 * x)
        x = self.relu3(torch.add(self.conv3(x), x, alpha=2))
        x = self.relu4(self.conv4(x) - x)
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


def test_what_is_multiplied_by_a_number_shares_no_step_and_what_is_subtracted_does() -> None:
    parts = partial(LsqWeight, bits=4), partial(LsqActivation, bits=4)
    model: Any = quantize(Sums(), *parts, (), IMAGES[:1], one_step_for_sums=True)[0]
    of = {
        name: module.describe().get("step_of")
        for name, module in model.named_modules()
        if isinstance(module, LsqActivation)
    }
    shared = {name for name, first in of.items() if first is not None}
    assert shared == {"relu3", "conv4_site"}


def test_without_a_sum_it_is_refused() -> None:
    parts = partial(LsqWeight, bits=4), partial(LsqActivation, bits=4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(QuantRuleError, match="one_step_for_sums=true has no effect: no addition"):
        quantize(network, *parts, (), IMAGES[:1], one_step_for_sums=True)
