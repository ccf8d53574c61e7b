"""Image folders and tables that are not what they should be, with the real command."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from killable_runs import start_forked
from mistakes import Told, check
from PIL import Image

FILES = (
    *("data.workers=0", "data.image_size=[32,32]", "trainer=smoke", "trainer.accelerator=cpu"),
    *("schedule.clamp_epochs=1", "schedule.quantize_epochs=1", "data.batch_size=8"),
)


def images(folder: Path, *classes: str, count: int = 20) -> Path:
    """Images of noise, those of each class about another level."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 40, (30, 28, 3)) + 200 * label // len(classes)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


def test_a_single_class_is_reported_before_training(command: Told, tmp_path: Path) -> None:
    folder = images(tmp_path / "images", "cat")
    (folder / "images.csv").write_text("".join(f"cat/{n:02}.png,cat\n" for n in range(20)))
    for data in ("image_folder", "image_table"):
        for mode in ("plan", "train"):
            message = command(
                f"data={data}", f"data.source.folder={folder}", *FILES, f"mode={mode}"
            )
            check(
                message, ("data.source has 1 class.", "two classes or more", "loss=reconstruction")
            )


def test_a_network_that_gives_images_needs_no_second_class(tmp_path: Path) -> None:
    folder, run = images(tmp_path / "images", "cat"), tmp_path / "run"
    conv = "{type: conv, channels: 3, kernel: 3, padding: 1}"
    ended = start_forked(
        *(tmp_path / "log", "train.py", "data=image_folder", f"data.source.folder={folder}"),
        *(*FILES, "quant=none", "schedule=float_then_quantize", "schedule.float_epochs=1"),
        *("schedule.quantize_epochs=0", "model=layer_graph", "model.input_shape=[3,32,32]"),
        *(f"+model.layers.conv={conv}", "loss=reconstruction", f"hydra.run.dir={run}"),
    )
    assert ended.code == 0, ended.output
    assert (run / "result.json").exists()


def test_names_of_classes_may_be_any_bytes(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", os.fsdecode(b"caf\xe9"), "line\nbreak", "cat")
    run = tmp_path / "run"
    ended = start_forked(
        *(tmp_path / "log", "train.py", "data=image_folder", f"data.source.folder={folder}"),
        *(*FILES, f"hydra.run.dir={run}"),
        TEST_DRAW="1",
    )
    assert ended.code == 0, ended.output
    assert (run / "result.json").exists()


@pytest.mark.parametrize("depth", ["1", "null"])
@pytest.mark.parametrize("kind", ["itself", "two", "many", "circle", "pipe"])
def test_links_that_lead_in_circles_and_pipes_end_in_a_sentence(
    command: Told, tmp_path: Path, kind: str, depth: str
) -> None:
    folder = images(tmp_path / "images", "cat", "dog")
    words = "once more, through a link"
    if kind == "itself":
        (folder / "self").symlink_to(folder)
    elif kind == "two":  # 2^40 ways to follow them
        (folder / "cat/dog").symlink_to(folder / "dog")
        (folder / "dog/cat").symlink_to(folder / "cat")
    elif kind == "many":  # no circle, but 2^30 ways
        for level in range(30):
            (tmp_path / f"level{level}").mkdir()
            for name in "ab":
                (tmp_path / f"level{level}/{name}").symlink_to(tmp_path / f"level{level + 1}")
        (tmp_path / "level30").mkdir()
        (folder / "cat/deep").symlink_to(tmp_path / "level0")
    elif kind == "circle":
        (folder / "fox").symlink_to(folder / "fox")
        words = "cannot read"
    else:
        os.mkfifo(folder / "cat/pipe.png")
        words = "not a regular file"
    arguments = ["data=image_folder", f"data.source.folder={folder}", f"data.source.depth={depth}"]
    if depth == "1" and kind in ("two", "many"):
        arguments.append("mode=plann")  # the links are not followed
        words = "mode=plann"
    check(command(*arguments, *FILES), (words,))
