"""Each command and each block of docs/your_network.md, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from killable_runs import Ended, start_forked
from PIL import Image

import qatlab

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\n")
FROM_NOTHING, PHOTOGRAPHS = "From an empty folder", "A folder of photographs"
PROOF = "This machine, built by cc: all outputs are those of integers, to the last bit."


def sections(root: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title of each section of the page, and the languages and texts of its blocks."""
    for text in (root / "docs/your_network.md").read_text().split("\n## "):
        yield text.partition("\n")[0], BLOCK.findall(text)


def blocks(root: Path) -> Iterator[tuple[str, str]]:
    for _, of_section in sections(root):
        yield from of_section


def commands(of_section: list[tuple[str, str]]) -> list[list[str]]:
    lines = "".join(text for language, text in of_section if language == "sh").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = start_forked(tmp_path / "log", "qatlab", "init", "myproject", PWD=str(tmp_path))
    assert made.code == 0, made.output
    return tmp_path / "myproject"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with photos/ of three classes: of any size, one turned, one grey, one of inks."""
    random = np.random.default_rng(1)
    for label, name in enumerate(("apple", "banana", "pear")):
        (tmp_path / "own/photos" / name).mkdir(parents=True)
        for number in range(10):
            height, width = random.integers(80, 300, 2)
            pixels = random.integers(0, 80, (height, width, 3))
            pixels[..., label] += 120
            image, exif = Image.fromarray(pixels.astype(np.uint8)), Image.Exif()
            mode = {0: "L", 1: "CMYK"}.get(number, "RGB")
            exif[0x0112] = 6 if number == 2 else 1  # turned by a quarter
            image.convert(mode).save(tmp_path / "own/photos" / name / f"{number}.JPG", exif=exif)
    return tmp_path / "own"


def qatlab_command(folder: Path, words: list[str]) -> Ended:
    """Run a command; those that train show that they work, not how well."""
    few: list[str] = []
    if words[0] == "train":
        few = ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"]
        few += ["schedule.quantize_epochs=1"] * ("quant=none" not in words)
        few += ["schedule.float_epochs=1"] * ("schedule=quantize_only" not in words)
    return start_forked(folder.parent / "log", "qatlab", *words, *few, PWD=str(folder))


def work(folder: Path, root: Path, of_section: list[tuple[str, str]]) -> Iterator[str]:
    """Do what blocks say in a folder; yield what each command and each block of Python prints."""
    for language, text in of_section:
        named = FILE.match(text)
        if named:
            (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / named[1]).write_text(text)
        elif language == "python":
            ended = subprocess.run(
                [sys.executable, "-c", text],
                cwd=folder,
                capture_output=True,
                text=True,
                env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
            )
            assert ended.returncode == 0, ended.stderr
            yield ended.stdout
        else:
            for command, *words in commands([(language, text)]):
                done_by_fixture = [["cd", "myproject"], ["qatlab", "init", "myproject"]]
                if command == "pip" or [command, *words] in done_by_fixture:
                    continue
                assert command == "qatlab"
                if "--onnx" in words and not find_spec("onnxruntime"):
                    continue
                if "--target" in words and not shutil.which("cc"):
                    continue
                ended = qatlab_command(folder, words)
                assert ended.code == 0, f"{words}\n{ended.output}"
                yield ended.output


def test_each_block_of_the_page_works(project: Path, root: Path) -> None:
    done = []
    for title, of_section in sections(root):
        if not title.startswith(PHOTOGRAPHS):
            done += [*work(project, root, of_section)]
        if title.startswith(FROM_NOTHING) and shutil.which("cc"):
            assert PROOF in done[-1]
    by_name = {
        file.parents[1].name: file.parent for file in (project / "outputs").rglob("result.json")
    }
    assert {"focal", "callback", "max", "outputs", "first"} <= by_name.keys()
    assert "train/largest_weight" in (by_name["callback"] / "metrics.csv").read_text()
    layers = json.loads((by_name["max"] / "layers.json").read_text())["layers"]
    methods = [layer["quantizer"].get("method") for layer in layers if layer["part"] == "weight"]
    assert methods == ["MaxWeight"] * 4
    assert json.loads((by_name["max"] / "layers.json").read_text())["forms"]["c"] == []
    assert "weights from outputs/float" in done[-2]
    assert done[-1].startswith("Layers and sites\n")


@pytest.mark.parametrize(
    "network",
    [
        "test_efficientnet",  # a small one in the place of that of the page
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
    ],
)
def test_photographs_and_a_trained_network_of_timm_become_c(
    network: str, photographs: Path, root: Path
) -> None:
    pytest.importorskip("timm")
    (own,) = [blocks for title, blocks in sections(root) if title.startswith(PHOTOGRAPHS)]
    own = [(language, re.sub("mobilenetv3_small_050", network, text)) for language, text in own]
    done = [*work(photographs, root, own)]
    taken = "weights from mobilenet.pth; taken from its 'state_dict'; classifier keeps its initial "
    assert taken in done[1]
    assert "24 training and 3 validation images of 3 classes" in done[2]
    if shutil.which("cc"):
        assert PROOF in done[-1]
    assert {"photos.c", "photos.onnx", "report.html"} <= {
        path.name for path in photographs.iterdir()
    }


def test_each_way_to_c_takes_ten_commands_at_most_and_the_first_installs_this_version(
    root: Path,
) -> None:
    ways = [
        commands(own)
        for title, own in sections(root)
        if title.startswith((FROM_NOTHING, PHOTOGRAPHS))
    ]
    assert [len(way) <= 10 for way in ways] == [True, True]
    wheel, extras = f"./qatlab-{qatlab.__version__}-py3-none-any.whl", ("onnx", "timm")
    assert ways[0][0] == ["pip", "install", f"{wheel}[{','.join(extras)}]"]
    for extra in extras:
        assert f"\n{extra} = [" in (root / "pyproject.toml").read_text()


def test_an_own_quantizer_is_verified_as_whole_numbers(project: Path, root: Path) -> None:
    for _, text in blocks(root):
        named = FILE.match(text)
        if named and ("quant" in named[1]):
            (project / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (project / named[1]).write_text(text)
    trained = qatlab_command(
        project, ["train", "experiment=first", "quant=max_4bit", "hydra.run.dir=run"]
    )
    assert trained.code == 0, trained.output
    verified = qatlab_command(project, ["verify", "run", "--json", "found.json"])
    assert verified.code == 0, verified.output


def test_the_page_has_a_quantizer_of_40_lines_at_most(root: Path) -> None:
    (text,) = [text for _, text in blocks(root) if "MaxWeight(" in text]
    assert len(text.splitlines()) <= 40
