"""Runs side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qatlab.cli.main import run as run_command
from qatlab.results.compare import differences


def left(folder: Path, config: str, bits: int | None, result: dict[str, Any] | None) -> Path:
    """Leave what a run leaves; without a result it was killed."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    layers = [{"name": "conv1", "bits": 8}, {"name": "conv2", "bits": bits}]
    (folder / "layers.json").write_text(json.dumps({"layers": layers}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({"name": "lenet", **result}))
    return folder


CONFIG = "seed: {}\nsolver: {{optimizer: {{lr: 0.05, nesterov: {}}}}}\n"


def printed(capsys: pytest.CaptureFixture[str], *runs: Path) -> dict[str, list[str]]:
    """Return the rows of all tables, by their first cell."""
    run_command(["compare", *map(str, runs)])
    lines = capsys.readouterr().out.splitlines()
    cells = [[c.strip() for c in x.strip("┃│").replace("┃", "│").split("│")] for x in lines]
    return {row[0]: row[1:] for row in cells}


def test_a_table_has_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"top1": 0.98, "loss": 0.1, "confusion": [[1]]}
    one = left(
        *(tmp_path / "a/1", CONFIG.format(1, "true"), 4),
        {"test": scores, "size_bytes": 31798, "environment": {"commit": "0123", "device": "cpu"}},
    )
    two = left(
        *(tmp_path / "b/1", CONFIG.format(2, "false") + "compile: true", None),
        {"test": {**scores, "loss": 0.25}, "environment": {"commit": "4567", "device": "cpu"}},
    )
    rows = printed(capsys, one, two)
    assert rows[""] == ["a/1", "b/1"]
    assert rows["seed"] == ["1", "2"]
    assert rows["solver.optimizer.nesterov"] == ["true", "false"]
    assert rows["compile"] == ["-", "true"]
    assert rows["conv2"] == ["4", "float"]
    assert rows["test.top1"] == ["0.98", "0.98"]  # always shown
    assert rows["test.loss"] == ["0.1", "0.25"]
    assert rows["size_bytes"] == ["31798", "-"]
    assert rows["environment.commit"] == ["0123", "4567"]
    same = {"solver.optimizer.lr", "conv1", "environment.device", "test.confusion", "folder"}
    assert not same & rows.keys()


def test_a_run_that_was_killed_has_no_results_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [left(tmp_path / str(i), CONFIG.format(1, "true"), 4, None) for i in range(2)]
    run_command(["compare", *map(str, runs)])
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == [
        "Configuration: no difference",
        "Bits of layers and sites: no difference",
        "Results: no difference",
    ]
    assert f"{runs[1]} is not finished: no result.json" in out


def test_values_are_compared_as_they_are_shown() -> None:
    assert differences([{"a": "1"}, {"a": "1", "b": "2"}], ["a", "c"]) == {
        "a": ["1", "1"],
        "b": ["-", "2"],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [(["nowhere", "there"], 1, "Error: .*nowhere"), (["nowhere"], 1, "give two runs or more")],
)
def test_a_mistake_is_reported(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["compare", *arguments]) == code

    assert re.search(told, capsys.readouterr().err)
