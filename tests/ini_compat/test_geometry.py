"""Kernels, strides, paddings and the sizes that follow: N2D2 writes X Y, width first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import cells, layer, refusal

from ini_compat.cells.geometry import conv_size, deconv_size, pool_size
from ini_compat.errors import IniError

CONV = "[x]\nInput=env\nType=Conv\nNbOutputs=2\n"
POOL = "[x]\nInput=env\nType=Pool\nNbOutputs=1\nPooling=Max\n"
IMAGE = (1, 20, 30)  # 30 wide


@pytest.mark.parametrize(
    ("lines", "kernel"),
    [
        ("KernelDims=3 5", [5, 3]),
        ("KernelSize=3", [3, 3]),
        ("KernelWidth=3\nKernelHeight=5", [5, 3]),
        ("KernelWidth=3\nKernelHeight=5\nKernelDepth=1", [5, 3]),
        ("KernelDims=3 5 1", [5, 3]),
        ("KernelDims=3 5\nKernelSize=7\nKernelWidth=1", [5, 3]),
        ("KernelSize=7\nKernelWidth=1\nKernelHeight=1", [7, 7]),
    ],
)
def test_kernels(tmp_path: Path, lines: str, kernel: list[int]) -> None:
    assert layer(tmp_path, CONV + lines, IMAGE)["kernel"] == kernel


@pytest.mark.parametrize("word", ["Stride", "Dilation", "SubSample", "Padding"])
@pytest.mark.parametrize(
    ("form", "pair"),
    [
        ("{}Dims=2 4", [4, 2]),
        ("{}=2", [2, 2]),
        ("{}X=2\n{}Y=4", [4, 2]),
        ("{}X=2", [None, 2]),
        ("{}Y=4", [4, None]),
        ("{}X=2\n{}Y=4\n{}Z=z", [4, 2]),
        ("{}Dims=2 4 z", [4, 2]),
        ("{}Dims=2 4\n{}=3\n{}X=5", [4, 2]),
        ("{}=3\n{}X=5", [3, 3]),
    ],
)
def test_other_pairs(tmp_path: Path, word: str, form: str, pair: list[int | None]) -> None:
    lowest = 0 if word == "Padding" else 1
    lines = form.replace("{}", word).replace("z", str(lowest))
    expected = [lowest if n is None else n for n in pair]
    node = layer(tmp_path, f"{CONV}KernelSize=3\n{lines}", IMAGE)
    assert node[word.lower()] == expected


@pytest.mark.parametrize("word", ["Stride", "Dilation", "SubSample", "Padding"])
def test_what_is_not_said_is_left_out(tmp_path: Path, word: str) -> None:
    assert word.lower() not in layer(tmp_path, f"{CONV}KernelSize=3", IMAGE)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", "2: [x] has no KernelDims. Accepted: KernelDims, KernelSize, or KernelWidth and"),
        ("KernelWidth=3", "needs the key KernelHeight"),
        ("KernelHeight=3", "needs the key KernelWidth"),
        ("KernelDims=3", "6: [x] KernelDims has 1 dimension; images have two"),
        ("KernelDims=", "6: [x] KernelDims has 0 dimensions"),
        ("KernelDims=3 3 3", "6: [x] KernelDims has 3 dimensions; images have two"),
        ("KernelWidth=3\nKernelHeight=3\nKernelDepth=3", "KernelWidth has 3 dimensions"),
        ("KernelSize=0", "6: [x] KernelSize: 0 is below 1"),
        ("KernelSize=3\nStride=0", "7: [x] Stride: 0 is below 1"),
        ("KernelSize=3\nDilationDims=1 0", "7: [x] DilationDims: 0 is below 1"),
        ("KernelSize=3\nPadding=-1", "7: [x] Padding: -1 is below 0"),
        ("KernelSize=3\nPaddingDims=1 1 1", "7: [x] PaddingDims has 3 dimensions"),
        ("KernelSize=3.5", "Accepted: an integer"),
        ("KernelSize=21", "outputs of 2x0x10 for inputs of 1x20x30"),
        ("KernelSize=3\nDilation=15", "outputs of 2x-10x0 for inputs of 1x20x30"),
        ("KernelSize=1000000000", "that does not fit"),
        ("KernelSize=999999999\nPadding=500000000", "makes more than 4,294,967,296 weights"),
        ("KernelSize=1\nPadding=1000000000", "numbers of an image"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(tmp_path, CONV + lines, IMAGE)


def test_keys_of_the_same_thing_count_by_rank_and_the_others_are_reported(tmp_path: Path) -> None:
    found = cells(tmp_path, f"{CONV}KernelSize=3\nStrideDims=2 1\nStrideX=4\nStrideY=4\n")
    told = "another key of the cell says it already"
    assert found.lost == [f"8: [x] StrideX ignored: {told}", f"9: [x] StrideY ignored: {told}"]


def test_pools_have_keys_of_their_own(tmp_path: Path) -> None:
    for lines in ("PoolDims=3 2", "PoolWidth=3\nPoolHeight=2"):
        node = layer(tmp_path, f"{POOL}{lines}\nStrideDims=3 2", IMAGE)
        assert node == {"type": "max_pool", "kernel": [2, 3], "stride": [2, 3]}
    assert layer(tmp_path, f"{POOL}PoolSize=2", IMAGE) == {"type": "max_pool", "kernel": [2, 2]}


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [  # ceil(floor((in + 2p - (d(k-1)+1) + s) / s) / sub)
        ((32, 5, 1, 0, 1, 1), 28),
        ((28, 3, 2, 1, 1, 1), 14),
        ((224, 7, 2, 3, 1, 1), 112),
        ((16, 3, 1, 0, 2, 1), 12),
        ((16, 3, 1, 0, 1, 3), 5),  # 14 outputs, of which the 1st, 4th, ... 13th are kept
        ((4, 5, 1, 0, 1, 1), 0),
        ((4, 5, 3, 0, 1, 1), 0),
        ((1, 10**18, 1, 0, 1, 1), 2 - 10**18),
    ],
)
def test_sizes_of_convolutions(numbers: tuple[int, ...], expected: int) -> None:
    assert conv_size(*numbers) == expected


def test_sizes_of_pools_and_deconvolutions() -> None:
    assert pool_size(28, 2, 2, 0) == 14
    assert pool_size(13, 3, 2, 0) == 6
    assert pool_size(14, 3, 2, 1) == 7  # floor, not ceil
    assert deconv_size(3, 3, 2, 0, 1) == 7
    assert deconv_size(7, 4, 2, 1, 1) == 14
    assert deconv_size(5, 3, 1, 0, 2) == 9


# -- the importer and the layer graph agree -------------------------------------------------------

small, pads = st.integers(1, 4), st.integers(0, 3)
pairs = st.tuples(small, small)
planes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def dims(**values: tuple[int, int]) -> str:
    return "".join(f"{key}Dims={x} {y}\n" for key, (x, y) in values.items())


REASONS = ("that does not fit", "whose windows would be empty", "values, its input")


def agree(folder: Path, text: str, image: tuple[int, int, int]) -> None:
    """Check that both find the same shape, unless the importer refuses the cell with reason."""
    found = refused = None
    try:
        found = cells(folder, text, image)
    except IniError as error:
        refused = error.message
    if found is None:
        assert refused is not None
        assert any(reason in refused for reason in REASONS)
        return
    graph = found.graph()
    for cell in found.cells.values():
        assert graph.shapes[cell.output] == cell.shape


@FUZZ
@given(planes, pairs, pairs, st.tuples(pads, pads), pairs, pairs, st.sampled_from([1, 2, 3, 6]))
def test_convolutions_agree(
    tmp_path: Path,
    image: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    sub: tuple[int, int],
    outputs: int,
) -> None:
    sizes = dims(Kernel=kernel, Stride=stride, Padding=padding, Dilation=dilation)
    text = f"[x]\nInput=env\nType={{}}\nNbOutputs={outputs}\n{sizes}"
    agree(tmp_path, text.format("Conv") + dims(SubSample=sub), image)
    agree(tmp_path, text.format("Deconv"), image)


@FUZZ
@given(
    planes, pairs, pairs, st.tuples(pads, pads), small, st.sampled_from(["Max", "Average"]), small
)
def test_pools_agree(
    tmp_path: Path,
    image: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    outputs: int,
    kind: str,
    size: int,
) -> None:
    outputs = outputs if size == 1 else image[0]
    sizes = dims(Pool=kernel, Stride=stride, Padding=padding)
    text = f"[x]\nInput=env\nType=Pool\nPooling={kind}\nNbOutputs={outputs}\n{sizes}"
    agree(tmp_path, f"{text}Mapping.Size={size - 1}\n", image)


@FUZZ
@given(planes, st.data())
def test_cells_that_move_values_agree(
    tmp_path: Path, image: tuple[int, int, int], data: st.DataObject
) -> None:
    edges = [data.draw(st.integers(-3, 3), side) for side in ("top", "bottom", "left", "right")]
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)), "size")
    order = data.draw(st.permutations([0, 1, 2]), "order")
    ratio = data.draw(st.floats(1, 4), "ratio")
    head = f"Input=env\nNbOutputs={image[0]}\n"
    keys = ("TopPadding", "BottomPadding", "LeftPadding", "RightPadding")
    pads = "".join(f"{key}={edge}\n" for key, edge in zip(keys, edges, strict=True))
    agree(tmp_path, f"[x]\n{head}Type=Padding\n{pads}", image)
    mode = data.draw(st.sampled_from(["Bilinear", "BilinearTF", "NearestNeighbor"]), "mode")
    plane = f"OutputWidth={size[0]}\nOutputHeight={size[1]}\nMode={mode}\n"
    agree(tmp_path, f"[x]\n{head}Type=Resize\n{plane}", image)
    agree(tmp_path, f"[x]\nInput=env\nType=Transpose\nPerm={' '.join(map(str, order))} 3\n", image)
    agree(tmp_path, f"[x]\n{head}Type=FMP\nScalingRatio={ratio:.3f}\nMapping.Size=1\n", image)
    numbers = image[0] * image[1] * image[2]
    dims = [f"{numbers}", f"1 1 {numbers}", "0 0 0", "-1 1", f"1 -1 {image[0]} 0"]
    wanted = data.draw(st.sampled_from(dims), "dims")
    agree(tmp_path, f"[x]\nInput=env\nType=Reshape\nDims={wanted}\n", image)
