"""What Lightning does for a run: a network is fitted and tested, and what came of it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from qatlab import sweep
from qatlab.config import in_sweep, portable_yaml
from qatlab.config.folders import name_latest
from qatlab.config.places import own_targets
from qatlab.config.trust import foreign
from qatlab.data.transforms.transform import Part
from qatlab.deploy.integer.lowering import Obstacle
from qatlab.deploy.obstacles import forms_of, in_short
from qatlab.errors import CheckpointError, ConfigError
from qatlab.results import record
from qatlab.results.conditions import settings_of
from qatlab.run import evaluation, shared_phases, summary
from qatlab.run.belonging import check_own
from qatlab.run.build import Built
from qatlab.run.environment import begin, environment
from qatlab.run.images import described, image_counts
from qatlab.run.layers import print_table
from qatlab.run.learned_bits import prepare, write_rules
from qatlab.run.trackers import tracked
from qatlab.run.trainer import callbacks_of, module_of, trainer_of
from qatlab.run.weights import save_weights
from qatlab.system import files
from qatlab.system.terminal import say
from qatlab.training.checkpoint import RunCheckpoint, load
from qatlab.training.classifier import Classifier
from qatlab.training.data_module import DataModule


def test(cfg: DictConfig, built: Built, save_outputs: str | None) -> evaluation.Evaluation:
    """Measure a network on the test set.

    Args:
        cfg: the configuration.
        built: what it describes, with its weights.
        save_outputs: an ``.npz`` for the outputs, too; see :func:`evaluation.save_outputs`.

    Raises:
        ConfigError: if outputs are to be saved and several processes would share the images.
    """
    module, data, trainer = module_of(built), DataModule(built.data), trainer_of(cfg)
    if save_outputs is not None and trainer.world_size > 1:
        raise ConfigError(
            f"save_outputs={save_outputs} cannot be combined with trainer.devices="
            f"{cfg.trainer.devices}, as each process sees a part of the images; set "
            "trainer.devices=1."
        )
    result = _test(module, data, trainer)
    for line in evaluation.lines(result, digits=6):
        say(line)
    if save_outputs is not None:
        evaluation.save_outputs(Path(save_outputs), module)
    return result


def fit_and_report(
    cfg: DictConfig,
    built: Built,
    found: dict[str, tuple[Obstacle, ...]],
    start_from: Path | None = None,
) -> dict[str, Any]:
    """Train and test a network, and write down what came of it.

    Args:
        cfg: the configuration.
        built: what it describes.
        found: what stands in the way of each form of the network.
        start_from: the checkpoint of this run to go on from.

    Returns:
        The content of ``result.json``.
    """
    chosen, checkpoint = callbacks_of(cfg)
    best = checkpoint.best_path(built.schedule.phases[-1].name)
    if best.exists():  # of a run that goes on; it may still be the best at the end
        check_own(best, Path(cfg.folder))
    learns = prepare(cfg, built, chosen)
    trainer, folder = trainer_of(cfg, built.schedule, chosen), Path(cfg.folder)
    if learns is not None and trainer.is_global_zero:
        learns.on_settled = lambda: _note_learned_bits(cfg, built, found)
    if start_from is None and trainer.is_global_zero:
        _write_facts(cfg, built, found)
    config = yaml.safe_load(portable_yaml(cfg))
    checkpoint.settings = settings_of(config)
    changes = begin(folder, config, start_from is not None) if trainer.is_global_zero else []
    if changes:
        say(
            "the run is resumed under other conditions, so its results may differ from those of "
            f"an uninterrupted run: {'; '.join(changes)}"
        )
    if in_sweep() and _starts_processes(trainer):
        sweep.train_in_subprocess(folder, foreign(OmegaConf.to_container(cfg), own_targets()))
        return record.read_result(folder)
    print_table(built.table)
    say(in_short(found, forms_of(cfg.target)))
    names = list(cfg.logger or {})
    with tracked(trainer, names, folder, config, built.table) as trackers:
        result = _fit_and_test(cfg, built, trainer, checkpoint, start_from, changes)
        if trainer.is_global_zero and not (folder / record.CONFIG).exists():
            say(f"{folder} was deleted during training: its configuration is written again")
            _write_facts(cfg, built, found)
        trackers.report(result, trainer.global_step - 1)
    return result


def _write_facts(cfg: DictConfig, built: Built, found: dict[str, tuple[Obstacle, ...]]) -> None:
    """Write what is known before the training: the configuration, and the table of layers."""
    folder = Path(cfg.folder)
    files.write_text(folder / record.CONFIG, portable_yaml(cfg))
    _write_layers(folder, built, found)
    name_latest(folder)


def _write_layers(folder: Path, built: Built, found: dict[str, tuple[Obstacle, ...]]) -> None:
    forms = {form: [asdict(one) for one in own] for form, own in found.items()}
    files.write_json(folder / "layers.json", {**built.table.to_json(), "forms": forms})


def _note_learned_bits(
    cfg: DictConfig, built: Built, found: dict[str, tuple[Obstacle, ...]]
) -> None:
    """Write down, and print, what bits the network has from now on."""
    built.table = built.table.with_learned_bits(built.model)
    write_rules(built.table, Path(cfg.folder))
    _write_layers(Path(cfg.folder), built, found)
    print_table(built.table)


def _fit_and_test(
    cfg: DictConfig,
    built: Built,
    trainer: Trainer,
    checkpoint: RunCheckpoint,
    start_from: Path | None,
    changes: list[str],
) -> dict[str, Any]:
    folder = Path(cfg.folder)
    images = built.data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    built.solver.images_per_update = images
    counts = dict[Part, dict[str, int]]()

    def count(stage: str) -> None:
        parts: tuple[Part, ...] = ("test",) if stage == "test" else ("training", "validation")
        counts.update(image_counts(built.data, *parts))
        if stage == "fit" and trainer.is_global_zero:
            for line in described(counts):
                say(line)

    module, data = module_of(built), DataModule(built.data, count)
    with _shared_phases(cfg, built, trainer, start_from) as shared:
        _fit(trainer, module, data, checkpoint, start_from or shared)
    built.table = built.table.with_learned_bits(built.model)  # of a resumed run, too
    trainer.loggers = []  # trackers get the report, at the end, when nothing depends on them
    trainer.strategy.barrier()  # the first process may still be renaming the best checkpoint
    seconds, kept = checkpoint.seconds, checkpoint.best  # the test sets them back to the best epoch
    last_phase = built.schedule.phases[-1].name
    best = checkpoint.best_path(last_phase)
    scored = _test_best(module, data, trainer, checkpoint, best)
    result = {
        "name": cfg.name,
        **scored.to_json(),
        **({} if scored.classes is None else {"class_names": list(built.data.class_names)}),
        "checkpoint": str(best.relative_to(folder)),
        "epochs": {span.name: span.epochs for span in built.schedule.phases},
        "best": kept,
        "size_bytes": built.table.size_bytes,
        "float_bytes": built.table.float_bytes,
        "images": counts,
        "seed": cfg.seed,
        "seconds": round(seconds, 1),
        "first_phases_of": shared_phases.origin(folder),
        "resumed": start_from is not None,
        "environment": environment(),
        "changes": changes,
    }
    if not trainer.is_global_zero:
        return result
    save_weights(built.model, folder / "weights.safetensors")  # the tested ones
    files.write_json(folder / record.RESULT, result)  # the run is finished: what follows may fail
    (folder / record.PROGRESS).unlink(missing_ok=True)
    with summary.may_fail("the result is not printed"):
        summary.print_result(result, scored, built.table, folder)
    summary.write_figures(folder, cfg.name, module, scored, built.data.class_names)
    return result


def _starts_processes(trainer: Trainer) -> bool:
    """Tell whether others are started for this trainer, by the command line of this process."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and not environment.creates_processes_externally


def _shared_phases(
    cfg: DictConfig, built: Built, trainer: Trainer, start_from: Path | None
) -> AbstractContextManager[Path | None]:
    if start_from is not None or not in_sweep() or cfg.sweep.cache is None:
        return nullcontext()
    place, config = Path(cfg.sweep.cache), portable_yaml(cfg)
    return shared_phases.shared_phases(place, config, built, trainer, Path(cfg.folder))


def _fit(
    trainer: Trainer,
    module: Classifier,
    data: DataModule,
    checkpoint: RunCheckpoint,
    start_from: Path | None,
) -> None:
    with _restoring(start_from, checkpoint), _interruptible(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=start_from, weights_only=True)


def _test_best(
    module: Classifier, data: DataModule, trainer: Trainer, checkpoint: RunCheckpoint, best: Path
) -> evaluation.Evaluation:
    load(best)  # a damaged one is reported in a sentence
    with _restoring(best, checkpoint):
        return _test(module, data, trainer, best)


def _test(
    module: Classifier, data: DataModule, trainer: Trainer, best: Path | None = None
) -> evaluation.Evaluation:
    path = None if best is None else str(best)
    with _interruptible(trainer):
        trainer.test(module, datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
    return evaluation.Evaluation.of(module)


@contextmanager
def _restoring(file: Path | None, checkpoint: RunCheckpoint) -> Iterator[None]:
    """Tell of a file that is not what this run would have saved."""
    try:
        yield
    except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        if file is None or checkpoint.restored:
            raise
        words = " ".join(" ".join(str(error).splitlines()[:2]).split()) or type(error).__name__
        raise CheckpointError(f"{file} does not fit this run: {words}") from error


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM arrive as ``KeyboardInterrupt``; Lightning exits without a word."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
