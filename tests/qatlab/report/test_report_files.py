from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs
from written_runs import write_result, write_run

from qatlab.cli.main import run as run_command
from qatlab.cli.report import main
from qatlab.report.picture import draw
from qatlab.report.runs import find_runs
from qatlab.report.settings import join_seeds


def test_a_page_a_table_and_a_picture_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/a", top1=0.9)
    main([str(tmp_path / "runs"), "-o", str(tmp_path / "new/report.html")])
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["report.csv", "report.html", "report.png"]  # and no temporary file
    assert (tmp_path / "new/report.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert printed.out.startswith("| run | bits | epochs |")
    assert "report.png" in printed.err  # so that the table can be redirected


def test_the_page_holds_the_library_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    main([str(tmp_path), "-o", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert page.count(get_plotlyjs()[:5000]) == 1
    assert "<script src" not in page
    assert '<link rel="stylesheet' not in page


def test_the_csv_has_a_row_for_each_run(tmp_path: Path) -> None:
    for seed, top1 in ((1, 0.97), (2, 0.99)):
        write_run(tmp_path / str(seed), top1=top1, seed=seed, overrides=["name=a, b"])
    (tmp_path / "3").mkdir()
    (tmp_path / "3/error.txt").write_text("It failed,\nand why.\n")
    main([str(tmp_path), "-o", str(tmp_path / "report.html")])
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"1", "2", "3"}
    assert rows["1"]["top1"] == "0.97"
    assert float(rows["1"]["top1_mean"]) == pytest.approx(0.98)
    assert float(rows["1"]["top1_deviation"]) == pytest.approx(0.02 / 2**0.5)
    assert (rows["2"]["weight_bits"], rows["2"]["method"]) == ("4", "SAT")
    assert "'name=a, b'" in rows["2"]["command"]
    assert (rows["3"]["state"], rows["3"]["reason"]) == ("failed", "It failed,\nand why.")


def test_the_picture_shows_fronts_and_bits(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    for bits, top1 in ((2, 0.9), (4, 0.98), (8, 0.97)):
        write_run(tmp_path / str(bits), top1=top1, weight_bits=bits, activation_bits=4)
    settings = join_seeds(find_runs(tmp_path))
    size, operations, cells = drawn(draw, settings).axes
    for axes in (size, operations):
        front = next(line for line in axes.lines if line.get_label() == "Pareto front")
        assert [round(float(y), 6) for y in front.get_ydata()] == [90, 98]  # 8 bits gain nothing
    assert [text.get_text() for text in cells.texts] == ["90.00", "98.00", "97.00"]
    labels = [label.get_text() for label in cells.get_yticklabels()]
    assert labels == ["2", "4", "8"]


@pytest.mark.parametrize("widths", [(4,), (2, 4, 8)])
def test_the_picture_has_no_table_of_one_cell_or_of_a_diagonal(
    tmp_path: Path, drawn: Callable[..., Figure], widths: tuple[int, ...]
) -> None:
    for bits in widths:
        write_run(tmp_path / str(bits), top1=0.9, weight_bits=bits, activation_bits=bits)
    axes = drawn(draw, join_seeds(find_runs(tmp_path))).axes
    assert [it.get_xlabel() for it in axes] == ["size (bytes)", "bit operations per image"]


def test_the_picture_has_no_panel_for_what_is_not_recorded(
    tmp_path: Path, drawn: Callable[..., Figure]
) -> None:
    write_result(tmp_path / "a", "lenet", 1, top1=0.9)
    (axes,) = drawn(draw, join_seeds(find_runs(tmp_path))).axes
    assert axes.get_xlabel() == "size (bytes)"


def test_runs_that_all_failed_are_a_page_without_picture(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/error.txt").write_text("no")
    main([str(tmp_path), "-o", str(tmp_path / "report.html")])
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "report.png").exists()


def test_a_page_has_the_name_of_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", top1=0.9)
    assert run_command(["report", str(tmp_path), "-o", str(tmp_path / "report.png")]) == 1
    assert "ends in .html" in capsys.readouterr().err


def test_what_stands_in_files_cannot_end_the_data(tmp_path: Path) -> None:
    name = "</script><!--<script>"
    write_run(tmp_path / "a", top1=0.9, name=name)
    main([str(tmp_path), "-o", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    block = page.partition('type="application/json">')[2].partition("</script>")[0]
    assert "<" not in block
    assert json.loads(block)["runs"][0]["name"] == name
