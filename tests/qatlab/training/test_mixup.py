"""Mixtures of two images, and what a training makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qatlab.errors import ConfigError
from qatlab.training.classifier import Classifier
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import CrossEntropy, Loss, Reconstruction, SquaredError
from qatlab.training.mixup import Mixed, Mixup
from qatlab.training.parameter_solver import ParameterSolver

IMAGES = torch.arange(6.0).reshape(6, 1, 1, 1) * torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def test_each_image_is_mixed_with_another_in_one_proportion() -> None:
    images = IMAGES.clone()
    mixed = Mixup(1.0)(images)
    assert torch.equal(images, IMAGES)
    assert sorted(mixed.partners.tolist()) == list(range(6))
    i, j = np.arange(6), mixed.partners.numpy()
    assert 0.5 <= mixed.share <= 1
    expected = mixed.share * i + (1 - mixed.share) * j
    np.testing.assert_allclose(mixed.images[:, 0].flatten(), expected, rtol=1e-6)
    np.testing.assert_allclose(mixed.images[:, 1].flatten(), 10 * expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_proportions_have_the_moments_of_a_beta_distribution(alpha: float) -> None:
    shares = np.array([Mixup(alpha)(IMAGES[:2]).share for _ in range(1000)])
    assert shares.min() >= 0.5
    # lambda and 1 - lambda are equally likely, so (share - 1/2)^2 has the mean of the variance
    # 1 / (4 (2 alpha + 1)); the square lies in [0, 1/4], and four standard errors are below 0.016.
    assert np.mean((shares - 0.5) ** 2) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.016)


def test_draws_come_from_the_generator_that_checkpoints_hold() -> None:
    state = torch.get_rng_state()
    first, second = Mixup(0.4)(IMAGES), Mixup(0.4)(IMAGES)
    assert first.share != second.share
    torch.set_rng_state(state)
    again = Mixup(0.4)(IMAGES)
    assert again.share == first.share
    assert torch.equal(again.partners, first.partners)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), "much"])
def test_an_alpha_that_is_none_is_reported(alpha: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^mixup=.* is wrong\. Accepted: a number of at least 0\.$"
    ):
        Mixup(alpha)


# ---- in a training


class Scaled(nn.Module):
    """Images times a number, as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.scale * images


ONE_HOT = torch.eye(3).reshape(3, 3, 1, 1)
LABELS = torch.tensor([0, 1, 2])
PARTNERS = torch.tensor([1, 2, 0])


def mixtures(share: float, images: Tensor) -> Mixed:
    return Mixed(share * images + (1 - share) * images[PARTNERS], share, PARTNERS)


@pytest.fixture
def mix(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets proportion and partners of all that is mixed."""
    return lambda share: monkeypatch.setattr(
        Mixup, "__call__", lambda _, images: mixtures(share, images)
    )


def train(mixup: float, loss: Loss) -> tuple[Classifier, dict[str, float]]:
    """Make one step of SGD; return the module and what was logged."""
    solver = ParameterSolver({"main": {"parameters": "*", "lr": 0.1}})
    step = TrainingForward(False, "keep")
    module = Classifier(Scaled(), solver, [loss], lambda e: (e, 1), 3, step, mixup)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(ONE_HOT, LABELS), batch_size=3))
    return module, {key: value.item() for key, value in trainer.callback_metrics.items()}


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging


def test_the_loss_counts_both_labels_in_the_proportion_of_their_images(
    mix: Callable[[float], None],
) -> None:
    mix(0.75)
    module, logged = train(1.0, CrossEntropy())
    # Logits are 2 * 3/4 at the image's own class, 2 * 1/4 at its partner's, and 0.
    logits = np.array([1.5, 0.5, 0.0])
    log_sum = np.log(np.exp(logits).sum())
    loss = log_sum - (0.75 * 1.5 + 0.25 * 0.5)
    assert logged["train/loss"] == pytest.approx(loss)
    probabilities = np.exp(logits - log_sum)
    inputs = np.array([0.75, 0.25, 0.0])
    gradient = (inputs * (probabilities - inputs)).sum()
    assert module.model.scale.item() == pytest.approx(2 - 0.1 * gradient)


def test_an_answer_is_right_if_it_is_the_class_of_the_larger_part(
    mix: Callable[[float], None],
) -> None:
    mix(0.75)  # an image's own class has the highest output
    assert train(1.0, SquaredError())[1]["train/acc"] == 1.0
    mix(0.25)  # its partner's class has, which never happens: shares are 1/2 or more
    assert train(1.0, SquaredError())[1]["train/acc"] == 0.0


def test_without_mixup_images_are_taken_as_they_are_and_nothing_is_drawn() -> None:
    state = torch.get_rng_state()
    module, logged = train(0.0, CrossEntropy())
    drawn_by_the_loader_alone = torch.get_rng_state()
    torch.set_rng_state(state)
    list(DataLoader(TensorDataset(ONE_HOT, LABELS), batch_size=3))
    assert torch.equal(torch.get_rng_state(), drawn_by_the_loader_alone)
    assert torch.equal(module.model.seen[0], ONE_HOT)
    assert logged["train/loss"] == pytest.approx(np.log(np.exp(2) + 2) - 2)


def test_a_mixture_is_reconstructed_as_it_is(mix: Callable[[float], None]) -> None:
    mix(0.75)
    module, logged = train(1.0, Reconstruction())
    # Outputs are twice the mixtures, so the difference is the mixture itself.
    assert logged["train/loss"] == pytest.approx(0.5 * (0.75**2 + 0.25**2))
    assert torch.equal(module.model.seen[0], mixtures(0.75, ONE_HOT).images)


def test_a_mistake_is_reported_when_the_module_is_made() -> None:
    with pytest.raises(ConfigError, match=r"^mixup=-1 is wrong"):
        train(-1, CrossEntropy())
