"""The one place where configuration becomes objects: a run from its start to its report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, Timer
from torch import nn

from qatlab import record, report
from qatlab.config import TrainConfig
from qatlab.data import ImageData
from qatlab.errors import CheckpointError, ConfigError, QatlabError
from qatlab.quant import ModelTable, Rule, float_table, quantize
from qatlab.training.checkpoint import RunCheckpoint, newest
from qatlab.training.classifier import Classifier
from qatlab.training.phase_schedule import PhaseSchedule, Schedule
from qatlab.training.progress import PhaseProgressBar
from qatlab.training.random_state import RandomState
from qatlab.training.solver import Solver
from qatlab.weights import init_weights

CONFIG = "config.yaml"


@dataclass
class Built:
    """What a configuration describes, before any trainer exists."""

    data: ImageData
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
    resumed = Path(cfg.resume) if cfg.resume else None
    if resumed is not None:
        cfg = stored_config(resumed, TrainConfig)
    built = build(cfg)
    report.print_table(built.table)
    if cfg.mode == "plan":
        return {}
    folder = Path(cfg.folder)
    if resumed is None:
        record.write_text(folder / CONFIG, _portable_yaml(cfg))
        record.write_json(folder / "layers.json", built.table.to_json())
    return _fit_and_report(cfg, built, folder, resumed is not None)


def build(cfg: DictConfig) -> Built:
    """Make data, network and solver; the structure of the network is final from here on."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = _instantiate("data", cfg.data)
    arguments = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    model = _instantiate("model", cfg.model, **arguments)
    quantized = cfg.quant.weight is not None or cfg.quant.activation is not None
    example = data.example_input()
    if quantized:
        factories = [
            None if node is None else _instantiate(f"quant.{part}", node, _partial_=True)
            for part, node in (("weight", cfg.quant.weight), ("activation", cfg.quant.activation))
        ]
        nodes = OmegaConf.to_container(cfg.quant.rules, resolve=True)
        rules = [Rule.parse(str(key), node) for key, node in nodes.items()]  # type: ignore[union-attr,arg-type]
        model, table = quantize(model, *factories, rules, example)
    else:
        if cfg.quant.rules:
            raise ConfigError(
                f"quant.rules.{next(iter(cfg.quant.rules))} has nothing to change: "
                "quant.weight and quant.activation are both null"
            )
        table = float_table(model, example)
    if cfg.init_weights:
        print(init_weights(model, cfg.init_weights))
    schedule = Schedule.of(cfg.schedule.clamp_epochs, cfg.schedule.quantize_epochs, quantized)
    solver: Solver = _instantiate("solver", cfg.solver)
    for _, epochs in schedule.phases:
        solver.lr_factor(0.0, epochs)  # a warm-up that is too long is told now
    module = Classifier(model, solver, schedule.position, data.num_classes)
    return Built(data, model, table, schedule, module)


def evaluate(cfg: DictConfig) -> report.Evaluation:
    """Measure a run, or initial weights, on the test set; see ``conf/test.yaml``."""
    save_outputs, run, name = cfg.save_outputs, cfg.run, cfg.checkpoint
    if run is not None:
        cfg = stored_config(Path(run), TrainConfig)
        cfg.init_weights = str(_checkpoint_of(Path(run), name))
    elif cfg.init_weights is None:
        raise ConfigError("nothing to test: give run=<folder of a run> or init_weights=<file>")
    built = build(cfg)
    result = _test(built, _trainer(cfg, built, [], []))
    for line in report.lines(result, digits=6):
        print(line)
    if save_outputs is not None:
        report.save_outputs(Path(save_outputs), built.module)
    return result


def stored_config(run: Path, schema: type) -> DictConfig:
    """Read the configuration of a run; paths inside follow a folder that was moved.

    Raises:
        ConfigError: if the folder holds no run.
    """
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no {CONFIG}")
    cfg = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(run / CONFIG))
    cfg.folder = str(run)
    assert isinstance(cfg, DictConfig)
    return cfg


def _fit_and_report(cfg: DictConfig, built: Built, folder: Path, resumes: bool) -> dict[str, Any]:
    loggers = [_instantiate(f"logger.{k}", v) for k, v in (cfg.logger or {}).items()]
    callbacks = _callbacks(cfg, built.schedule)
    trainer = _trainer(cfg, built, callbacks, loggers)
    checkpoint = next(c for c in callbacks if isinstance(c, RunCheckpoint))
    start_from = None
    if resumes:
        start_from, remark = newest(checkpoint.folder)
        if remark:
            print(remark)
    began = time.monotonic()
    _fit(trainer, built, start_from)
    last_phase = built.schedule.phases[-1][0].value
    best = checkpoint.best_path(last_phase)
    seconds = time.monotonic() - began
    evaluation = _test(built, trainer, best)
    result = {
        **evaluation.to_json(),
        "checkpoint": str(best.relative_to(folder)),
        "epochs": {phase.value: epochs for phase, epochs in built.schedule.phases},
        "best": checkpoint.best,
        "size_bytes": built.table.size_bytes,
        "float_bytes": built.table.float_bytes,
        "seed": cfg.seed,
        "seconds": round(seconds, 1),
        "resumed": resumes,
        "environment": record.environment(),
    }
    report.write_figures(folder, built.module, evaluation, built.data.class_names)
    record.write_json(folder / "result.json", result)
    report.print_result(result, evaluation, folder)
    return result


def _fit(trainer: Trainer, built: Built, start_from: Path | None) -> None:
    try:
        trainer.fit(built.module, datamodule=built.data, ckpt_path=start_from, weights_only=True)
    except (KeyError, RuntimeError) as error:
        if start_from is None or trainer.global_step > 0 or isinstance(error, QatlabError):
            raise
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{start_from} does not fit this run: {first}") from error
    if trainer.interrupted:
        raise KeyboardInterrupt


def _test(built: Built, trainer: Trainer, checkpoint: Path | None = None) -> report.Evaluation:
    path = None if checkpoint is None else str(checkpoint)
    trainer.test(
        built.module, datamodule=built.data, ckpt_path=path, weights_only=True, verbose=False
    )
    return report.Evaluation.of(built.module)


def _callbacks(cfg: DictConfig, schedule: Schedule) -> list[Callback]:
    chosen = [_instantiate(f"callbacks.{k}", v) for k, v in (cfg.callbacks or {}).items()]
    for key, callback in zip(cfg.callbacks or {}, chosen, strict=True):
        if isinstance(callback, (EarlyStopping, Timer)):
            raise ConfigError(
                f"callbacks.{key}: {type(callback).__name__} would end the run before its "
                "schedule; set schedule.clamp_epochs and schedule.quantize_epochs instead"
            )
    if not any(isinstance(callback, RunCheckpoint) for callback in chosen):
        raise ConfigError("callbacks has no RunCheckpoint, so the run could not be tested")
    own = [
        RandomState(),
        PhaseSchedule(schedule, cfg.schedule.calibration_batches),
        PhaseProgressBar({phase.value: epochs for phase, epochs in schedule.phases}),
    ]
    return [*own, *chosen]


def _trainer(
    cfg: DictConfig, built: Built, callbacks: list[Callback], loggers: list[Any]
) -> Trainer:
    if cfg.trainer.max_epochs != cfg.schedule.clamp_epochs + cfg.schedule.quantize_epochs:
        raise ConfigError(
            f"trainer.max_epochs={cfg.trainer.max_epochs} contradicts the schedule of "
            f"{cfg.schedule.clamp_epochs} clamp and {cfg.schedule.quantize_epochs} quantize "
            "epochs; set schedule.clamp_epochs and schedule.quantize_epochs instead"
        )
    for key in ("max_steps", "max_time", "fast_dev_run"):
        if cfg.trainer.get(key) not in (None, -1, False):
            raise ConfigError(
                f"trainer.{key} would end the run before its schedule; "
                "set schedule.clamp_epochs and schedule.quantize_epochs instead"
            )
    trainer: Trainer = _instantiate(
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=bool(callbacks),
        default_root_dir=cfg.folder,
    )
    return trainer


def _checkpoint_of(run: Path, name: str) -> Path:
    if name == "best":
        return run / str(record.read_json(run / "result.json")["checkpoint"])
    return run / "checkpoints" / (name if name.endswith(".ckpt") else f"{name}.ckpt")


def _instantiate(key: str, node: Any, **arguments: Any) -> Any:
    """Make what a ``_target_`` node describes; errors name its key."""
    try:
        return hydra.utils.instantiate(node, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, QatlabError):
            raise cause from error
        raise ConfigError(f"{key}: {cause or error}") from error


def _portable_yaml(cfg: DictConfig) -> str:
    """Return the resolved configuration, with paths into the run's folder left as ``${folder}``."""
    cfg = cfg.copy()
    cfg.folder = "\\${folder}"
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return OmegaConf.to_yaml({**content, "folder": "."})


torch.backends.cuda.matmul.allow_tf32 = False  # GPU and CPU then agree to float32
