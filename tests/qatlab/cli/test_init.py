"""The project that `qatlab init` makes."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from qatlab.cli import init
from qatlab.cli.main import run


def test_a_project_has_images_of_three_classes(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path / "mine")]) == 0
    for part, count in (("train", 60), ("test", 20)):
        folder = tmp_path / "mine/images" / part
        classes = sorted(path.name for path in folder.iterdir())
        assert classes == ["circle", "square", "triangle"]
        for name in classes:
            files = sorted((folder / name).iterdir())
            assert len(files) == count
            with Image.open(files[0]) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))


def test_each_file_of_the_project_is_explained_in_its_first_line(tmp_path: Path) -> None:
    run(["init", str(tmp_path)])
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".yaml", ".py", ".md")]
    assert len(files) == 5
    assert all(path.read_text().startswith(("# ", '"""')) for path in files)
    for path in files:
        if path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(path.read_text()), dict)
    assert "/outputs/" in (tmp_path / ".gitignore").read_text().split()
    assert not (tmp_path / "gitignore").exists()


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_keeps_what_is_the_users_and_leaves_out_what_commands_write(tmp_path: Path) -> None:
    run(["init", str(tmp_path)])
    made = ("first", "first.c", "first.onnx", "report.html", "outputs/runs/first/now/result.json")
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    kept = subprocess.check_output(["git", "ls-files", "--", ":!images"], cwd=tmp_path, text=True)
    assert kept.split() == [
        *(".gitignore", "README.md", "conf/data/shapes.yaml", "conf/experiment/first.yaml"),
        *("conf/model/mynet.yaml", "mynet.py"),
    ]


def test_images_are_the_same_each_time_and_differ_from_each_other() -> None:
    first, again = list(init.images()), list(init.images())
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(first, again, strict=True))
    assert len({image.tobytes() for _, image in first}) == len(first) == 240


@pytest.mark.parametrize(
    ("shape", "area"),  # in squares of its radius: of a disc, a square, an equilateral triangle
    [
        ("circle", math.pi),
        ("square", 4 * 0.85**2),
        ("triangle", 0.75 * math.sqrt(3)),
    ],
)
def test_a_shape_covers_its_area(shape: str, area: float) -> None:
    side = np.linspace(-1.5, 1.5, 601)
    x, y = np.meshgrid(side, side)
    covered = init.SHAPES[shape](x, y).mean() * 3 * 3
    assert covered == pytest.approx(area, rel=0.01)


def test_a_shape_is_brighter_than_what_is_around_it() -> None:
    for number in range(20):
        image = init.draw("square", [7, number]).mean(axis=2)
        assert image.max() - image.min() > 50
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert border.mean() < 110  # it lies inside: backgrounds are at most 100


def test_a_folder_that_holds_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run(["init", str(tmp_path)]) == 1
    told = f"Error: {tmp_path} is not empty, and qatlab init writes over nothing."
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_is_refused_and_a_folder_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["init", str(tmp_path / "file")]) == 1
    assert "file: Not a directory." in capsys.readouterr().err
    assert run(["init"]) == 1
    assert "required: folder; see qatlab init --help." in capsys.readouterr().err
