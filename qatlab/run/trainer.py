"""Lightning's part of what a configuration describes: module, callbacks, trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from qatlab.config.targets import make
from qatlab.errors import ConfigError, wrong
from qatlab.results.record import CHECKPOINTS
from qatlab.run.build import Built
from qatlab.run.trackers import make_tracker
from qatlab.training.checkpoint import RunCheckpoint
from qatlab.training.classifier import Classifier
from qatlab.training.limits import INSTEAD, check_processes
from qatlab.training.oscillation import Oscillation
from qatlab.training.phase_schedule import PhaseSchedule
from qatlab.training.progress import PhaseProgressBar
from qatlab.training.random_state import RandomState
from qatlab.training.schedule import Schedule
from qatlab.training.transition_rate import TransitionRate


def module_of(built: Built) -> Classifier:
    """Return a network with its solver and losses as the trainer takes them."""
    return Classifier(
        built.model,
        built.solver,
        built.losses,
        built.schedule.position,
        built.data.num_classes,
        built.step,
        built.mixup,
        built.data.images_per_score,
        built.distillation,
    )


def callbacks_of(cfg: DictConfig) -> tuple[list[Callback], RunCheckpoint]:
    """Make the callbacks of ``callbacks``, and find the one that saves checkpoints."""
    nodes = cfg.callbacks or {}
    chosen = [make(f"callbacks.{key}", node, Callback) for key, node in nodes.items()]
    for key, callback in zip(nodes, chosen, strict=True):
        if isinstance(callback, (EarlyStopping, Timer)):
            raise ConfigError(
                f"callbacks.{key}: {type(callback).__name__} would end the run before its "
                f"schedule; {INSTEAD}"
            )
    checkpoints = [callback for callback in chosen if isinstance(callback, RunCheckpoint)]
    if len(checkpoints) != 1:
        raise ConfigError(f"callbacks has {len(checkpoints)} RunCheckpoint. Accepted: exactly one.")
    place = Path(cfg.folder) / CHECKPOINTS
    if checkpoints[0].folder.absolute() != place.absolute():
        key = next(key for key, one in zip(nodes, chosen, strict=True) if one is checkpoints[0])
        advice = "Set the folder of the run with hydra.run.dir=."
        folder = checkpoints[0].folder
        raise wrong(f"callbacks.{key}.folder", folder, "${folder}/checkpoints", advice)
    # In whatever order they were named: a step is scaled, then weights are frozen, then averaged.
    order = {TransitionRate: 0, Oscillation: 1}
    return sorted(chosen, key=lambda one: order.get(type(one), 2)), checkpoints[0]


def trainer_of(
    cfg: DictConfig, schedule: Schedule | None = None, chosen: Sequence[Callback] = ()
) -> Trainer:
    """Make the trainer: with a schedule and chosen callbacks to fit, without them to test only."""
    for name in ("pytorch_lightning", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its tips, devices and processes
    callbacks, loggers = [*chosen], []
    if schedule is not None:
        epochs = {span.name: span.epochs for span in schedule.phases}
        steps = PhaseSchedule(schedule, cfg.schedule.calibration_batches)
        callbacks = [RandomState(), steps, PhaseProgressBar(epochs, Path(cfg.folder)), *chosen]
        nodes, folder = cfg.logger or {}, Path(cfg.folder)
        loggers = [make_tracker(str(name), node, folder) for name, node in nodes.items()]
    node = cfg.trainer.copy()
    del node.sync_batchnorm  # done before the quantizers were put in
    trainer: Trainer = make(
        "trainer",
        node,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=schedule is not None,
        enable_progress_bar=schedule is not None,
        default_root_dir=cfg.folder,
    )
    check_processes(cfg.trainer, trainer.world_size)
    return trainer
