"""Each command and each block of docs/your_network.md, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable_runs import Ended, start_forked

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from BLOCK.findall(page.read_text())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = start_forked(tmp_path / "log", "qatlab", "init", "myproject", PWD=str(tmp_path))
    assert made.code == 0, made.output
    return tmp_path / "myproject"


def qatlab(project: Path, words: list[str]) -> Ended:
    """Run a command; those that train show that they work, not how well."""
    few: list[str] = []
    if words[0] == "train":
        few = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"]
        few += ["schedule.quantize_epochs=1"] * ("quant=none" not in words)
        few += ["schedule.float_epochs=1"] * ("schedule=quantize_only" not in words)
    return start_forked(project.parent / "log", "qatlab", *words, *few, PWD=str(project))


def test_each_block_of_the_page_works(project: Path, root: Path) -> None:
    pytest.importorskip("timm")
    done = []
    for language, text in blocks(root / "docs/your_network.md"):
        named = FILE.match(text)
        if named:
            (project / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (project / named[1]).write_text(text)
        elif language == "python":
            ended = subprocess.run(
                [sys.executable, "-c", text],
                cwd=project,
                capture_output=True,
                text=True,
                env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
            )
            assert ended.returncode == 0, ended.stderr
            done.append(ended.stdout)
        else:
            assert language == "sh"
            for line in text.splitlines():
                command, *words = shlex.split(line)
                if words == ["init", "myproject"] or (command, words) == ("cd", ["myproject"]):
                    continue  # as the fixture has done
                assert command == "qatlab"
                ended = qatlab(project, words)
                assert ended.code == 0, f"{line}\n{ended.output}"
                done.append(ended.output)
    by_name = {
        file.parents[1].name: file.parent for file in (project / "outputs").rglob("result.json")
    }
    assert {"focal", "callback", "max", "outputs", "first"} <= by_name.keys()
    assert "train/largest_weight" in (by_name["callback"] / "metrics.csv").read_text()
    layers = json.loads((by_name["max"] / "layers.json").read_text())["layers"]
    methods = [layer["quantizer"].get("method") for layer in layers if layer["part"] == "weight"]
    assert methods == ["MaxWeight"] * 4
    assert json.loads((by_name["max"] / "layers.json").read_text())["forms"]["c"] == []
    assert "weights from lcnet.pth" in done[-2] or "lcnet.pth" in done[-2]
    assert done[-1].startswith("Layers and sites\n")


def test_an_own_quantizer_is_verified_as_whole_numbers(project: Path, root: Path) -> None:
    for _, text in blocks(root / "docs/your_network.md"):
        named = FILE.match(text)
        if named and ("quant" in named[1]):
            (project / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (project / named[1]).write_text(text)
    trained = qatlab(project, ["train", "experiment=first", "quant=max_4bit", "hydra.run.dir=run"])
    assert trained.code == 0, trained.output
    verified = qatlab(project, ["verify", "run", "--json", "found.json"])
    assert verified.code == 0, verified.output


def test_the_page_has_a_quantizer_of_40_lines_at_most(root: Path) -> None:
    (text,) = [text for _, text in blocks(root / "docs/your_network.md") if "MaxWeight(" in text]
    assert len(text.splitlines()) <= 40
