"""Kills and resumes real Lightning runs and compares the batches they see."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qatlab.data import ImageData, Synthetic
from qatlab.errors import ConfigError

BATCHES_PER_EPOCH = 4  # 3 of 8 images, 1 of 6
EPOCHS = 3


class Killed(Exception):
    pass


class Recorder(LightningModule):
    """Keeps the content of each batch a training step was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, bytes]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append((self.current_epoch, batch_idx, x.numpy().tobytes() + y.numpy().tobytes()))
        return self.weight * x.mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KillAt(Callback):
    """Saves a checkpoint at one moment of the run, then ends the run."""

    def __init__(self, path: Path, hook: str, epoch: int, batch: int = 0) -> None:
        self.path, self.hook, self.epoch, self.batch = path, hook, epoch, batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._kill_at("on_train_batch_end", trainer, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kill_at("on_validation_end", trainer, self.batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kill_at("on_train_epoch_end", trainer, self.batch)

    def _kill_at(self, hook: str, trainer: Trainer, batch: int) -> None:
        if (hook, trainer.current_epoch, batch) == (self.hook, self.epoch, self.batch):
            trainer.save_checkpoint(self.path)
            raise Killed


def data(validation: int, shuffle_seed: int) -> ImageData:
    source = Synthetic(30 + validation, 1, 3, 1, (6, 6), noise=50.0, seed=1)
    return ImageData(
        source,
        image_size=(6, 6),
        batch_size=8,
        eval_batch_size=8,
        validation=validation,
        split_seed=0,
        shuffle_seed=shuffle_seed,
        random_shift=1,
        random_flip=True,
    )


def train(
    validation: int,
    *callbacks: Callback,
    resume: Path | None = None,
    shuffle_seed: int = 7,
    **options: Any,
) -> Recorder:
    module, images = Recorder(), data(validation, shuffle_seed)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Lightning's advice on tiny runs
        if any(isinstance(callback, KillAt) for callback in callbacks):
            with pytest.raises(Killed):
                trainer.fit(module, datamodule=images)
        else:
            trainer.fit(module, datamodule=images, ckpt_path=resume)
    return module


@pytest.mark.parametrize(
    ("hook", "epoch", "batch", "validation"),
    [
        ("on_train_batch_end", 0, 0, 0),
        ("on_train_batch_end", 1, 1, 0),
        ("on_train_batch_end", 1, 1, 5),
        ("on_train_batch_end", 1, BATCHES_PER_EPOCH - 1, 0),
        ("on_train_batch_end", 1, BATCHES_PER_EPOCH - 1, 5),
        ("on_validation_end", 1, 0, 5),
        ("on_train_epoch_end", 1, 0, 0),
        ("on_train_epoch_end", 1, 0, 5),
    ],
)
def test_a_killed_and_resumed_run_sees_the_batches_of_an_uninterrupted_one(
    tmp_path: Path, hook: str, epoch: int, batch: int, validation: int
) -> None:
    whole = train(validation).seen
    assert len(whole) == EPOCHS * BATCHES_PER_EPOCH

    path = tmp_path / "killed.ckpt"
    killed = train(validation, KillAt(path, hook, epoch, batch)).seen
    resumed = train(validation, resume=path).seen

    assert killed + resumed == whole  # the content, and the epoch and batch numbers with it


def test_the_next_epoch_starts_from_its_beginning_when_epochs_are_cut_short(
    tmp_path: Path,
) -> None:
    path = tmp_path / "killed.ckpt"
    whole = train(0, limit_train_batches=3).seen
    killed = train(0, KillAt(path, "on_train_batch_end", 1, 1), limit_train_batches=3).seen
    assert killed + train(0, resume=path, limit_train_batches=3).seen == whole


def test_the_position_in_a_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "killed.ckpt"
    train(0, KillAt(path, "on_train_batch_end", 1, 1))
    checkpoint = torch.load(path, weights_only=True)
    (state,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (state["epoch"], state["batches"]) == (1, 2)


def test_a_run_resumed_in_mid_epoch_with_another_shuffle_seed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "killed.ckpt"
    train(0, KillAt(path, "on_train_batch_end", 1, 1))
    with pytest.raises(ConfigError, match=r"data\.shuffle_seed is 8, .* shuffle_seed 7"):
        train(0, resume=path, shuffle_seed=8)
