"""The command ``qatlab`` in a project of its own, which has ``conf/`` and modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killable_runs import Ended, start_forked
from mistakes import TINY

from qatlab.cli.main import COMMANDS, main
from qatlab.sweep import search

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, width=4):
        super().__init__(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, num_classes),
        )
"""


def run(folder: Path, *words: str) -> Ended:
    return start_forked(folder / "log", "qatlab", *words, PWD=str(folder))


def test_an_own_project_needs_nothing_but_the_package(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NET)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: mine.Net\nwidth: 3\n")
    words = (*TINY, "data.validation=100", "schedule.clamp_epochs=0", "hydra.run.dir=run")
    trained = run(tmp_path, "train", "model=mine", *words)
    assert trained.code == 0, trained.output
    exported = run(tmp_path, "export", "run", "--format", "c", "-o", "net.c")
    assert exported.code == 0, exported.output
    assert (tmp_path / "net.c").stat().st_size > 0
    tested = run(tmp_path, "test", "run=run")
    assert tested.code == 0, tested.output
    resumed = run(tmp_path, "train", "resume=run")
    assert "run is finished" in resumed.output
    (tmp_path / "conf/model/mine.yaml").rename(tmp_path / "conf/model/mine.txt")
    tested = run(tmp_path, "test", "run=run")  # which nothing of the user's names any more
    assert tested.code == 1
    assert "add allow=mine." in tested.output
    command = [sys.executable, "-m", "qatlab", "report", ".", "-o", "report.html"]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    reported = subprocess.run(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE)
    assert b"| mine_sat_4bit |" in reported.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tran"], "tran is not a command. Did you mean 'train'?"),
        (["quant=sat_4bit"], "quant=sat_4bit is not a command. Accepted: init, train, plan"),
        (["compare", "a", "b"], "a is not the folder of a run"),
        (["import", "convert", "none.ini"], "none.ini"),
    ],
)
def test_wrong_words_are_reported(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qatlab", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code not in (0, None)
    assert told in capsys.readouterr().err


def test_ctrl_c_before_the_run_begins_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["qatlab", "train"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(search, "register", interrupt)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130  # as a shell reports SIGINT
    assert capsys.readouterr().out == "\nInterrupted.\n"


def test_a_reader_that_has_ended_is_reported_in_one_sentence(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-u", "-m", "qatlab", "train", "--cfg", "job"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=variables, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert ended.returncode == 1
    told = "Error: cannot write to a pipe: the program that reads it has ended.\n"
    assert ended.stderr == told


def test_a_folder_of_configurations_that_is_a_link_to_itself_is_none(tmp_path: Path) -> None:
    (tmp_path / "conf").symlink_to("conf")
    ended = run(tmp_path, "train", "--cfg", "job")
    assert ended.code == 0, ended.output


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_bytes(b"seed: \xff\n")
    ended = run(tmp_path, "train")
    assert ended.code == 1
    told = f"Error: cannot read {tmp_path}/conf/config.yaml: it is not UTF-8 text (byte 6).\n"
    assert told in ended.output


def test_help_names_each_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qatlab", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_a_full_disk_takes_no_help(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "qatlab", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
