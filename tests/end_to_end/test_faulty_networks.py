"""Networks with values that are not finite, or of a collapsed quantizer: told with its name."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killable_runs import DRAW, KILL_AT, Ended, start_forked
from mistakes import TINY
from PIL import Image
from torch import Tensor

from qatlab.cli.main import run as run_command

SETTINGS = (
    *(word for word in TINY if not word.startswith("schedule")),
    *("quant=lsq_4bit", "schedule=quantize_only", "schedule.quantize_epochs=2"),
    *("data.validation=100", "trainer.accelerator=cpu"),
)
KILL = "+callbacks.kill._target_=killable_runs.KillAt"


def changed(run: Path, to: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Copy a run, and change the weights of all its checkpoints."""
    shutil.copytree(run, to)
    for file in (to / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=False)
        change(content["state_dict"])
        torch.save(content, file)
    return to


def overflow(state: dict[str, Tensor]) -> None:
    for name in ("weight", "weight_quantizer.step_size"):
        state[f"model.fc2.{name}"].fill_(3e38)  # finite, but its sums are not


def lose_variance(state: dict[str, Tensor]) -> None:
    state["model.bn1.running_var"].fill_(math.nan)  # a training neither reads nor mends it


def explode(state: dict[str, Tensor]) -> None:
    state["model.relu2.step_size"].fill_(1e20)


def assert_told(ended: Ended, *words: str) -> None:
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output
    (told,) = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    for word in words:
        assert word in told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = (*SETTINGS, KILL, f'hydra.run.dir="{folder}"')
    ended = start_forked(folder.with_suffix(".log"), "train.py", *words, **{KILL_AT: "SIGKILL 2 1"})
    assert ended.code == -9, ended.output
    return folder


def test_an_evaluation_names_the_layer_and_writes_no_outputs(run: Path, tmp_path: Path) -> None:
    folder, saved = changed(run, tmp_path / "run", overflow), tmp_path / "outputs.npz"
    words = (f"run={folder}", "checkpoint=last", f"save_outputs={saved}")
    ended = start_forked(tmp_path / "log", "test.py", *words)
    assert_told(
        ended, "the loss of the test is", "fc2.weight holds values up to 3e+38", "cannot be used"
    )
    assert not saved.exists()


def test_a_verification_names_the_layer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(run, tmp_path / "run", overflow)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = [str(folder), "allow=killable_runs", "--checkpoint", "last"]
        assert run_command(["verify", *words, "--rescale", "float"]) == 1
        told = capsys.readouterr().err
        assert run_command(["verify", *words]) == 1
    assert told == (
        "Error: the network's answers are not finite: fc2.weight holds values up to 3e+38.\n"
    )
    of_fixed_point = "Error: fc2: fixed point has not enough bits, as values are multiplied by up"
    assert capsys.readouterr().err.startswith(of_fixed_point)


def test_a_validation_that_is_not_finite_ends_the_run(run: Path, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "run", lose_variance)
    ended = start_forked(tmp_path / "log", "train.py", f"resume={folder}")
    assert_told(ended, "bn1.running_var holds NaN")
    assert not (folder / "result.json").exists()
    assert "nan" not in (folder / "metrics.csv").read_text()


def test_a_run_without_validation_ends_at_its_test(run: Path, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "run", lose_variance)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("validation: 100", "validation: 0"))
    ended = start_forked(tmp_path / "log", "train.py", f"resume={folder}")
    assert_told(ended, "bn1.running_var holds NaN")
    assert not (folder / "result.json").exists()


def test_a_collapsed_quantizer_is_reported_in_training_and_in_its_result(
    run: Path, tmp_path: Path
) -> None:
    folder = changed(run, tmp_path / "run", explode)
    ended = start_forked(tmp_path / "log", "train.py", f"resume={folder}")
    assert ended.code == 0, ended.output
    told = [line for line in ended.output.splitlines() if line.startswith("Warning: ")]
    assert len(told) == 2
    words = r"relu2 puts out one value only, 0, of values from 0 to [\d.]+; its step_size is 1e\+20"
    assert re.fullmatch(rf"Warning: epoch 2 of quantize: {words}\.", told[0])
    assert re.fullmatch(rf"Warning: {words}\.", told[1])  # of the test
    assert (folder / "result.json").exists()

    ended = start_forked(tmp_path / "log", "test.py", f"run={folder}")
    assert ended.code == 0, ended.output
    assert told[1] in ended.output


def test_a_sound_run_is_not_warned_of(run: Path, tmp_path: Path) -> None:
    ended = start_forked(tmp_path / "log", "test.py", f"run={run}", "checkpoint=last")
    assert ended.code == 0, ended.output
    assert "Warning" not in ended.output


def test_a_run_is_finished_though_a_picture_cannot_be_drawn(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for name in ("cat", "dog"):
        (folder := tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = generator.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    run = tmp_path / "run"
    (run / "figures/confusion_matrix.png").mkdir(parents=True)  # in the way of the picture
    words = (
        *("data=image_folder", f"data.source.folder={tmp_path}/images", "data.source.channels=1"),
        *("data.image_size=[32,32]", "data.batch_size=4", "data.workers=0", "trainer=smoke"),
        *("quant=none", "schedule=quantize_only", "schedule.quantize_epochs=1"),
        *("trainer.accelerator=cpu", f"hydra.run.dir={run}"),
    )
    ended = start_forked(tmp_path / "log", "train.py", *words, **{DRAW: "1"})
    assert ended.code == 0, ended.output
    told = [line for line in ended.output.splitlines() if line.startswith("Warning: ")]
    assert len(told) == 1
    assert told[0].startswith("Warning: figures/confusion_matrix is not drawn: ")
    assert "figures/confusion_matrix.png" in told[0]
    assert json.loads((run / "result.json").read_text())["class_names"] == ["cat", "dog"]
    assert (run / "weights.safetensors").exists()
    for suffix in ("png", "svg", "pdf"):
        assert (run / f"figures/learning_curves.{suffix}").exists()
