"""``QWeight`` and ``QAct``, by the specification of N2D2's quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reading import cells, refusal
from torch import nn

from ini_compat.network import Quantizer, bits_node
from qatlab.quant import LsqActivation, LsqWeight, SatActivation, SatWeight

CELLS = {
    "Conv": "[x]\nInput=env\nType=Conv\nKernelSize=3\nNbOutputs=2\n",
    "Fc": "[x]\nInput=env\nType=Fc\nNbOutputs=2\n",
}
QACT = "[x]\nInput=env\nType=Activation\nNbOutputs=1\nActivationFunction=Linear\n"
N2D2 = {"gradient_scale": "n2d2"}


@pytest.mark.parametrize(
    ("n_steps", "node"),
    [
        (1, {"bits": 1}),
        (2, {"n_steps": 2}),
        (3, {"bits": 2}),
        (15, {"bits": 4}),
        (16, {"n_steps": 16}),
        (255, {"bits": 8}),
        (256, {"n_steps": 256}),
        (65535, {"bits": 16}),
    ],
)
def test_ranges(tmp_path: Path, n_steps: int, node: dict[str, int]) -> None:
    assert bits_node(n_steps) == node
    assert Quantizer("SAT", dict(node)).n_steps == n_steps
    for text in CELLS.values():
        found = cells(tmp_path, f"{text}QWeight=SAT\nQWeight.Range={n_steps}\n")["x"]
        assert found.weight == Quantizer("SAT", dict(node))
    for method, more in (("SAT", {"alpha": 1.0}), ("LSQ", N2D2)):
        found = cells(tmp_path, f"{QACT}QAct={method}\nQAct.Range={n_steps}\n")["x"]
        assert found.activation == Quantizer(method, {**node, **more})


@pytest.mark.parametrize(
    ("n_steps", "low", "high"),
    # -floor((R+1)/2), floor((R-1)/2)
    [(3, -2, 1), (4, -2, 1), (15, -8, 7), (16, -8, 7), (254, -127, 126), (255, -128, 127)],
)
def test_levels_of_lsq_weights(tmp_path: Path, n_steps: int, low: int, high: int) -> None:
    found = cells(tmp_path, f"{CELLS['Fc']}QWeight=LSQ\nQWeight.Range={n_steps}\n")["x"]
    assert found.weight is not None
    grid = LsqWeight(**found.weight.arguments).grid
    assert (grid.q_min, grid.q_max) == (low, high)
    state = found.files[-1].quantizer
    assert state == f"quantize LsqWeight {found.weight.n_steps}"
    assert LsqWeight(**found.weight.arguments).understands(state)


@pytest.mark.parametrize(
    ("lines", "node"),
    [
        ("", {"bits": 8}),
        ("Q.ApplyScaling=1", {"bits": 8, "scaling": True}),
        ("Q.ApplyScaling=0", {"bits": 8}),
        ("Q.ApplyQuantization=0", {"bits": 8, "clamp_only": True}),
        ("Q.ApplyQuantization=1", {"bits": 8}),
        ("Q.QuantMode=Default", {"bits": 8}),
        ("Q.QuantMode=Symmetric", {"bits": 8, "grid": "symmetric"}),
        ("Q.QuantMode=Asymmetric\nQ.Range=2", {"n_steps": 2, "grid": "asymmetric"}),
        ("Q.QuantMode=FullRange\nQ.Range=1", {"bits": 1, "grid": "full_range"}),
    ],
)
@pytest.mark.parametrize("kind", CELLS)
def test_sat_weights(tmp_path: Path, kind: str, lines: str, node: dict[str, Any]) -> None:
    found = cells(tmp_path, f"{CELLS[kind]}QWeight=SAT\n{lines.replace('Q.', 'QWeight.')}")
    assert found["x"].weight == Quantizer("SAT", node)
    assert found["x"].solvers.keys() == {"x.weight", "x.bias"}
    assert found.deviations == []
    SatWeight(**node)


def test_lsq_weights(tmp_path: Path) -> None:
    text = f"{CELLS['Conv']}QWeight=LSQ\nQWeight.Range=15\n"
    found = cells(tmp_path, f"{text}QWeightSolver=Adam\nQWeightSolver.LearningRate=0.1\n")
    assert found["x"].weight == Quantizer("LSQ", {"bits": 4, **N2D2})
    assert found["x"].solvers["x.weight_quantizer.step_size"] == {"method": "adam", "lr": 0.1}
    assert found.deviations == []
    fixed = "QWeight.SetOptInitStepSize=0\n"
    node = {"bits": 4, **N2D2, "step_size": 100.0}
    assert cells(tmp_path, text + fixed)["x"].weight == Quantizer("LSQ", node)
    LsqWeight(**node)
    given = f"{fixed}QWeight.StepSize=0.5\n"
    assert cells(tmp_path, text + given)["x"].weight == Quantizer("LSQ", {**node, "step_size": 0.5})


def test_what_lsq_does_not_use_is_reported(tmp_path: Path) -> None:
    text = f"{CELLS['Conv']}QWeight=LSQ\nQWeight.StepSize=3\nQWeight.QuantMode=Symmetric\n"
    found = cells(tmp_path, text)
    assert found["x"].weight == Quantizer("LSQ", {"bits": 8, **N2D2})
    reason = "N2D2 takes the first step from the data unless SetOptInitStepSize=0"
    assert sorted(found.lost) == [
        "8: [x] QWeight.StepSize ignored: " + reason,
        "9: [x] QWeight.QuantMode ignored: N2D2 does not use it with LSQ",
    ]
    found = cells(tmp_path, f"{QACT}QAct=LSQ\nQAct.StepSize=3\n")
    assert found.lost == ["8: [x] QAct.StepSize ignored: " + reason]


@pytest.mark.parametrize(
    ("lines", "node", "solver"),
    [
        ("SAT", {"bits": 8, "alpha": 1.0}, {"lr": 0.01}),
        ("SAT\nQAct.Alpha=6.0\nQAct.Range=15", {"bits": 4, "alpha": 6.0}, {"lr": 0.01}),
        ("LSQ", {"bits": 8, **N2D2}, {"lr": 0.01}),
        (
            "LSQ\nQAct.SetOptInitStepSize=0\nQAct.StepSize=2",
            {"bits": 8, **N2D2, "step_size": 2},
            None,
        ),
        (
            "SAT\nQActSolver=SGD\nQActSolver.LearningRate=0.5",
            {"bits": 8, "alpha": 1.0},
            {"lr": 0.5},
        ),
        ("SAT\nQActSolver=Adam", {"bits": 8, "alpha": 1.0}, {"method": "adam", "lr": 0.001}),
    ],
)
def test_activations(
    tmp_path: Path, lines: str, node: dict[str, Any], solver: dict[str, Any] | None
) -> None:
    found = cells(tmp_path, f"{QACT}QAct={lines}")
    cell = found["x"]
    method = lines[:3]
    assert cell.activation == Quantizer(method, node)
    learned = {"SAT": "alpha", "LSQ": "step_size"}[method]
    assert cell.solvers == {f"x_qact.{learned}": solver or {"lr": 0.01}}
    quantizer = {"SAT": SatActivation, "LSQ": LsqActivation}[method](nn.ReLU(), **node)
    (file,) = cell.files
    stem = {"SAT": "x_QAct_SAT_Alpha", "LSQ": "x_QAct_LSQ_StepSize"}[method]
    assert (file.stem, file.key, file.optional) == (stem, f"x_qact.{learned}", True)
    assert quantizer.understands(file.quantizer)
    assert found.deviations == []


def test_no_solver_of_the_cell_reaches_what_quantizers_learn(tmp_path: Path) -> None:
    text = f"{CELLS['Fc']}ActivationFunction=Linear\nQAct=SAT\nQWeight=LSQ\n"
    found = cells(
        tmp_path,
        f"{text}Solvers=SGD\nSolvers.LearningRate=1\nConfigSection=c\n[c]\nSolvers.Momentum=0.5\n",
    )
    plain = {"lr": 0.01}
    assert found["x"].solvers["x_qact.alpha"] == plain
    assert found["x"].solvers["x.weight_quantizer.step_size"] == plain
    assert found["x"].solvers["x.weight"] == {"lr": 1.0, "momentum": 0.5}


def test_a_negative_alpha_is_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{QACT}QAct=SAT\nQAct.Alpha=-3\n")
    assert found["x"].activation == Quantizer("SAT", {"bits": 8, "alpha": 3.0})
    assert found.lost == [
        "8: [x] QAct.Alpha approximated: N2D2 computes with its absolute value but lets it learn "
        "in the wrong direction"
    ]


OTHERS = {
    "Deconv": "KernelSize=3\nNbOutputs=1\n",
    "Pool": "PoolSize=2\nPooling=Max\nNbOutputs=1\n",
    "BatchNorm": "NbOutputs=1\n",
    "ElemWise": "Operation=Sum\nNbOutputs=1\n",
    "Softmax": "NbOutputs=1\n",
    "Dropout": "NbOutputs=1\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_cells_have_no_quantizer_of_weights(tmp_path: Path, kind: str) -> None:
    text = f"[x]\nInput=env\nType={kind}\n{OTHERS[kind]}"
    plain = cells(tmp_path, text)
    found = cells(tmp_path, f"{text}QWeight=SAT\nQWeight.Range=15\nQWeightSolver=SGD\n")
    assert found.layers == plain.layers
    assert found["x"].weight is None
    line = 2 + text.count("\n")
    reason = f"N2D2 has no weight quantizer for {kind}, only for Conv and Fc"
    keys = ("QWeight", "QWeight.Range", "QWeightSolver")
    assert found.lost == [f"{line + i}: [x] {key} ignored: {reason}" for i, key in enumerate(keys)]


@pytest.mark.parametrize("kind", OTHERS)
def test_any_cell_with_a_function_can_have_a_quantizer_of_activations(
    tmp_path: Path, kind: str
) -> None:
    text = f"[x]\nInput=env\nType={kind}\n{OTHERS[kind]}ActivationFunction=Linear\nQAct=SAT\n"
    found = cells(tmp_path, text)
    assert found["x"].activation == Quantizer("SAT", {"bits": 8, "alpha": 1.0})
    assert found["x"].output == found["x"].site == "x_qact"


def test_keys_without_quantizer_are_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{CELLS['Conv']}QWeight.Range=15\n")
    assert found["x"].weight is None
    assert found.lost == [
        "7: [x] QWeight.Range ignored: there is no QWeight= line that it would belong to"
    ]
    found = cells(tmp_path, f"{CELLS['Conv']}QWeight=SAT\nQWeightSolver=SGD\n")
    assert found.lost == [
        "8: [x] QWeightSolver ignored: QWeight=SAT learns nothing that a solver could train"
    ]


def test_several_parents_are_quantized_together(tmp_path: Path) -> None:
    pool = "[p]\nInput=env\nType=Pool\nPoolSize=1\nPooling=Max\nNbOutputs=1\n"
    text = f"{pool}{CELLS['Conv'].replace('env', 'env,p')}"
    (lost,) = cells(tmp_path, f"{text}QWeight=SAT\n").lost
    assert "QWeight approximated: N2D2 quantizes and rescales the weights of each parent" in lost
    assert cells(tmp_path, f"{text}QWeight=LSQ\n").lost == []  # one step in N2D2, too


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "QWeight=SATT",
            "7: [x] QWeight=SATT is wrong. Did you mean 'SAT'? Accepted: SAT, LSQ",
        ),
        ("QWeight=", "QWeight= is wrong. Accepted: SAT, LSQ"),
        (
            "QWeight=Prune",
            "7: [x] QWeight=Prune: pruning is not supported here. Accepted: SAT, LSQ",
        ),
        ("QWeight=SAT\nQWeight.Range=0", "8: [x] QWeight.Range=0 is wrong. Accepted: 1 to 65535"),
        ("QWeight=SAT\nQWeight.Range=65536", "QWeight.Range=65536 is wrong"),
        ("QWeight=SAT\nQWeight.Range=-1", "Accepted: an integer of at least 0"),
        ("QWeight=LSQ\nQWeight.Range=1", "QWeight.Range=1 is wrong. Accepted: 3 to 65535"),
        ("QWeight=LSQ\nQWeight.Range=2", "QWeight.Range=2 is wrong. Accepted: 3 to 65535"),
        ("QWeight=SAT\nQWeight.Range=1\nQWeight.QuantMode=Symmetric", "9: [x] QWeight.QuantMode=S"),
        ("QWeight=SAT\nQWeight.Range=1\nQWeight.QuantMode=Asymmetric", "no levels with Range=1"),
        ("QWeight=SAT\nQWeight.QuantMode=Symetric", "Did you mean 'Symmetric'"),
        (
            "QWeight=SAT\nQWeight.Mode=Integer",
            "8: [x] QWeight.Mode: SAT has no parameter Mode, and N2D2 does not load the file. Did "
            "you mean 'QuantMode'? Accepted: ApplyQuantization, ApplyScaling, Range, QuantMode",
        ),
        ("QWeight=LSQ\nQWeight.StepOptInitStepSize=1", "Did you mean 'SetOptInitStepSize'?"),
        ("QWeight=SAT\nQWeight.Solver=SGD", "SAT has no parameter Solver"),
        ("QWeight=SAT\nQWeight.StepSize=1", "SAT has no parameter StepSize"),
        ("QWeight=SAT\nQWeight.ApplyScaling=true", "Accepted: 0 or 1"),
        ("QWeight=LSQ\nQWeight.SetOptInitStepSize=0\nQWeight.StepSize=0", "StepSize=0 is wrong"),
        ("QWeight=LSQ\nQWeightSolver=RMSprop", "QWeightSolver=RMSprop is wrong. Accepted:"),
        ("QAct=PACT", "QAct=PACT is wrong. Accepted: SAT, LSQ"),
        ("QAct=SAT\nQAct.Alpha=0", "8: [x] QAct.Alpha=0 is wrong. Accepted:"),
        ("QAct=SAT\nQAct.StepSize=1", "SAT has no parameter StepSize"),
        ("QAct=LSQ\nQAct.Alpha=1", "LSQ has no parameter Alpha"),
        ("QAct=SAT\nQAct.Range=0", "QAct.Range=0 is wrong"),
        ("QAct=SAT\nQActSolver=SGD\nQActSolver.Rate=1", "SGD has no parameter Rate"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: str, expected: str) -> None:
    text = f"{CELLS['Conv']}{lines}\nActivationFunction=Linear\n"
    assert expected in refusal(tmp_path, text)
