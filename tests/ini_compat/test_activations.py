"""Activation functions, and where quantizers stand behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reading import cells, refusal

POOL = "[x]\nInput=env\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs=1\n"
FUNCTIONS: dict[str, dict[str, Any] | None] = {
    "Linear": None,
    "Linear\nF.Clipping=0": None,
    "Linear\nF.Clipping=6": {"type": "saturation", "threshold": 6.0},
    "Rectifier": {"type": "relu"},
    "Rectifier\nF.LeakSlope=0.1": {"type": "relu", "slope": 0.1},
    "Rectifier\nF.Clipping=6": {"type": "relu", "clip": 6.0},
    "Rectifier\nF.Clipping=6\nF.LeakSlope=0.1": {"type": "relu", "slope": 0.1, "clip": 6.0},
    "Saturation": {"type": "saturation", "threshold": 1.0},
    "Saturation\nF.Threshold=2": {"type": "saturation", "threshold": 2.0},
    "Logistic": {"type": "sigmoid"},
    "Tanh": {"type": "tanh"},
    "Tanh\nF.Alpha=0.5": {"type": "tanh", "alpha": 0.5},
    "TanhLeCun": {"type": "tanh_lecun"},
    "Softplus": {"type": "softplus"},
    "Swish": {"type": "silu"},
}


def said(lines: str) -> str:
    return f"{POOL}ActivationFunction={lines.replace('F.', 'ActivationFunction.')}\n"


@pytest.mark.parametrize("lines", FUNCTIONS)
def test_functions(tmp_path: Path, lines: str) -> None:
    found = cells(tmp_path, said(lines))
    function = FUNCTIONS[lines]
    assert found.deviations == []
    if function is None:
        assert list(found.layers) == ["x"]
        assert found["x"].output == "x"
    else:
        assert found.layers["x_act"] == {**function, "input": "x"}
        assert found["x"].output == "x_act"
    assert found.graph().shapes[found["x"].output] == (1, 7, 7)


def test_without_a_function_cells_are_linear(tmp_path: Path) -> None:
    assert list(cells(tmp_path, POOL).layers) == ["x"]


def test_only_activation_cells_have_tanh_by_default(tmp_path: Path) -> None:
    found = cells(tmp_path, "[x]\nInput=env\nType=Activation\nNbOutputs=1\n")
    assert found.layers == {"x_act": {"type": "tanh", "input": "image"}}


@pytest.mark.parametrize("cell", [POOL, "[x]\nInput=env\nType=Activation\nNbOutputs=1\n"])
def test_parameters_without_function_have_no_effect(tmp_path: Path, cell: str) -> None:
    plain = cells(tmp_path, cell).layers
    found = cells(tmp_path, f"{cell}ActivationFunction.Alpha=2\nActivationFunction.Clipping=3\n")
    assert found.layers == plain
    reason = "there is no ActivationFunction= line that it would belong to"
    line = 2 + cell.count("\n")
    assert found.lost == [
        f"{line}: [x] ActivationFunction.Alpha ignored: {reason}",
        f"{line + 1}: [x] ActivationFunction.Clipping ignored: {reason}",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("Rectifyer", "8: [x] ActivationFunction=Rectifyer is wrong. Did you mean 'Rectifier'? Ac"),
        ("Rectifier_Frame_CUDA", "ActivationFunction=Rectifier_Frame_CUDA"),
        ("", "ActivationFunction= is wrong. Accepted: Linear, Rectifier, Saturation, Logistic, Lo"),
        (
            "Rectifier\nF.Leak=1",
            "9: [x] ActivationFunction.Leak: Rectifier has no parameter Leak, and N2D2 does not "
            "load the file. Did you mean 'LeakSlope'? Accepted: LeakSlope, Clipping",
        ),
        ("Logistic\nF.Alpha=1", "Logistic has no parameter Alpha, and N2D2 does not load the"),
        ("Logistic\nF.Alpha=1", "Accepted: none"),
        ("Rectifier\nF.QuantizationLevels=8", "has no parameter QuantizationLevels"),
        ("Rectifier\nF.Clipping=-1", "9: [x] ActivationFunction.Clipping=-1 is wrong. Accepted: 0"),
        ("Linear\nF.Clipping=-1", "ActivationFunction.Clipping=-1 is wrong."),
        ("Saturation\nF.Threshold=0", "9: [x] ActivationFunction.Threshold=0 is wrong. Accepted"),
        ("Tanh\nF.Alpha=1e999", "9: [x] ActivationFunction.Alpha=1e999 is"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(tmp_path, said(lines))


# -- with QAct --------------------------------------------------------------------------------

QACT = "QAct=SAT\nQAct.Alpha=6.0\nQAct.Range=15\n"


@pytest.mark.parametrize("lines", [name for name in FUNCTIONS if name != "LogisticWithLoss"])
@pytest.mark.parametrize("method", ["SAT", "LSQ"])
def test_a_quantizer_is_a_site_behind_the_function(tmp_path: Path, lines: str, method: str) -> None:
    found = cells(tmp_path, f"{said(lines)}QAct={method}\nQAct.Range=15\n")
    cell, function = found["x"], FUNCTIONS[lines]
    plain = function in (None, {"type": "relu"})  # which clips at 0, as the site itself does
    assert list(found.layers) == (["x", "x_qact"] if plain else ["x", "x_act", "x_qact"])
    assert found.layers["x_qact"] == {"type": "relu", "input": "x" if plain else "x_act"}
    assert (cell.site, cell.output) == ("x_qact", "x_qact")
    assert cell.activation is not None
    assert cell.activation.method == method
    assert cell.activation.arguments["bits"] == 4
    # Only behind a rectifier do values that are rounded to 0 get no gradient.
    rectified = lines.startswith("Rectifier")
    assert cell.activation.arguments.get("dead_zeros", False) is rectified
    if plain:
        assert found.deviations == []
    else:
        name = lines.partition("\n")[0]
        line = 2 + said(lines).count("\n")
        assert found.lost == [
            f"{line}: [x] QAct approximated: N2D2 takes the derivative of {name} at its quantized "
            "output, here it is that of the function itself"
        ]


def test_qact_without_function_has_no_effect(tmp_path: Path) -> None:
    solver = "QActSolver=SGD\nQActSolver.LearningRate=0.1\n"
    for cell in (POOL, "[x]\nInput=env\nType=Activation\nNbOutputs=1\n"):
        plain = cells(tmp_path, cell)
        found = cells(tmp_path, f"{cell}{QACT}{solver}")
        assert found.layers == plain.layers
        assert found["x"].activation is None
        assert found["x"].files == []
        assert found["x"].solvers == {}
        reason = "N2D2 reads QAct only beside ActivationFunction in the same section"
        line = 2 + cell.count("\n")
        keys = ("QAct", "QAct.Alpha", "QAct.Range", "QActSolver", "QActSolver.LearningRate")
        assert found.lost == [
            f"{line + i}: [x] {key} ignored: {reason}" for i, key in enumerate(keys)
        ]


def test_keys_of_a_quantizer_that_is_not_there_are_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, said("Linear") + "QAct.Alpha=2\nQActSolver=SGD\n")
    reason = "there is no QAct= line that it would belong to"
    assert found.lost == [
        f"9: [x] QAct.Alpha ignored: {reason}",
        f"10: [x] QActSolver ignored: {reason}",
    ]
    found = cells(tmp_path, said("Linear") + "QAct=SAT\nQActSolver.LearningRate=1\n")
    (lost,) = found.lost
    assert lost == (
        "10: [x] QActSolver.LearningRate ignored: N2D2 reads it only beside QActSolver="
    )
    assert found["x"].solvers == {"x_qact.alpha": {"lr": 0.01}}


def test_a_function_that_belongs_to_the_loss_is_not_quantized(tmp_path: Path) -> None:
    assert "9: [x] QAct behind LogisticWithLoss" in refusal(
        tmp_path, said("LogisticWithLoss") + "QAct=SAT\n"
    )


def test_a_logistic_with_loss_is_left_to_the_loss(tmp_path: Path) -> None:
    found = cells(tmp_path, said("LogisticWithLoss"))
    assert list(found.layers) == ["x"]
    assert found["x"].with_loss == "logistic"


def test_who_reads_a_logistic_with_loss_gets_its_values(tmp_path: Path) -> None:
    reader = "[{}]\nInput=x\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs=1\n"
    text = said("LogisticWithLoss") + reader.format("y") + reader.format("z")
    found = cells(tmp_path, text)
    assert found["x"].output == "x"  # what its own loss takes
    assert found["y"].layers["x_act"] == {"type": "sigmoid", "input": "x"}
    assert found["y"].layers["y"]["input"] == "x_act"
    assert found["z"].layers["z"]["input"] == "x_act_2"
    assert found.lost == [
        f"2: [x] approximated: N2D2 hands the gradients of {name} on without the derivative of the "
        "logistic, here with it"
        for name in "yz"
    ]
    found.graph()
