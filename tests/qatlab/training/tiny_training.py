"""A training of a second: a quantized network with a batch norm, on images made in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from qatlab.data import ImageData, Synthetic
from qatlab.quant import LsqActivation, LsqWeight, Phase, quantize
from qatlab.training.classifier import Classifier
from qatlab.training.data_module import DataModule
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import CrossEntropy
from qatlab.training.lr_policy import constant
from qatlab.training.parameter_roles import GROUPS
from qatlab.training.phase_schedule import PhaseSchedule
from qatlab.training.schedule import Schedule, Span
from qatlab.training.solver import GROUP_SETTINGS, Solver

STEPS = 3  # of an epoch
FLOAT_THEN_QUANTIZE = ((Phase.FLOAT, 1), (Phase.QUANTIZE, 2))


class Net(nn.Module):
    """A site with a batch norm in front of it, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(48, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs ``(N, 2)`` for images ``(N, 1, 6, 6)``."""
        x = self.flatten(self.relu(self.bn(self.conv(images))))
        outputs: Tensor = self.fc(self.dropout(x))
        return outputs


class Record(Checkpoint):
    """Keeps the weights around each batch and a checkpoint of each epoch; called last."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.losses: list[float] = []  # of validations

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        """Keep the weights."""
        self.before.append(tensors(pl_module.state_dict()))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep the weights."""
        self.weights.append(tensors(pl_module.state_dict()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the loss."""
        self.losses.append(trainer.callback_metrics["val/loss"].item())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what would be saved."""
        connector = trainer._checkpoint_connector
        self.checkpoints.append(copy.deepcopy(connector.dump_checkpoint(weights_only=False)))


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}


def make_module(phases: Sequence[tuple[Phase, int]], net: nn.Module | None = None) -> Classifier:
    torch.manual_seed(1)
    model, _ = quantize(
        Net() if net is None else net,
        partial(LsqWeight, bits=3),
        partial(LsqActivation, bits=3),
        [],
        torch.zeros(1, 1, 6, 6),
    )
    solver = Solver(
        partial(torch.optim.SGD, lr=0.1, momentum=0.5),
        constant,
        0,
        1.0,
        dict.fromkeys(GROUPS, dict.fromkeys(GROUP_SETTINGS)),
    )
    position = Schedule(tuple(Span(*phase) for phase in phases)).position
    forward = TrainingForward(False, "keep")
    return Classifier(model, solver, [CrossEntropy()], position, 2, forward)


def make_data(validation: int = 8, images: int = 24) -> ImageData:
    source = Synthetic(images + validation, 2, 2, 1, (6, 6), noise=120.0, seed=1)
    return ImageData(source, (6, 6), images // STEPS, 8, validation, 0, 0, 0, random_flip=True)


def train(
    *callbacks: Callback,
    phases: Sequence[tuple[Phase, int]] = FLOAT_THEN_QUANTIZE,
    net: nn.Module | None = None,
    validation: int = 8,
    **settings: Any,
) -> tuple[Classifier, Record]:
    """Train; return the module, and what was seen on the way."""
    seed_everything(1, verbose=False)
    module, record = make_module(phases, net), Record()
    schedule = Schedule(tuple(Span(*phase) for phase in phases))
    trainer = Trainer(
        max_epochs=sum(epochs for _, epochs in phases),
        accelerator="cpu",
        logger=False,
        callbacks=[PhaseSchedule(schedule, 1), *callbacks, record],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(module, datamodule=DataModule(make_data(validation)))
    return module, record


def loss_of(module: Classifier, state: dict[str, Any], validation: int = 8) -> float:
    """Return the validation loss of a checkpoint's network."""
    other = copy.deepcopy(module)
    other.load_state_dict(state)
    data = make_data(validation)
    data.setup("fit")
    other.eval()
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        return other.means(other.evaluate_batch(*batch))["loss"]
