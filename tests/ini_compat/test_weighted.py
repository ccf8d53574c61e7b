"""Conv, Deconv, Fc and BatchNorm: layers, parameters, solvers and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reading import cells, layer, refusal

CONV = "[x]\nInput=env\nType=Conv\nKernelSize=3\nNbOutputs=8\n"
DECONV = CONV.replace("Conv", "Deconv")
FC = "[x]\nInput=env\nType=Fc\nNbOutputs=8\n"
NORM = "[x]\nInput=env\nType=BatchNorm\nNbOutputs=4\n"


def configured(cell: str, *lines: str) -> str:
    return "\n".join([f"{cell}ConfigSection=c", "[c]", *lines, ""])


def test_convolutions(tmp_path: Path) -> None:
    assert layer(tmp_path, CONV, (4, 8, 8)) == {"type": "conv", "channels": 8, "kernel": [3, 3]}
    node = layer(tmp_path, f"{CONV}Mapping.NbGroups=4\nStride=2\nPadding=1", (4, 8, 8))
    sizes = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}
    assert node == {"type": "conv", "channels": 8, **sizes, "groups": 4}


def test_deconvolutions(tmp_path: Path) -> None:
    assert layer(tmp_path, DECONV, (4, 8, 8)) == {"type": "deconv", "channels": 8, "kernel": [3, 3]}
    node = layer(tmp_path, f"{DECONV}Mapping.NbGroups=4\nStride=2\nDilation=2", (4, 8, 8))
    sizes = {"kernel": [3, 3], "stride": [2, 2], "dilation": [2, 2]}
    assert node == {"type": "deconv", "channels": 8, **sizes, "groups": 4}
    found = cells(tmp_path, f"{DECONV}SubSample=2")
    assert found.lost == ["7: [x] SubSample ignored: Deconv has no such key"]


@pytest.mark.parametrize("cell", [CONV, DECONV])
@pytest.mark.parametrize(
    ("lines", "weights"),
    [
        ("", 4 * 8 * 9),
        ("Mapping.NbGroups=2", 4 * 8 * 9 // 2),
        ("Mapping.ChannelsPerGroup=1", 8 * 9),
        ("Mapping.SizeX=3\nMapping.NbIterations=1", 3 * 9),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_counted_where_there_is_a_connection(
    tmp_path: Path, cell: str, lines: str, weights: int, bias: bool
) -> None:
    found = cells(tmp_path, configured(f"{cell}{lines}\n", f"NoBias={int(not bias)}"), (4, 8, 8))
    assert found["x"].parameters == weights + 8 * bias
    assert sum(f.count for f in found["x"].files) == weights + 8 * bias
    shapes = {key: tuple(t.shape) for key, t in found.graph().state_dict().items()}
    assert shapes == {file.key: file.shape for file in found["x"].files}


def test_fully_connected_layers_flatten_their_inputs(tmp_path: Path) -> None:
    assert layer(tmp_path, FC, (4, 3, 5)) == {"type": "linear", "channels": 8}
    pool = "[p]\nInput=env\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs=4\nMapping.Size=1\n"
    found = cells(tmp_path, pool + FC.replace("env", "env,p"), (4, 3, 5))
    features = 4 * 3 * 5 + 4 * 2 * 4
    assert found["x"].parameters == 8 * features + 8
    assert found["x"].files[0].shape == (8, features)
    assert found["x"].input_shapes == [(4, 3, 5), (4, 2, 4)]
    assert found.graph().get_submodule("x").weight.shape == (8, features)


def test_drop_connect_is_a_matter_of_the_cpu(tmp_path: Path) -> None:
    text = configured(FC, "DropConnect=0.75")
    found = cells(tmp_path, text)
    assert found.layers["x"] == {"type": "linear", "channels": 8, "input": "image"}
    assert found.lost == ["8: [c] DropConnect ignored: N2D2's GPU code does not use it"]
    found = cells(tmp_path, text, head="DefaultModel=Frame\n")
    assert found.layers["x"]["drop_connect"] == 0.75
    assert found.deviations == []
    found.graph()


def test_batch_norms(tmp_path: Path) -> None:
    assert layer(tmp_path, NORM, (4, 8, 8)) == {"type": "batch_norm"}
    found = cells(tmp_path, NORM, (4, 8, 8))
    assert found["x"].parameters == 8
    assert [(f.stem, f.key, f.shape, f.optional) for f in found["x"].files] == [
        ("x_scales", "x.weight", (4,), True),
        ("x_biases", "x.bias", (4,), False),
        ("x_means", "x.running_mean", (4,), False),
        ("x_variances", "x.running_var", (4,), False),
    ]
    assert found["x"].solvers == {"x.weight": {"lr": 0.01}, "x.bias": {"lr": 0.01}}
    frozen = cells(tmp_path, configured(NORM, "MovingAverageMomentum=0"), (4, 8, 8))
    assert frozen.layers["x"]["momentum"] == 0
    frozen.graph()


def test_files(tmp_path: Path) -> None:
    found = cells(tmp_path, CONV.replace("[x]", "[a:b?*1]"), (4, 8, 8))
    (cell,) = found.cells.values()
    weights, biases = cell.files
    assert (weights.stem, weights.key) == ("a_b__1_weights", "a_b__1.weight")
    assert (weights.kind, weights.shape, weights.swapped) == ("conv", (8, 4, 3, 3), False)
    assert (biases.stem, biases.kind, biases.shape) == ("a_b__1_biases", "vector", (8,))
    text = configured(f"{DECONV}Mapping.NbGroups=2\n", "WeightsExportFormat=HWCO")
    weights = cells(tmp_path, text, (4, 8, 8))["x"].files[0]
    assert (weights.kind, weights.shape, weights.groups) == ("deconv", (4, 4, 3, 3), 2)
    assert (weights.swapped, weights.flipped) == (True, False)
    weights = cells(tmp_path, configured(CONV, "WeightsExportFlip=1"))["x"].files[0]
    assert (weights.swapped, weights.flipped) == (False, True)
    weights = cells(tmp_path, configured(FC, "WeightsExportFormat=CO"))["x"].files[0]
    assert weights.swapped


# -- back-propagation -------------------------------------------------------------------------


def test_what_stops_gradients_is_reported_where_they_would_go_on(tmp_path: Path) -> None:
    for cell in (CONV, DECONV, FC, NORM.replace("=4", "=1")):
        text = configured(cell, "BackPropagate=0")
        assert cells(tmp_path, text).deviations == []  # nothing is trained before it
        first = "[p]\nInput=env\nType=Activation\nNbOutputs=1\n"
        (lost,) = cells(tmp_path, first + text.replace("[x]\nInput=env", "[x]\nInput=p")).lost
        assert "[c] BackPropagate ignored: gradients flow on to the cells before this" in lost


def test_quantized_weights_that_n2d2_would_not_train_are_reported(tmp_path: Path) -> None:
    (lost,) = cells(tmp_path, configured(f"{CONV}QWeight=SAT\n", "BackPropagate=0")).lost
    assert lost == (
        "10: [c] BackPropagate approximated: N2D2 does not train quantized weights with it, here "
        "they are"
    )


# -- solvers ----------------------------------------------------------------------------------

SGD = {"lr": 0.01}
CELL_AND_CONFIG: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "nothing": ("", "", SGD, SGD),
    "both": ("Solvers=Adam", "", {"method": "adam", "lr": 0.001}, {"method": "adam", "lr": 0.001}),
    "both with parameters": ("Solvers=SGD\nSolvers.LearningRate=1", "", {"lr": 1.0}, {"lr": 1.0}),
    "one replaced": (
        "Solvers=SGD\nSolvers.LearningRate=1\nBiasSolver=SGD\nBiasSolver.Momentum=0.5",
        *("", {"lr": 1.0}, {"lr": 0.01, "momentum": 0.5}),
    ),
    "config overrides": (
        "Solvers=SGD\nSolvers.Decay=0.5",
        "Solvers.LearningRate=2",
        *({"lr": 2.0, "weight_decay": 0.5}, {"lr": 2.0, "weight_decay": 0.5}),
    ),
    "config of one part": (
        "",
        "BiasSolver.LearningRate=3\nSolvers.LearningRate=2\nSolvers.Momentum=0.5",
        *({"lr": 2.0, "momentum": 0.5}, {"lr": 3.0, "momentum": 0.5}),
    ),
    "config knows no type": (
        "WeightsSolver=Adam\nBiasSolver=Adam",
        "Solvers.LearningRate=2",
        *({"method": "adam", "lr": 2.0}, {"method": "adam", "lr": 2.0}),
    ),
}


@pytest.mark.parametrize("case", CELL_AND_CONFIG)
@pytest.mark.parametrize("cell", [CONV, DECONV, FC])
def test_solvers(tmp_path: Path, cell: str, case: str) -> None:
    own, config, weights, biases = CELL_AND_CONFIG[case]
    found = cells(tmp_path, configured(f"{cell}{own}\n", config))
    assert found["x"].solvers == {"x.weight": weights, "x.bias": biases}
    assert found.deviations == []


def test_solvers_of_batch_norms(tmp_path: Path) -> None:
    own = "Solvers=SGD\nSolvers.LearningRate=1\nBiasSolver=Adam\n"
    found = cells(tmp_path, configured(f"{NORM}{own}", "ScaleSolver.Momentum=0.5"), (4, 8, 8))
    adam = {"method": "adam", "lr": 0.001}
    assert found["x"].solvers == {"x.weight": {"lr": 1.0, "momentum": 0.5}, "x.bias": adam}


def test_parameters_of_a_solver_that_the_cell_does_not_name_have_no_effect(tmp_path: Path) -> None:
    text = f"{CONV}Solvers.LearningRate=1\nWeightsSolver.Momentum=0.5\n"
    found = cells(tmp_path, text)
    assert found["x"].solvers == {"x.weight": SGD, "x.bias": SGD}
    assert found.lost == [
        "7: [x] Solvers.LearningRate ignored: N2D2 reads it only beside Solvers= or from a "
        "ConfigSection",
        "8: [x] WeightsSolver.Momentum ignored: N2D2 reads it only beside WeightsSolver= or from a "
        "ConfigSection",
    ]


def test_solvers_that_others_stand_for_are_reported(tmp_path: Path) -> None:
    text = f"{CONV}Solvers=SGD\nSolvers.Momentum=0.5\nWeightsSolver=SGD\nBiasSolver=SGD\n"
    found = cells(tmp_path, text)
    assert found["x"].solvers == {"x.weight": SGD, "x.bias": SGD}
    reason = "a ConfigSection or another solver stands in its place"
    assert found.lost == [f"8: [x] Solvers.Momentum ignored: {reason}"]
    text = configured(f"{CONV}Solvers=SGD\nSolvers.Momentum=0.5\n", "Solvers.Momentum=0.1")
    assert cells(tmp_path, text).lost == [f"8: [x] Solvers.Momentum ignored: {reason}"]


@pytest.mark.parametrize("cell", [CONV, FC])
def test_without_biases_their_solver_is_only_checked(tmp_path: Path, cell: str) -> None:
    own = "BiasSolver=SGD\nBiasSolver.IterationSize=4\n"
    decay = "BiasSolver.LearningRatePolicy=PolyDecay\nBiasSolver.MaxIterations=600\n"
    found = cells(tmp_path, configured(cell + own + decay, "NoBias=1", "BiasSolver.Power=2"))
    assert found["x"].solvers == {"x.weight": SGD}
    assert found.deviations == []
    assert found.pace is not None
    assert found.pace.iteration_sizes == [1]
    assert found.pace.lengths == []
    text = configured(cell, "NoBias=1", "BiasSolver.Rate=1")
    assert "[c] BiasSolver.Rate: SGD has no parameter Rate" in refusal(tmp_path, text)


# -- cropped inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "edges", "plane"),
    [
        ("InputOffsetX=2", {"left": -2}, (8, 6)),
        ("InputOffsetY=3", {"top": -3}, (5, 8)),
        ("InputWidth=5", {"right": -3}, (8, 5)),
        ("InputHeight=1", {"bottom": -7}, (1, 8)),
        ("InputOffsetX=1\nInputOffsetY=2\nInputWidth=3\nInputHeight=4", None, (4, 3)),
        ("InputOffsetX=0\nInputWidth=8\nInputHeight=0", {}, (8, 8)),
    ],
)
def test_inputs_are_cut(
    tmp_path: Path, lines: str, edges: dict[str, int] | None, plane: tuple[int, int]
) -> None:
    edges = {"top": -2, "bottom": -2, "left": -1, "right": -4} if edges is None else edges
    found = cells(tmp_path, FC + lines, (2, 8, 8))
    if edges:
        assert found.layers["x_crop"] == {"type": "padding", **edges, "input": "image"}
        assert found.graph().shapes["x_crop"] == (2, *plane)
    assert found.layers["x"]["input"] == ("x_crop" if edges else "image")
    assert found["x"].files[0].shape == (8, 2 * plane[0] * plane[1])
    assert found.deviations == []


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"{FC}InputOffsetX=3\nInputWidth=6", (2, 8, 8))
    assert message == "2: [x] cuts 6x8 at 3, 0 out of inputs of only 8x8"
    assert "cuts" in refusal(tmp_path, f"{FC}InputOffsetY=8", (2, 8, 8))


def test_cells_that_are_not_cut_tell_it(tmp_path: Path) -> None:
    assert cells(tmp_path, f"{CONV}InputWidth=4").lost == [
        "7: [x] InputWidth ignored: Conv has no such key"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONV.replace("=8", "=0"), "6: [x] NbOutputs=0 is wrong. Accepted: 1 to 10485"),
        (FC.replace("=8", "=1000000000"), "5: [x] NbOutputs=1000000000 is wrong. Accept"),
        (CONV.replace("NbOutputs=8\n", ""), "2: the section [x] needs the key NbOutputs"),
        (CONV.replace("=8", "=1048576") + "KernelDims=8 8", "makes more than 4,294,967,296 weig"),
        (FC.replace("=8", "=1048576"), "5: [x] NbOutputs makes more than 4,294,967,296 weights"),
        (DECONV + "Stride=1000000000", "numbers of an image"),
        (NORM, "5: [x] NbOutputs=4 is wrong. Accepted: 128, as its in"),
        (f"{CONV}WeightsSharing=y[0]", "7: [x] WeightsSharing shares parameters between cells"),
        (f"{FC}BiasesSharing=y", "6: [x] BiasesSharing shares"),
        (f"{NORM.replace('4', '128')}MeansSharing=y", "6: [x] MeansSharing shares"),
        (f"{CONV}Kernel[0][1]=1 2", "7: [x] Kernel[0][1] gives a kernel number by number"),
        (f"{CONV}Kernel.Normalize=1", "7: [x] Kernel.Normalize gives"),
        (configured(CONV, "OutputsRemap=1:0"), "9: [c] OutputsRemap is not supported here"),
        (configured(FC, "Normalize=1"), "8: [c] Normalize is 1, which is not supported"),
        (configured(FC, "DropConnect=0"), "8: [c] DropConnect=0 is wrong. Accepted: a number in"),
        (configured(FC, "DropConnect=1.5"), "DropConnect=1.5 is wrong. Accepted: a nu"),
        (configured(FC, "WeightsExportFormat=HWCO"), "Accepted: OC, CO"),
        (configured(CONV, "NoBias=2"), "9: [c] NoBias=2 is wrong. Accepted: 0 or"),
        (configured(NORM.replace("4", "128"), "Epsilon=-1"), "8: [c] Epsilon=-1 is wrong. Accepte"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text, (128, 64, 64))


def test_a_remap_of_nothing_is_none(tmp_path: Path) -> None:
    assert cells(tmp_path, configured(CONV, "OutputsRemap=")).deviations == []
