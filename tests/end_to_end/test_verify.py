"""Runs that are compared with their integer networks."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from killable_runs import start_forked
from mistakes import TINY

from qatlab import verify
from qatlab.integer import IntegerNetwork, lower
from qatlab.integer.network import Output, Rescale
from qatlab.loading import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified") / "run"
    words = ("quant=sat_4bit", *TINY, f"hydra.run.dir={folder}")
    ended = start_forked(folder.with_suffix(".log"), "train.py", *words)
    assert ended.code == 0, ended.output
    return folder


def test_a_run_answers_the_same_as_integers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    assert verify.main([str(run), "--json", str(file)]) == 0
    assert "50 test images: top-1 " in capsys.readouterr().out
    found = json.loads(file.read_text())
    result = json.loads((run / "result.json").read_text())
    assert found["images"] == 50
    assert found["top1"]["integer"] == pytest.approx(result["test"]["top1"])
    assert list(found["sites"]) == ["relu1", "relu2", "relu3", "relu4"]
    assert found["sites"]["relu1"]["codes"] == 50 * 6 * 28 * 28
    assert all(site["from_tie"] < 1e-4 for site in found["sites"].values())
    assert found["accumulator_bits"].keys() == {"conv1", "conv2", "conv3", "fc1", "fc2"}


@pytest.mark.parametrize(("kind", "channels"), [(Rescale, 84), (Output, 10)])
def test_a_wrong_integer_network_is_found(
    run: Path, kind: type[Rescale | Output], channels: int
) -> None:
    built = load_run(run)
    model = built.model.eval()
    network = lower(model, [verify.PIXEL], built.data.example_input())
    at = max(i for i, op in enumerate(network.operations) if isinstance(op, kind))
    wrong = network.operations[at]
    assert isinstance(wrong, (Rescale, Output))
    bias = wrong.bias + 0.3 * np.arange(channels)
    operations = [*network.operations]
    operations[at] = dataclasses.replace(wrong, bias=bias)
    built.data.setup("test")
    found = verify.compare(model, IntegerNetwork(operations), built.data)
    if kind is Output:
        assert found.different > 0
    else:
        assert found.sites["relu4"].first > 0
        assert found.sites["relu4"].from_tie > 0.01
    assert found.largest > 0.01


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"Error: {tmp_path} is not the folder of a run: it has no config.yaml\n"
    )
    (tmp_path / "config.yaml").write_text("model: [")
    assert verify.main([str(tmp_path)]) == 1
    assert re.fullmatch(r"Error: [^\n]+\n", capsys.readouterr().err)
