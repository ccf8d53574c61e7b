"""No gradient reaches what is quantized to 0, and everything else stays as it is."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from methods import randn
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from qatlab.errors import ConfigError, QuantRuleError
from qatlab.quant import (
    MODES,
    DorefaActivation,
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    Memory,
    PactActivation,
    Phase,
    Rule,
    SatActivation,
    SatWeight,
    dispatch,
    kernels_available,
    learned,
    quantize,
    start_quantizers,
)

# Said by the switch of oneDNN.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")

SITES: dict[str, Any] = {
    "SAT": partial(SatActivation, alpha=1.5),
    "PACT": partial(PactActivation, alpha=1.5),
    "DoReFa": DorefaActivation,
    "LSQ": partial(LsqActivation, step_size=0.4),
    "SAT with EWGS": partial(SatActivation, alpha=1.5, ewgs=0.3),
}


def gradients(site: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of x and of what is learned."""
    x = x.clone().requires_grad_()
    y = site(x)
    leaves = [x, *(p for p in site.parameters() if p.requires_grad)]
    return [y.detach(), *torch.autograd.grad(y, leaves, randn(*y.shape, seed=9))]


@pytest.mark.parametrize("make", [SatActivation, PactActivation])
def test_the_gradient_is_that_of_a_rectifier_at_the_quantized_value(make: Any) -> None:
    # alpha = 3 at 2 bits: the levels are 0, 1, 2, 3; a half is rounded to the even 0.
    x = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.625, 2.75, 3.5], requires_grad=True)
    site = make(nn.ReLU(), bits=2, alpha=3.0, dead_zeros=True)
    site(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0, 0, 1, 1, 0]
    # (round(v) - v) / 3 inside, of what is rounded to 0 as well; 1 above alpha
    inside = -0.25 - 0.5 + 0.375 + 0.25 if make is SatActivation else 0.0
    assert site.alpha.grad.item() == pytest.approx(inside / 3 + 1)


@pytest.mark.parametrize("by_definition", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("method", SITES)
def test_all_but_the_gradient_at_zeros_is_the_same(
    method: str, bits: int, signed: bool, by_definition: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_definition:
        monkeypatch.setattr(dispatch, "fits", lambda *_: False)
    function = nn.Identity() if signed else nn.ReLU()
    x = randn(4, 6, 9, 7)
    found = []
    for dead_zeros in (False, True):
        site = SITES[method](function, bits=bits, signed=signed, dead_zeros=dead_zeros)
        found.append(gradients(site, x))
    (y, grad_x, *of_learned), (y2, grad_x2, *of_learned2) = found
    assert torch.equal(y, y2)
    assert torch.equal(grad_x2, torch.where(y == 0, 0.0, grad_x))
    assert ((y == 0) & (grad_x != 0)).any()
    assert all(map(torch.equal, of_learned, of_learned2))


def test_an_activation_function_that_stays_passes_its_own_gradient_on() -> None:
    x = torch.tensor([-3.0, -0.1, 0.1, 2.0], requires_grad=True)
    site = SatActivation(nn.LeakyReLU(0.5), bits=3, alpha=3.0, signed=True, dead_zeros=True)
    site(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0, 0, 1]


@pytest.mark.parametrize("phase", [Phase.FLOAT, Phase.CLAMP])
def test_in_other_phases_there_is_nothing_to_stop(phase: Phase) -> None:
    x = torch.tensor([-1.0, 0.01, 2.0], requires_grad=True)
    site = SatActivation(nn.ReLU(), bits=4, alpha=3.0, dead_zeros=True)
    site.phase = phase
    site(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1]


# ---- in a network


IMAGES = randn(6, 3, 12, 12)


def network(method: Any = SatActivation, dead_zeros: bool = True) -> nn.Module:
    """A ReLU, a bottleneck that is added over, and a sum, all behind batch norms."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    weight = SatWeight if method is SatActivation else LsqWeight
    activation = partial(method, bits=3, dead_zeros=dead_zeros)
    converted, _ = quantize(model, partial(weight, bits=4), activation, (), IMAGES[:1])
    start_quantizers(converted, [IMAGES])
    return converted.train()


def all_gradients(model: nn.Module, mode: str | None = None) -> list[Tensor]:
    model.zero_grad()
    with nullcontext() if mode is None else Memory(mode):
        loss = model(IMAGES).square().sum()
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) > 10
    return [loss.detach(), *(gradient.clone() for gradient in found)]


def test_a_norm_in_front_gets_no_gradient_from_zeros_either() -> None:
    (site,) = (m for n, m in network().named_modules() if n == "2")
    assert isinstance(site, SatActivation)
    assert site.norm  # absorbed
    alone = SatActivation(nn.ReLU(), bits=3, alpha=site.alpha.item(), dead_zeros=True)
    conv, norm = 2 * randn(5, 8, 6, 6) + 1, nn.BatchNorm2d(8)
    site.norm.load_state_dict(norm.state_dict())
    found = []
    for behind, absorbed in ((site, site.norm), (nn.Sequential(norm, alone), norm)):
        x = conv.clone().requires_grad_()
        y = behind(x)
        leaves = (x, absorbed.weight, absorbed.bias)
        found.append([y, *torch.autograd.grad(y, leaves, randn(*y.shape, seed=9))])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [SatActivation, LsqActivation])
def test_with_less_memory_gradients_are_the_same_to_the_last_bit(method: Any, mode: str) -> None:
    if not kernels_available():
        pytest.skip("there is no C++ compiler here")
    model = network(method)
    with torch.backends.mkldnn.flags(enabled=True, deterministic=True):
        plain = all_gradients(network(method, dead_zeros=False))
        for kept, again in zip(all_gradients(model), all_gradients(model, mode), strict=True):
            assert torch.equal(kept, again)
            if kept.ndim == 4:  # the option has reached the network
                assert not any(kept.shape == p.shape and torch.equal(kept, p) for p in plain)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SatActivation, LsqActivation])
def test_a_compiled_network_computes_the_same(method: Any) -> None:
    model, compiled = network(method), network(method)
    # The backend that traces, differentiates and then runs the graph as it is.
    function = torch.compile(compiled, backend="aot_eager", dynamic=False, fullgraph=True)
    found = [model(IMAGES), function(IMAGES)]
    for of in found:
        of.square().sum().backward()
    torch.testing.assert_close(*found)
    pairs = zip(model.parameters(), compiled.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)


def test_nothing_is_rounded_twice_where_no_gradient_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def called(*_: Any) -> Tensor:
        raise AssertionError("called")

    off, on = network(dead_zeros=False), network()
    monkeypatch.setattr(learned, "block_zero_gradient", called)
    all_gradients(off)
    with torch.no_grad():
        on.eval()(IMAGES)
    with pytest.raises(AssertionError, match="called"):
        all_gradients(on.train())


# ---- faults


@pytest.mark.parametrize("method", SITES)
def test_a_wrong_value_is_refused(method: str) -> None:
    with pytest.raises(QuantRuleError, match=r"dead_zeros=no is wrong. Accepted: true or false"):
        SITES[method](nn.ReLU(), bits=4, dead_zeros="no")


def test_lsq_plus_has_no_such_option() -> None:
    rule = Rule.parse("r", {"activation": {"dead_zeros": True}})
    activation = partial(LsqPlusActivation, bits=4)
    with pytest.raises(ConfigError, match=r"quant\.rules\.r\.activation\.dead_zeros is unknown"):
        quantize(nn.Sequential(nn.ReLU()), None, activation, (rule,), IMAGES[:1])
