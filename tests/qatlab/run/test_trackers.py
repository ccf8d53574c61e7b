from __future__ import annotations

import json
import random
import re
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from qatlab.errors import ConfigError
from qatlab.quant import ModelTable
from qatlab.run.trackers import make_tracker, tracked
from qatlab.training.csv_logger import CsvLogger

TABLE = ModelTable((), 0, 0, 0, 0)
MISSING = {  # what Lightning looks at
    "TensorBoardLogger": (
        "lightning_fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE",
        "lightning_fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE",
    ),
    "WandbLogger": ("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE",),
    "MLFlowLogger": ("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE",),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow and qatlab set the first two, which later tests and their processes would inherit.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def node(kind: str, **arguments: Any) -> Any:
    return OmegaConf.create({"_target_": f"pytorch_lightning.loggers.{kind}", **arguments})


def trainer_with(*loggers: Any) -> Any:
    return Namespace(loggers=[*loggers], is_global_zero=True, callbacks=[])


@pytest.mark.parametrize(
    ("kind", "extra"),
    [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")],
)
def test_a_package_that_is_missing_is_reported_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extra: str
) -> None:
    for name in MISSING[kind]:
        monkeypatch.setattr(name, False)
    told = f"logger.mine: it needs another package: pip install 'qatlab[{extra}]'."
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        make_tracker("mine", node(kind, save_dir=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("given", [{}, {"group": "mine"}])
def test_a_run_has_the_group_of_its_folder_unless_one_is_given(
    tmp_path: Path, given: dict[str, str]
) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "sweep/job").mkdir(parents=True)
    (tmp_path / "sweep/job/trackers.json").write_text('{"wandb": "abc"}')
    logger = make_tracker("wandb", node("WandbLogger", **given), tmp_path / "sweep/job")
    assert isinstance(logger, WandbLogger)
    assert logger._wandb_init["group"] == given.get("group", "sweep")
    assert logger.version == "abc"  # begun by the process before


def test_what_is_no_logger_is_reported(tmp_path: Path) -> None:
    for wrong in (3, OmegaConf.create({})):
        with pytest.raises(ConfigError, match=r"^logger\.mine=.* is wrong"):
            make_tracker("mine", wrong, tmp_path)


def test_a_run_that_its_tracker_has_lost_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "trackers.json").write_text('{"mlflow": "0123"}')
    store = node("MLFlowLogger", tracking_uri=f"file:{tmp_path}/mlruns")
    trainer = trainer_with(make_tracker("mlflow", store, tmp_path))
    told = r"logger\.mlflow cannot start, or continue 0123: .*0123"
    with (
        pytest.raises(ConfigError, match=told),
        tracked(trainer, ["mlflow"], tmp_path, {}, TABLE),
    ):
        pass


def test_jobs_that_start_together_share_the_experiment_of_their_sweep(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"file:{tmp_path}/mlruns"

    def begin(job: int) -> None:
        logger = make_tracker(
            "mlflow", node("MLFlowLogger", tracking_uri=store), tmp_path / str(job)
        )
        together.wait()
        with tracked(trainer_with(logger), ["mlflow"], tmp_path / str(job), {}, TABLE):
            pass

    together = Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(begin, range(4)))
    names = [x.name for x in mlflow.MlflowClient(store).search_experiments()]
    assert sorted(names) == ["Default", tmp_path.name]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_of_wandb_ends_with_ours(tmp_path: Path, fails: bool) -> None:
    pytest.importorskip("wandb")
    run = Mock(id="abc")
    logger = make_tracker("wandb", node("WandbLogger", experiment=None), tmp_path)
    logger._experiment = run  # type: ignore[attr-defined]
    try:
        with tracked(trainer_with(logger), ["wandb"], tmp_path, {"seed": 1}, TABLE):
            run.finish.assert_not_called()
            assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "abc"}
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    run.finish.assert_called_once_with(int(fails))
    run.config.update.assert_called_once_with({"seed": 1}, allow_val_change=True)


def test_training_draws_the_same_random_numbers_with_a_tracker(tmp_path: Path) -> None:
    logger = Mock(spec=Logger, version=3, experiment=None)
    logger.log_hyperparams.side_effect = lambda config: random.random()
    before = random.getstate()
    with tracked(trainer_with(logger), ["mine"], tmp_path, {}, TABLE):
        assert random.getstate() == before
    logger.log_hyperparams.assert_called_once()


def test_metrics_csv_alone_is_no_tracker(tmp_path: Path) -> None:
    with tracked(trainer_with(CsvLogger(str(tmp_path))), ["csv"], tmp_path, {}, TABLE) as trackers:
        assert trackers.loggers == {}
    assert not (tmp_path / "trackers.json").exists()


def test_other_loggers_of_lightning_get_what_every_logger_takes(tmp_path: Path) -> None:
    logger = Mock(spec=Logger, version=3, experiment=None)
    with tracked(trainer_with(logger), ["mine"], tmp_path, {"seed": 1}, TABLE) as trackers:
        logger.log_hyperparams.assert_called_once_with({"seed": 1})
        trackers.report({"test": {"phase": "clamp", "top1": 0.5}, "seconds": 2.0}, step=7)
    values, step = logger.log_metrics.call_args.args
    assert values["report/top1"] == 0.5
    assert values["report/bit_operations"] == 0
    assert "report/phase" not in values  # a text
    assert step == 7


def test_a_tracker_that_fails_at_the_end_loses_neither_the_run_nor_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away, there = (Mock(spec=Logger, version=3, experiment=None) for _ in range(2))
    away.log_metrics.side_effect = OSError("the server\nis away")
    away.finalize.side_effect = OSError("it is still away")
    names = ["away", "there"]
    with tracked(trainer_with(away, there), names, tmp_path, {}, TABLE) as trackers:
        away.finalize("success")  # as Lightning does when a training ends
        trackers.report({"test": {"top1": 0.5}, "seconds": 2.0}, step=7)
    assert capsys.readouterr().err.splitlines() == [
        "Warning: logger.away did not receive the whole report: it is still away",
        "Warning: logger.away did not receive the whole report: the server",
    ]
    there.log_metrics.assert_called_once()
