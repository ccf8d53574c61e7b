"""ElemWise, Activation, Dropout, Softmax, LRN, Scaling, Normalize and Threshold."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from reading import Cells, cells, layer, refusal

IMAGE = (2, 3, 3)


def cell(kind: str, *lines: str, outputs: int = 2, parent: str = "env") -> str:
    return "\n".join([f"[x]\nInput={parent}\nType={kind}\nNbOutputs={outputs}", *lines, ""])


def configured(kind: str, *lines: str) -> str:
    return "\n".join([f"{cell(kind)}ConfigSection=c\n[c]", *lines, ""])


# -- ElemWise ---------------------------------------------------------------------------------

PARENTS = "".join(
    f"[{name}]\nInput=env\nType=Scaling\nFactor={factor}\nNbOutputs=2\n"
    for name, factor in (("a", 1), ("b", -2), ("c", 3))
)


def combined(folder: Path, *lines: str, parents: str = "a,b,c") -> Cells:
    return cells(folder, PARENTS + cell("ElemWise", *lines, parent=parents), IMAGE)


def output(found: Cells) -> list[float]:
    """Return the output for an image whose channels are 1 and -1."""
    image = torch.ones(1, *IMAGE)
    image[:, 1] *= -1
    made = found.graph()(image)
    return [float(made[0, 0, 0, 0]), float(made[0, 1, 0, 0])]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [  # the parents are 1, -2, 3 times the image
        (["Operation=Sum"], [2, -2]),
        (["Operation=AbsSum"], [6, 6]),
        (["Operation=EuclideanSum"], [sqrt(14), sqrt(14)]),
        (["Operation=Prod"], [-6, 6]),
        (["Operation=Max"], [3, 2]),
        (["Operation=Sum", "Weights=2 1 -1"], [-3, 3]),
        (["Operation=Sum", "CoeffMode=PerLayer", "Weights=2"], [4, -4]),
        (["Operation=Sum", "CoeffMode=PerInput", "Shifts=1 2 3"], [8, 4]),
        (["Operation=Sum", "CoeffMode=PerChannel", "Weights=2 3"], [4, -6]),
        (["Operation=Sum", "CoeffMode=PerChannel", "Shifts=1 0"], [5, -2]),  # for each input
        (["Operation=AbsSum", "Weights=1 2 -1"], [2, 2]),
        (["Operation=EuclideanSum", "Weights=0 2 1"], [5, 5]),
    ],
)
def test_elementwise_operations(tmp_path: Path, lines: list[str], expected: list[float]) -> None:
    found = combined(tmp_path, *lines)
    assert output(found) == pytest.approx(expected)
    assert found.deviations == []


def test_plain_coefficients_are_left_out(tmp_path: Path) -> None:
    node = combined(tmp_path, "Operation=Sum", "Weights=1 1 1", "Shifts=0 0 0").layers["x"]
    assert node == {"type": "elementwise", "operation": "sum", "input": ["a", "b", "c"]}
    node = combined(tmp_path, "Operation=Sum", parents="a").layers["x"]
    assert node == {"type": "elementwise", "operation": "sum", "input": "a"}


@pytest.mark.parametrize(
    ("operation", "key"),
    [
        *(("Prod", "Weights"), ("Max", "Weights"), ("AbsSum", "Shifts"), ("Prod", "Shifts")),
        ("EuclideanSum", "Shifts"),
    ],
)
def test_coefficients_that_the_layer_graph_has_not(
    tmp_path: Path, operation: str, key: str
) -> None:
    text = PARENTS + cell("ElemWise", f"Operation={operation}", f"{key}=2 3 4", parent="a,b,c")
    told = refusal(tmp_path, text, IMAGE)
    assert f"[x] {key} are not supported here with Operation={operation}" in told


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "the section [x] needs the key Operation"),
        (["Operation=Add"], "Accepted: Sum, AbsSum"),
        (
            ["Operation=Sum", "Weights=1 2 3 4"],
            "[x] Weights=1 2 3 4 is wrong. Accepted: 3 values, as CoeffMode=Pe",
        ),
        (
            ["Operation=Sum", "CoeffMode=PerChannel", "Weights=1 2 3"],
            "Weights=1 2 3 is wrong. Accepted: 2 values, as CoeffMode=PerCha",
        ),
        (["Operation=Sum", "Weights=x"], "Accepted: a number"),
    ],
)
def test_elementwise_operations_that_are_refused(
    tmp_path: Path, lines: list[str], expected: str
) -> None:
    text = PARENTS + cell("ElemWise", *lines, parent="a,b,c")
    assert expected in refusal(tmp_path, text, IMAGE)


def test_inputs_have_one_shape(tmp_path: Path) -> None:
    pool = "[p]\nInput=env\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs=2\nMapping.Size=1\n"
    text = pool + cell("ElemWise", "Operation=Sum", parent="sp,p")
    assert "10: [x] Input combines tensors of different shapes: image 2x3x3, p 2x2x2" in refusal(
        tmp_path, text, IMAGE
    )
    text = pool + cell("Dropout", parent="sp,p", outputs=4)
    assert "Input joins tensors of different sizes: image 2x3x3," in refusal(tmp_path, text, IMAGE)
    many = ",".join(["sp"] * 30 + ["p"])
    message = refusal(tmp_path, pool + cell("ElemWise", "Operation=Sum", parent=many), IMAGE)
    assert message.endswith("image 2x3x3, ...")


# -- the others -------------------------------------------------------------------------------

NODES: list[tuple[str, dict[str, Any]]] = [
    (cell("Dropout"), {"type": "dropout", "p": 0.5}),
    (configured("Dropout", "Dropout=0"), {"type": "dropout", "p": 0.0}),
    (cell("Softmax"), {"type": "softmax"}),
    (cell("Softmax", "GroupSize=1"), {"type": "softmax", "group_size": 1}),
    (cell("Softmax", "GroupSize=2"), {"type": "softmax"}),  # all of them are one group
    (cell("Softmax", "WithLoss=0"), {"type": "softmax"}),
    (cell("LRN"), {"type": "lrn"}),
    (configured("LRN", "N=3", "K=2.0"), {"type": "lrn", "size": 3}),
    (cell("Scaling", "Factor=2"), {"type": "scale", "factor": 2.0}),
    (cell("Scaling", "Factor=2 3"), {"type": "scale", "factor": [2.0, 3.0]}),
    (cell("Normalize", "Norm=L1"), {"type": "normalize", "norm": "l1"}),
    (cell("Normalize", "Norm=L2"), {"type": "normalize", "norm": "l2"}),
    (cell("Threshold", "Threshold=0.5"), {"type": "threshold", "threshold": 0.5}),
    *(
        (
            configured("Threshold", f"Operation={word}").replace("[c]", "Threshold=1\n[c]"),
            {"type": "threshold", "threshold": 1.0, "operation": operation},
        )
        for word, operation in {
            "BinaryInverted": "binary_inverted",
            "Truncate": "truncate",
            "ToZero": "to_zero",
            "ToZeroInverted": "to_zero_inverted",
        }.items()
    ),
]


@pytest.mark.parametrize(("text", "node"), NODES)
def test_cells(tmp_path: Path, text: str, node: dict[str, Any]) -> None:
    assert layer(tmp_path, text, IMAGE) == node
    found = cells(tmp_path, text, IMAGE)
    assert found["x"].shape == IMAGE
    assert found.deviations == []


def test_what_the_cpu_does_otherwise(tmp_path: Path) -> None:
    head = "DefaultModel=Frame\n"
    found = cells(tmp_path, cell("Dropout"), IMAGE, head)
    assert found.layers["x"]["rescale"] is False
    assert found.deviations == []
    (lost,) = cells(tmp_path, cell("LRN"), IMAGE, head).lost
    assert lost.startswith("4: [x] Type approximated: N2D2's CPU code computes something else")
    own = cell("Dropout", "Model=Frame_CUDA")
    assert "rescale" not in cells(tmp_path, own, IMAGE, head).layers["x"]


def test_an_activation_of_several_parents_joins_them(tmp_path: Path) -> None:
    text = PARENTS + cell("Activation", "ActivationFunction=Rectifier", parent="a,b", outputs=4)
    found = cells(tmp_path, text, IMAGE)
    assert found["x"].layers == {
        "x": {"type": "concat", "input": ["a", "b"]},
        "x_act": {"type": "relu", "input": "x"},
    }
    assert found["x"].shape == (4, 3, 3)


def test_a_cell_without_function_hands_on_its_input(tmp_path: Path) -> None:
    linear = ("ActivationFunction=Linear",)
    found = cells(tmp_path, PARENTS + cell("Activation", *linear, parent="a"), IMAGE)
    assert found["x"].layers == {}
    assert found["x"].output == "a"
    found = cells(tmp_path, cell("Activation", *linear), IMAGE)  # but the image is no layer
    assert found["x"].layers == {"x": {"type": "identity", "input": "image"}}
    found.graph()


def test_losses_of_softmaxes(tmp_path: Path) -> None:
    text = cell("Softmax", "WithLoss=1") + cell("Dropout", parent="x").replace("[x]", "[y]")
    found = cells(tmp_path, text, IMAGE)
    assert found["x"].with_loss == "softmax"
    assert found["y"].layers["y"]["input"] == "x"
    assert found.lost == [
        "2: [x] approximated: N2D2 hands the gradients of y on without the derivative of the "
        "softmax, here with it"
    ]


def test_a_maximum_without_effect_is_reported(tmp_path: Path) -> None:
    text = configured("Threshold", "Operation=ToZero", "MaxValue=3")
    found = cells(tmp_path, text.replace("[c]", "Threshold=1\n[c]"), IMAGE)
    assert found.lost == ["10: [c] MaxValue ignored: has no effect with Operation=ToZero"]
    found.graph()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (configured("Dropout", "Dropout=1"), "8: [c] Dropout=1 is wrong. Accepted: a probability"),
        (configured("Dropout", "Dropout=-0.5"), "Dropout=-0.5 is wrong. Accepted: a proba"),
        (cell("Softmax", "GroupSize=3"), "6: [x] GroupSize=3 is wrong. Accepted: a divisor of 2 c"),
        (cell("Softmax", parent="env,env", outputs=4), "3: [x] Input=env,env is wrong. Accepted:"),
        (configured("LRN", "N=0"), "8: [c] N=0 is wrong. Accepted: 1 to 1048"),
        (configured("LRN", "N=1000000000"), "N=1000000000 is wrong. Accepted: 1 to 10"),
        (cell("Scaling"), "needs the key Factor"),
        (cell("Scaling", "Factor=1 2 3"), "6: [x] Factor=1 2 3 is wrong. Accepted: 1 or 2 v"),
        (cell("Scaling", "Factor="), "Factor= is wrong. Accepted: 1 or 2 value"),
        (cell("Normalize"), "needs the key Norm"),
        (cell("Normalize", "Norm=L3"), "Accepted: L1, L2"),
        (cell("Threshold"), "needs the key Threshold"),
        (configured("Threshold", "Operation=Cut"), "Accepted: Binary, BinaryInverted"),
        *(
            (cell(kind, outputs=3), "5: [x] NbOutputs=3 is wrong. Accepted: 2, as its in")
            for kind in (
                *("Dropout", "Softmax", "LRN", "Scaling", "Normalize", "Threshold", "ElemWise"),
                "Activation",
            )
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text, IMAGE)
