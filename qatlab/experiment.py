"""The one place where configuration becomes objects: a run from its start to its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from qatlab import evaluation, record, summary
from qatlab.config import CONFIG, apply_given, in_sweep, portable_yaml, stored_config
from qatlab.data import ImageModule
from qatlab.errors import CheckpointError, ConfigError
from qatlab.quant import ModelTable, Phase, Rule, float_table, quantize
from qatlab.targets import check_node, make
from qatlab.training.checkpoint import RunCheckpoint, load, newest
from qatlab.training.classifier import Classifier
from qatlab.training.forward import TrainingForward
from qatlab.training.limits import INSTEAD, check_processes, check_trainer
from qatlab.training.loss import Loss, losses_of
from qatlab.training.phase_schedule import PhaseSchedule, Schedule
from qatlab.training.progress import PhaseProgressBar
from qatlab.training.random_state import RandomState
from qatlab.training.solver import AnySolver
from qatlab.training.sync_norm import synchronise_norms
from qatlab.weights import init_weights, save_weights

MOVABLE = ("data.source.folder", "trainer.accelerator", "trainer.devices")  # changed by a resume


@dataclass
class Built:
    """What a configuration describes, before any trainer exists."""

    data: ImageModule
    model: nn.Module
    table: ModelTable
    schedule: Schedule
    module: Classifier


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured and leave a report in ``cfg.folder``; see ``conf/config.yaml``.

    Returns:
        The content of ``result.json``; an empty dictionary in ``mode=plan``.

    Raises:
        QatlabError: for anything the user can mend.
    """
    if cfg.mode not in ("train", "plan"):
        raise ConfigError(f"mode={cfg.mode} is neither train nor plan")
    if cfg.resume is not None:
        return _resume(cfg)
    folder = Path(cfg.folder)
    if cfg.mode == "train" and (folder / "checkpoints").exists():
        raise ConfigError(
            f"{folder} already holds a run: continue it with resume={folder}, delete it, or write "
            "the new run to another hydra.run.dir"
        )
    chosen, checkpoint = _callbacks(cfg)
    built = build(cfg)
    summary.print_table(built.table)
    if cfg.mode == "plan":
        return {}
    return _fit_and_report(cfg, built, chosen, checkpoint)


def _resume(given: DictConfig) -> dict[str, Any]:
    """Continue a run that was killed as if it had not been."""
    cfg = stored_config(Path(given.resume))
    apply_given(given, cfg, "resume", changeable=MOVABLE)
    if (Path(cfg.folder) / record.RESULT).exists():
        print(f"{cfg.folder} is finished and its report written: nothing is left to be done.")
        return dict(record.read_json(Path(cfg.folder) / record.RESULT))
    chosen, checkpoint = _callbacks(cfg)
    start_from, remark = newest(checkpoint.folder)
    if remark:
        say(remark)
    if start_from is not None:
        _forget_weights(cfg)
    built = build(cfg)
    summary.print_table(built.table)
    return _fit_and_report(cfg, built, chosen, checkpoint, start_from, resumed=True)


def build(cfg: DictConfig) -> Built:
    """Make data, network and solver; the structure of the network is final from here on."""
    if not 0 <= cfg.seed < 1 << 32:
        raise ConfigError(f"seed={cfg.seed} is wrong. Accepted: a whole number from 0 to 2^32 - 1.")
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = make("data", cfg.data, ImageModule)
    arguments = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    model = make("model", cfg.model, nn.Module, **arguments)
    if cfg.trainer.sync_batchnorm:
        synchronise_norms(model)  # not by Lightning: quantizers absorb the norms that they find
    quantized = cfg.quant.weight is not None or cfg.quant.activation is not None
    example = data.example_input()
    nodes: Any = OmegaConf.to_container(cfg.quant.rules or OmegaConf.create(), resolve=True)
    rules = [Rule.parse(str(key), node) for key, node in nodes.items()]
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
    if cfg.init_weights:
        say(init_weights(model, cfg.init_weights))
    epochs = {phase: cfg.schedule[f"{phase.value}_epochs"] for phase in Phase}
    schedule = Schedule.of(epochs, model)
    solver = _solver(cfg.solver)
    solver.images_per_update = data.batch_size * cfg.trainer.accumulate_grad_batches
    for _, count in schedule.phases:
        solver.check_phase(count)  # a warm-up that is too long is told now
    solver.build(model)  # so are arguments that the optimizer refuses
    check_trainer(cfg.trainer, schedule)
    check_node("trainer", cfg.trainer)
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)  # convolutions answer as their weights lie
    step = TrainingForward(cfg.compile, cfg.memory)
    step.check_model(model)
    losses = _losses(cfg.loss)
    module = Classifier(model, solver, losses, schedule.position, data.num_classes, step, cfg.mixup)
    module.check_outputs(example, data.num_classes)
    if cfg.trainer.precision == "64-true":
        module.double()  # Lightning would do so only after a checkpoint was read into float32
    return Built(data, model, table, schedule, module)


def _forget_weights(cfg: DictConfig) -> None:
    """Start from no weights but those of a checkpoint, so that the files of others may be gone."""
    cfg.init_weights = None
    if "weights" in cfg.model:
        cfg.model.weights = None


def _solver(node: DictConfig) -> AnySolver:
    try:
        solver: AnySolver = make("solver", node, AnySolver)
    except TypeError as error:  # of a policy that is called too early
        raise ConfigError(f"solver: {error}; each lr_policy needs _partial_: true.") from error
    return solver


def _losses(node: DictConfig) -> tuple[Loss, ...]:
    return losses_of(make("loss", node))


def evaluate(cfg: DictConfig) -> evaluation.Evaluation:
    """Measure a run, or initial weights, on the test set; see ``conf/test.yaml``."""
    save_outputs, run, name = cfg.save_outputs, cfg.run, cfg.checkpoint
    if cfg.resume is not None:
        raise ConfigError("test.py resumes nothing: give run=<folder of a run>")
    if run is not None:
        given, cfg = cfg, stored_config(Path(run))
        also = ("checkpoint", "save_outputs")
        apply_given(given, cfg, "run", also=also, changeable=("data.*", "trainer.*"))
        _forget_weights(cfg)
        cfg.init_weights = str(record.checkpoint_of(Path(run), name))
    elif cfg.init_weights is None:
        raise ConfigError("nothing to test: give run=<folder of a run> or init_weights=<file>")
    if save_outputs is not None and not Path(save_outputs).parent.is_dir():
        raise ConfigError(f"save_outputs={save_outputs} is wrong: its folder does not exist.")
    built = build(cfg)
    trainer = _trainer(cfg, [], [])
    if save_outputs is not None and trainer.world_size > 1:
        raise ConfigError(
            f"save_outputs={save_outputs} is wrong with trainer.devices={cfg.trainer.devices}, as "
            "each process sees a part of the images; set trainer.devices=1."
        )
    result = _test(built, trainer)
    for line in evaluation.lines(result, digits=6):
        say(line)
    if save_outputs is not None:
        evaluation.save_outputs(Path(save_outputs), built.module)
    return result


def _fit_and_report(
    cfg: DictConfig,
    built: Built,
    chosen: list[Callback],
    checkpoint: RunCheckpoint,
    start_from: Path | None = None,
    resumed: bool = False,
) -> dict[str, Any]:
    folder = Path(cfg.folder)
    loggers = [make(f"logger.{k}", v, Logger) for k, v in (cfg.logger or {}).items()]
    trainer = _trainer(cfg, [*_own_callbacks(cfg, built.schedule), *chosen], loggers)
    images = built.data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    built.module.solver.images_per_update = images
    if not resumed and trainer.is_global_zero:
        record.write_text(folder / CONFIG, portable_yaml(cfg))
        record.write_json(folder / "layers.json", built.table.to_json())
    _fit(trainer, built, start_from)
    trainer.strategy.barrier()  # the first process may still be renaming the best checkpoint
    seconds, kept = checkpoint.seconds, checkpoint.best  # the test sets them back to the best epoch
    last_phase = built.schedule.phases[-1][0].value
    best = checkpoint.best_path(last_phase)
    scored = _test(built, trainer, best)
    result = {
        "name": cfg.name,
        **scored.to_json(),
        "checkpoint": str(best.relative_to(folder)),
        "epochs": {phase.value: epochs for phase, epochs in built.schedule.phases},
        "best": kept,
        "size_bytes": built.table.size_bytes,
        "float_bytes": built.table.float_bytes,
        "seed": cfg.seed,
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "environment": record.environment(),
    }
    if not trainer.is_global_zero:
        return result
    summary.write_figures(folder, built.module, scored, built.data.class_names)
    save_weights(built.model, folder / "weights.safetensors")  # the tested ones
    record.write_json(folder / record.RESULT, result)
    summary.print_result(result, scored, folder)
    return result


def _fit(trainer: Trainer, built: Built, start_from: Path | None) -> None:
    try:
        with _interruptible(trainer):
            trainer.fit(
                built.module, datamodule=built.data, ckpt_path=start_from, weights_only=True
            )
    except (KeyError, RuntimeError) as error:
        if start_from is None or trainer.global_step > 0:
            raise
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{start_from} does not fit this run: {first}") from error


def _test(built: Built, trainer: Trainer, checkpoint: Path | None = None) -> evaluation.Evaluation:
    path = None if checkpoint is None else str(checkpoint)
    if checkpoint is not None:
        load(checkpoint)  # a damaged one is told in a sentence
    with _interruptible(trainer):
        trainer.test(
            built.module, datamodule=built.data, ckpt_path=path, weights_only=True, verbose=False
        )
    return evaluation.Evaluation.of(built.module)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM arrive as ``KeyboardInterrupt``; Lightning exits without a word."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


def _callbacks(cfg: DictConfig) -> tuple[list[Callback], RunCheckpoint]:
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
    return chosen, checkpoints[0]


def _own_callbacks(cfg: DictConfig, schedule: Schedule) -> list[Callback]:
    return [
        RandomState(),
        PhaseSchedule(schedule, cfg.schedule.calibration_batches),
        PhaseProgressBar({phase.value: epochs for phase, epochs in schedule.phases}),
    ]


def _trainer(cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    node = cfg.trainer.copy()
    del node.sync_batchnorm  # done before the quantizers were put in
    trainer: Trainer = make(
        "trainer",
        node,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=bool(callbacks),
        default_root_dir=cfg.folder,
    )
    check_processes(cfg.trainer, trainer.world_size)
    environment = getattr(trainer.strategy, "cluster_environment", None)  # of several processes
    if environment is not None and not environment.creates_processes_externally and in_sweep():
        raise ConfigError(
            f"trainer asks for {trainer.world_size} processes in a sweep, and each would start the "
            "whole sweep; give each run a command of its own, or Slurm: docs/scaling.md."
        )
    return trainer


@rank_zero_only
def say(text: str) -> None:
    """Print, in the first of several processes."""
    print(text)


torch.backends.cuda.matmul.allow_tf32 = False  # GPU and CPU then agree to float32
