"""Two processes train what one does with batches twice as large; a kill changes nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from killable_runs import KILL_AT, start_forked, start_two_forked
from safetensors.torch import load_file

from qatlab.training.checkpoint import load

SETTINGS = (
    "data=synthetic",
    "data.source.training_images=419",
    "data.source.test_images=201",  # not as many in each process
    "data.source.noise=400",
    "data.validation=101",
    "data.random_shift=1",
    "data.eval_batch_size=50",
    "schedule.clamp_epochs=2",
    "schedule.quantize_epochs=2",
    "model.dropout=0",  # each process drops other values
    "trainer.accelerator=cpu",
    # An activation near the middle between two levels goes to either by the last bit of a sum.
    "trainer.precision=64-true",
    "callbacks.checkpoint.every_n_steps=3",
    "+callbacks.kill._target_=killable_runs.KillAt",
)
ONE = ("data.batch_size=30",)  # 318 images: 11 batches, the last of 18
TWO = (*("trainer=ddp", "trainer.devices=2", "trainer.sync_batchnorm=true", "data.batch_size=15"),)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    words = (*SETTINGS, *ONE, f"hydra.run.dir={folder}")
    ended = start_forked(folder / "log", "train.py", *words)
    assert ended.code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    words = (*SETTINGS, *TWO, f"hydra.run.dir={folder}")
    first, second = start_two_forked(folder, "train.py", *words)
    assert (first.code, second.code) == (0, 0), first.output + second.output
    for line in ("Final recognition rate", "Layers and sites"):  # only the first process speaks
        assert (first.output.count(line), second.output.count(line)) == (1, 0)
    return folder


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_losses_and_learned_values_are_those_of_one_process(by_one: Path, by_two: Path) -> None:
    one, two = metrics(by_one), metrics(by_two)
    assert [row["phase"] for row in two] == ["clamp", "clamp", "quantize", "quantize"]
    compared = 0
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            # Clipping is measured on images of the last batch, of which each process has a part.
            if value and key != "phase" and not key.endswith("/clipped"):
                assert float(b[key]) == pytest.approx(float(value), rel=1e-6), (key, a["epoch"])
                compared += 1
    assert compared == 40  # the learned clip values among them


def test_weights_are_those_of_one_process(by_one: Path, by_two: Path) -> None:
    one, two = (load_file(folder / "weights.safetensors") for folder in (by_one, by_two))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=0, atol=1e-6), name


def test_every_test_image_counts_once(by_one: Path, by_two: Path) -> None:
    one, two = (json.loads((f / "result.json").read_text())["test"] for f in (by_one, by_two))
    assert one["images"] == two["images"] == 201
    assert one["confusion"] == two["confusion"]
    assert two["top5"] == pytest.approx(one["top5"])


@pytest.mark.slow
@pytest.mark.parametrize("kill", [None, "SIGKILL 2 7"])
def test_a_job_of_a_sweep_has_processes_of_its_own(
    kill: str | None, by_two: Path, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": str(Path(__file__).parent)}  # of KillAt, for processes that are started
    words = ("-m", *SETTINGS, *TWO, f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=one job")
    if kill is not None:
        killed = start_forked(tmp_path / "log", "train.py", *words, **path, **{KILL_AT: kill})
        assert killed.code == 1
        reason = (tmp_path / "one job/error.txt").read_text()
        assert reason.startswith("the process exited with code")
    ended = start_forked(tmp_path / "log", "train.py", *words, **path)
    assert ended.code == 0, ended.output
    assert ("\n1 done\n" if kill is None else "\n1 resumed\n") in ended.output
    assert ended.output.count("Layers and sites") == 1  # only the processes of its own speak
    assert metrics(tmp_path / "one job") == metrics(by_two)
    again = start_forked(tmp_path / "log", "train.py", *words, **path)
    assert "\n1 skipped\n" in again.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    # In the middle of the clamp phase; where the phases meet.
    ["SIGKILL 2 7", "SIGKILL 2 end"],
)
def test_a_killed_run_of_two_goes_on_as_if_nothing_had_been(
    place: str, by_two: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = (*SETTINGS, *TWO, f"hydra.run.dir={folder}")
    killed = start_two_forked(tmp_path, "train.py", *words, **{KILL_AT: place})
    assert [ended.code for ended in killed] == [-9, -9], killed
    assert not (folder / "result.json").exists()
    words = (f"resume={folder}", f"hydra.run.dir={folder}/resumed/1")
    resumed = start_two_forked(tmp_path, "train.py", *words)
    assert [ended.code for ended in resumed] == [0, 0], resumed
    assert metrics(folder) == metrics(by_two)
    found, expected = (
        load(run / "checkpoints/last.ckpt")["state_dict"] for run in (folder, by_two)
    )
    assert all(
        torch.equal(value, expected[name])
        for name, value in found.items()
        if name in expected and isinstance(value, torch.Tensor)
    )
