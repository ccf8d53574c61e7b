from __future__ import annotations

import json
from pathlib import Path

import pytest
from written_runs import write_result, write_run

from qatlab.cli.main import run as run_command
from qatlab.cli.report import main

DOCS = Path(__file__).parents[3] / "docs"


def test_seeds_of_a_name_share_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "a/1", "lenet", 2, top1=0.99)
    write_result(tmp_path / "b", "lenet", 1, top1=0.98)
    main([str(tmp_path)])
    row = "| lenet |  | 8 clamp + 12 quantize | 31,798 |  |  | 1, 2 | 98.50 | 0.71 | 0123456 |"
    assert row in capsys.readouterr().out.splitlines()


def test_a_row_has_bits_costs_and_the_time_of_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", top1=0.9, weight_bits=2, activation_bits=3)
    result = json.loads((tmp_path / "a/result.json").read_text())
    epochs = sum(result["epochs"].values())
    (tmp_path / "a/result.json").write_text(json.dumps({**result, "seconds": 7.0 * epochs}))
    main([str(tmp_path)])
    cells = capsys.readouterr().out.splitlines()[2].split(" | ")
    assert (cells[1], cells[5]) == ("2/3", "7")
    operations = json.loads((tmp_path / "a/layers.json").read_text())["bit_operations"]
    assert cells[4] == f"{operations:,}"


def test_the_commit_of_an_own_project_stands_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, commit in ((1, "fedcba9876543210"), (2, "")):
        write_result(tmp_path / str(seed), "lenet", seed, top1=0.98)
        result = json.loads((tmp_path / str(seed) / "result.json").read_text())
        result["environment"]["project_commit"] = commit
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(result))
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[2].endswith("| 0123456, fedcba9 |")


def test_runs_that_recorded_no_overrides_are_told_apart_by_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("plain", "distilled"):
        write_result(tmp_path / name, "lenet", 1, top1=0.98)
    main([str(tmp_path)])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| lenet (distilled)", "| lenet (plain)"]


def test_a_run_without_classes_has_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "a", "autoencoder", 1)
    write_result(tmp_path / "b", "lenet", 1, top1=0.98)
    main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "| autoencoder |  | 8 clamp + 12 quantize | 31,798 |  |  | 1 | none |  |" in out
    assert "| lenet |" in out


def test_runs_of_a_name_with_other_overrides_have_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Activation bits change neither the name nor the size.
    for i, bits in enumerate((2, 4)):
        for seed in (1, 2):
            path = tmp_path / f"{bits}_{seed}"
            write_run(path, top1=0.9 + 0.01 * i, seed=seed, activation_bits=bits)
    main([str(tmp_path)])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[6], row[7]) for row in rows] == [
        ("| lenet_sat quant.activation.bits=2", "1, 2", "90.00"),
        ("| lenet_sat quant.activation.bits=4", "1, 2", "91.00"),
    ]


def test_a_name_cannot_break_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "a", "lenet | x\ny", 1, top1=0.5)
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[2].startswith("| lenet \\| x y |  | 8 clamp")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "is not the result of a run: no 'test'"),
        ('{"name": "a", "test": 1}', "is not the result of a run: "),
        ("[]", "it holds no mapping"),
    ],
)
def test_what_is_no_result_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (tmp_path / "result.json").write_text(content)
    assert run_command(["report", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "result.json" in told
    assert words in told


def test_a_folder_without_runs_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["report", str(tmp_path)]) == 1
    assert "holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("folder", sorted((DOCS / "runs").iterdir()), ids=lambda path: path.name)
def test_the_page_of_results_has_the_table_of_the_committed_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(folder)])
    rows = capsys.readouterr().out.strip()
    assert len(rows.splitlines()) > 2
    page = (DOCS / "results.md").read_text()
    assert f"`qatlab report docs/runs/{folder.name}` prints\n\n{rows}\n\n" in page
