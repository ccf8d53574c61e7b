"""Each file of a run with each kind of damage: commands end soon, with a sentence or rightly."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from written_runs import write_run

from qatlab.cli.main import run as run_command

SECONDS = 20  # each command; those of small files take less than one
BOMB = "a: &a [x, x]\n" + "".join(
    f"b{i}: &b{i} [{', '.join(['*' + ('a' if i == 0 else f'b{i - 1}')] * 9)}]\n" for i in range(30)
)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run the main function of a command; what takes too long fails."""

    def run(*words: str | Path) -> Ended:
        capsys.readouterr()
        signal.alarm(SECONDS)
        try:
            code = run_command([str(word) for word in words])
        finally:
            signal.alarm(0)
        return Ended(code, *capsys.readouterr())

    def late(*_: Any) -> None:
        raise TimeoutError(f"this takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield run
    signal.signal(signal.SIGALRM, before)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": bytes_of(b""),
    "binary": bytes_of(bytes(range(256)) * 20),
    "zeros": bytes_of(bytes(5000)),
    "utf16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "utf16_without_mark": lambda path: path.write_bytes(path.read_text().encode("utf-16-le")),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "list": bytes_of(b"[1]"),
    "mapping": bytes_of(b"{}"),
    "number": bytes_of(b"3"),
    "null": bytes_of(b"null"),
    "deep_list": bytes_of(b"[" * 100_000 + b"]" * 100_000),
    "deep_mapping": bytes_of(b'{"test": ' * 100_000 + b"1" + b"}" * 100_000),
    "deep_value": bytes_of(b'{"test": ' * 900 + b"1" + b"}" * 900),
    "long_line": bytes_of(b'{"name": "' + b"x" * 300_000 + b'"}'),
    "huge_number": bytes_of(b'{"size_bytes": 1e400, "seed": 1}'),
    "huge_whole": bytes_of(b'{"size_bytes": ' + b"9" * 10_000 + b"}"),
    "alias_bomb": bytes_of(BOMB.encode()),
    "tag": bytes_of(b"- !!bool x\n"),
    "pipe": replaced(os.mkfifo),
    "folder": replaced(Path.mkdir),
    "device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "link_to_itself": replaced(lambda path: path.symlink_to(path)),
    "link_to_nothing": replaced(lambda path: path.symlink_to("nowhere")),
    "link_to_its_run": replaced(lambda path: path.symlink_to(path.parent)),
}
FILES = ("result.json", "layers.json", "config.yaml", "metrics.csv", ".hydra/overrides.yaml")
WITH_EACH_KIND = ("result.json", "config.yaml", "error.txt")
UNFINISHED = ("error.txt", ".hydra/config.yaml", ".hydra/hydra.yaml")
TEXTS = {kind for kind in DAMAGES if not re.match("binary|utf16$|pipe|folder|device|link", kind)}
FINE = {  # what is not damaged by this: texts that are shown as they are, other mappings, a list
    *((file, kind) for file in ("error.txt", "config.yaml") for kind in TEXTS),
    *((".hydra/config.yaml", kind) for kind in ("mapping", "long_line", "huge_number")),
    (".hydra/overrides.yaml", "list"),
}


def make(folder: Path, file: str) -> Path:
    """Leave a run that has a file, and return that."""
    write_run(folder, top1=0.9)
    if file in UNFINISHED:
        (folder / "result.json").unlink()
        (folder / "config.yaml").unlink()
        (folder / "error.txt").write_text("It failed.\n")
        name = {"name": "${hydra:runtime.choices.model}", "seed": 1}
        (folder / ".hydra/config.yaml").write_text(json.dumps(name))
        choices = {"hydra": {"runtime": {"choices": {"model": "lenet"}}}}
        (folder / ".hydra/hydra.yaml").write_text(json.dumps(choices))
    return folder / file


def check(ended: Ended, folder: Path) -> None:
    """Check that errors are sentences that name a file of the run."""
    for line in ended.err.splitlines():
        assert re.match(r"Error: |written: |$", line), line
        assert len(line) < 1000
        assert not line.startswith("Error: ") or str(folder) in line, line
    assert ("Error: " in ended.err) == (ended.code == 1)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        # The page of all of them is made below.
        pytest.param(file, kind, marks=() if file in WITH_EACH_KIND else pytest.mark.slow)
        for file in (*FILES, *UNFINISHED)
        for kind in DAMAGES
    ],
)
def test_a_damaged_file_ends_no_command_in_a_trace(
    tmp_path: Path, command: Command, file: str, kind: str
) -> None:
    place = tmp_path / "runs/a"
    DAMAGES[kind](make(place, file))
    page = tmp_path / "report.html"
    write_run(tmp_path / "sound", top1=0.8)
    for words in (("report", tmp_path / "runs"), ("report", tmp_path / "runs", "-o", page)):
        ended = command(*words)
        check(ended, tmp_path / "runs")
    assert page.exists() == (ended.code == 0)
    assert ended.code == 1 or (file, kind) in FINE
    ended = command("compare", tmp_path / "sound", place)
    check(ended, place)


@pytest.mark.parametrize("file", [*FILES, *UNFINISHED])
def test_damaged_runs_are_named_and_the_others_reported(
    tmp_path: Path, command: Command, file: str
) -> None:
    runs, page = tmp_path / "runs", tmp_path / "report.html"
    write_run(runs / "sound", top1=0.8)
    for kind, damage in DAMAGES.items():
        damage(make(runs / kind, file))
    ended = command("report", runs, "-o", page)
    check(ended, runs)
    assert ended.code == 1
    told = {line.split()[1] for line in ended.err.splitlines() if line.startswith("Error: ")}
    block = page.read_text().partition('type="application/json">')[2].partition("</script>")[0]
    shown = {run["folder"]: run for run in json.loads(block)["runs"]}
    assert set(shown) == {"sound", *DAMAGES}
    assert {name for name, run in shown.items() if run["state"] == "damaged"} == told
    assert told == {kind for kind in DAMAGES if (file, kind) not in FINE}
    assert str(runs / "pipe" / file) in shown["pipe"]["reason"]
    assert shown["sound"]["state"] == "finished"
    assert "| lenet_sat" in ended.out


WRONG: tuple[Any, ...] = (
    *(None, True, -1, 1.5, 1e308, 10**400, math.nan, math.inf, "x", "\ud800\x1b[2J\n"),
    *("$\\frac$", [], [1], [[]], {}, {"a": 1}, {"a": [None]}),
)


def changed(value: Any) -> Iterator[Any]:
    """Yield copies of JSON that differ in one value each."""
    yield from WRONG
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:2]
    for key, inner in items:
        for other in changed(inner):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = other
            yield copy
        if isinstance(value, dict):
            yield {name: x for name, x in value.items() if name != key}


@pytest.mark.parametrize("file", ["result.json", "layers.json"])
def test_values_of_any_other_kind_are_met(tmp_path: Path, command: Command, file: str) -> None:
    runs, page = tmp_path / "runs", tmp_path / "report.html"
    write_run(tmp_path / "whole", top1=0.9)
    content = json.loads((tmp_path / "whole" / file).read_text())
    others = list(changed(content))
    assert len(others) > 150
    for i, other in enumerate(others):
        (runs / str(i)).mkdir(parents=True)
        for name in ("result.json", "layers.json", "config.yaml"):
            shutil.copy(tmp_path / "whole" / name, runs / str(i))
        (runs / str(i) / file).write_text(json.dumps(other))
    ended = command("report", runs, "-o", page)
    check(ended, runs)
    assert page.exists()
    assert (tmp_path / "report.png").exists()
    for i in range(0, len(others), 3):
        check(command("compare", tmp_path / "whole", runs / str(i)), runs)


NAMES = (
    b"latin \xe9\xff",
    b"line\nend",
    b"\x1b[31mred",
    "\u202egnp".encode(),
    b"[/b] [red]",
    b"a|b",
)


def test_folders_may_have_any_name(tmp_path: Path, command: Command) -> None:
    top = tmp_path / os.fsdecode(b"all of \xff<b>")
    for name in NAMES:
        write_run(top / os.fsdecode(name), top1=0.9)
        write_run(top / os.fsdecode(b"damaged " + name), top1=0.9)
        (top / os.fsdecode(b"damaged " + name) / "result.json").write_text("[")
    page = tmp_path / os.fsdecode(b"\xfe.html")
    ended = command("report", top, "-o", page)
    assert ended.code == 1
    assert len(re.findall("^Error: damaged ", ended.err, re.MULTILINE)) == len(NAMES)
    for text in (ended.out, ended.err):
        text.encode()
        assert not set(text) & {"\x1b", "\u202e"}
    block = page.read_text().partition('type="application/json">')[2].partition("</script>")[0]
    shown = {run["folder"] for run in json.loads(block)["runs"]}
    assert shown >= {os.fsdecode(name) for name in NAMES}
    assert "\\udcff&lt;b&gt;" in page.read_text().partition("<title>")[2].partition("</title>")[0]
    ended = command("compare", *(top / os.fsdecode(name) for name in NAMES))
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert command("compare", top / os.fsdecode(NAMES[0]), top / "none").code == 1


def test_links_that_lead_back_are_not_followed(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "a/b", top1=0.9)
    for link, to in (("a/b/up", ".."), ("a/self", "self"), ("a/one", "two"), ("a/two", "one")):
        (tmp_path / link).symlink_to(to)
    ended = command("report", tmp_path)
    assert (ended.code, len(ended.out.splitlines())) == (0, 3)
    for wrong in ("a/self", "nowhere", "a/b/result.json"):
        ended = command("report", tmp_path / wrong)
        check(ended, tmp_path / wrong)
        assert ended.code == 1


def test_folders_may_lie_deep(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "runs/a", top1=0.9)
    before = os.getcwd()
    os.chdir(tmp_path / "runs")
    for _ in range(1050):  # more than Python's stack has room for
        os.mkdir("d")
        os.chdir("d")
    os.chdir(before)
    try:
        assert command("report", tmp_path / "runs").code == 0
    finally:  # pytest could not remove it
        subprocess.run(["rm", "-rf", tmp_path / "runs"], check=True)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", top1=0.9)
    write_run(tmp_path / "locked", top1=0.9)
    whole = os.scandir

    def scandir(path: Path) -> Any:  # root may read all
        if path == tmp_path / "locked":
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ended = command("report", tmp_path, "-o", tmp_path / "report.html")
    words = f"Error: locked is left out: cannot read {tmp_path / 'locked'}: Permission denied"
    assert (ended.code, ended.err.splitlines()[-1]) == (1, words)
    assert (tmp_path / "report.html").exists()


def test_runs_that_are_not_finished_are_a_page_and_no_table(
    tmp_path: Path, command: Command
) -> None:
    write_run(tmp_path / "runs/a", top1=0.9)
    (tmp_path / "runs/a/result.json").unlink()
    ended = command("report", tmp_path / "runs")
    assert (ended.code, "holds no finished run" in ended.err) == (1, True)
    ended = command("report", tmp_path / "runs", "-o", tmp_path / "report.html")
    assert (ended.code, (tmp_path / "report.html").exists()) == (0, True)
    (tmp_path / "none").mkdir()
    ended = command("report", tmp_path / "none", "-o", tmp_path / "none.html")
    assert (ended.code, (tmp_path / "none.html").exists()) == (1, False)
