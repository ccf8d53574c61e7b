"""Runs with settings by parameter and with other losses, as a user starts, kills and tests them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from killable_runs import DRAW, KILL_AT, Ended, start_forked
from mistakes import Told, check
from test_resume import SETTINGS, assert_identical, in_folder

from qatlab.training.checkpoint import load

BY_PARAMETER = (
    *("solver=by_parameter", "loss=squared_error"),
    *("solver/lr_policy@solver.groups.main.lr_policy=step", "solver.groups.main.momentum=0.9"),
    *("solver.groups.main.lr_policy.every=0.3", "solver.groups.main.lr_policy.factor=0.8"),
    *("solver.groups.main.weight_decay=0.001", "solver.groups.main.clamp=[-0.5,0.5]"),
    "+solver.groups.norms={parameters: [bn*.weight, bn*.bias], method: adam}",
    "+solver.groups.alphas={parameters: '*.alpha', lr: 0.05, momentum: 0.5}",
)
AUTOENCODER = (
    *("model=layer_graph", "loss=reconstruction", "quant=none", "solver=by_parameter"),
    "+model.layers.encoder={type: conv, channels: 4, kernel: 3, stride: 2, padding: 1}",
    "+model.layers.relu={type: relu}",
    "+model.layers.decoder={type: deconv, channels: 1, kernel: 2, stride: 2}",
    "solver.groups.main.method=adam",
)


def run(folder: Path, *settings: str, script: str = "train.py", **environment: str) -> Ended:
    return start_forked(folder.with_suffix(".log"), script, *settings, **environment)


def killed_and_whole(folder: Path, place: str, *settings: str) -> tuple[Path, Path]:
    """Return the folders of a run that was killed and resumed, and of one that was not."""
    killed, whole = folder / "killed", folder / "whole"
    ended = run(killed, *SETTINGS, *settings, in_folder(killed), **{KILL_AT: place})
    assert ended.code == -9, ended.output
    for words in ((f"resume={killed}",), (*SETTINGS, *settings, in_folder(whole))):
        ended = run(whole, *words)
        assert ended.code == 0, ended.output
    return killed, whole


@pytest.mark.parametrize(
    "place",  # after a checkpoint; between the phases
    ["3 7", pytest.param("2 end", marks=pytest.mark.slow)],
)
def test_a_killed_run_by_parameter_equals_an_uninterrupted_one(tmp_path: Path, place: str) -> None:
    killed, whole = killed_and_whole(tmp_path, f"SIGKILL {place}", *BY_PARAMETER)
    assert_identical(killed, whole)
    state = load(whole / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    kept = [set(state["state"][i]) for i in sorted(state["state"])]
    # Five weights, three norms, four clip values; the state began with the quantize phase: 2 epochs
    # of 11 batches.
    velocity, adam = {"velocity"}, {"step", "mean", "square"}
    assert kept == [velocity] * 5 + [adam] * 6 + [velocity] * 4
    assert {values["step"] for values in state["state"].values() if "step" in values} == {22}
    rates = [float(row["lr"]) for row in csv.DictReader((whole / "metrics.csv").open())]
    assert rates == pytest.approx([0.01, 0.01 * 0.8**3] * 2)  # each phase has two epochs


def test_a_run_without_classes_is_judged_by_its_loss(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run(folder, *SETTINGS, *AUTOENCODER, in_folder(folder), **{DRAW: "1"})
    assert ended.code == 0, ended.output
    result = json.loads((folder / "result.json").read_text())
    assert set(result["test"]) == {"phase", "images", "loss"}
    loss = result["test"]["loss"]
    line = f"    Loss: {loss:.4f}    (200 test images, float phase)\n"
    assert line in ended.output
    assert "/acc" not in ended.output
    assert "recognition" not in ended.output
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    losses = [float(row["val/loss"]) for row in rows]
    best = result["best"]["float"]
    assert best == {"epoch": 1 + int(np.argmin(losses)), "val/loss": min(losses)}
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"learning_curves.{suffix}" for suffix in ("png", "svg", "pdf")}

    file = tmp_path / "outputs.npz"
    logs = in_folder(tmp_path / "logs")
    again = run(tmp_path / "test", f"run={folder}", f"save_outputs={file}", logs, script="test.py")
    assert again.code == 0, again.output
    assert line in again.output
    with np.load(file) as saved:
        assert saved["outputs"].shape == (200, 1, 32, 32)


@pytest.mark.slow
def test_a_killed_run_without_classes_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    quantized = ("quant=sat_4bit", "~quant.rules.scaling", "~quant.rules.last")
    settings = (*AUTOENCODER, *quantized)
    killed, whole = killed_and_whole(tmp_path, "SIGKILL 3 7", *settings)
    assert_identical(killed, whole)
    header = (whole / "metrics.csv").read_text().splitlines()[0]
    assert "switch/loss_before" in header
    assert "/acc" not in header


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("loss=cros_entropy", "loss=cros_entropy is unknown|'cross_entropy'|reconstruction"),
        ("loss=squared_error loss.target_valu=2", "loss.target_valu is|'target_value'|binary_thr"),
        ("loss=reconstruction", "shape 10|shape 1x32x32|a network that returns images"),
        ("loss=several", "loss is for 2 outputs, and the network has 1|loss=several"),
        (
            "loss=several loss.losses=[{_target_: qatlab.training.loss.CrossEntropy, label: 2}]",
            "loss.losses[0].label is unknown|label_smoothing",
        ),
        ("solver=by_parameter solver.groups.main.lrr=1", "solver.groups.main.lrr is|'lr'|momentum"),
        ("solver=by_parameter solver.groups.main.lr=x", "solver.groups.main.lr=x|a number, null"),
        (
            "solver=by_parameter +solver.groups.a={parameters: '*.alpa'}",
            "solver.groups.a.parameters: *.alpa matches no parameter|'*.alpha'|conv1.weight",
        ),
        (
            "solver=by_parameter +solver.groups.a={parameters: fc2.*, "
            "lr_policy: {_target_: qatlab.training.lr_policy.stp, _partial_: true}}",
            "solver.groups.a.lr_policy._target_=qatlab.training.lr_policy.stp cannot be|'step'",
        ),
        (
            "solver=by_parameter +solver.groups.a={parameters: fc2.*, "
            "lr_policy: {_target_: qatlab.training.lr_policy.step, evry: 1, _partial_: true}}",
            "solver.groups.a.lr_policy.evry is unknown|'every'|factor",
        ),
        (
            "solver=by_parameter +solver.groups.a={parameters: fc2.*, "
            "lr_policy: {_target_: qatlab.training.lr_policy.constant}}",
            "solver: constant() missing|each lr_policy needs _partial_: true",
        ),
        (
            "solver=by_parameter solver.groups.main.lr=1e30",
            "the loss is nan|lower solver.groups.main.lr (now at 1e+30)",
        ),
    ],
)
def test_mistakes_are_reported_in_a_sentence(command: Told, overrides: str, words: str) -> None:
    head, brace, rest = overrides.partition("{")
    *settings, last = head.split()
    given = (*settings, last + brace + rest)
    small = ("data=synthetic", "trainer=smoke", "data.source.training_images=600")
    check(command(*small, *given), tuple(words.split("|")))
