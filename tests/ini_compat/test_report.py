"""What a person or a machine sees of an import."""

from __future__ import annotations

import json
from pathlib import Path

import projects
import pytest
import yaml
from omegaconf import OmegaConf
from projects import FC, project, read

from ini_compat.convert import experiment
from ini_compat.errors import Deviation, IniError, Place
from ini_compat.network import Network
from ini_compat.report import deviation_lines, experiment_text, facts, problem_facts, table

CELLS = (
    "[conv1.1]\nInput=sp\nType=Conv\nKernelSize=5\nNbOutputs=6\nConfigSection=c\n"
    "ActivationFunction=Linear\nQWeight=SAT\nQWeight.Range=15\nQAct=SAT\nQAct.Range=14\n"
    "[fc]\nInput=conv1.1\nType=Fc\nNbOutputs=10\n[c]\nNoBias=1\n"
)
LOST = CELLS.replace("Range=14\n", "Range=14\nNoBias=1\n")


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Two cells, one of which has quantizers, and one loss."""
    monkeypatch.chdir(tmp_path)
    found = read(Path(), project(LOST))
    assert found.problems == []
    return found


def test_the_table(network: Network) -> None:
    assert table(network).splitlines() == [
        "cell     type  input    output   weights  activations  parameters",
        "-------  ----  -------  -------  -------  -----------  ----------",
        "conv1.1  Conv  1x28x28  6x24x24        4     14 steps         150",
        "fc       Fc    6x24x24  10x1x1     float                   34,570",
        "2 cells, 34,720 parameters",
    ]


def test_facts_are_json(network: Network) -> None:
    read = json.loads(json.dumps(facts(network)))
    assert read["file"] == "model.ini"
    assert read["cells"][0] == {
        **{"cell": "conv1.1", "type": "Conv", "inputs": ["image"], "input_shapes": [[1, 28, 28]]},
        **{"output_shape": [6, 24, 24], "layers": ["conv1_1", "conv1_1_qact"]},
        **{"weight_steps": 15, "activation_steps": 14, "parameters": 150},
    }
    assert read["cells"][1]["weight_steps"] is None
    assert read["losses"] == [
        {
            **{"file": "model.ini", "line": 19, "key": "[conv1.1] NoBias", "kind": "ignored"},
            "reason": "N2D2 reads it from a ConfigSection only, so it has no effect there either",
        }
    ]
    assert read["problems"] == []


def test_a_problem_may_have_no_place() -> None:
    assert problem_facts(IniError("x")) == {"file": None, "line": None, "message": "x"}
    place = Place("a.ini", 3)
    assert problem_facts(IniError("x", place)) == {"file": "a.ini", "line": 3, "message": "x"}


def test_a_loss_is_a_line() -> None:
    loss = Deviation(Place("a.ini", 3), "[b] C", "ignored", "no effect")
    assert deviation_lines([loss]) == ["a.ini:3: [b] C ignored: no effect"]


def test_the_experiment(network: Network) -> None:
    content = experiment(network, 5)
    lines = experiment_text(network, content, "python -m ini_compat convert model.ini").splitlines()
    assert lines[:4] == [
        "# @package _global_",
        "# Imported from model.ini by: python -m ini_compat convert model.ini",
        "# What it says differently here:",
        f"#   {deviation_lines(network.deviations)[0]}",
    ]
    assert "    conv1_1: {type: conv, channels: 6, kernel: [5, 5], bias: false}" in lines
    assert "    conv1_1_qact: {type: relu}   # 6x24x24" in lines  # the output of the cell
    assert "    fc: {type: linear, channels: 10}   # 10x1x1" in lines
    assert yaml.safe_load("\n".join(lines)) == content


def test_no_comment_leaves_its_line(network: Network) -> None:
    content = experiment(network, 5)
    evil = "x\nname: evil\r\u2028\x85name: evil"
    network.source = evil
    network.deviations.append(Deviation(Place(evil, 1), evil, "ignored", evil))
    text = experiment_text(network, content, evil)
    assert yaml.safe_load(text)["name"] == "model"
    assert all(line.startswith("#") for line in text.splitlines() if "evil" in line)


def test_a_path_is_never_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    database = projects.MNIST + "DataPath=/x/${oc.env:${NOTHING}HOME}/\\${oc.env:${NOTHING}HOME}\n"
    network = read(tmp_path, project(database=database))
    content = experiment(network)
    read_back = OmegaConf.create(experiment_text(network, content, "x"))
    folder = "/x/${oc.env:HOME}/\\${oc.env:HOME}"  # NOTHING is empty
    assert read_back.data.source.folder == content["data"]["source"]["folder"] == folder


def test_a_network_without_losses(tmp_path: Path) -> None:
    network = read(tmp_path, project(FC))
    text = experiment_text(network, experiment(network), "x")
    assert text.splitlines()[2] == "defaults:"
