"""Kills and resumes real Lightning runs and compares the batches they see."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qatlab.data import ImageData, ImageFiles, ImageFolder, Synthetic
from qatlab.data.transforms import Flip, SliceExtraction, Transform
from qatlab.errors import ConfigError
from qatlab.training.data_module import DataModule

BATCHES_PER_EPOCH = 4  # 3 of 8 images, 1 of 6
EPOCHS = 3
Kind = Literal["shifted", "transformed"]


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 35 images of two classes, 7x7."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(35):
        file = folder / f"class {number % 2}" / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (7, 7), dtype=np.uint8)).save(file)
    return folder


def data(validation: int, shuffle_seed: int, kind: Kind = "shifted") -> ImageData:
    shifted, source = kind == "shifted", Synthetic(30 + validation, 1, 3, 1, (6, 6), 50.0, seed=1)
    return ImageData(
        source,
        image_size=(6, 6) if shifted else (5, 5),
        batch_size=8,
        eval_batch_size=8,
        validation=validation,
        split_seed=0,
        shuffle_seed=shuffle_seed,
        random_shift=int(shifted),
        random_flip=shifted,
        transforms=None if shifted else random_ones(),
    )


def random_ones() -> dict[str, Transform]:
    return {
        "crop": SliceExtraction(5, 5, random_offset_x=True, random_offset_y=True),
        "flip": Flip(random_horizontal=True, apply_to=["training"]),
    }


def files(validation: int, shuffle_seed: int, folder: Path, workers: int) -> ImageFiles:
    return ImageFiles(
        ImageFolder(str(folder), 30, validation, per_label=False, channels=1),
        image_size=(5, 5),
        batch_size=8,
        eval_batch_size=8,
        split="random",
        split_seed=0,
        shuffle_seed=shuffle_seed,
        workers=workers,
        transforms=random_ones(),
    )


def train(
    validation: int,
    *callbacks: Callback,
    resume: Path | None = None,
    shuffle_seed: int = 7,
    images: ImageData | ImageFiles | None = None,
    **options: Any,
) -> Recorder:
    module, images = Recorder(), images or data(validation, shuffle_seed)
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
                trainer.fit(module, datamodule=DataModule(images))
        else:
            trainer.fit(module, datamodule=DataModule(images), ckpt_path=resume)
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


MOMENTS = [("on_train_batch_end", 1, 1), ("on_validation_end", 1, 0), ("on_train_epoch_end", 1, 0)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_random_transforms_go_on_where_they_were(
    tmp_path: Path, moment: tuple[str, int, int]
) -> None:
    path = tmp_path / "killed.ckpt"
    whole = train(5, images=data(5, 7, "transformed")).seen
    killed = train(5, KillAt(path, *moment), images=data(5, 7, "transformed")).seen
    resumed = train(5, resume=path, images=data(5, 7, "transformed")).seen
    assert len(whole) == EPOCHS * BATCHES_PER_EPOCH
    assert killed + resumed == whole


@pytest.mark.parametrize("moment", [*MOMENTS[:2], pytest.param(MOMENTS[2], marks=pytest.mark.slow)])
def test_image_files_go_on_where_they_were_with_any_number_of_workers(
    tmp_path: Path, folder: Path, moment: tuple[str, int, int]
) -> None:
    path = tmp_path / "killed.ckpt"
    whole = train(5, images=files(5, 7, folder, workers=0)).seen
    killed = train(5, KillAt(path, *moment), images=files(5, 7, folder, workers=1)).seen
    resumed = train(5, resume=path, images=files(5, 7, folder, workers=0)).seen
    assert len(whole) == EPOCHS * BATCHES_PER_EPOCH
    assert len({content for _, _, content in whole}) == len(whole)
    assert killed + resumed == whole


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
