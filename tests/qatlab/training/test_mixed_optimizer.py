import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qatlab.training.mixed_optimizer import MixedOptimizer

SGD = {"method": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "clamp": (None, None)}
ADAM = {"method": "adam", "lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "clamp": (None, None)}


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def gradients(like: list[nn.Parameter], steps: int) -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn_like(p) for p in like] for _ in range(steps)]


def descend(
    optimizer: torch.optim.Optimizer,
    like: list[nn.Parameter],
    all_gradients: list[list[Tensor]],
    rates: list[float] | None = None,
) -> None:
    for i, given in enumerate(all_gradients):
        for parameter, gradient in zip(like, given, strict=True):
            parameter.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rates is None else rates[i]
        optimizer.step()


def one(value: float = 1.0, **settings: Any) -> tuple[nn.Parameter, MixedOptimizer]:
    parameter = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    return parameter, MixedOptimizer([{"params": [parameter], **SGD, **settings}])


def step(parameter: nn.Parameter, optimizer: MixedOptimizer, gradient: float, lr: float) -> float:
    optimizer.param_groups[0]["lr"] = lr
    parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return parameter.item()


def test_the_velocity_holds_the_rate_of_its_own_step() -> None:
    parameter, optimizer = one(momentum=0.5, weight_decay=0.25)
    # v = -0.1 * (2 + 0.25 * 1) = -0.225
    assert step(parameter, optimizer, 2.0, lr=0.1) == pytest.approx(0.775, abs=1e-15)
    # v = 0.5 * -0.225 - 0.01 * (2 + 0.25 * 0.775) = -0.1344375
    assert step(parameter, optimizer, 2.0, lr=0.01) == pytest.approx(0.6405625, abs=1e-15)
    other = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    sgd = torch.optim.SGD([other], lr=0.1, momentum=0.5, weight_decay=0.25)
    for lr in (0.1, 0.01):
        sgd.param_groups[0]["lr"] = lr
        other.grad = torch.full_like(other, 2.0)
        sgd.step()
    assert other.item() == pytest.approx(0.775 - 0.01 * (0.5 * 2.25 + 2.19375))  # and not 0.64


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgd_follows_the_formula_at_changing_rates(momentum: float, decay: float) -> None:
    given = parameters((3, 2), (4,))
    steps = gradients(given, 8)
    rates = [0.1, 0.1, 0.05, 0.0, 0.2, 0.01, 0.0, 0.03]
    theta = [p.detach().numpy().astype(np.float64) for p in given]
    v = [np.zeros_like(t) for t in theta]
    for lr, step_gradients in zip(rates, steps, strict=True):
        for i, g in enumerate(step_gradients):
            if lr != 0:
                v[i] = momentum * v[i] - lr * (g.numpy().astype(np.float64) + decay * theta[i])
                theta[i] = theta[i] + v[i]
    settings = {**SGD, "momentum": momentum, "weight_decay": decay}
    descend(MixedOptimizer([{"params": given, **settings}]), given, steps, rates)
    for parameter, expected in zip(given, theta, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_at_a_constant_rate_it_is_the_sgd_of_torch() -> None:
    given, others = parameters((3, 2), (4,)), parameters((3, 2), (4,))
    settings = {**SGD, "momentum": 0.9, "weight_decay": 0.1}
    descend(MixedOptimizer([{"params": given, **settings}]), given, gradients(given, 5))
    sgd = torch.optim.SGD(others, lr=0.1, momentum=0.9, weight_decay=0.1)
    descend(sgd, others, gradients(others, 5))
    for parameter, other in zip(given, others, strict=True):
        torch.testing.assert_close(parameter, other)


def test_a_rate_of_0_leaves_value_and_velocity_and_does_not_clamp() -> None:
    parameter, optimizer = one(value=3.0, momentum=0.5, clamp=(-1.0, 1.0))
    assert step(parameter, optimizer, 2.0, lr=0.0) == 3.0
    assert not optimizer.state[parameter]
    assert step(parameter, optimizer, 2.0, lr=0.1) == 1.0
    velocity = optimizer.state[parameter]["velocity"].item()
    assert step(parameter, optimizer, 2.0, lr=0.0) == 1.0
    assert optimizer.state[parameter]["velocity"].item() == velocity


@pytest.mark.parametrize(
    ("clamp", "gradient", "expected"),
    [
        ((-1.0, 1.0), -30.0, 1.0),
        ((-1.0, 1.0), 30.0, -1.0),
        ((None, 1.0), 30.0, -2.0),
        ((-1.0, None), -30.0, 4.0),
    ],
)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_clamp_comes_after_the_update(
    clamp: tuple[float | None, float | None], gradient: float, expected: float, momentum: float
) -> None:
    parameter, optimizer = one(clamp=clamp, momentum=momentum)
    assert step(parameter, optimizer, gradient, lr=0.1) == expected


def test_a_clamped_parameter_keeps_its_whole_velocity() -> None:
    parameter, optimizer = one(clamp=(-1.0, 1.0), momentum=0.5)
    step(parameter, optimizer, -30.0, lr=0.1)
    assert step(parameter, optimizer, 10.0, lr=0.1) == 1.0  # v = 0.5 * 3 - 1


def test_plain_descent_keeps_no_state() -> None:
    parameter, optimizer = one()
    assert step(parameter, optimizer, 2.0, lr=0.1) == pytest.approx(0.8)
    assert not optimizer.state


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_adam_is_that_of_torch_bit_for_bit(eps: float) -> None:
    given, others = parameters((3, 2), (4,)), parameters((3, 2), (4,))
    ours = MixedOptimizer([{"params": given, **ADAM, "betas": (0.8, 0.95), "eps": eps}])
    theirs = torch.optim.Adam(others, lr=0.1, betas=(0.8, 0.95), eps=eps, foreach=True)
    rates = [0.1, 0.05, 0.0, 0.2, 0.1]
    descend(ours, given, gradients(given, 5), rates)
    descend(theirs, others, gradients(others, 5), rates)
    for parameter, other in zip(given, others, strict=True):
        assert torch.equal(parameter, other)


def test_adam_follows_the_formula_of_n2d2_and_clamps() -> None:
    theta, m, v = 1.0, 0.0, 0.0
    parameter, _ = one()
    settings = {**ADAM, "eps": 1e-3, "clamp": (0.85, None)}
    optimizer = MixedOptimizer([{"params": [parameter], **settings}])
    for t, g in enumerate([2.0, -0.5, 0.25, 3.0], start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        alpha = 0.1 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
        theta = max(theta - alpha * m / (v**0.5 + 1e-3 * (1 - 0.999**t) ** 0.5), 0.85)
        assert step(parameter, optimizer, g, lr=0.1) == pytest.approx(theta, rel=1e-12)
    assert theta == 0.85  # the last of them was clamped


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    given = parameters((2,), (2,))
    before = given[1].clone()
    optimizer = MixedOptimizer([{"params": given, **SGD, "momentum": 0.9, "clamp": (0.0, 0.1)}])
    given[0].grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(given[1], before)
    assert given[1] not in optimizer.state


def mixed() -> tuple[list[nn.Parameter], MixedOptimizer]:
    given = parameters((3, 2), (4,), (1,))
    groups = [
        {"params": given[:1], **SGD, "momentum": 0.9, "clamp": (-1.0, None), "name": "a"},
        {"params": given[1:2], **ADAM, "name": "b"},
        {"params": given[2:], **SGD, "name": "c"},
    ]
    return given, MixedOptimizer(groups)


def test_a_state_that_was_saved_and_safely_loaded_goes_on_bit_for_bit() -> None:
    given, optimizer = mixed()
    steps = gradients(given, 6)
    descend(optimizer, given, steps[:3])
    file = io.BytesIO()
    torch.save([[p.detach() for p in given], optimizer.state_dict()], file)
    descend(optimizer, given, steps[3:])

    file.seek(0)
    values, state = torch.load(file, weights_only=True)
    resumed, other = mixed()
    with torch.no_grad():
        for parameter, value in zip(resumed, values, strict=True):
            parameter.copy_(value)
    other.load_state_dict(state)
    descend(other, resumed, steps[3:])
    for parameter, expected in zip(resumed, given, strict=True):
        assert torch.equal(parameter, expected)


def test_without_its_state_it_begins_anew() -> None:
    given, optimizer = mixed()
    steps = gradients(given, 4)
    descend(optimizer, given, steps[:2])
    optimizer.state.clear()  # as where a phase follows another
    others, fresh = mixed()
    with torch.no_grad():
        for other, parameter in zip(others, given, strict=True):
            other.copy_(parameter)
    descend(optimizer, given, steps[2:])
    descend(fresh, others, steps[2:])
    for other, parameter in zip(others, given, strict=True):
        assert torch.equal(other, parameter)


def test_a_closure_is_called_with_gradients() -> None:
    parameter, optimizer = one()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert parameter.item() == pytest.approx(1 - 0.1 * 2)
