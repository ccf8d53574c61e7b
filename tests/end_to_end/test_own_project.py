"""Each command of the README of a project that `qatlab init` has made."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from killable_runs import Ended, start_forked

FEW = ("schedule.float_epochs=1", "schedule.quantize_epochs=1")  # of a sweep


def qatlab(folder: Path, *words: str) -> Ended:
    return start_forked(folder.parent / "log", "qatlab", *words, PWD=str(folder))


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command of `qatlab` on a page."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(blocks).splitlines()
    assert all(line.startswith("qatlab ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def test_each_command_of_a_new_projects_page_works(tmp_path: Path) -> None:
    project = tmp_path / "myproject"
    made = start_forked(tmp_path / "log", "qatlab", "init", "myproject", PWD=str(tmp_path))
    assert made.code == 0, made.output
    assert "cd myproject\n  qatlab train experiment=first\n" in made.output
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for git in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *git], cwd=project, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project, text=True).strip()
    words = commands(project / "README.md")
    assert [command for command, *_ in words] == [
        *("plan", "train", "test", "report", "export", "verify", "export", "verify"),
        *("train", "report"),
    ]
    for command in words:
        if not find_spec("onnxruntime") and "first.onnx" in command:
            continue
        few = FEW if "-m" in command else ()
        ended = qatlab(project, *command, *few)
        assert ended.code == 0, ended.output
        if command == ["train", "experiment=first"]:
            result = json.loads((project / "outputs/runs/first/latest/result.json").read_text())
            assert result["test"]["top1"] > 0.6  # chance is a third
    assert f" project_commit {head}\n" in (project / "first.c").read_text()
    if find_spec("onnxruntime"):
        metadata = import_module("onnx").load(project / "first.onnx").metadata_props
        assert {one.key: one.value for one in metadata}["project_commit"] == head
    runs = len(list((project / "outputs/sweeps").glob("*/*/result.json")))
    assert runs == 4
    page = (project / "report.html").read_text()
    assert '"command":"qatlab train experiment=first"' in page


def test_an_option_that_a_project_has_not_is_named_with_its_own(tmp_path: Path) -> None:
    start_forked(tmp_path / "log", "qatlab", "init", "mine", PWD=str(tmp_path))
    ended = qatlab(tmp_path / "mine", "plan", "model=mynett")
    assert ended.code == 1
    assert "model=mynett is unknown. Did you mean 'mynet'?" in ended.output


@pytest.mark.parametrize(("place", "folder"), [(".", "mine"), ("mine/images/train", "../..")])
def test_a_command_in_the_wrong_folder_is_told_the_projects(
    place: str, folder: str, tmp_path: Path
) -> None:
    start_forked(tmp_path / "log", "qatlab", "init", "mine", PWD=str(tmp_path))
    ended = qatlab(tmp_path / place, "plan", "experiment=first")
    assert ended.code == 1
    told = (
        f"experiment=first is unknown. The project in '{folder}' has it: change into that folder."
    )
    assert told in ended.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("test", "mine"), "'mine' has no =: a run is given as run=mine to qatlab test"),
        (("train", "mine"), "and resume=mine to qatlab train."),
        (("verify", "mine", "x.onnx"), "A file to compare with it: --onnx x.onnx"),
    ],
)
def test_a_word_that_is_no_setting_is_told_how_it_is_given(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    ended = qatlab(tmp_path, *words)
    assert ended.code == 1
    assert told in ended.output


@pytest.mark.parametrize("words", [("test", "run={}"), ("verify", "{}"), ("train", "resume={}")])
def test_a_run_from_someone_else_calls_nothing_that_came_with_it(
    words: tuple[str, str], tmp_path: Path
) -> None:
    start_forked(tmp_path / "log", "qatlab", "init", "theirs", PWD=str(tmp_path))
    theirs = tmp_path / "theirs"
    (theirs / "mynet.py").write_text("open('called', 'w')\n")
    (theirs / "config.yaml").write_text("model: {_target_: mynet.Net}\n")
    for place, name in ((tmp_path, "theirs"), (theirs, ".")):
        ended = qatlab(place, words[0], words[1].format(name))
        assert ended.code == 1
        assert "model._target_=mynet.Net is refused" in ended.output
    assert not list(tmp_path.rglob("called"))
