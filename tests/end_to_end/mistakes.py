"""What the tests of mistakes share: small settings, and what a good message is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qatlab.cli.main import run as run_command

TINY = (
    *("data=synthetic", "trainer=smoke", "schedule.clamp_epochs=1", "schedule.quantize_epochs=1"),
    *("data.source.training_images=600", "data.source.test_images=50"),
)
FINISHED = (*TINY, "trainer.accelerator=cpu")  # of the run that is shared
Told = Callable[..., str]


def check(message: str, words: tuple[str, ...]) -> None:
    assert re.fullmatch(r"Error: [^\n]+\n", message), message
    for word in words:
        assert word in message, message


def assert_refused(
    words: list[str],
    told: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run a command in an empty folder; it has to end in one sentence and write nothing."""
    monkeypatch.chdir(folder)
    assert run_command(words) == 1
    check(capsys.readouterr().err, (told,))
    assert os.listdir(folder) == []
