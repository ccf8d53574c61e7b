"""Runs with the options of recipes, as a user starts, kills and tests them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from mistakes import TINY, Told, check
from safetensors.torch import load_file
from test_resume import ACCUMULATED, SETTINGS, UNVALIDATED, assert_identical, in_folder
from test_solvers_and_losses import killed_and_whole, run

from qatlab.training.checkpoint import load
from qatlab.training.weight_average import TRAINED

AVERAGED = ("callbacks=[ema,reestimate_norms]", "callbacks.ema.decay=0.9")
HELD = ("callbacks.oscillation.freeze=0", "callbacks.oscillation.momentum=0.5")
EVERYTHING = (
    *(
        "callbacks=[ema,reestimate_norms,freezing,dampening,transition_rate]",
        "callbacks.ema.decay=0.9",
        *HELD,
    ),
    *("solver=sat", "mixup=0.4", "data.random_erasing=0.5"),
    *("loss.label_smoothing=0.1", "trainer.gradient_clip_val=1.0"),
)
FALLING = (
    *("schedule.float_epochs=1", "schedule.clamp_epochs=0", "schedule.quantize_epochs=1"),
    *("schedule.falling_bits=[8]", "schedule.falling_epochs=2"),
)
SHORT = ("schedule.clamp_epochs=1", "schedule.quantize_epochs=1")


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").open()))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    ended = run(folder, *SETTINGS, *SHORT, in_folder(folder))
    assert ended.code == 0, ended.output
    return folder


def test_a_killed_run_with_all_options_equals_an_uninterrupted_one(
    teacher: Path, tmp_path: Path
) -> None:
    words = (*EVERYTHING, *ACCUMULATED, f"distill={teacher}")
    killed, whole = killed_and_whole(tmp_path, "SIGKILL 3 5", *words)
    assert_identical(killed, whole)
    groups = load(whole / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays == {"weights": 4e-5, "norms_and_biases": 0.0, "quantizers": 0.0}
    assert float(rows(whole)[-1]["quant/fc2/frozen"]) > 0
    # Half a cosine over each phase of two epochs, from the rate of an update of 2 x 30 images.
    rates = [float(row["lr"]) for row in rows(whole)]
    assert rates == pytest.approx([0.05 * 60 / 256, 0.025 * 60 / 256] * 2)


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        pytest.param(  # the next phase begins with the average of the one before
            *("1 end", ("callbacks=[reestimate_norms,ema]", *SHORT)), marks=pytest.mark.slow
        ),
        ("2 1", (*AVERAGED, *UNVALIDATED, *SHORT)),
        ("2 1", ("quant=lsq_2bit", *FALLING)),
        ("2 1", ("quant=sat_4bit", "model=resnet8", "quant.one_step_for_sums=true", *SHORT)),
    ],
)
def test_a_killed_run_equals_an_uninterrupted_one(
    tmp_path: Path, place: str, settings: tuple[str, ...]
) -> None:
    assert_identical(*killed_and_whole(tmp_path, f"SIGKILL {place}", *settings))


def test_a_teacher_of_other_images_is_refused(teacher: Path, told: Told, tmp_path: Path) -> None:
    range_of = (
        "+data.transforms.range={_target_: qatlab.data.transforms.RangeAffine, "
        "first_operator: divides, first_value: [128]}"
    )
    for words, sentence in (
        ([f"distill={tmp_path}"], f"distill.teacher={tmp_path}: |has no config.yaml"),
        ([f"distill.teacher={teacher}", "distill.weight=0"], "distill.weight=0 is wrong"),
        ([f"distill={teacher}", range_of], "was trained with other data.transforms"),
        (["distill=a", "distill.weight=1"], "with distill.weight=|give distill.teacher=a"),
        (["distill.weight=1", "distill=a"], "with distill.weight=|give distill.teacher=a"),
        (["distill=3"], "distill=3 is wrong|the folder of a run"),
        (["distill={teecher: x}"], "distill.teecher is unknown|'teacher'"),
    ):
        check(told(*words), tuple(sentence.split("|")))


def test_the_average_is_what_is_tested_and_handed_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run(folder, *SETTINGS, *AVERAGED, *SHORT, in_folder(folder))
    assert ended.code == 0, ended.output
    result = json.loads((folder / "result.json").read_text())
    best = load(folder / result["checkpoint"])
    weights = load_file(folder / "weights.safetensors")
    for key, value in weights.items():
        assert torch.equal(value, best["state_dict"][f"model.{key}"]), key
    assert not torch.equal(weights["conv1.weight"], best[TRAINED]["model.conv1.weight"])
    row = rows(folder)[0]  # a phase begins with what was validated
    assert float(row["switch/loss_before"]) == pytest.approx(float(row["val/loss"]), rel=1e-5)

    again = run(tmp_path / "test", f"run={folder}", in_folder(tmp_path / "logs"), script="test.py")
    assert again.code == 0, again.output
    assert (
        f"Final recognition rate: {100 * result['test']['recognition_rate']:.6g}%" in again.output
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("mixup=-1", "mixup=-1|a number of at least 0"),
        ("data.random_erasing=2", "data.random_erasing=2|at least 0 and at most 1"),
        ("loss.label_smoothing=1.5", "loss.label_smoothing=1.5|from 0 to 1"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val=0|a number above 0"),
        ("solver.lr_at_batch=0", "solver.lr_at_batch=0|above 0, or null"),
        ("solver.warmup_above=x", "solver.warmup_above=x|above 0, or null"),
        ("solver.decay_by_bits=0.5", "solver.decay_by_bits=0.5|a mapping"),
        ("solver.groups.depthwise.lrr=1", "solver.groups.depthwise.lrr|'lr'"),
    ],
)
def test_a_wrong_value_is_reported_in_a_sentence(told: Told, overrides: str, words: str) -> None:
    check(told(*overrides.split()), tuple(words.split("|")))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("callbacks=emma", "callbacks=emma is unknown|'ema'|reestimate_norms"),
        ("callbacks=ema callbacks.ema.decay=1", "callbacks.ema.decay=1 is|[0, 1)"),
        ("callbacks=ema callbacks.ema.decy=0.9", "callbacks.ema.decy is unknown|'decay'"),
        (
            "callbacks=reestimate_norms callbacks.reestimate_norms.batches=0",
            "callbacks.reestimate_norms.batches=0|above 0",
        ),
        (
            "callbacks=reestimate_norms quant=none model=layer_graph "
            "+model.layers.fc={type:linear,channels:10}",
            "callbacks.reestimate_norms has no effect|leave it out",
        ),
    ],
)
def test_a_wrong_callback_is_reported_in_a_sentence(
    command: Told, overrides: str, words: str
) -> None:
    check(command(*TINY, *overrides.split()), tuple(words.split("|")))
