"""The one place where configuration becomes objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, Timer
from torch import nn

from qatlab.config.targets import check_node, make
from qatlab.data import ImageModule
from qatlab.errors import ConfigError
from qatlab.quant import ModelTable, Phase, Rule, float_table, quantize
from qatlab.quant.trace import trace
from qatlab.run.summary import say
from qatlab.run.trackers import make_tracker
from qatlab.run.weights import init_weights
from qatlab.training.checkpoint import RunCheckpoint
from qatlab.training.classifier import Classifier
from qatlab.training.forward import TrainingForward
from qatlab.training.limits import INSTEAD, check_processes, check_trainer
from qatlab.training.loss import losses_of
from qatlab.training.phase_schedule import PhaseSchedule, Schedule
from qatlab.training.progress import PhaseProgressBar
from qatlab.training.random_state import RandomState
from qatlab.training.solver import AnySolver
from qatlab.training.sync_norm import synchronise_norms


@dataclass
class Built:
    """What a configuration describes, before any trainer exists."""

    data: ImageModule
    model: nn.Module
    table: ModelTable
    schedule: Schedule
    module: Classifier


def build(cfg: DictConfig, trained: bool = False) -> Built:
    """Make data, network and solver; the structure of the network is final from here on.

    Args:
        cfg: the configuration.
        trained: the weights are to be used as they are, so that all of them have to be given.
    """
    if not 0 <= cfg.seed < 1 << 32:
        raise ConfigError(f"seed={cfg.seed} is wrong. Accepted: a whole number from 0 to 2^32 - 1.")
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = make("data", cfg.data, ImageModule)
    arguments = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    model = make("model", cfg.model, nn.Module, offered=arguments)
    if cfg.trainer.sync_batchnorm:
        synchronise_norms(model)  # not by Lightning: quantizers absorb the norms that they find
    quantized = cfg.quant.weight is not None or cfg.quant.activation is not None
    example = data.example_input()
    nodes: Any = OmegaConf.to_container(cfg.quant.rules or OmegaConf.create(), resolve=True)
    rules = [Rule.parse(str(key), node) for key, node in nodes.items()]
    unused = set() if cfg.init_weights is None else _unused(model)
    if quantized:
        weight, activation = (
            None if node is None else make(f"quant.{part}", node, _partial_=True)
            for part, node in (("weight", cfg.quant.weight), ("activation", cfg.quant.activation))
        )
        model, table = quantize(model, weight, activation, rules, example)
    else:
        # An experiment's rules may be optional, so that quant=none gives its float network.
        if vain := [rule.key for rule in rules if not rule.optional]:
            raise ConfigError(
                f"quant.rules.{vain[0]} has nothing to change: quant.weight and quant.activation "
                "are both null"
            )
        table = float_table(model, example)
    if cfg.init_weights is not None:
        say(init_weights(model, cfg.init_weights, unused, whole=trained))
    epochs = {phase: cfg.schedule[f"{phase.value}_epochs"] for phase in Phase}
    schedule = Schedule.of(epochs, model)
    check_trainer(cfg.trainer, schedule)
    check_node("trainer", cfg.trainer)
    solver = _solver(cfg.solver)
    solver.images_per_update = data.batch_size * cfg.trainer.accumulate_grad_batches
    for _, count in schedule.phases:
        solver.check_phase(count)  # a warm-up that is too long is told now
    solver.build(model)  # so are arguments that the optimizer refuses
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)  # convolutions answer as their weights lie
    step = TrainingForward(cfg.compile, cfg.memory)
    step.check_model(model)
    losses = losses_of(make("loss", cfg.loss))
    module = Classifier(model, solver, losses, schedule.position, data.num_classes, step, cfg.mixup)
    module.check_outputs(example, data.num_classes)
    if cfg.trainer.precision == "64-true":
        module.double()  # Lightning would do so only after a checkpoint was read into float32
    return Built(data, model, table, schedule, module)


def _unused(model: nn.Module) -> set[str]:
    """Return the names of the values of modules that a network never calls."""
    return model.state_dict().keys() - trace(model).state_dict().keys()


def _solver(node: DictConfig) -> AnySolver:
    try:
        solver: AnySolver = make("solver", node, AnySolver)
    except TypeError as error:  # of a policy that is called too early
        raise ConfigError(f"solver: {error}; each lr_policy needs _partial_: true.") from error
    return solver


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
        raise ConfigError(
            f"callbacks has {len(checkpoints)} RunCheckpoint; a run needs one, to be tested"
        )
    place = Path(cfg.folder) / "checkpoints"
    if checkpoints[0].folder.absolute() != place.absolute():
        key = next(key for key, one in zip(nodes, chosen, strict=True) if one is checkpoints[0])
        raise ConfigError(
            f"callbacks.{key}.folder={checkpoints[0].folder} is wrong: checkpoints are a part of "
            "their run, in ${folder}/checkpoints; hydra.run.dir= says where the run goes."
        )
    return chosen, checkpoints[0]


def trainer_of(
    cfg: DictConfig, schedule: Schedule | None = None, chosen: Sequence[Callback] = ()
) -> Trainer:
    """Make the trainer: with a schedule and chosen callbacks to fit, without them to test only."""
    callbacks, loggers = [*chosen], []
    if schedule is not None:
        epochs = {phase.value: count for phase, count in schedule.phases}
        steps = PhaseSchedule(schedule, cfg.schedule.calibration_batches)
        callbacks = [RandomState(), steps, PhaseProgressBar(epochs), *chosen]
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


torch.backends.cuda.matmul.allow_tf32 = False  # GPU and CPU then agree to float32
# A guard against reading what was never written: 3 to 14 % of a step of MobileNet-V2 on a CPU.
torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
