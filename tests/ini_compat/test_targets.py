"""Targets and the losses they stand for, by section 4 of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from projects import FC, SP, losses, problems, project, read

from ini_compat.network import Network

SOFTMAX = "[softmax]\nInput=fc\nType=Softmax\nNbOutputs=10\nWithLoss={}\n"
SQUARED = "qatlab.training.loss.SquaredError"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "softmax with loss": (
        *(FC + SOFTMAX.format(1), "[softmax.Target]\n"),
        {"_target_": "qatlab.training.loss.CrossEntropy"},
    ),
    "softmax": (FC + SOFTMAX.format(0), "[softmax.Target]\n", {"_target_": SQUARED}),
    "linear": (FC, "[fc.Target]\n", {"_target_": SQUARED}),
    "named": (FC, "[fc.TargetOfMine]\nType=TargetScore\n", {"_target_": SQUARED}),
    "plain type": (FC, "[fc.Target]\nType=Target\n", {"_target_": SQUARED}),
    "values": (
        *(FC, "[fc.Target]\nTargetValue=2\nDefaultValue=-1\n"),
        {"_target_": SQUARED, "target_value": 2.0, "default_value": -1.0},
    ),
    "logistic": (
        *(f"{FC}ActivationFunction=Logistic\n", "[fc.Target]\n"),
        {"_target_": SQUARED},
    ),
    "logistic with loss": (
        *(f"{FC}ActivationFunction=LogisticWithLoss\n", "[fc.Target]\nTargetValue=0.9\n"),
        {"_target_": "qatlab.training.loss.LogisticCrossEntropy", "target_value": 0.9},
    ),
    "single output": (
        *(FC.replace("=10", "=1"), "[fc.Target]\nBinaryThreshold=0.25\n"),
        {"_target_": SQUARED, "binary_threshold": 0.25},
    ),
    "threshold of several": (FC, "[fc.Target]\nBinaryThreshold=0.25\n", {"_target_": SQUARED}),
    "five": (FC, "[fc.Target]\nTopN=5\n", {"_target_": SQUARED}),
    "reconstruction": (
        *("[x]\nInput=sp\nType=Activation\nNbOutputs=1\n", "[x.Target]\nDataAsTarget=1\n"),
        {"_target_": "qatlab.training.loss.Reconstruction"},
    ),
    "no reconstruction": (FC, "[fc.Target]\nDataAsTarget=0\n", {"_target_": SQUARED}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses(tmp_path: Path, case: str) -> None:
    cells, target, node = CASES[case]
    network = read(tmp_path, project(cells, target=target))
    assert network.problems == []
    assert network.deviations == []
    assert [found.loss for found in network.targets] == [node]
    instantiate(node)  # qatlab accepts it


def test_values_of_a_softmax_are_shares(tmp_path: Path) -> None:
    cells, target, node = CASES["softmax with loss"]
    network = read(tmp_path, project(cells, target=f"{target}TargetValue=0.9\nDefaultValue=0.1\n"))
    assert network.targets[0].loss == node
    assert losses(network).splitlines() == [
        f"[softmax.Target] {key} approximated: a softmax is trained with {n}, as its outputs are "
        "shares"
        for key, n in (("TargetValue", 1), ("DefaultValue", 0))
    ]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("NoDisplayLabel", "only changes what N2D2 draws and logs"),
        ("ConfusionQuantSteps", "only changes what N2D2 draws and logs"),
        ("LabelsMapping", "labels keep the numbers that the data set gives them"),
        ("CreateMissingLabels", "labels keep the numbers that the data set gives them"),
        ("MaskedLabel", "all outputs count"),
        ("WeakTarget", "all labels count alike"),
    ],
)
def test_keys_without_effect_are_reported(tmp_path: Path, key: str, reason: str) -> None:
    network = read(tmp_path, project(target=f"[fc.Target]\n{key}=1\n"))
    (lost,) = network.deviations
    assert (lost.place.line, lost.key, lost.kind, lost.reason) == (
        *(13, f"[fc.Target] {key}", "ignored", reason),
    )
    assert network.problems == []


def test_other_ranks_than_the_first_and_the_fifth_are_reported(tmp_path: Path) -> None:
    network = read(tmp_path, project(target="[fc.Target]\nTopN=3\n"))
    assert losses(network) == (
        "[fc.Target] TopN ignored: images count as found whose label has the highest output, or "
        "one of five"
    )


CONV = "[c]\nInput=sp\nType=Conv\nKernelSize=3\nNbOutputs=10\n"
LOGISTIC = "[x]\nInput=sp\nType=Activation\nNbOutputs=1\nActivationFunction=LogisticWithLoss\n"


@pytest.mark.parametrize(
    ("cells", "target", "expected"),
    [
        (FC, "", "the file has no target, such as [softmax.Target], and N2D2 needs one"),
        (FC, "[fcc.Target]\n", "the file has no target"),
        (FC, "[fc.Target]\nTopN=11\n", "13: [fc.Target] TopN=11 is wrong. Accepted: 1 to 10, the"),
        (FC, "[fc.Target]\nTopN=0\n", "TopN=0 is wrong"),
        (
            *(FC, "[fc.Target]\nTargetValeu=1\n"),
            "13: [fc.Target] TargetValeu is not a key of a target, and N2D2 does not load the file."
            " Did you mean 'TargetValue'? Accepted: Type, TargetValue",
        ),
        (FC, "[fc.Target]\nTargetValue=0\n", "13: [fc.Target] TargetValue=0 is wrong. Accepted: a"),
        (FC, "[fc.Target]\nDefaultValue=1\n", "13: [fc.Target] TargetValue=1 is wrong. Accepted:"),
        (FC, "[fc.Target]\nType=TargetBBox\n", "13: [fc.Target] Type=TargetBBox is not supported"),
        (
            FC,
            "[fc.Target]\nType=TargetRP\n",
            "Type=TargetRP is not supported here. Accepted: Targe",
        ),
        (FC, "[fc.Target]\nType=Score\n", "Accepted: TargetScore, Target"),
        (
            FC,
            "[fc.Target]\nDataAsTarget=1\n",
            "DataAsTarget=1 compares outputs of 10x1x1 with imag",
        ),
        (CONV, "[c.Target]\n", "[c.Target]: c has 26x26 outputs for each class; a target for each"),
        (
            LOGISTIC,
            "[x.Target]\nDataAsTarget=1\n",
            "is not supported here for a logistic with loss",
        ),
        (
            FC.replace("=10", "=1") + "ActivationFunction=LogisticWithLoss\n",
            *(
                "[fc.Target]\nBinaryThreshold=1\n",
                "BinaryThreshold=1 is wrong. Accepted: a probability",
            ),
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, cells: str, target: str, expected: str) -> None:
    assert expected in problems(read(tmp_path, project(cells, target=target)))


def test_a_target_of_no_cell_is_reported(tmp_path: Path) -> None:
    network = read(
        tmp_path, project(target="[fc.Target]\n[softmax.Target]\n[fcc.Target]\nTopN=1\n")
    )
    assert network.problems == []
    assert losses(network).splitlines() == [
        "[softmax.Target] ignored: there is no cell 'softmax'.",
        "[fcc.Target] ignored: there is no cell 'fcc'. Did you mean 'fc'?",
    ]


def names(network: Network) -> list[str]:
    assert network.problems == []
    return [target.cell for target in network.targets]


def test_targets_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    deep = FC + FC.replace("[fc]", "[a]") + SOFTMAX.format(1)
    targets = "[softmax.Target]\n[a.Target]\n[fc.Target-2]\n[fc.Target-1]\n"
    network = read(tmp_path, project(deep, target=targets))
    assert names(network) == ["softmax", "a", "fc", "fc"]
    assert [target.place.line for target in network.targets[2:]] == [23, 24]


def test_names_of_cells_may_hold_the_word(tmp_path: Path) -> None:
    cell = FC.replace("[fc]", "[a.Target]")
    network = read(tmp_path, project(cell, target="[a.Target.Target]\n"))
    assert names(network) == ["a.Target"]
    both = cell + FC.replace("[fc]", "[a]")
    assert names(read(tmp_path, project(both, target="[a.Target.Target]\n"))) == ["a.Target"]


def test_what_is_wrong_with_the_cell_is_reported_there(tmp_path: Path) -> None:
    network = read(tmp_path, project(FC.replace("=10", "=0"), sp=SP))
    assert len(network.problems) == 1
    assert "NbOutputs=0 is wrong. Accepted: 1 to 104" in problems(network)
