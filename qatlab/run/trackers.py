"""Experiment trackers: made, told what a run is, and given its report.

All numbers of ``metrics.csv`` reach them by Lightning, whose loggers they are. What Lightning does
not know stands here: the configuration, the table of layers, the phase, the report, and that a
resumed run goes on in the tracker's run that it has begun.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.seed import isolate_rng

from qatlab.config.targets import TARGET, make
from qatlab.errors import ConfigError
from qatlab.quant import LayerRecord, ModelTable, Phase
from qatlab.results import record
from qatlab.run.summary import may_fail
from qatlab.system import files
from qatlab.training.csv_logger import FILE_NAME, CsvLogger, read_rows

BEGUN = "trackers.json"  # in the run's folder: by key of `logger`, the id of each tracker's run
EXTRAS = {"TensorBoardLogger": "tensorboard", "WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
PHASES = [phase.value for phase in Phase]  # trackers take numbers only: the index in this list
COLUMNS = [
    *("layer", "type", "part", "shape", "bits", "input bits", "method", "decided by"),
    *("parameters", "macs", "bit operations"),
]
Row = list[Any]


def make_tracker(name: str, node: Any, folder: Path) -> Logger:
    """Make the logger ``logger.<name>``, which goes on with what the run in ``folder`` has begun.

    Raises:
        ConfigError: also if the package is missing; then it names the extra.
    """
    key, kind = f"logger.{name}", str(getattr(node, TARGET, "")).rpartition(".")[2]
    siblings = folder.absolute().parent.name  # the sweep, or the runs of one name
    begun = _begun(folder).get(name)
    own = {
        "WandbLogger": {"group": siblings, "id": begun},
        "MLFlowLogger": {"experiment_name": siblings, "run_id": begun},
    }
    if kind == "MLFlowLogger":
        # A folder of files needs no server and no database. MLflow asks whether one means it.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    arguments: dict[str, Any] = {
        k: value for k, value in own.get(kind, {}).items() if k not in node
    }
    try:
        logger: Logger = make(key, node, Logger, **arguments)
    except ConfigError as error:
        cause = error.__cause__ and error.__cause__.__cause__
        if isinstance(cause, ImportError) and kind in EXTRAS:
            words = f"{key}: it needs another package: pip install 'qatlab[{EXTRAS[kind]}]'."
            raise ConfigError(words) from error
        raise
    return logger


@contextmanager
def tracked(
    trainer: Trainer, names: list[str], folder: Path, config: dict[str, Any], table: ModelTable
) -> Iterator[Trackers]:
    """Begin, or continue, a run in each tracker of a trainer, and end it.

    Args:
        trainer: what will train.
        names: of its loggers, in their order: the keys of ``logger``.
        folder: of the run.
        config: the resolved configuration.
        table: of the network's layers.

    Yields:
        What takes the report.

    Raises:
        ConfigError: if a tracker cannot begin.
    """
    loggers = dict(zip(names, trainer.loggers, strict=True)) if trainer.is_global_zero else {}
    others = {name: x for name, x in loggers.items() if not isinstance(x, CsvLogger)}
    trackers = Trackers(others, folder, config, table)
    failed = True
    try:
        with isolate_rng(include_cuda=False):  # what they draw is none of the training's
            trackers.begin()
        trainer.callbacks.append(trackers)  # type: ignore[attr-defined]
        yield trackers
        failed = False
    finally:
        for logger in trackers.open:
            if isinstance(logger, WandbLogger):
                # Or the next job of a sweep, which this process runs too, would write into it.
                with trackers.may_fail(logger):
                    logger.experiment.finish(int(failed))


class Trackers(Callback):
    """The trackers of one run; see :func:`tracked`."""

    def __init__(
        self,
        loggers: Mapping[str, Logger],
        folder: Path,
        config: dict[str, Any],
        table: ModelTable,
    ) -> None:
        self.loggers, self.folder, self.config, self.table = loggers, folder, config, table
        self.open: list[Logger] = []
        self.new: list[Logger] = []  # those that know nothing of the run yet

    def begin(self) -> None:
        """Begin or continue; tell a tracker that begins hyper-parameters and table of layers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = _begun(self.folder)
        for name, logger in self.loggers.items():
            try:
                with FileLock(self.folder.absolute().with_name(".trackers.lock")):
                    # Or jobs that start together would each make the experiment of their sweep.
                    _ = logger.experiment  # type: ignore[attr-defined]
                self.open.append(logger)
                self._guard_finalize(logger)
                run = logger.version
            except Exception as error:  # of a server, an account, a disk: anyone's
                of_run = f", or continue {begun[name]}" if name in begun else ""
                words = f"logger.{name} cannot start{of_run}: {error}"
                raise ConfigError(words) from error
            # wandb keeps much in memory until it ends: who was killed has to tell all of it again.
            if name in begun and not isinstance(logger, WandbLogger):
                continue
            files.write_json(self.folder / BEGUN, begun := {**begun, name: run})
            self.new.append(logger)
            logger.log_hyperparams(self.config)
            _log_table(logger, "layers", COLUMNS, [_row(layer) for layer in self.table.layers])
            logger.save()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell a new tracker what was trained before, in a killed process or by another job."""
        if not trainer.training:
            return
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        for logger in trainer.loggers:
            if isinstance(logger, CsvLogger):
                logger.check(epochs, checkpoint["global_step"])
        if not (self.folder / FILE_NAME).exists():
            return
        for row in read_rows(self.folder / FILE_NAME):
            step, phase = int(row.pop("step")), row.pop("phase")
            numbers = {key: float(value) for key, value in row.items() if value}
            if phase:
                numbers["phase"] = _number(phase)
            for logger in self.new if step < checkpoint["global_step"] else ():
                logger.log_metrics(numbers, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the phase."""
        phase = _number(str(pl_module.phase_name))
        for logger in self.loggers.values():
            logger.log_metrics({"phase": phase}, trainer.global_step - 1)

    def report(self, result: dict[str, Any], step: int) -> None:
        """Log the final scores and sizes, and ``result.json`` as it is.

        Args:
            result: its content.
            step: the last one of the training.
        """
        table = self.table.to_json()
        sizes = {k: v for k, v in table.items() if k != "layers"} | {"seconds": result["seconds"]}
        scores = {
            f"report/{key}": value
            for key, value in {**result["test"], **sizes}.items()
            if isinstance(value, (int, float))
        }
        for logger in self.loggers.values():
            with self.may_fail(logger):
                if isinstance(logger, TensorBoardLogger):  # shows these beside scores only
                    logger.log_hyperparams(self.config, scores, step)
                else:
                    logger.log_metrics(scores, step)
                _log_file(logger, self.folder / record.RESULT)
                logger.save()

    def may_fail(self, logger: Logger) -> AbstractContextManager[None]:
        """Turn a failure of a tracker, when all is trained, into a line that says so."""
        name = next(key for key, value in self.loggers.items() if value is logger)
        return may_fail(f"logger.{name} did not receive the whole report")

    def _guard_finalize(self, logger: Logger) -> None:
        """Let a training end that its tracker cannot end; Lightning calls this behind both."""
        finalize = logger.finalize

        def guarded(status: str) -> None:
            with self.may_fail(logger):
                finalize(status)

        logger.finalize = guarded  # type: ignore[method-assign]


def _begun(folder: Path) -> dict[str, Any]:
    file = folder / BEGUN
    return dict(files.read_json(file)) if file.exists() else {}


def _row(layer: LayerRecord) -> Row:
    return [
        *(layer.name, layer.type, layer.part, "x".join(map(str, layer.shape))),
        *(layer.bits, layer.input_bits, layer.quantizer.get("method"), ", ".join(layer.rules)),
        *(layer.parameters, layer.macs, layer.bit_operations),
    ]


def _number(phase: str) -> int:
    """Return the number of a phase; ``quantize_8bit`` has that of ``quantize``."""
    return PHASES.index(phase.partition("_")[0])


def _log_table(logger: Logger, name: str, columns: list[str], rows: list[Row]) -> None:
    """Log a table in the form that a tracker shows as one."""
    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns, rows)
    elif isinstance(logger, MLFlowLogger):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        logger.experiment.log_text(logger.run_id, text.getvalue(), f"{name}.csv")
    elif isinstance(logger, TensorBoardLogger):
        cells = [columns, ["---"] * len(columns), *rows]
        lines = [
            "| " + " | ".join("" if x is None else str(x) for x in row) + " |" for row in cells
        ]
        logger.experiment.add_text(name, "\n".join(lines))


def _log_file(logger: Logger, file: Path) -> None:
    """Log a text file as it is."""
    if isinstance(logger, WandbLogger):
        logger.experiment.save(str(file), base_path=str(file.parent), policy="now")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(file))
    elif isinstance(logger, TensorBoardLogger):
        text = "    " + file.read_text().replace(
            "\n", "\n    "
        )  # Markdown for what is kept as it is
        logger.experiment.add_text(file.name, text)
