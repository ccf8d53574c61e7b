from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table

from qatlab.errors import ConfigError
from qatlab.system.terminal import logged, note, say, show


def test_a_log_has_what_is_said_shown_noted_and_warned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # of commands that ran before
    say("before")
    with logged(tmp_path):
        say("said")
        table = Table("column")
        table.add_row("cell")
        show(table)
        note("noted")
        print("Warning: warned", file=sys.stderr)
        logging.getLogger("some.library").warning("from %s", "elsewhere")
    say("after")
    text = (tmp_path / "train.log").read_text()
    for word in ("said", "column", "cell", "noted", "Warning: warned", "WARNING: from elsewhere"):
        assert word in text
    assert "before" not in text
    assert "after" not in text
    told = capsys.readouterr()
    assert "noted" not in told.out
    assert "cell" in told.out
    assert told.err == "Warning: warned\n"


def test_a_second_command_adds_to_the_log(tmp_path: Path) -> None:
    for words in ("one", "two"):
        with logged(tmp_path):
            say(words)
    assert (tmp_path / "train.log").read_text() == "one\ntwo\n"


def test_other_processes_of_a_run_leave_the_log_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with logged(tmp_path):
        say("said")
    assert not (tmp_path / "train.log").exists()


def test_a_log_that_is_a_link_a_pipe_or_a_folder_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").mkdir()
    (tmp_path / "link/train.log").symlink_to(victim)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/train.log")
    (tmp_path / "folder/train.log").mkdir(parents=True)
    for name in ("link", "pipe", "folder"):
        with (
            pytest.raises(ConfigError, match=r"cannot write .*train\.log"),
            logged(tmp_path / name),
        ):
            pass
    assert victim.read_text() == "mine"
