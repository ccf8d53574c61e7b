"""Runs that hold too much: report and compare end soon, in little memory, with a small page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from written_runs import write_run

from qatlab.errors import ConfigError
from qatlab.results import limits
from qatlab.results.compare import results

ROOT = Path(__file__).parents[3]
SECONDS = 30  # of one core
MEGABYTES = 300  # of memory
PAGE = 10_000_000  # bytes

Make = Callable[[Path], object]


# Runs a command with several lists of words, and tells what each has taken.
CODE = """
import json, re, sys, time
from qatlab.cli.main import run
command, *commands = json.load(sys.stdin)
for words in commands:
    start = time.process_time()
    code = run([command, *words])
    print("\\0", code, time.process_time() - start, flush=True, file=sys.stderr)
print(re.search(r"VmHWM: *(\\d+)", open("/proc/self/status").read().replace("\\t", " "))[1])
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    told: str


def run(module: str, commands: Sequence[Sequence[str | Path]]) -> list[Ended]:
    """Run commands in a process of their own; fail if one takes too long, or too much memory."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps([module, *commands], default=str),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) / 1024 < MEGABYTES
    assert len(done.stdout) < 500_000 * len(commands)
    ended = []
    for part in re.split("\0(?=.)", "\n" + done.stderr)[1:]:
        code, seconds = part.split()[:2]
        assert float(seconds) < SECONDS
        ended.append(int(code))
    told = re.split("\0 .*\n", done.stderr)
    assert max(map(len, done.stderr.splitlines())) < 5000
    return [Ended(*one) for one in zip(ended, told, strict=False)]


def metrics(header: str, row: str, rows: int) -> Make:
    return lambda run: (run / "metrics.csv").write_text(f"{header}\n" + f"{row}\n" * rows)


def columns(count: int, what: str = "alpha") -> str:
    return "epoch," + ",".join(f"quant/s{i}/{what}" for i in range(count))


def result(**changed: Any) -> Make:
    def write(run: Path) -> None:
        content = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**content, **changed}))

    return write


def layers(count: int, **changed: Any) -> Make:
    def write(run: Path) -> None:
        content = json.loads((run / "layers.json").read_text())
        row = content["layers"][0]
        content["layers"] = [{**row, "name": f"conv{i}", **changed} for i in range(count)]
        (run / "layers.json").write_text(json.dumps(content))

    return write


def text(name: str, content: str) -> Make:
    return lambda run: (run / name).write_text(content)


def unfinished(name: str, content: str, **others: str) -> Make:
    """Leave a run that failed before its end."""

    def write(run: Path) -> None:
        (run / "result.json").unlink()
        if name != "config.yaml":
            (run / "config.yaml").unlink()
        (run / "error.txt").write_text("It failed.\n")
        for file, own in ((name, content), *others.items()):
            (run / file).write_text(own)

    return write


def deep_and_long() -> dict[str, Any]:
    """Return mappings inside of each other, whose keys joined would be megabytes, many times."""
    content: dict[str, Any] = {f"leaf{i}": i for i in range(4000)}
    for _ in range(400):
        content = {"k" * 4000: content}
    return content


CSV = "metrics.csv"  # is not compared
OVERRIDES = ".hydra/overrides.yaml"
LEFT_OUT: dict[str, tuple[Make, str]] = {
    "columns": (metrics(columns(50_000), "0" + ",1" * 50_000, 5), "metrics.csv has 50,000 columns"),
    "cells": (
        metrics("epoch," + ",".join(map(str, range(19_999))), "0" + "," * 19_999, 1001),
        "metrics.csv has more than 20,000,000 cells",
    ),
    "bytes": (
        lambda run: os.truncate(run / "metrics.csv", (256 << 20) + 1),
        "metrics.csv: it has 268 MB, and at most",
    ),
    "names of columns": (
        metrics("epoch," + ",".join(f"quant/{'<' * 980}{i}/alpha" for i in range(900)), "0", 0),
        "metrics.csv is too large for a page, which would have 5.3 MB",
    ),
    "name of a column": (
        metrics(f"epoch,quant/{'x' * 100_000}/alpha", "0,1", 1),
        "metrics.csv:1: a column has a name of more than 1,000 characters",
    ),
    "points": (
        lambda run: (run / "metrics.csv").write_text(
            columns(5000)
            + "\n"
            + "".join(f"{10**15 + i}" + f",-1.2345{i % 9}e-100" * 5000 + "\n" for i in range(100))
        ),
        "metrics.csv is too large for a page",
    ),
    "name of 60 MB": (result(name="x" * 60_000_000), "result.json: it has 60 MB, and at most 13"),
    "name of 1 MB": (result(name="x" * 1_000_000), "result.json is not the result of a run: name "),
    "commit": (
        result(environment={"commit": "c" * 1_000_000}),
        "commit has 1,000,000 characters, and at most 1,000 are read",
    ),
    "device": (result(environment={"device": "c" * 1001}), "device has 1,001 characters"),
    "phase": (result(test={"phase": "quantize" * 20}), "phase has 160 characters, and at most 100"),
    "epochs of 14 MB": (
        result(epochs={f"k{i}": 1 for i in range(1_000_000)}),
        "result.json: it has 14 MB",
    ),
    "epochs": (result(epochs={f"k{i}": 1 for i in range(101)}), "epochs has more than 100 names"),
    "name of epochs": (result(epochs={"k" * 101: 1}), "one of more than 100 characters"),
    "lists": (
        text("result.json", '{"a":[' + "[]," * 3_000_000 + "[]]}"),
        "result.json: it holds more than 500,000 mappings, lists and texts",
    ),
    "numbers": (text("result.json", '{"😀":[' + "1.5," * 3_000_000 + "1]}"), "no 'test'"),
    "digits": (text("result.json", f'{{"a":1{"0" * 1_000_000}.0}}'), "is too large a number"),
    "methods": (
        layers(3, quantizer={"method": "m" * 1_000_000}),
        "layers.json does not hold the layers of a run: method has 1,000,000 characters",
    ),
    "name of a layer": (layers(1, name="m" * 301), "name has 301 characters, and at most 300"),
    "type of a layer": (layers(1, type="m" * 301), "type has 301 characters, and at most 300"),
    "layers of 8 MB": (layers(40_000), "layers.json: it has 8 MB, and at most 4 MB are read"),
    "layers": (
        text("layers.json", '{"layers":[' + "{}," * 5000 + "{}]}"),
        "layers has 5,001 entries, and at most 5,000 are read",
    ),
    "overrides": (
        text(OVERRIDES, "".join(f"- key{i}={i}\n" for i in range(100_000))),
        "overrides.yaml: it has 2 MB, and at most 33 kB are read",
    ),
    "hexadecimal": (text(OVERRIDES, "- 0x" + "f" * 30_000), "a number of more than 1000 char"),
    "sexagesimal": (
        unfinished("config.yaml", "name: 1" + ":1" * 500_000),
        "config.yaml: a number of more than 1000 characters",
    ),
    "values of YAML": (
        unfinished("config.yaml", "a: [" + "[]," * 300_000 + "[]]"),
        "config.yaml: it has more than 20,000 values",
    ),
    "alias": (
        unfinished("config.yaml", f"a: &{'b' * 90_000} 1\nc: *{'b' * 90_000}\n"),
        "refers to another part of the file",
    ),
    "tag": (unfinished("config.yaml", f"a: !<{'b' * 900_000}> 1\n"), "is not a plain value"),
    "config": (text("config.yaml", "y" * 51_000_000), "config.yaml: it has 51 MB"),
    "error": (unfinished("error.txt", "y" * 50_000_000), "error.txt: it has 50 MB"),
}
AMPLIFIED = "${hydra:runtime.choices.model}" * 3000
CHOICES = json.dumps({"hydra": {"runtime": {"choices": {"model": "x" * 300_000}}}})
SHOWN: dict[str, Make] = {
    "error": unfinished("error.txt", "<" * 1_000_000),
    "config": text("config.yaml", "\x01" * 1_000_000),
    "name": unfinished("config.yaml", f"name: '{'<' * 1_000_000}'\nseed: 1\n"),
    "name of choices": unfinished(
        ".hydra/config.yaml", json.dumps({"name": AMPLIFIED}), **{".hydra/hydra.yaml": CHOICES}
    ),
    "seed": unfinished("config.yaml", f"name: a\nseed: 0x{'f' * 900}\n"),
    "overrides": text(OVERRIDES, json.dumps(["'" * 32_000])),
    "layers": layers(5000),
    "points": metrics(columns(5000), "0" + ",0.123456" * 5000, 1000),
    "classes": result(test={"top1": 0.9, "confusion": [[0] * 1500] * 1500}),
    "counts": result(test={"top1": 0.9, "confusion": [[1 << 62] * 100] * 100}),
    "name of escapes": result(name="\x01" * 1000),
    "quoted": metrics("epoch,val/acc", '"0",1', 300_000),
    "blank": metrics("epoch,val/acc", "", 2_000_000),
}
COMPARED: dict[str, Make] = {
    "keys": result(extra={f"k{i}": i for i in range(6000)}),
    "long keys": result(extra=deep_and_long()),
    "long values": result(extra={f"k{i}": "x" * 2000 for i in range(4900)}),
}


def test_a_run_that_holds_too_much_is_left_out_with_a_sentence(
    tmp_path: Path,
) -> None:
    runs, page = tmp_path / "runs", tmp_path / "page.html"
    write_run(runs / "sound", top1=0.8)
    for name, (make, _) in LEFT_OUT.items():
        write_run(runs / name, top1=0.9)
        make(runs / name)
    (ended,) = run("report", [[runs, "-o", page]])
    assert page.stat().st_size < PAGE
    assert ended.code == 1
    lines = [
        line.removeprefix("Error: ").split(" is left out: ") for line in ended.told.split("\n")
    ]
    sentences = {line[0]: line[1] for line in lines if len(line) == 2}
    assert set(sentences) == set(LEFT_OUT)
    for name, (_, words) in LEFT_OUT.items():
        told = sentences[name]
        assert words in told
        assert str(runs / name) in told
        assert len(told) < len(str(runs / name)) + 250


@pytest.mark.slow
def test_what_a_page_shows_of_a_run_is_little_whatever_it_holds(tmp_path: Path) -> None:
    commands = []
    for name, make in SHOWN.items():
        write_run(tmp_path / name / "a", top1=0.9)
        make(tmp_path / name / "a")
        commands.append([tmp_path / name, "-o", tmp_path / f"{name}.html"])
    for ended, name in zip(run("report", commands), SHOWN, strict=True):
        assert ended.code == 0, ended.told
        assert (tmp_path / f"{name}.html").stat().st_size < PAGE
        assert (tmp_path / f"{name}.csv").stat().st_size < PAGE


@pytest.mark.parametrize(
    "kinds",
    [
        COMPARED | {name: SHOWN[name] for name in ("config", "name of choices", "layers")},
        pytest.param(SHOWN, marks=pytest.mark.slow),
        pytest.param(
            {k: make for k, (make, words) in LEFT_OUT.items() if CSV not in words},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["of compare alone", "shown on pages", "left out of pages"],
)
def test_runs_of_any_size_are_compared_or_refused(kinds: dict[str, Make], tmp_path: Path) -> None:
    write_run(tmp_path / "sound", top1=0.9)
    commands = []
    for name, make in kinds.items():
        write_run(tmp_path / name, top1=0.8)
        make(tmp_path / name)
        commands.append([tmp_path / "sound", tmp_path / name])
    for ended, name in zip(run("compare", commands), kinds, strict=True):
        assert ended.code in (0, 1)
        assert ended.told.count("Error: ") == ended.code
        assert ended.code == 0 or str(tmp_path / name) in ended.told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("keys", "result.json: it has more than 5,000 keys"),
        ("long keys", "result.json: it has a key of more than 1,000 characters"),
    ],
)
def test_what_is_compared_has_few_keys_that_are_short(
    tmp_path: Path, name: str, words: str
) -> None:
    write_run(tmp_path, top1=0.9)
    COMPARED[name](tmp_path)
    with pytest.raises(ConfigError, match=words):
        results(tmp_path)


def test_texts_are_shortened_where_all_can_see_it() -> None:
    assert limits.shortened("abcdefghij", 10) == "abcdefghij"
    assert limits.shortened("abcdefghij", 5) == "abc … 5 characters … ij"
