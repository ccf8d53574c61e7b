"""What trackers hold of a run that was killed and resumed, read back from their files."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import wandb_files
import yaml
from killable_runs import KILL_AT, ROOT, Ended, start_forked

from qatlab.training.csv_logger import read_rows

pytestmark = pytest.mark.slow  # the three packages take ten seconds to import, in each process
PHASES = {"clamp": 1.0, "quantize": 2.0}  # as docs/trackers.md says
SETTINGS = (
    *("data=synthetic", "data.source.training_images=90", "data.source.test_images=50"),
    *("data.validation=30", "data.batch_size=30", "schedule.clamp_epochs=1"),
    *("schedule.quantize_epochs=2", "trainer.accelerator=cpu"),
    "+callbacks.kill._target_=killable_runs.KillAt",
)
SIZES = ("parameters", "size_bytes", "float_bytes", "bit_operations", "macs", "peak_bytes")
Values = dict[str, dict[int, float]]  # by name and step


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    missing = [name for name in ("tensorboard", "wandb", "mlflow") if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(place: Path, *words: str, **more: str) -> Ended:
    """Run ``train.py`` with three trackers, of which none reaches for the network or for home."""
    folders = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    environment = {
        **dict.fromkeys(folders, str(place / "home")),
        **{"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    }
    return start_forked(place / "log", "train.py", *words, **environment, **more)


def words_in(place: Path, *more: str) -> tuple[str, ...]:
    store = (f'+logger.mlflow.tracking_uri="file:{place}/mlruns"', "logger.wandb.offline=true")
    return (*SETTINGS, "logger=[tensorboard,wandb,mlflow]", *store, *more)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was killed in its second epoch, and resumed."""
    place = tmp_path_factory.mktemp("tracked")
    words = words_in(place, f'hydra.run.dir="{place}/seeds/run"')
    killed = run(place, *words, **{KILL_AT: "SIGKILL 2 2"})
    assert killed.code == -9, killed.output
    ended = run(place, f"resume={place}/seeds/run")
    assert ended.code == 0, ended.output
    return place / "seeds/run"


def expected(folder: Path) -> Values:
    """Return what ``metrics.csv`` holds."""
    values: Values = defaultdict(dict)
    for row in read_rows(folder / "metrics.csv"):
        step = int(row.pop("step"))
        values["phase"][step] = PHASES[row.pop("phase")]
        for name, cell in row.items():
            if cell:
                values[name][step] = float(cell)
    assert list(values["phase"].values()) == [1, 2, 2]
    assert {"epoch", "lr", "train/loss", "val/acc", "quant/relu1/alpha"} < values.keys()
    return values


def assert_holds(found: dict[str, Iterable[tuple[int, float]]], folder: Path, tol: float) -> None:
    """Compare with ``metrics.csv`` and ``result.json``; a step logged twice has one value."""
    for name, by_step in expected(folder).items():
        values = list(found[name])
        for step, value in by_step.items():
            there = [v for s, v in values if s == step]
            assert there, (name, step)
            if name != "epoch":  # the test at the end logs one, too
                assert there == pytest.approx([value] * len(there), rel=tol), (name, step)
    result, layers = (json.loads((folder / f"{x}.json").read_text()) for x in ("result", "layers"))
    scores = {key: layers[key] for key in SIZES} | {"seconds": result["seconds"]}
    scores |= {key: result["test"][key] for key in ("top1", "loss", "recognition_rate", "f1")}
    for key, value in scores.items():
        ((_, there),) = found[f"report/{key}"]
        assert there == pytest.approx(value, rel=tol)


def assert_table(rows: list[list[Any]], folder: Path) -> None:
    """Compare a table, header first, with ``layers.json``."""
    header, *rest = rows
    layers = json.loads((folder / "layers.json").read_text())["layers"]
    names, bits = header.index("layer"), header.index("bits")
    found = [(row[names], str(row[bits])) for row in rest]
    assert found == [(x["name"], str(x["bits"])) for x in layers]
    assert ("conv1", "8") in found
    assert ("conv2", "4") in found


def test_tensorboard_holds_one_run(resumed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(resumed / "tensorboard"), {"scalars": 0, "tensors": 0})
    events.Reload()
    found = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert_holds(found, resumed, 1e-6)  # it keeps float32
    texts = {
        name: [event.tensor_proto.string_val[0].decode() for event in events.Tensors(name)]
        for name in events.Tags()["tensors"]
    }
    (table,) = texts["layers/text_summary"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert_table([rows[0], *rows[2:]], resumed)
    (report,) = texts["result.json/text_summary"]
    assert json.loads(report) == json.loads((resumed / "result.json").read_text())
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert settings["quant/weight/bits"].number_value == 4
    assert settings["model/_target_"].string_value.endswith("LeNet")
    config = yaml.safe_load((resumed / "config.yaml").read_text())
    assert yaml.safe_load((resumed / "tensorboard/hparams.yaml").read_text()) == config


def test_mlflow_holds_one_run(resumed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow_client(resumed.parents[1], monkeypatch)
    (experiment,) = [x for x in client.search_experiments() if x.name != "Default"]
    assert experiment.name == "seeds"
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "lenet_sat_4bit"
    number = tracked.info.run_id
    found = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(number, name)]
        for name in tracked.data.metrics
    }
    assert_holds(found, resumed, 0)
    parameters = tracked.data.params
    assert parameters["quant/weight/bits"] == "4"
    assert parameters["schedule/quantize_epochs"] == "2"
    files = {
        file.path: client.download_artifacts(number, file.path)
        for file in client.list_artifacts(number)
    }
    assert json.loads(Path(files["result.json"]).read_text())["name"] == "lenet_sat_4bit"
    with open(files["layers.csv"], newline="") as file:
        assert_table([[cell or "None" for cell in row] for row in csv.reader(file)], resumed)


def bits_of(config: Path) -> str:
    return str(yaml.safe_load(config.read_text())["quant"]["weight"]["bits"])


def mlflow_client(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"file:{place / 'mlruns'}")


def test_wandb_holds_one_run_in_the_folder_of_the_run(resumed: Path) -> None:
    folders = sorted((resumed / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # one for each process, which `wandb sync` uploads as one run
    (number,) = {folder.name.rpartition("-")[2] for folder in folders}
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    settings: dict[str, Any] = {}
    # A process that is killed leaves next to nothing of what wandb was told, so all is in the last.
    for message in wandb_files.messages(folders[-1]):
        kind = message.WhichOneof("record_type")
        if kind == "run":
            run = message.run
            settings |= wandb_files.items(run.config.update)
        elif kind == "config":
            settings |= wandb_files.items(message.config.update)
        elif kind == "history":
            row = wandb_files.items(message.history.item)
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    found[name].append((row.get("trainer/global_step", -1), value))
    assert (run.run_id, run.project, run.display_name, run.run_group) == (
        *(number, "qatlab", "lenet_sat_4bit", "seeds"),
    )
    assert_holds(found, resumed, 1e-12)
    assert settings["quant"]["weight"]["bits"] == 4
    (file,) = folders[-1].glob("files/media/table/*.json")
    table = json.loads(file.read_text())
    assert_table([table["columns"], *table["data"]], resumed)
    report = folders[-1] / "files/result.json"
    assert json.loads(report.read_text())["name"] == "lenet_sat_4bit"
    assert not (ROOT / "wandb").exists()


@pytest.mark.slow
def test_jobs_of_a_sweep_are_runs_of_their_own_with_all_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (f'hydra.sweep.dir="{tmp_path}/bits"', f'sweep.cache="{tmp_path}/cache"')
    ended = run(tmp_path, "-m", *words_in(tmp_path, *places), "quant.weight.bits=4,3")
    assert ended.code == 0, ended.output
    assert "is reused" in ended.output  # the clamp phase, which the second job does not train
    folders = {bits_of(file): file.parent for file in tmp_path.glob("bits/*/config.yaml")}
    assert folders.keys() == {"3", "4"}
    client = mlflow_client(tmp_path, monkeypatch)
    (experiment,) = [x for x in client.search_experiments() if x.name != "Default"]
    assert experiment.name == "bits"
    tracked = client.search_runs([experiment.experiment_id])
    assert len(tracked) == 2
    for one in tracked:
        folder = folders[one.data.params["quant/weight/bits"]]
        for name, by_step in expected(folder).items():
            history = client.get_metric_history(one.info.run_id, name)
            if name != "epoch":
                assert {x.step: x.value for x in history} == by_step
    for folder in folders.values():
        (own,) = (folder / "wandb").glob("offline-run-*")
        epochs = [
            items["epoch"]
            for message in wandb_files.messages(own)
            if "train/loss" in (items := wandb_files.items(message.history.item))
        ]
        assert epochs == [0, 1, 2]
