"""Runs as a table of pandas."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from written_runs import write_run

import qatlab
from qatlab.cli.main import run as run_command
from qatlab.errors import ConfigError


def test_each_run_has_a_row_with_its_method_bits_score_and_costs(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    write_run(tmp_path / "runs/a", top1=0.9, method="lsq", weight_bits=2)
    write_run(tmp_path / "runs/b", top1=0.8, seed=2)
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/error.txt").write_text("bits=77 is wrong.\n")
    frame = qatlab.load_runs(tmp_path / "runs").set_index("folder")
    assert len(frame) == 3
    first = frame.loc[str(tmp_path / "runs/a")]
    assert (first.method, first.weight_bits, first.activation_bits) == ("LSQ", "2", "4")
    # 4 layers of 576 weights, of 8, 2, 2 and 8 bits
    assert (first.top1, first.size_bytes, first.seconds) == (0.9, 1440, 12.3)
    assert first.bit_operations == 1000 * (8 * 8 + 2 * 4 + 2 * 4 + 8 * 4)
    assert frame.loc[str(tmp_path / "runs/c")].state == "failed"
    assert frame.top1.max() == 0.9


def test_columns_are_those_of_the_reports_csv(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    write_run(tmp_path / "runs/a", top1=0.9)
    assert run_command(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "page.html")]) == 0
    with (tmp_path / "page.csv").open() as file:
        (row,) = csv.DictReader(file)
    frame = qatlab.load_runs(str(tmp_path / "runs"))
    assert list(frame.columns) == list(row)
    assert row["top1"] == str(frame.top1[0])


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    with pytest.raises(ConfigError, match=r"holds no run\."):
        qatlab.load_runs(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read .*none"):
        qatlab.load_runs(tmp_path / "none")


def test_where_pandas_is_missing_the_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'qatlab\[pandas\]'"):
        qatlab.load_runs(tmp_path)
