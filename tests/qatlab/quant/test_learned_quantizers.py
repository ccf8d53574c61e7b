"""What all quantizers with learned parameters share: when and from what they start."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from methods import randn, saved_and_loaded
from torch import Tensor, nn

from qatlab.errors import TrainingError
from qatlab.quant import (
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    PactActivation,
    Phase,
    SatActivation,
    quantize,
    start_quantizers,
)

SITES: dict[str, Any] = {
    "SAT": (SatActivation, "alpha"),
    "PACT": (PactActivation, "alpha"),
    "LSQ": (LsqActivation, "step_size"),
    "LSQ+": (LsqPlusActivation, "step_size"),
}
SITE = pytest.mark.parametrize("method", SITES)


def site_of(method: str, **options: Any) -> Any:
    return SITES[method][0](nn.ReLU(), bits=4, **options)


def learned(quantizer: nn.Module) -> list[float]:
    return [parameter.item() for parameter in quantizer.parameters()]


@SITE
def test_without_a_start_the_first_quantized_batch_is_one(method: str) -> None:
    x = randn(4, 50) * 3
    called, started = site_of(method), site_of(method)
    for phase in (Phase.FLOAT, Phase.CLAMP):
        called.phase = phase
        called(x)
        assert not called.initialized
    called.phase = Phase.QUANTIZE
    called(x)
    start_quantizers(started, [x])
    assert called.initialized
    assert learned(called) == learned(started)
    called(10 * x)  # and the second is none
    start_quantizers(started, [10 * x])
    assert learned(called) == learned(started)


@SITE
def test_the_start_is_the_mean_over_batches(method: str) -> None:
    x = randn(4, 50)
    one, three, both = (site_of(method) for _ in range(3))
    start_quantizers(one, [x])
    start_quantizers(three, [3 * x])
    start_quantizers(both, iter([x, 3 * x]))
    for a, b, mean in zip(learned(one), learned(three), learned(both), strict=True):
        assert b == pytest.approx(3 * a)
        assert mean == pytest.approx((a + b) / 2)


@SITE
def test_a_given_start_looks_at_no_values(method: str) -> None:
    name = SITES[method][1]
    for use in (lambda site: site(torch.zeros(3)), lambda site: start_quantizers(site, [])):
        site = site_of(method, **{name: 0.25})
        use(site)
        assert learned(site) == ([0.25, 0.0] if method == "LSQ+" else [0.25])
        assert site.initialized


@SITE
def test_a_checkpoint_of_a_started_site_is_not_started_again(method: str) -> None:
    x = randn(4, 50)
    trained = site_of(method)
    start_quantizers(trained, [x])
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.125)
    resumed = site_of(method)
    resumed(5 * x)  # has started: what is loaded wins
    resumed.load_state_dict(saved_and_loaded(trained))
    start_quantizers(resumed, [9 * x])
    assert learned(resumed) == learned(trained)
    assert torch.equal(resumed(x), trained(x))


@SITE
def test_a_checkpoint_of_a_site_that_never_started_starts(method: str) -> None:
    x = randn(4, 50)
    resumed = site_of(method)
    resumed(5 * x)
    resumed.load_state_dict(saved_and_loaded(site_of(method)))
    assert resumed.needs_start
    expected = site_of(method)
    for site in (resumed, expected):
        site(x)
    assert learned(resumed) == learned(expected)


@SITE
@pytest.mark.parametrize("x", [torch.zeros(5), torch.full((5,), -1.0), torch.tensor([math.nan])])
def test_a_site_without_a_start_says_its_name_and_its_argument(method: str, x: Tensor) -> None:
    site = site_of(method)
    site.layer = "blocks.3.relu"
    told = (
        rf"^blocks\.3\.relu: no starting {SITES[method][1]} .* set {SITES[method][1]} to a number"
    )
    with pytest.raises(TrainingError, match=told):
        site(x)


# ---- weights


def converted(seed: int = 0, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A float network, and its conversion to LSQ."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 25, 4))
    weight = partial(LsqWeight, **{"bits": 4, **options})
    return model, quantize(model, weight, partial(LsqActivation, bits=4), (), randn(1, 2, 7, 7))[0]


def started_step(weight: Tensor) -> float:
    return 2 * weight.abs().mean().item() / math.sqrt(7)


@pytest.mark.parametrize("lazily", [False, True])
def test_steps_of_weights_start_from_what_was_loaded(lazily: bool) -> None:
    _, model = converted()
    other, _ = converted(seed=1)
    with torch.no_grad():
        other[0].weight.mul_(7)
    missing = model.load_state_dict(other.state_dict(), strict=False).missing_keys
    assert {key.rpartition(".")[2] for key in missing} == {
        "step_size",
        "initialized",
        "_extra_state",
    }
    if lazily:
        model(randn(8, 2, 7, 7))
    else:
        start_quantizers(model, [randn(8, 2, 7, 7)])
    for name in ("0", "3"):
        step = model.get_submodule(name).weight_quantizer.step_size
        expected = started_step(other.get_parameter(f"{name}.weight"))
        assert step.item() == pytest.approx(expected, rel=1e-6)


def test_steps_of_weights_are_those_of_their_checkpoint() -> None:
    _, model = converted()
    start_quantizers(model, [randn(8, 2, 7, 7)])
    with torch.no_grad():
        model.get_submodule("0").weight_quantizer.step_size.fill_(0.125)
        model.get_submodule("0").weight.mul_(3)
    _, resumed = converted(seed=1)
    resumed.load_state_dict(saved_and_loaded(model))
    start_quantizers(resumed, [5 * randn(8, 2, 7, 7)])
    for (name, a), (_, b) in zip(model.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_steps_of_weights_start_also_where_no_image_is_needed() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    activation = partial(LsqActivation, bits=4, step_size=0.5)
    model, _ = quantize(layers, partial(LsqWeight, bits=4), activation, (), randn(1, 6))
    start_quantizers(model, [])
    for name in ("0", "2"):
        step = model.get_submodule(name).weight_quantizer.step_size
        expected = started_step(layers.get_parameter(f"{name}.weight"))
        assert step.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_weights_without_a_start_are_reported_by_the_name_of_their_layer(value: float) -> None:
    _, model = converted()
    with torch.no_grad():
        model.get_submodule("3").weight.fill_(value)
    with pytest.raises(TrainingError, match=r"^3: no starting step_size .* set step_size to"):
        start_quantizers(model, [randn(8, 2, 7, 7)])


def test_activations_start_behind_quantized_weights() -> None:
    _, model = converted(n_steps=2, bits=None)
    x = randn(8, 2, 7, 7)
    start_quantizers(model, [x])
    conv = model.get_submodule("0")
    quantized = nn.functional.conv2d(x, conv.weight_quantizer(conv.weight), conv.bias).relu()
    step = 2 * quantized.mean() / math.sqrt(15)
    assert model.get_submodule("1").step_size.item() == pytest.approx(step.item(), rel=1e-5)
