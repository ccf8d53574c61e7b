"""Curves of many rows: what is kept of them, and that it is little."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_runs import write_run

from qatlab.cli.report import main
from qatlab.errors import ConfigError
from qatlab.report import curves
from qatlab.report.curves import Curves, read_curves

GAPS = st.just(math.nan) | st.floats(-1e6, 1e6, width=32)


def added(values: Any, buckets: int, piece: int) -> Curves:
    """Return curves of values, shape (rows, curves), that came in pieces."""
    kept = Curves(values.shape[1], buckets)
    epochs = np.arange(len(values), dtype=float)
    for start in range(0, len(values), piece):
        kept.add(epochs[start : start + piece], values[start : start + piece])
    return kept


@given(
    rows=st.lists(st.tuples(GAPS, GAPS), min_size=1, max_size=80),
    buckets=st.integers(2, 8),
    piece=st.integers(1, 30),
)
def test_first_last_and_the_extremes_of_each_bucket_are_kept(
    rows: list[tuple[float, float]], buckets: int, piece: int
) -> None:
    values = np.array(rows)
    epochs, kept = added(values, buckets, piece).points()
    places = epochs.astype(int)
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(kept, values[places].T)  # none is moved or made up
    if len(rows) <= 2 * buckets:
        assert len(places) == len(rows)
        return
    width = 2 ** math.ceil(math.log2(len(rows) / buckets))
    assert len(places) <= 2 * (2 * buckets + 2)  # two curves
    for all_of_it, own in zip(values.T, kept, strict=True):
        known = np.flatnonzero(np.isfinite(all_of_it))
        if known.size:
            assert {known[0], known[-1]} <= set(places)
        for start in range(0, len(rows), width):
            bucket = all_of_it[start : start + width]
            shown = own[(places >= start) & (places < start + width)]
            assert shown.size
            if np.isfinite(bucket).any():
                assert np.nanmin(shown) == np.nanmin(bucket)
                assert np.nanmax(shown) == np.nanmax(bucket)
            else:
                assert np.isnan(shown).all()  # a gap stays one


def spikes(folder: Path, rows: int) -> Path:
    """Leave a run whose curves have one spike each, in a row of its own."""
    write_run(folder, top1=0.9)
    lines = ["epoch,step,phase,train/loss,val/acc,quant/relu1/alpha,quant/relu1/clipped"]
    for i in range(rows):
        loss, accuracy = 0.5 + (i == 1234) * 77, 0.9 - (i == 2345) * 0.8765
        alpha = f"{1 + (i == rows - 999) * 55}" if i >= rows // 2 else ""
        clipped = f"{0.01 + (i == rows - 555) * 0.4321:g}" if alpha else ""
        phase = "quantize" if alpha else "clamp"
        lines.append(f"{i},{10 * i},{phase},{loss},{accuracy:g},{alpha},{clipped}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder / "metrics.csv"


def test_no_peak_of_a_long_run_is_lost_and_its_phases_neither(tmp_path: Path) -> None:
    rows = 20_000
    content = read_curves(spikes(tmp_path / "a", rows))
    learning, quantizers = content["curves"], content["quantizers"]
    shown = {
        name: dict(zip(learning["epochs"], values, strict=True))
        for name, values in learning["series"].items()
    }
    assert shown["train/loss"][1235] == max(shown["train/loss"].values()) == 77.5
    assert shown["val/acc"][2346] == min(shown["val/acc"].values()) == 0.0235
    assert (learning["epochs"][0], learning["epochs"][-1]) == (1, rows)
    assert learning["phases"] == [["clamp", 1, rows // 2], ["quantize", rows // 2 + 1, rows]]
    ((name, learned, alphas, shares, of_alphas, of_shares),) = quantizers["rows"]
    assert (name, learned, quantizers["epochs"]) == ("relu1", "alpha", [rows // 2 + 1, rows])
    assert dict(zip(of_alphas, alphas, strict=True))[rows - 998] == max(alphas) == 56
    assert dict(zip(of_shares, shares, strict=True))[rows - 554] == max(shares) == 0.4421
    assert None not in alphas  # what comes before the first value is not a gap


def test_the_bytes_of_a_run_do_not_grow_with_its_rows(tmp_path: Path) -> None:
    sizes = {}
    for rows in (4_000, 40_000):
        content = read_curves(spikes(tmp_path / str(rows), rows))
        sizes[rows] = len(json.dumps(content))
        assert len(content["curves"]["epochs"]) <= 2 * (2 * curves.MOST_BUCKETS + 2)
    assert sizes[40_000] < 1.5 * sizes[4_000] < 100_000


def test_many_quantizers_share_what_a_run_may_take(tmp_path: Path) -> None:
    sites, rows = 400, 600
    columns = [f"quant/block{i}/{what}" for i in range(sites) for what in ("alpha", "clipped")]
    cells = ",".join(["0.12345"] * len(columns))
    lines = [f"epoch,{','.join(columns)}", *(f"{i},{cells}" for i in range(rows))]
    file = tmp_path / "metrics.csv"
    file.write_text("\n".join(lines))
    rows_of_page = read_curves(file)["quantizers"]["rows"]
    points = sum(len(row[2]) + len(row[3]) for row in rows_of_page)
    assert points <= 2 * curves.MOST_BUCKETS_OF_A_RUN
    assert len(rows_of_page) == sites


@pytest.mark.parametrize(
    "text",
    [
        "epoch,phase,val/acc\r\n0,clamp,0.5\r\n1,quantize,0.25\r\n",
        'epoch,phase,val/acc\n"0","clamp","0.5"\n"1","quantize","0.25"\n',
        "epoch,phase,val/acc\n0,clamp,0.5\n\n1,quantize,0.25",
        "epoch,phase,other,val/acc\n,,,\n0,clamp,,0.5\n,noted,,0.7\n1,quantize,, 0.25 \n",
        'epoch,"a,b",phase,val/acc\n0,"x, y",clamp,0.5\n1,,quantize,0.25\n',
        "phase,val/acc,epoch\nclamp,0.5,0\nquantize,0.25,1.0\n",
    ],
)
def test_a_table_may_be_written_in_other_ways(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(text.encode())
    shown = read_curves(file)["curves"]
    assert shown["series"] == {"val/acc": [0.5, 0.25]}
    assert (shown["epochs"], shown["phases"]) == ([1, 2], [["clamp", 1, 1], ["quantize", 2, 2]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ":1: this is not the header of a metrics file"),
        (b"a,b\n1,2\n", ":1: this is not the header"),
        ("epoch,val/acc\n0,0.5\n".encode("utf-16"), "it is not UTF-8 text"),
        ("epoch,val/acc\n0,0.5\n".encode("utf-16-le"), ":1: this is not the header"),
        (b"epoch,val/acc\n0,0.5\n1\n", ":3: this row is incomplete"),
        (b"epoch,val/acc\n0,0.5\n1,much\n", ":3: val/acc is 'much', not a number"),
        (b"epoch,val/acc\n0,0.5\n1," + b"9x" * 150_000, ":3: val/acc is '9x9x"),
        (b'epoch,val/acc\n0,"' + b"9" * 300_000 + b'"\n', "field larger than field limit"),
        (b"epoch,val/acc\n0," + b"9" * 3_000_000, "a line of more than 1,048,576 characters"),
        (b"epoch,val/acc\ninf,0.5\n", "an epoch that is not a whole number"),
        (b"epoch,val/acc\n-1,0.5\n", "an epoch that is not a whole number"),
        (b"epoch,val/acc\n1e300,0.5\n", "an epoch that is not a whole number"),
        (b"epoch,phase\n0," + b"x" * 300_000 + b"\n", "a name of more than 100 characters"),
        (b"epoch,phase\n" + b"0,a\n0,b\n" * 51, "more than 100 phases"),
        (b'epoch,val/acc\n0,"0.5\n', "unexpected end of data"),
    ],
)
def test_what_is_damaged_is_named_in_a_short_sentence(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_curves(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < len(str(file)) + 150


def test_the_page_of_a_long_run_is_little_more_than_its_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spikes(tmp_path / "runs/a", 20_000)
    main([str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")])
    block = (tmp_path / "report.html").read_text().partition('type="application/json">')[2]
    assert len(block.partition("</script>")[0]) < 150_000
