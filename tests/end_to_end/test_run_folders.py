"""A run's folder belongs to that run: others write nothing into it, and it runs no code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from hydra.conf import HydraConf, RunDir
from killable_runs import NOBODY, Ended, start_forked, start_forked_at_once
from mistakes import FINISHED
from omegaconf import OmegaConf

from qatlab.cli.main import run as run_command
from qatlab.config import folders
from qatlab.errors import ConfigError
from qatlab.run.loading import load_run
from qatlab.system.files import read_json

Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    log = tmp_path_factory.mktemp("log") / "log"
    return lambda script, *words: start_forked(log, script, *words)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a run, but for the lock, which is empty."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def test_runs_that_start_together_have_a_folder_and_a_record_each(tmp_path: Path) -> None:
    commands = [(*FINISHED, "schedule.clamp_epochs=0", f"seed={seed}") for seed in (1, 2, 3)]
    ended = start_forked_at_once(tmp_path, "train.py", *commands)
    assert [one.code for one in ended] == [0, 0, 0], [one.output for one in ended]
    folder = tmp_path / "outputs/runs/lenet_sat_4bit"
    assert (folder / "latest").resolve().parent == folder
    runs = sorted(path for path in folder.iterdir() if path.name != "latest")
    assert sorted(read_json(run / "result.json")["seed"] for run in runs) == [1, 2, 3]
    for run in runs:
        seed = read_json(run / "result.json")["seed"]
        assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == seed
        assert f"seed={seed}" in yaml.safe_load((run / ".hydra/overrides.yaml").read_text())


def test_the_name_of_runs_means_the_newest_for_all_readers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*FINISHED, "schedule.clamp_epochs=0")
    log, here = tmp_path / "log", str(tmp_path)
    for seed in ("1", "2"):
        ended = start_forked(log, "train.py", *words, f"seed={seed}", PWD=here)
        assert ended.code == 0, ended.output
    runs = tmp_path / "outputs/runs/lenet_sat_4bit"
    newest = max(path for path in runs.iterdir() if path.name != "latest")
    assert read_json(newest / "result.json")["seed"] == 2
    said = (newest / "train.log").read_text()
    for words_said in ("Layers and sites", "epoch 1/1 [quantize] train/loss", "Top-1: "):
        assert words_said in said
    assert not (newest / "progress.json").exists()
    place = "outputs/runs/lenet_sat_4bit"
    tested = start_forked(log, "test.py", f"run={place}", PWD=here)
    assert f"{newest.name}/checkpoints/best_quantize.ckpt" in tested.output
    resumed = start_forked(log, "train.py", f"resume={place}", PWD=here)
    assert f"{newest.name} is finished; there is nothing to resume" in resumed.output
    planned = start_forked(log, "train.py", "mode=plan", *FINISHED, PWD=here)
    assert planned.code == 0
    assert sorted(path.name for path in (tmp_path / "outputs/runs").iterdir()) == [runs.name]
    assert len(list(runs.iterdir())) == 3
    monkeypatch.chdir(tmp_path)
    assert run_command(["export", place, "--format", "c", "-o", "net.c"]) == 0
    assert run_command(["verify", f"{place}/latest", "--images", "5"]) == 0
    assert run_command(["compare", place, str(newest)]) == 0
    assert run_command(["export", "outputs/runs", "--format", "c", "-o", "net.c"]) == 1
    assert "In it are: lenet_sat_4bit" in capsys.readouterr().err
    assert run_command(["report", "outputs/runs"]) == 0
    table = capsys.readouterr().out
    assert table.count("| lenet_sat_4bit |") <= 2  # the link is no run of its own


def test_folders_that_are_named_by_one_second_get_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "_named_by_time", {"runs/now"})
    made = []
    for _ in range(3):
        cfg = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf(run=RunDir("runs/now")))})
        folders.OwnFolder().on_run_start(cfg)
        made.append(cfg.hydra.run.dir)
    assert made == ["runs/now", "runs/now-2", "runs/now-3"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["now", "now-2", "now-3"]


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("train.py", ("seed=77", "hydra.run.dir=RUN"), "already holds a run: continue it with"),
        ("train.py", ("mode=plan", "hydra.run.dir=RUN"), "already holds a run: write to another"),
        ("test.py", ("run=RUN", "hydra.run.dir=RUN"), "already holds a run: write to another"),
        ("train.py", ("resume=RUN",), "is finished; there is nothing to resume"),
        ("train.py", ("resume=RUN", "seed=77"), "cannot be combined with resume="),
        ("test.py", ("run=RUN", "seed=77"), "cannot be combined with run="),
    ],
)
def test_no_command_changes_a_finished_run(
    finished: Path, command: Command, script: str, words: Sequence[str], told: str
) -> None:
    before = content_of(finished)
    ended = command(script, *(word.replace("RUN", str(finished)) for word in words))
    assert told in ended.output
    after = content_of(finished)
    assert {name: after[name] for name in before} == before
    new = {name for name in after.keys() - before.keys() if not name.startswith("resumed/")}
    assert not new


def test_a_run_in_training_is_not_written_to(finished: Path, command: Command) -> None:
    before = content_of(finished)
    with FileLock(finished / ".lock"):
        ended = command("train.py", *FINISHED, "seed=77", f"hydra.run.dir={finished}")
    assert ended.code == 1
    assert "is being trained by another process" in ended.output
    assert content_of(finished) == before


@pytest.mark.parametrize("folder", ["/elsewhere", "${folder}/others", "checkpoints"])
def test_checkpoints_outside_of_their_run_are_refused_before_training(
    folder: str, tmp_path: Path, command: Command
) -> None:
    word = f"callbacks.checkpoint.folder={folder}"
    ended = command("train.py", *FINISHED, word, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    assert "Error: callbacks.checkpoint.folder=" in ended.output
    assert "Accepted: ${folder}/checkpoints." in ended.output
    assert not (tmp_path / "run/config.yaml").exists()


def test_no_reader_of_runs_calls_what_a_configuration_names(
    finished: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pwned = tmp_path / "run", tmp_path / "pwned"
    shutil.copytree(finished, run)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["data"]["source"]["noise"] = {"_target_": "os.system", "command": f"touch {pwned}"}
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    (run / "result.json").rename(run / "was.json")  # unfinished, so that it can be resumed
    told = "config.yaml: data.source.noise._target_=os.system is refused"
    assert told in command("train.py", f"resume={run}").output
    (run / "was.json").rename(run / "result.json")
    assert told in command("test.py", f"run={run}").output
    assert run_command(["verify", str(run)]) == 1
    assert told in capsys.readouterr().err
    assert run_command(["export", str(run), "--format", "c", "-o", str(tmp_path / "net.c")]) == 1
    assert told in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"os\.system is refused"):
        load_run(run)
    assert not pwned.exists()


def test_own_code_is_called_by_each_reader_that_allows_it(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    own = ("model._target_=killable_runs.OwnLeNet", "+callbacks.kill._target_=killable_runs.KillAt")
    words = (*own, "schedule.clamp_epochs=0")
    assert command("train.py", *FINISHED, *words, f"hydra.run.dir={run}").code == 0
    refused = "_target_=killable_runs.OwnLeNet is refused"
    assert run_command(["verify", str(run)]) == 1
    assert refused in capsys.readouterr().err
    assert run_command(["verify", str(run), "allow=killable_runs", "--images", "5"]) == 0
    assert "5 images; accumulator bits" in capsys.readouterr().out
    assert (
        run_command(["export", str(run), "allow=[killable_runs]", "--format", "c", "-o", "net.c"])
        == 0
    )
    assert command("test.py", f"run={run}").code == 0  # which the helper allows
    with pytest.raises(ConfigError, match=refused):
        load_run(run)
    assert load_run(run, allow=["killable_runs"]).model is not None
    assert run_command(["verify", str(run), "seed=1"]) == 1
    assert "seed=1 cannot be combined with" in capsys.readouterr().err


def test_equal_runs_leave_weights_of_equal_bytes(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    assert command("train.py", *FINISHED, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    name = "weights.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        *("{", '{"checkpoint": "../x.ckpt"}'),
        *(pytest.param(content, marks=pytest.mark.slow) for content in ("", "[1]", "{}")),
    ],
)
def test_a_damaged_result_is_written_anew_by_a_resume(
    content: str, finished: Path, tmp_path: Path, command: Command
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = read_json(run / "result.json")
    (run / "result.json").write_text(content)
    tested = command("test.py", f"run={run}")
    assert (tested.code, "Traceback" in tested.output) == (1, False)
    assert "Error: " in tested.output
    assert str(run / "result.json") in tested.output
    ended = command("train.py", f"resume={run}")
    assert ended.code == 0, ended.output
    assert "the network is tested again" in " ".join(ended.output.split())
    after = read_json(run / "result.json")
    assert after["test"] == before["test"]
    assert after["best"] == before["best"]


def test_a_folder_that_is_deleted_in_training_is_whole_at_the_end(
    tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    target = "+callbacks.gone._target_=killable_runs.DeleteFolder"
    words = (target, f"+callbacks.gone.folder={run}", f"hydra.run.dir={run}")
    ended = command("train.py", *FINISHED, *words)
    assert ended.code == 0, ended.output
    assert f"{run} was deleted during training" in ended.output
    for name in ("config.yaml", "layers.json", "result.json", "metrics.csv", "weights.safetensors"):
        assert (run / name).is_file(), name
    assert command("test.py", f"run={run}").code == 0


def test_a_user_without_home_and_name_trains(tmp_path: Path) -> None:
    words = (*FINISHED, "schedule.clamp_epochs=0", f"hydra.run.dir={tmp_path / 'run'}")
    ended = start_forked(tmp_path / "log", "train.py", *words, **{NOBODY: "1"})
    assert ended.code == 0, ended.output
    result = read_json(tmp_path / "run/result.json")
    has_compiler = any(map(shutil.which, ("c++", "g++", "clang++")))
    assert result["environment"]["kernels"] == ("compiled" if has_compiler else "definitions")


def test_links_in_a_run_are_not_followed(finished: Path, tmp_path: Path, command: Command) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "result.json").unlink()
    for name in (
        "result.tmp.json",
        "environment.tmp.json",
        "metrics.tmp.csv",
        "weights.tmp.safetensors",
    ):
        (run / f".{name}").symlink_to(victim)
    assert command("train.py", f"resume={run}").code == 0
    assert victim.read_text() == "mine"
    (run / "result.json").unlink()
    shutil.move(run / "checkpoints", tmp_path / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path / "checkpoints")
    ended = command("train.py", f"resume={run}")
    assert ended.code == 1
    assert "checkpoints is a link, which the folder of a run must not contain" in ended.output


def test_the_inside_of_a_run_is_no_place_for_another(finished: Path, command: Command) -> None:
    before = content_of(finished)
    ended = command("train.py", *FINISHED, f"hydra.run.dir={finished}/.hydra")
    assert "lies in the folder of another run" in ended.output
    ended = command("test.py", f"run={finished}", f"save_outputs={finished}/result.json")
    assert "Accepted: a file that ends in .npz" in ended.output
    after = content_of(finished)
    assert {name: after[name] for name in before} == before


def test_what_a_run_holds_reaches_a_terminal_as_text(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["model"]["\x1b[31mred"] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    ended = command("test.py", f"run={run}")
    assert ended.code == 1
    assert "\x1b" not in ended.output
    assert "\\x1b[31mred" in ended.output


def test_a_configuration_that_was_changed_after_the_training_is_refused(
    finished: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    was = stored["quant"]["activation"]["bits"]
    stored["quant"]["activation"]["bits"] = was + 1
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    told = f"quant.activation.bits is {was + 1}, and the run was trained with {was}"
    assert told in command("test.py", f"run={run}").output
    for words in (["verify", str(run)], ["compare", str(run), str(finished)]):
        assert run_command(words) == 1
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["result.json", "environment.json", "metrics.csv"])
def test_a_folder_in_the_place_of_a_file_is_reported_before_training(
    name: str, finished: Path, tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    before = content_of(run)
    ended = command("train.py", f"resume={run}")
    assert ended.code == 1
    assert f"{run / name} is a folder, where a run has a file; move it away." in ended.output
    assert content_of(run) == before
