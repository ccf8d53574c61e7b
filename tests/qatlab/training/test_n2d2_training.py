"""Trainings by N2D2's solvers, against its formulas in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qatlab.training import lr_policy
from qatlab.training.classifier import Classifier
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import SquaredError
from qatlab.training.parameter_solver import ParameterSolver

Rate = Callable[[int, int], float]  # (update k, samples seen p) -> factor; 0 at the start

EPOCHS, BATCHES, BATCH = 2, 6, 4
SAMPLES = BATCHES * BATCH  # in an epoch
LR, MOMENTUM, DECAY = 0.1, 0.9, 0.05


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 1, 1, 3, generator=generator)
    return x, torch.randint(0, 2, (SAMPLES,), generator=generator)


def reference(rate: Rate, n: int) -> tuple[NDArray[np.float64], list[float]]:
    """Train a linear layer from weights of 0.5 as section 6.1 of the description says.

    g is the descent gradient, summed over the samples of n batches of B:
    v <- momentum v + lr g / (B n) - decay lr theta; theta <- theta + v; lr 0 skips all of it.
    """
    x, labels = (t.numpy() for t in images())
    x = x.reshape(SAMPLES, 3).astype(np.float64)
    theta = np.full((2, 3), 0.5)
    v = np.zeros_like(theta)
    rates, k = [], 0
    for _ in range(EPOCHS):
        for batches in np.split(np.arange(SAMPLES), BATCHES // n):
            errors = np.eye(2)[labels[batches]] - x[batches] @ theta.T
            lr = LR * rate(k, k * n * BATCH)
            rates.append(lr)
            if lr == 0:
                continue
            v = MOMENTUM * v + lr * errors.T @ x[batches] / (BATCH * n) - DECAY * lr * theta
            theta = theta + v
            k += 1
    return theta, rates


class Rates(Callback):
    """Notes the rate of each update, and that which is logged for each epoch."""

    def __init__(self) -> None:
        self.of_updates: list[float] = []
        self.logged: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        self.of_updates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > 0:  # what the module logs at the end comes behind callbacks
            self.logged.append(trainer.callback_metrics["lr"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged.append(trainer.callback_metrics["lr"].item())


class Batches:
    """The images in order."""

    def __init__(self, size: int = BATCH) -> None:
        self.size = size

    def __len__(self) -> int:
        return math.ceil(SAMPLES / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(t.split(self.size) for t in images()), strict=True)


def train(
    policy: Callable[..., float], n: int, size: int = BATCH
) -> tuple[Tensor, list[float], list[float]]:
    """Return weights, the rate of each update and the ``lr`` logged for each epoch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    nn.init.constant_(model[1].weight, 0.5)
    group = {"parameters": "*", "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    solver = ParameterSolver({"main": {**group, "lr_policy": policy}})
    step = TrainingForward(False, "keep")
    module = Classifier(model, solver, [SquaredError()], lambda e: (e, EPOCHS), 2, step)
    noted = Rates()
    Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=n,
        accelerator="cpu",
        callbacks=[noted],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, train_dataloaders=Batches(size))
    return model[1].weight.detach(), noted.of_updates, noted.logged


STEP = 8  # LearningRateStepSize, in samples
EVERY = STEP / SAMPLES


def n2d2_cosine(k: int, p: int, step_size: int, iterations: int, warm_up: int) -> float:
    j = p // step_size
    if j < warm_up:
        return 0.75 * j / warm_up + 0.25
    half_wave = 0.5 * (1 + math.cos(math.pi * (j - warm_up) / (iterations - warm_up)))
    return max(0.0, (1 - 0.1) * half_wave + 0.1)


POLICIES: dict[str, Callable[[int], tuple[Callable[..., float], Rate]]] = {
    # name: updates in an epoch -> (ours, N2D2's)
    "None": lambda u: (lr_policy.constant, lambda k, p: 1.0),
    "StepDecay": lambda u: (
        partial(lr_policy.step, every=EVERY, factor=0.5),
        lambda k, p: 0.5 ** (p // STEP),
    ),
    "ExponentialDecay": lambda u: (
        partial(lr_policy.exponential, every=EVERY, decay=0.3),
        lambda k, p: math.exp(-0.3 * (p // STEP)),
    ),
    "InvTDecay": lambda u: (
        partial(lr_policy.inverse_time, every=EVERY, decay=0.3),
        lambda k, p: 1 / (1 + 0.3 * (p // STEP)),
    ),
    "CosineDecay": lambda u: (  # 1.5 of the two epochs, then it rises
        partial(lr_policy.cosine, final=0.1, over=1.5, warmup_epochs=0.5),
        partial(n2d2_cosine, step_size=1, iterations=36, warm_up=12),
    ),
    "CosineDecay in steps": lambda u: (
        partial(lr_policy.cosine, final=0.1, over=8 * EVERY, every=EVERY, warmup_epochs=EVERY),
        partial(n2d2_cosine, step_size=STEP, iterations=8, warm_up=1),
    ),
    "PolyDecay": lambda u: (  # 4/3 of the two epochs, then it stays at 0
        partial(lr_policy.polynomial, power=0.7, over=4 / 3),
        lambda k, p: (1 - k / (u * 4 // 3)) ** 0.7,
    ),
    "InvDecay": lambda u: (
        partial(lr_policy.inverse, decay=0.1 * u, power=0.75),
        lambda k, p: (1 + 0.1 * k) ** -0.75,
    ),
}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
@pytest.mark.parametrize("n", [1, 2])  # IterationSize
@pytest.mark.parametrize("policy", POLICIES)
def test_a_training_gives_the_weights_of_n2d2(policy: str, n: int) -> None:
    ours, rate = POLICIES[policy](BATCHES // n)
    expected, expected_rates = reference(rate, n)
    weights, rates, logged = train(ours, n)
    assert rates == pytest.approx(expected_rates, abs=1e-12)
    # 12 updates in float32 of weights up to 1
    np.testing.assert_allclose(weights.numpy(), expected, rtol=2e-6, atol=3e-7)
    starts = [expected_rates[0], expected_rates[BATCHES // n]]  # of the epochs
    assert logged == pytest.approx(starts, abs=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_an_epoch_that_does_not_divide_has_its_last_update_from_fewer_batches() -> None:
    # 5 batches, 2 to an update: 3 updates in an epoch, so the second one is at a third of it
    _, rates, logged = train(partial(lr_policy.polynomial, power=1.0), n=2, size=5)
    assert rates == pytest.approx([LR * (1 - k / 6) for k in range(6)])
    assert logged == pytest.approx([LR, LR / 2])
