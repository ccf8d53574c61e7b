"""Runs that learn the bits of layers and sites: killed, tested, exported, and trained anew."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from mistakes import TINY, Told, check
from test_resume import SETTINGS, assert_identical, in_folder
from test_solvers_and_losses import killed_and_whole, run

from qatlab.cli.main import run as run_command
from qatlab.run.loading import load_quantized
from qatlab.training.checkpoint import load

LEARNS = ("callbacks=learned_bits", "callbacks.learned_bits.lr=0.1")
SIZE = (*LEARNS, "callbacks.learned_bits.budget.size=20000")
SAT = ("schedule.clamp_epochs=1", "schedule.quantize_epochs=4")
LSQ = ("quant=lsq_4bit", "schedule.float_epochs=0", "schedule.clamp_epochs=0")
# Of 8,732,160 with 2 bits to 26,657,280 with 8, and 8 at the ends.
OPERATIONS = (*LEARNS, "callbacks.learned_bits.budget.bops=12e6", "memory=compact")


@pytest.mark.parametrize(
    ("place", "settings"),
    [
        ("2 7", (*SIZE, *SAT)),  # while widths move
        ("2 8", (*LSQ, *OPERATIONS, "schedule.quantize_epochs=4")),  # on their way to whole ones
        ("2 end", (*LSQ, *OPERATIONS, "schedule.quantize_epochs=4")),  # whole, and not settled
        ("3 5", (*LSQ, *OPERATIONS, "schedule.quantize_epochs=4")),  # the quantizers have them
    ],
)
def test_a_killed_run_equals_an_uninterrupted_one(
    tmp_path: Path, place: str, settings: tuple[str, ...]
) -> None:
    killed, whole = killed_and_whole(tmp_path, f"SIGKILL {place}", *settings)
    assert_identical(killed, whole)
    for name in ("layers.json", "rules.yaml"):
        assert (killed / name).read_text() == (whole / name).read_text()


def test_what_was_learned_is_recorded_tested_exported_and_trained_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = (*SETTINGS, *LSQ, *OPERATIONS, "schedule.quantize_epochs=4")
    ended = run(folder, *words, in_folder(folder))
    assert ended.code == 0, ended.output

    layers = json.loads((folder / "layers.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert 0.98 * 12e6 <= layers["bit_operations"] <= 12e6
    assert result["size_bytes"] == layers["size_bytes"]
    bits = {row["name"]: row["bits"] for row in layers["layers"]}
    learned = {row["name"] for row in layers["layers"] if row["rules"] == ["learned bits"]}
    assert learned == {"conv2", "conv3", "fc1", "relu1", "relu2", "relu3", "relu4"}
    assert (bits["conv1"], bits["fc2"]) == (8, 8)  # rules of the preset give them

    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["phase"] for row in rows] == [*["quantize_learning"] * 2, *["quantize"] * 2]
    assert [float(row["budget/bops"]) for row in rows[1:]] == [layers["bit_operations"]] * 3
    assert {name: float(rows[-1][f"quant/{name}/bits"]) for name in learned} == {
        name: bits[name] for name in learned
    }

    model = load_quantized(folder)
    assert model.get_submodule("conv2").weight_quantizer.bits == bits["conv2"]
    again = run(tmp_path / "test", f"run={folder}", in_folder(tmp_path / "log"), script="test.py")
    rate = 100 * result["test"]["recognition_rate"]
    assert f"Final recognition rate: {rate:.6g}%" in again.output
    assert run_command(["export", str(folder), "-o", str(tmp_path / "net.onnx")]) == 0

    # Its rules give the same network, which takes all that was learned.
    rules = yaml.safe_load((folder / "rules.yaml").read_text())
    given = [f"+quant.rules.{key}={json.dumps(rule)}" for key, rule in rules.items()]
    given = [word.replace('"', "") for word in given]
    anew = tmp_path / "anew"
    words = (*SETTINGS, *LSQ, "schedule.quantize_epochs=1", f"init_weights={folder}", *given)
    ended = run(anew, *words, in_folder(anew))
    assert ended.code == 0, ended.output
    assert "left out" not in ended.output
    own = json.loads((anew / "layers.json").read_text())
    assert {row["name"]: row["bits"] for row in own["layers"]} == bits
    state = load(anew / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["model.relu1._extra_state"] == f"quantize LsqActivation {2 ** bits['relu1'] - 1}"


def test_a_checkpoint_with_widths_is_no_network(tmp_path: Path, command: Told) -> None:
    folder = tmp_path / "run"
    words = (*SETTINGS, *LSQ, *OPERATIONS, "schedule.quantize_epochs=2")
    ended = run(folder, *words, in_folder(folder))
    assert ended.code == 0, ended.output
    message = command(f"run={folder}", "checkpoint=best_quantize_learning", script="test.py")
    check(message, ("was saved while bits were learned (callbacks=learned_bits)", "resume="))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("", "callbacks.learned_bits.budget has none|exactly one of size, bops, mean_bits"),
        ("budget.size=1 budget.bops=1", "has size and bops"),
        ("budget.sise=1", "sise|'size'"),
        ("budget.size=100", "budget.size=100 is wrong|from 16,678 bytes (lowest=2 everywhere)"),
        ("budget.mean_bits=3 lowest=1", "learned_bits.lowest=1 is wrong"),
        ("budget.mean_bits=3 schedule.quantize_epochs=1", "schedule.quantize_epochs of at least 2"),
        ("budget.mean_bits=3 compile=true", "cannot be combined with compile=true|rules.yaml"),
        ("budget.mean_bits=3 quant=none", "cannot be combined with quant=none"),
        ("budget.mean_bits=3 schedule.falling_bits=[8]", "with schedule.falling_bits"),
        ("budget.mean_bits=3 callbacks=[learned_bits,ema]", "with callbacks=ema"),
        ("budget.mean_bits=3 callbacks=[learned_bits,freezing]", "with callbacks=oscillation"),
        ("budget.size=9000 quant.rules.w.weight.bits=2", "no bits can be learned, as rules give"),
    ],
)
def test_a_mistake_is_reported_in_a_sentence(command: Told, overrides: str, words: str) -> None:
    given = [*TINY, "callbacks=learned_bits", "schedule.quantize_epochs=2"]
    for word in overrides.split():
        own = word.startswith(("budget", "lowest"))
        given += [f"callbacks.learned_bits.{word}"] if own else [word]
    if "quant.rules.w.weight.bits=2" in given:
        given[-1] = '+quant.rules.w={name: "*", weight: {bits: 2}}'
    check(command(*given), tuple(words.split("|")))
