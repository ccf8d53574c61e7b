"""A quantizer whose bits are learned computes between two whole widths (arXiv:2007.02017)."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from qatlab.quant import (
    LsqActivation,
    LsqWeight,
    PactActivation,
    Phase,
    Quantizer,
    SatActivation,
    SatWeight,
    quantize,
    quantizers,
)
from qatlab.quant.quantizer import Width


def at(quantizer: Quantizer, bits: float) -> Tensor:
    """Give a quantizer a width, and return it."""
    value = torch.tensor(bits, requires_grad=True)
    quantizer.width = Width(value, int(bits))
    return value


def test_lsq_weights_between_two_widths_by_hand() -> None:
    quantizer = LsqWeight(bits=3, step_size=0.25)  # levels from -4 to 3
    width = at(quantizer, 2.25)
    weight = torch.tensor([[0.3], [-0.6]])
    quantizer.begin_with(weight)
    # 2 bits, levels from -2 to 1: a step of 0.25 sqrt(3 / 1) = 0.433; 0.7 and -1.4 steps.
    step = 0.25 * math.sqrt(3)
    two, three = torch.tensor([[step], [-step]]), torch.tensor([[0.25], [-0.5]])
    y = quantizer(weight)
    assert torch.allclose(y, 0.75 * two + 0.25 * three)
    y.backward(torch.tensor([[1.0], [2.0]]))
    assert width.grad is not None
    assert width.grad.item() == pytest.approx(1 * (0.25 - step) + 2 * (-0.5 + step))


def test_sat_activations_between_two_widths_by_hand() -> None:
    quantizer = SatActivation(nn.ReLU(), bits=8, alpha=1.0)
    width = at(quantizer, 2.5)
    x = torch.tensor([[0.4, 2.0, -1.0]], requires_grad=True)
    y = quantizer(x)
    # 0.4 is 1.2 of 3 steps, and 2.8 of 7.
    assert torch.allclose(y, torch.tensor([[(1 / 3 + 3 / 7) / 2, 1.0, 0.0]]))
    y.sum().backward()
    assert width.grad is not None
    assert x.grad is not None
    assert width.grad.item() == pytest.approx(3 / 7 - 1 / 3)
    assert x.grad.tolist() == [[1.0, 0.0, 0.0]]
    # Of alpha: the means of (y - x) / alpha inside, and 1 beyond it.
    assert quantizer.alpha.grad is not None
    assert quantizer.alpha.grad.item() == pytest.approx((1 / 3 + 3 / 7) / 2 - 0.4 + 1)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_step_is_changed_as_one_that_is_learned_at_that_width(per_channel: bool) -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 9)
    learned = LsqWeight(bits=4, step_size=0.1, per_channel=per_channel)
    step = 0.1 * math.sqrt(7 / 1)  # q_max of 4 and of 2 bits
    plain = LsqWeight(bits=2, step_size=step, per_channel=per_channel)
    for quantizer in (learned, plain):
        quantizer.fit(weight)
        quantizer.begin_with(weight)
    at(learned, 2.0)
    grad, values = torch.randn(4, 9), []
    for quantizer in (learned, plain):
        values.append(quantizer(weight))
        values[-1].backward(grad)
    assert torch.allclose(*values)
    one, other = (q.step_size.grad for q in (learned, plain))
    assert one is not None
    assert other is not None
    assert torch.allclose(one / 0.1, other / step, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        partial(LsqWeight, bits=4, step_size=0.1),
        partial(SatWeight, bits=4),
        partial(SatWeight, bits=4, grid="symmetric", scaling=True),
    ],
)
@pytest.mark.parametrize("bits", [2, 3, 6])
def test_whole_bits_compute_as_the_width_did(make: partial[Quantizer], bits: int) -> None:
    torch.manual_seed(2)
    weight, quantizer = torch.randn(5, 7) / 3, make()
    quantizer(weight)  # starts
    at(quantizer, float(bits))
    before = quantizer(weight)
    quantizer.settle((1 << bits) - 1)
    assert torch.allclose(quantizer(weight), before, rtol=0, atol=1e-6)
    assert quantizer.bits == bits
    plain = make(bits=bits)
    assert plain.understands(quantizer.get_extra_state())
    assert quantizer.understands(plain.get_extra_state())
    other = make()
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(weight), quantizer(weight))
    assert (other.bits, other.own_steps) == (bits, quantizer.own_steps)


def test_what_a_step_means_while_bits_are_learned_is_understood_by_nobody() -> None:
    quantizer = LsqWeight(bits=4, step_size=0.1)
    at(quantizer, 3.5)
    assert not LsqWeight(bits=4).understands(quantizer.get_extra_state())
    assert PactActivation(nn.ReLU(), bits=2).understands("quantize PactActivation 7 learning_bits")


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.LeakyReLU(0.1)])
def test_a_batch_norm_in_front_sees_a_batch_once(activation: nn.Module) -> None:
    torch.manual_seed(3)
    images, found = torch.randn(4, 1, 6, 6), []
    for bits in (2.0, 3.0, 2.5, None):
        torch.manual_seed(4)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), activation)
        site = partial(LsqActivation, bits=3, step_size=0.2)
        model, _ = quantize(net, None, site, [], images[:1])
        (quantizer,) = quantizers(model)
        assert isinstance(quantizer, LsqActivation)
        quantizer.begin_with(torch.ones(1))
        width = None if bits is None else at(quantizer, bits)
        found.append(model(images))
        if width is not None:
            found[-1].sum().backward()
            assert width.grad is not None
        norm: nn.BatchNorm2d = model.get_submodule("1")  # type: ignore[assignment]
        assert int(norm.num_batches_tracked or 0) == 1
    two, three, between, plain = found
    assert torch.allclose(three, plain, rtol=0, atol=1e-5)
    assert torch.allclose(between, (two + three) / 2, rtol=0, atol=1e-5)
    assert not torch.allclose(two, three, rtol=0, atol=1e-2)


def test_the_clamp_phase_has_no_width() -> None:
    quantizer, weight = SatWeight(bits=2), torch.tensor([[0.3, -0.7]])
    quantizer.phase = Phase.CLAMP
    before = quantizer(weight)
    at(quantizer, 2.5)
    assert torch.equal(quantizer(weight), before)
