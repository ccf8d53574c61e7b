"""SIGKILL at any moment, again and again: what is left in the end is that of a quiet run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killable_runs import ROOT, forked_and_killed, start, start_forked
from test_resume import (
    ACCUMULATED,
    LEARNED,
    RARELY_VALIDATED,
    SETTINGS,
    UNVALIDATED,
    assert_identical,
    in_folder,
)
from test_sweep import SWEEP

FLOAT_FIRST = ("schedule.clamp_epochs=0", "schedule.float_epochs=2")
OPTIONS = {
    "sat": (),
    "learned": LEARNED,
    "lsq": ("quant=lsq_4bit", "memory=recompute", *FLOAT_FIRST),
    "pact": ("quant=pact_3bit", "solver=pact", *FLOAT_FIRST),
    "dorefa": ("quant=dorefa_4bit", "solver=adam", "memory=compact", *FLOAT_FIRST),
    "averaged": ("callbacks=[ema,reestimate_norms]", "callbacks.ema.decay=0.9"),
    "mixed": ("mixup=0.4", "data.random_erasing=0.5", "loss.label_smoothing=0.1"),
    "accumulated": (*ACCUMULATED, "trainer.gradient_clip_val=1.0"),
    "each_step": ("callbacks.checkpoint.every_n_steps=1", "channels_last=true"),
    "logged": ("logger=[csv,tensorboard]", *RARELY_VALIDATED),
    "unvalidated": (*UNVALIDATED, "solver=sat", "target=c"),
    "quantized_only": ("schedule=quantize_only", "schedule.quantize_epochs=3"),
}
KILLS = 2  # of each set of options


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_killed_at_random_moments_equals_one_that_was_not(
    tmp_path: Path, options: str
) -> None:
    draw = random.Random(options)
    log, killed, whole = tmp_path / "log", tmp_path / "killed", tmp_path / "whole"
    words = (*SETTINGS, *OPTIONS[options])
    begin = time.monotonic()
    ended = start_forked(log, "train.py", *words, in_folder(whole))
    assert ended.code == 0, ended.output
    seconds = time.monotonic() - begin
    for _ in range(KILLS):
        forked_and_killed(seconds * draw.random(), log, "train.py", *command(killed, words))
    ended = start_forked(log, "train.py", *command(killed, words))
    assert ended.code == 0, ended.output
    assert_identical(killed, whole)
    assert (killed / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()


def command(folder: Path, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a user types: the run once more if it has not begun, or else its resumption."""
    begun = (folder / "config.yaml").exists()
    return (f"resume={folder}",) if begun else (*words, in_folder(folder))


def of_jobs(folder: Path) -> dict[str, bytes]:
    """Return what the jobs of a sweep have left, by bits, where nothing depends on the time."""
    names = ("weights.safetensors", "metrics.csv", "layers.json")
    return {
        f"{bits} {name}": path.read_bytes()
        for bits in (2, 3, 4)
        for name in names
        for path in folder.glob(f"*,bits={bits},*/{name}")
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "parallel"])
@pytest.mark.parametrize("cache", ["shared", "null"])
def test_a_sweep_killed_at_random_moments_equals_one_that_was_not(
    tmp_path: Path, launcher: str, cache: str
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is missing")
    draw = random.Random(f"{launcher} {cache}")

    def words(name: str) -> tuple[str, ...]:
        places = (
            f"hydra.sweep.dir={tmp_path / name}",
            f"sweep.cache={'null' if cache == 'null' else tmp_path / name / 'cache'}",
        )
        own = [word for word in SWEEP if not word.startswith("+callbacks.kill")]
        more = ("quant.weight.bits=2,3,4", "schedule.quantize_epochs=3")
        return (*own, f"hydra/launcher={launcher}", *places, *more)

    begin = time.monotonic()
    ended = start("train.py", *words("whole"))
    seconds = time.monotonic() - begin
    assert ended.code == 0, ended.output
    for _ in range(4):
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "train.py", *words("killed")], cwd=ROOT, stdout=log, stderr=log
            )
        time.sleep(seconds * draw.random())
        process.kill()  # the workers end with it, and leave their folders
        process.wait()
        time.sleep(1)
    ended = start("train.py", *words("killed"))
    assert ended.code == 0, ended.output
    assert of_jobs(tmp_path / "killed") == of_jobs(tmp_path / "whole")
    assert len(of_jobs(tmp_path / "whole")) == 9
    assert not (tmp_path / "killed" / ".jobs").exists()
