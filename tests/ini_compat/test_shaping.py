"""Pool, Unpool, FMP, Padding, Resize, Reshape and Transpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reading import cells, layer, refusal

POOL = "[x]\nInput=env\nType=Pool\nPoolSize=2\nStride=2\nNbOutputs=2\nMapping.Size=1\n"
IMAGE = (2, 6, 8)


def cell(kind: str, *lines: str, outputs: int = 2) -> str:
    return "\n".join(["[x]", "Input=env", f"Type={kind}", f"NbOutputs={outputs}", *lines, ""])


def test_pools(tmp_path: Path) -> None:
    node = {"kernel": [2, 2], "stride": [2, 2]}
    assert layer(tmp_path, f"{POOL}Pooling=Max", IMAGE) == {"type": "max_pool", **node}
    assert layer(tmp_path, f"{POOL}Pooling=Average", IMAGE) == {"type": "avg_pool", **node}
    node = layer(tmp_path, f"{POOL}Pooling=Max\nPaddingDims=1 0", IMAGE)
    assert node["padding"] == [0, 1]


def test_averages_count_the_padding(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{POOL}Pooling=Average\nPadding=1", IMAGE)
    output = found.graph()(torch.ones(1, *IMAGE))
    assert output[0, 0, 0].tolist() == [0.25, 0.5, 0.5, 0.5, 0.25]


def test_several_parents_are_joined(tmp_path: Path) -> None:
    convs = "".join(
        f"[{name}]\nInput=env\nType=Conv\nKernelSize=1\nNbOutputs={n}\n"
        for name, n in ("ab", "ba")
        for n in [1 + (name == "b")]
    )
    text = f"{convs}{POOL.replace('env', 'b,a').replace('NbOutputs=2', 'NbOutputs=3')}Pooling=Max\n"
    found = cells(tmp_path, text, IMAGE)
    assert found.layers["x"]["input"] == ["b", "a"]
    assert found["x"].input_shapes == [(2, 6, 8), (1, 6, 8)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "Pooling=Min",
            "9: [x] Pooling=Min is wrong. Accepted: Max, Average",
        ),
        ("", "2: the section [x] needs the key Pooling"),
        ("Pooling=Max\nPadding=2", "10: [x] Padding is not below the size of the pooling"),
        ("Pooling=Average\nPaddingDims=0 2", "10: [x] PaddingDims is not below the size"),
        ("Pooling=Max\nPoolDims=9 1", "outputs of 2x3x0 for inputs of 2x6x8: that does not fit"),
    ],
)
def test_pools_that_are_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(tmp_path, POOL + lines, IMAGE)


# -- Unpool -----------------------------------------------------------------------------------

FIRST = (
    "[p]\nInput=env\nType=Pool\nPooling=Max\nPoolSize=2\nStride=2\nNbOutputs=2\nMapping.Size=1\n"
)
SAME = "PoolSize=2\nStride=2\nPooling=Max\nArgMax=p\nMapping.Size=1\n"
UNPOOL = "[x]\nInput=p\nType=Unpool\nNbOutputs=2\n"


def test_unpooling_puts_values_back(tmp_path: Path) -> None:
    found = cells(tmp_path, FIRST + UNPOOL + SAME, IMAGE)
    assert found["x"].layers["x"] == {
        **{"type": "max_unpool", "pool": "p", "kernel": [2, 2], "stride": [2, 2], "input": "p"}
    }
    assert found["x"].shape == IMAGE
    assert found.deviations == []
    image = torch.arange(2 * 6 * 8.0).reshape(1, *IMAGE)
    back = found.graph()(image)
    assert back.count_nonzero() == 2 * 3 * 4
    assert torch.equal(back[back != 0], image[back != 0])


def test_unpooling_may_follow_a_function(tmp_path: Path) -> None:
    text = f"{FIRST}ActivationFunction=Rectifier\n{UNPOOL}{SAME}"
    found = cells(tmp_path, text, IMAGE)
    assert found.layers["x"]["input"] == "p_act"
    assert found.graph().shapes["x"] == IMAGE


@pytest.mark.parametrize(
    ("first", "keys", "expected"),
    [
        (
            FIRST,
            SAME.replace("ArgMax=p", "ArgMax=q"),
            "ArgMax=q is wrong. Accepted: a max pooling befo",
        ),
        (FIRST, SAME.replace("ArgMax=p\n", ""), "needs the key ArgMax"),
        (FIRST.replace("Max\n", "Average\n"), SAME, "ArgMax=p is wrong. Accepted: a max pooling b"),
        (FIRST, SAME.replace("Stride=2", "Stride=1"), "the window and the outputs of this cell"),
        (
            FIRST,
            SAME.replace("PoolSize=2", "PoolSize=3"),
            "the window and the outputs of this cell",
        ),
        (FIRST, f"{SAME}Padding=1\n", "the window and the outputs of this cell"),
        (FIRST.replace("Mapping.Size=1\n", ""), SAME, "without mapping"),
        (FIRST, SAME.replace("Mapping.Size=1\n", ""), "Accepted: Mapping.Size=1"),
        (FIRST, SAME.replace("=Max", "=Average"), "Accepted: Max"),
        (
            FIRST.replace("Size=2", "Size=3"),
            SAME.replace("Size=2", "Size=3"),
            "of 2x5x7, which is what comes back, and not of 2x6x8",
        ),
        (
            FIRST.replace("Size=2", "Size=3") + "Padding=2\n",
            SAME.replace("Size=2", "Size=3") + "Padding=2\n",
            "whose padding is at most half of its window",
        ),
    ],
)
def test_unpooling_that_is_refused(tmp_path: Path, first: str, keys: str, expected: str) -> None:
    assert expected in refusal(tmp_path, first + UNPOOL + keys, IMAGE)


# -- the others -------------------------------------------------------------------------------

NODES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    (
        cell("FMP", "ScalingRatio=1.5", "Mapping.Size=1"),
        {"type": "fractional_max_pool", "ratio": 1.5},
        (2, 4, 5),
    ),
    (
        cell("Padding", "TopPadding=1", "BottomPadding=2", "LeftPadding=-3", "RightPadding=0"),
        {"type": "padding", "top": 1, "bottom": 2, "left": -3},
        (2, 9, 5),
    ),
    (
        cell("Resize", "OutputWidth=4", "OutputHeight=3", "Mode=BilinearTF"),
        {"type": "resize", "height": 3, "width": 4, "mode": "bilinear_tf"},
        (2, 3, 4),
    ),
    (
        cell("Resize", "OutputWidth=4", "OutputHeight=3", "Mode=NearestNeighbor"),
        {"type": "resize", "height": 3, "width": 4, "mode": "nearest"},
        (2, 3, 4),
    ),
    (
        cell("Resize", "OutputWidth=4", "OutputHeight=3", "Mode=Bilinear"),
        {"type": "resize", "height": 3, "width": 4, "mode": "bilinear"},
        (2, 3, 4),
    ),
    # Dims and Perm count X, Y, Z: the last one is the channels.
    (cell("Reshape", "Dims=4 8 3", outputs=3), {"type": "reshape", "dims": [3, 8, 4]}, (3, 8, 4)),
    (cell("Reshape", "Dims=-1 0"), {"type": "reshape", "dims": [1, 6, 16]}, (1, 6, 16)),
    (cell("Reshape", "Dims=1 1 -1 0"), {"type": "reshape", "dims": [96, 1, 1]}, (96, 1, 1)),
    (cell("Reshape", "Dims=96"), {"type": "reshape", "dims": [1, 1, 96]}, (1, 1, 96)),
    (cell("Reshape", "Dims=0 0 0 -1"), {"type": "reshape", "dims": [2, 6, 8]}, (2, 6, 8)),
    # Output X is input Y, output Y is input X.
    (cell("Transpose", "Perm=1 0 2 3"), {"type": "transpose", "perm": [0, 2, 1]}, (2, 8, 6)),
    # Output X is input Z, output Y is input X, output Z is input Y.
    (cell("Transpose", "Perm=2 0 1"), {"type": "transpose", "perm": [1, 2, 0]}, (6, 8, 2)),
]


@pytest.mark.parametrize(("text", "node", "shape"), NODES)
def test_cells(
    tmp_path: Path, text: str, node: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    if node["type"] in ("reshape", "transpose"):
        text = text.replace("NbOutputs=2\n", f"NbOutputs={shape[0]}\n")
    assert layer(tmp_path, text, IMAGE) == node
    assert cells(tmp_path, text, IMAGE)["x"].shape == shape


def test_a_transposition_moves_every_number(tmp_path: Path) -> None:
    found = cells(tmp_path, cell("Transpose", "Perm=2 0 1 3", outputs=6), IMAGE)
    image = torch.arange(2 * 6 * 8.0).reshape(1, *IMAGE)
    output = found.graph()(image)[0]
    for channel, row, column in ((0, 0, 1), (1, 5, 7), (1, 2, 3)):
        # N2D2's (x, y, z): output(x = z, y = x, z = y)
        assert output[row, column, channel] == image[0, channel, row, column]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cell("FMP", "ScalingRatio=0.5", "Mapping.Size=1"), "6: [x] ScalingRatio=0.5 is wrong. Ac"),
        (cell("FMP", "ScalingRatio=7", "Mapping.Size=1"), "outputs of 2x0x1"),
        (cell("FMP", "ScalingRatio=2"), "5: [x] NbOutputs are not mapped to one channel each"),
        (cell("Padding", "TopPadding=1"), "the section [x] needs the key BottomPadding"),
        (
            cell("Padding", "TopPadding=-3", "BottomPadding=-3", "LeftPadding=0", "RightPadding=0"),
            "outputs of 2x0x8",
        ),
        (
            cell(
                "Padding",
                "TopPadding=9999999999",
                *(f"{s}Padding=0" for s in ("Bottom", "Left", "Right")),
            ),
            "numbers of an image",
        ),
        (cell("Resize", "OutputWidth=0", "OutputHeight=3", "Mode=Bilinear"), "that does not fit"),
        (cell("Resize", "OutputWidth=4", "OutputHeight=3"), "needs the key Mode"),
        (
            cell("Resize", "OutputWidth=4", "OutputHeight=3", "Mode=Cubic"),
            "Accepted: Bilinear",
        ),
        (
            cell("Resize", "OutputWidth=100000", "OutputHeight=100000", "Mode=Bilinear"),
            "2x100000x100000 numbers of an image",
        ),
        (cell("Reshape", "Dims=5 8 3"), "6: [x] Dims has 120 values, its input 96"),
        (
            cell("Reshape", "Dims=-1 -1 2"),
            "6: [x] Dims=-1 -1 2 is wrong. Accepted: X Y Z, of which one",
        ),
        (cell("Reshape", "Dims=-2 2"), "Dims=-2 2 is wrong. Accepted: X Y Z, of"),
        (cell("Reshape", "Dims=0 0 0 7"), "Dims=0 0 0 7 is wrong. Accepted: X Y Z,"),
        (cell("Reshape", "Dims="), "Dims= is wrong. Accepted: X Y Z, of whic"),
        (cell("Reshape", "Dims=1 1 1 1 96"), "Dims=1 1 1 1 96 is wrong. Accepted: X Y"),
        (cell("Reshape", "Dims=-1 97"), "Dims has 0 values"),
        (cell("Reshape", "Dims=4 8 3"), "5: [x] NbOutputs=2 is wrong. Accepted: 3, as its in"),
        (
            cell("Transpose", "Perm=0 1 3 2"),
            "6: [x] Perm=0 1 3 2 is wrong. Accepted: an order of 0 1 2",
        ),
        (cell("Transpose", "Perm=1 0"), "Perm=1 0 is wrong. Accepted: an order of"),
        (cell("Transpose", "Perm=0 0 1"), "Perm=0 0 1 is wrong. Accepted: an order"),
        (cell("Transpose", "Perm=1 0 2", "InputWidth=9"), "cuts 9x6"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text, IMAGE)


@pytest.mark.parametrize("kind", ["Reshape", "Transpose"])
def test_only_one_parent_is_moved(tmp_path: Path, kind: str) -> None:
    text = cell(kind, "Dims=96", "Perm=0 1 2").replace("env", "env,env")
    assert "3: [x] Input=env,env is wrong. Accepted: a si" in refusal(tmp_path, text, IMAGE)
