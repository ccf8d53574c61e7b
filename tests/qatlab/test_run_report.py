from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qatlab.report import main


def finished(folder: Path, name: str, seed: int, **test: Any) -> None:
    """Leave the result of a run."""
    folder.mkdir(parents=True)
    result = {
        **{"name": name, "seed": seed, "size_bytes": 31798, "epochs": {"clamp": 8, "quantize": 12}},
        **{"test": {"loss": 0.1, **test}, "environment": {"commit": "0123456789"}},
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_seeds_of_a_name_share_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "a/1", "lenet", 2, top1=0.99)
    finished(tmp_path / "b", "lenet", 1, top1=0.98)
    main([str(tmp_path)])
    row = "| lenet | 8 clamp + 12 quantize | 31,798 | 1, 2 | 98.50 | 98.00 | 99.00 | 0123456 |"
    assert row in capsys.readouterr().out.splitlines()


def test_a_run_without_classes_has_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "a", "autoencoder", 1)
    finished(tmp_path / "b", "lenet", 1, top1=0.98)
    main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "| autoencoder | 8 clamp + 12 quantize | 31,798 | 1 | none | none | none |" in out
    assert "| lenet |" in out


@pytest.mark.parametrize("content", ["{}", "[]", '{"name": "a", "test": 1}'])
def test_what_is_no_result_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "result.json is not the result of a run" in capsys.readouterr().err


def test_a_folder_without_runs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no finished run" in capsys.readouterr().err


def test_the_page_of_results_has_the_table_of_the_committed_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    docs = Path(__file__).parents[2] / "docs"
    main([str(docs / "runs")])
    rows = capsys.readouterr().out.strip()
    assert len(rows.splitlines()) > 2
    assert rows in (docs / "results.md").read_text()
