"""The share of weights that change their level follows its target (arXiv:2404.19248)."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from tiny_training import tensors, train
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from qatlab.errors import ConfigError
from qatlab.quant import LsqActivation, LsqWeight, Phase, quantize
from qatlab.training.schedule import Schedule, Span
from qatlab.training.transition_rate import TransitionRate

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging


class Drifting(LightningModule):
    """A layer whose gradients are noise, under a learning rate that falls to 0."""

    def __init__(self, optimizer: Any, steps: int) -> None:
        super().__init__()
        net = nn.Sequential(nn.Linear(64, 64, bias=False))
        self.model, _ = quantize(
            net, partial(LsqWeight, bits=3), partial(LsqActivation, bits=3), [], torch.zeros(1, 64)
        )
        self.optimizer, self.steps = optimizer, steps
        self.position = Schedule((Span(Phase.QUANTIZE, 1),)).position
        self.weights: list[dict[str, Tensor]] = []

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([self.model.get_submodule("0").weight])
        schedule = LambdaLR(optimizer, lambda step: 1 - step / self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.weights.append(tensors(self.state_dict()))
        loss: Tensor = (self.model(batch) * torch.randn(64)).sum()
        return loss


def shares(weights: list[dict[str, Tensor]], layer: str) -> list[float]:
    """Return the share of the weights of a layer that changed their level, step by step."""
    levels = [
        (w[f"model.{layer}.weight"] / w[f"model.{layer}.weight_quantizer.step_size"].abs())
        .clamp(-4, 3)
        .round()
        for w in weights
    ]
    return [(a != b).double().mean().item() for a, b in pairwise(levels)]


@pytest.mark.parametrize(
    "optimizer",
    [partial(torch.optim.SGD, lr=1e-4, momentum=0.9), partial(torch.optim.Adam, lr=1e-2)],
    ids=["SGD", "Adam"],
)
def test_the_share_of_changes_follows_its_target(optimizer: Any) -> None:
    torch.manual_seed(1)
    first, steps = 0.02, 800
    module = Drifting(optimizer, steps)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[TransitionRate(first, momentum=0.97)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.randn(steps, 64)))  # type: ignore[arg-type]
    found = shares(module.weights, "0")
    wanted = [first * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]
    for begin in (200, 400):
        part = slice(begin, begin + 200)
        assert sum(found[part]) == pytest.approx(sum(wanted[part]), rel=0.1), begin


def test_what_is_no_rounded_weight_takes_its_steps_as_ever() -> None:
    one_step = ((Phase.QUANTIZE, 1),)
    _, steered = train(TransitionRate(), phases=one_step)
    _, plain = train(phases=one_step)
    for key, value in plain.weights[0].items():
        if key.endswith(("conv.weight", "fc.weight")):
            continue
        assert torch.equal(value, steered.weights[0][key]), key


def test_the_first_step_of_a_phase_is_that_of_the_learning_rate() -> None:
    one_epoch = ((Phase.QUANTIZE, 1),)
    _, steered = train(TransitionRate(), phases=one_epoch)
    _, plain = train(phases=one_epoch)
    before, own, other = (
        weights["model.conv.weight"]
        for weights in (plain.before[0], steered.weights[0], plain.weights[0])
    )
    # The target is that of the step's end: (1 + cos(pi / 3)) / 2 of the first one.
    assert torch.allclose(own - before, 0.75 * (other - before), rtol=0, atol=1e-7)


def test_a_phase_without_rounding_is_left_alone() -> None:
    callback = TransitionRate()
    _, steered = train(callback, phases=((Phase.FLOAT, 1),))
    _, plain = train(phases=((Phase.FLOAT, 1),))
    one, other = (tensors(seen.weights[-1]) for seen in (steered, plain))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not callback.state_dict()["factors"]


def test_its_state_comes_back() -> None:
    callback, other = TransitionRate(), TransitionRate()
    train(callback, phases=((Phase.QUANTIZE, 1),))
    other.load_state_dict(callback.state_dict())
    assert other.state_dict() == callback.state_dict()
    assert callback.state_dict()["factors"].keys() == {"conv", "fc"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first": 0}, "callbacks.transition_rate.first=0 is wrong. Accepted: a number in (0, 1)."),
        ({"gain": math.inf}, "callbacks.transition_rate.gain=inf is wrong"),
        ({"momentum": 1}, "callbacks.transition_rate.momentum=1 is wrong"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TransitionRate(**settings)
    assert words in str(caught.value)
