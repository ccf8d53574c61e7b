"""Initial values, by section 3.2 of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reading import cells, refusal

from qatlab.models.graph_layers import filler

CONV = "[x]\nInput=env\nType=Conv\nKernelSize=3\nNbOutputs=8\n"
FC = "[x]\nInput=env\nType=Fc\nNbOutputs=8\n"
NODES: dict[str, dict[str, Any]] = {
    "ConstantFiller\nF.Value=0.5": {"type": "constant", "value": 0.5},
    "NormalFiller": {"type": "normal", "mean": 0.0, "std": 1.0},
    "NormalFiller\nF.Mean=0.1\nF.StdDev=0.02": {"type": "normal", "mean": 0.1, "std": 0.02},
    "UniformFiller": {"type": "uniform", "low": 0.0, "high": 1.0},
    "UniformFiller\nF.Min=-1\nF.Max=2": {"type": "uniform", "low": -1.0, "high": 2.0},
    "XavierFiller": {"type": "xavier", "norm": "fan_in", "distribution": "uniform"},
    "XavierFiller\nF.VarianceNorm=FanOut\nF.Distribution=Normal\nF.Scaling=0.5": {
        **{"type": "xavier", "norm": "fan_out", "distribution": "normal", "scaling": 0.5}
    },
    "HeFiller": {"type": "he", "norm": "fan_in"},
    "HeFiller\nF.VarianceNorm=Average\nF.MeanNorm=2\nF.Scaling=3": {
        **{"type": "he", "norm": "average", "mean": 2.0, "scaling": 3.0}
    },
}


@pytest.mark.parametrize("lines", NODES)
def test_fillers_of_weights(tmp_path: Path, lines: str) -> None:
    text = f"{CONV}WeightsFiller={lines.replace('F.', 'WeightsFiller.')}"
    found = cells(tmp_path, text)
    assert found.layers["x"]["weight_init"] == NODES[lines]
    assert found.deviations == []
    filler("x", NODES[lines], bias=False)  # which raises for what the layer graph does not have


@pytest.mark.parametrize("lines", list(NODES)[:5])
def test_fillers_of_biases(tmp_path: Path, lines: str) -> None:
    text = f"{CONV}BiasFiller={lines.replace('F.', 'BiasFiller.')}"
    assert cells(tmp_path, text).layers["x"]["bias_init"] == NODES[lines]


@pytest.mark.parametrize("name", ["XavierFiller", "HeFiller"])
def test_biases_know_no_fans(tmp_path: Path, name: str) -> None:
    told = refusal(tmp_path, f"{CONV}BiasFiller={name}")
    assert "7: [x] BiasFiller depends on numbers of inputs and outputs" in told
    assert "Accepted: ConstantFiller, NormalFiller, UniformFiller" in told


def test_without_fillers_n2d2s_default_holds(tmp_path: Path) -> None:
    node = cells(tmp_path, CONV).layers["x"]
    assert "weight_init" not in node  # convert writes Normal(0, 0.05) for all of these
    assert "bias_init" not in node


def test_without_biases_their_filler_is_not_kept(tmp_path: Path) -> None:
    text = f"{CONV}BiasFiller=HeFiller\nConfigSection=c\n[c]\nNoBias=1\n"
    found = cells(tmp_path, text)
    assert found.layers["x"]["bias"] is False
    assert "bias_init" not in found.layers["x"]
    assert found.deviations == []
    assert found.graph().get_submodule("x").bias is None


def test_a_constant_without_value_is_zero(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{CONV}BiasFiller=ConstantFiller\n")
    assert found.layers["x"]["bias_init"] == {"type": "constant", "value": 0.0}
    (lost,) = found.lost
    assert lost == (
        "7: [x] BiasFiller approximated: BiasFiller.Value is missing and N2D2 needs it; 0 holds"
    )


def test_parameters_without_filler_are_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{CONV}WeightsFiller.StdDev=2\n")
    assert found.lost == [
        "7: [x] WeightsFiller.StdDev ignored: there is no WeightsFiller= line that it would belong "
        "to"
    ]
    assert "weight_init" not in found.layers["x"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("HeFille", "7: [x] WeightsFiller=HeFille is wrong. Did you mean 'HeFiller'? Accepted: Co"),
        ("HeFiller_Frame", "Did you mean 'HeFiller'?"),
        ("", "7: [x] WeightsFiller= is wrong. Accepted: ConstantFiller, Normal"),
        (
            "HeFiller\nWeightsFiller.Scale=1",
            "8: [x] WeightsFiller.Scale: HeFiller has no parameter Scale, and N2D2 does not load "
            "the file. Did you mean 'Scaling'? Accepted: VarianceNorm, MeanNorm, Scaling",
        ),
        ("HeFiller\nWeightsFiller.Distribution=Normal", "HeFiller has no parameter Distribution"),
        ("HeFiller\nWeightsFiller.VarianceNorm=fan_in", "Accepted: FanIn, Average, FanOut"),
        ("NormalFiller\nWeightsFiller.StdDev=-1", "8: [x] WeightsFiller.StdDev=-1 is wrong. Acce"),
        ("NormalFiller\nWeightsFiller.Mean=x", "8: [x] WeightsFiller.Mean=x is wrong. Ac"),
        ("UniformFiller\nWeightsFiller.Min=2", "7: [x] WeightsFiller has Min=2 above Max=1"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(tmp_path, f"{CONV}WeightsFiller={lines}")
