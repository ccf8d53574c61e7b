"""Which channels an output sees, by section 3.1 of the format."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import cells, layer, refusal

from ini_compat.cells.mapping import read_mapping
from ini_compat.network import ENVIRONMENTS, IMAGE
from ini_compat.syntax.resolve import Document

CONV = "[x]\nInput=env\nType=Conv\nKernelSize=1\nNbOutputs={}\n"
POOL = "[x]\nInput=env\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs={}\n"


def rows(
    folder: Path, lines: str, channels: dict[str, int], outputs: int
) -> tuple[int, tuple[str, ...]]:
    """Return the groups and the rows of a mapping of parents with so many channels."""
    path = folder / "model.ini"
    path.write_text(f"[x]\n{lines}\n")
    section = Document.read(str(path), {}, {}).section("x")
    mapping = read_mapping(section, list(channels), list(channels.values()), outputs)
    assert mapping.channels == sum(channels.values())
    assert mapping.connections == sum(row.count("1") for row in mapping.rows)
    assert mapping.blind == any(
        all(row[o] == "0" for row in mapping.rows) for o in range(mapping.outputs)
    )
    return mapping.groups, mapping.rows


@pytest.mark.parametrize(
    ("lines", "channels", "outputs", "groups", "expected"),
    [
        ("", 2, 3, 1, "111 111"),
        ("Mapping.NbGroups=1", 2, 3, 1, "111 111"),
        ("Mapping.NbGroups=2", 4, 4, 2, "1100 1100 0011 0011"),
        ("Mapping.NbGroups=2", 2, 6, 2, "111000 000111"),
        ("Mapping.ChannelsPerGroup=1", 3, 3, 3, "100 010 001"),
        ("Mapping.ChannelsPerGroup=1", 2, 4, 2, "1100 0011"),
        ("Mapping.ChannelsPerGroup=2", 4, 2, 2, "10 10 01 01"),
        ("Mapping(a)=1 0 1\\\n 0 1 1", 2, 3, 0, "101 011"),
        ("Mapping(a)=1 1 0 0 0 0 1 1", 2, 4, 2, "1100 0011"),
        ("Mapping(a)=1 1 1 1", 2, 2, 1, "11 11"),
        ("Mapping.Size=1", 3, 3, 3, "100 010 001"),
        ("Mapping.SizeX=1", 3, 3, 3, "100 010 001"),
        ("Mapping.Offset=0", 3, 3, 3, "100 010 001"),
        ("Mapping.Size=0", 2, 3, 1, "111 111"),
        ("Mapping.SizeY=0", 3, 2, 1, "11 11 11"),  # iterations: as many as channels
        # i = 0, 1, 2: outputs i, i+1 see channel i, modulo.
        ("Mapping.SizeX=2\nMapping.NbIterations=3", 3, 3, 0, "110 011 101"),
        # More outputs than channels: they wrap.
        ("Mapping.Size=1", 2, 4, 0, "1010 0101"),
        ("Mapping.Size=1", 4, 2, 0, "10 01 10 01"),
        ("Mapping.Size=1\nMapping.NbIterations=2", 3, 3, 0, "100 010 000"),
        ("Mapping.OffsetX=1", 3, 3, 0, "010 001 100"),
        ("Mapping.OffsetY=1", 3, 3, 0, "001 100 010"),
        (
            "Mapping.Size=2\nMapping.Stride=2\nMapping.NbIterations=2",
            4,
            4,
            2,
            "1100 1100 0011 0011",
        ),
        ("Mapping.StrideX=2\nMapping.NbIterations=2", 2, 4, 0, "1000 0010"),
        ("Mapping.StrideY=0", 2, 3, 0, "111 000"),
        ("Mapping(a).Size=1", 3, 3, 3, "100 010 001"),
        ("Mapping(a).Size=2\nMapping.NbIterations=1", 3, 3, 0, "110 110 000"),
        ("Mapping(a).OffsetX=1\nMapping.OffsetX=2", 3, 3, 0, "010 001 100"),
        ("Mapping.Size=2\nMapping(a).SizeX=1", 2, 2, 1, "11 11"),
        ("Mapping.Size=2\nMapping(a).SizeX=1\nMapping.NbIterations=1", 2, 2, 0, "10 10"),
        ("Mapping(b).Size=1", 2, 2, 1, "11 11"),
        ("Mapping(a)=1 0 0 1\nMapping.Size=0", 2, 2, 2, "10 01"),  # a matrix counts more
        ("Mapping.NbGroups=1\nMapping(a)=1 0 0 1", 2, 2, 1, "11 11"),  # groups count most
    ],
)
def test_mappings(
    tmp_path: Path, lines: str, channels: int, outputs: int, groups: int, expected: str
) -> None:
    assert rows(tmp_path, lines, {"a": channels}, outputs) == (groups, tuple(expected.split()))


@pytest.mark.parametrize(
    ("lines", "groups", "expected"),
    [
        ("", 1, "1111 1111 1111"),
        ("Mapping(a)=0 0 0 1", 0, "0001 1111 1111"),
        ("Mapping(b).Size=1", 0, "1111 1010 0101"),
        ("Mapping.NbGroups=1", 1, "1111 1111 1111"),
        ("Mapping.ChannelsPerGroup=1", 0, "1111 1100 0011"),  # each parent has its own groups
    ],
)
def test_each_parent_has_its_own_mapping(
    tmp_path: Path, lines: str, groups: int, expected: str
) -> None:
    assert rows(tmp_path, lines, {"a": 1, "b": 2}, 4) == (groups, tuple(expected.split()))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_has_three_names(tmp_path: Path, name: str) -> None:
    assert rows(tmp_path, f"Mapping({name})=1 0 0 1", {IMAGE: 2}, 2) == (2, ("10", "01"))


def formula(groups: int, channels: int, outputs: int) -> tuple[str, ...]:
    """Return which output sees which channel: both are split into as many equal groups."""
    return tuple(
        "".join(
            str(int(o // (outputs // groups) == c // (channels // groups))) for o in range(outputs)
        )
        for c in range(channels)
    )


FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5))
def test_any_groups(tmp_path: Path, groups: int, size: int, width: int) -> None:
    outputs = groups * width
    found, made = rows(tmp_path, f"Mapping.NbGroups={groups}", {"a": groups * size}, outputs)
    assert made == formula(groups, groups * size, outputs)
    assert found == groups


@FUZZ
@given(st.integers(1, 6), st.integers(1, 6), st.lists(st.integers(0, 7), min_size=7, max_size=7))
def test_any_function(tmp_path: Path, channels: int, outputs: int, numbers: list[int]) -> None:
    keys = ("SizeX", "SizeY", "StrideX", "StrideY", "OffsetX", "OffsetY", "NbIterations")
    lines = "".join(f"Mapping.{k}={n}\n" for k, n in zip(keys, numbers, strict=True))
    size_x, size_y, stride_x, stride_y, x, y, iterations = numbers
    grid = [["0"] * outputs for _ in range(channels)]
    for i in range(iterations or max(outputs, channels)):
        for dx in range(size_x or outputs):
            for dy in range(size_y or channels):
                column = (x + i * stride_x + dx) % outputs
                grid[(y + i * stride_y + dy) % channels][column] = "1"
    expected = tuple("".join(row) for row in grid)
    assert rows(tmp_path, lines, {"a": channels}, outputs)[1] == expected


@FUZZ
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_any_matrix_reaches_the_layer_graph(
    tmp_path: Path, channels: int, outputs: int, data: st.DataObject
) -> None:
    matrix = data.draw(
        st.lists(st.booleans(), min_size=channels * outputs, max_size=channels * outputs)
    )
    text = f"{CONV.format(outputs)}Mapping(env)={' '.join(str(int(bit)) for bit in matrix)}"
    found = cells(tmp_path, text, (channels, 3, 3))
    module = found.graph().get_submodule("x")
    unseen = sum(not bit for bit in matrix)
    if module.groups == 1:
        assert int((module.weight == 0).sum()) == unseen
    else:
        assert module.weight.numel() == len(matrix) - unseen
    assert found["x"].parameters == len(matrix) - unseen + outputs


def test_pools_see_all_channels_unless_they_are_mapped(tmp_path: Path) -> None:
    node = {"type": "max_pool", "kernel": [2, 2]}
    assert layer(tmp_path, POOL.format(3), (2, 4, 4)) == {**node, "mapping": ["111", "111"]}
    assert layer(tmp_path, POOL.format(2) + "Mapping.Size=1", (2, 4, 4)) == node
    assert layer(tmp_path, POOL.format(2) + "Mapping.ChannelsPerGroup=1", (2, 4, 4)) == node
    assert layer(tmp_path, POOL.format(1), (1, 4, 4)) == node
    text = POOL.format(2) + "Mapping.ChannelsPerGroup=2"
    assert layer(tmp_path, text, (4, 4, 4)) == {**node, "mapping": ["10", "10", "01", "01"]}


def test_a_pool_of_two_parents(tmp_path: Path) -> None:  # as in SqueezeNet
    convs = "".join(CONV.format(n).replace("[x]", f"[{name}]") for name, n in (("a", 1), ("b", 2)))
    pool = POOL.format(3).replace("Input=env", "Input=a,b")
    mapping = "Mapping(a).Size=1\nMapping(a).NbIterations=1\n"
    mapping += "Mapping(b).Size=1\nMapping(b).OffsetX=1\nMapping(b).NbIterations=2\n"
    found = cells(tmp_path, f"{convs}{pool}{mapping}", (1, 4, 4))
    assert found.layers["x"] == {"type": "max_pool", "kernel": [2, 2], "input": ["a", "b"]}
    assert found.graph().shapes["x"] == (3, 3, 3)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("Mapping.NbGroups=3", "7: [x] Mapping.NbGroups=3 is wrong. Accepted: a divisor of the 4"),
        ("Mapping.NbGroups=0", "Mapping.NbGroups=0 is wrong. Accepted: a"),
        ("Mapping.ChannelsPerGroup=3", "Mapping.ChannelsPerGroup=3 is wrong. Accepted:"),
        ("Mapping.ChannelsPerGroup=0", "Mapping.ChannelsPerGroup=0 is wrong. Accepted:"),
        ("Mapping.NbGroups=4", "4 groups for the 4 channels of sp, which do not divide its 2 outp"),
        (
            "Mapping.NbGroups=2\nMapping.ChannelsPerGroup=2",
            "8: [x] Mapping.ChannelsPerGroup cannot be combined with Mapping.NbGroups",
        ),
        ("Mapping.NbGroup=2", "is not a key of a mapping. Did you mean 'NbGroups'? Accepted: Size"),
        ("Mapping(env).NbGroups=2", "[x] Mapping(env).NbGroups is not a key of a mapping"),
        ("Mapping(env)=1 0 1", "7: [x] Mapping(env) has 3 values. Accepted: 4 rows of 2 values"),
        ("Mapping(env)=1 0 1 0 1 0 1 2", "has 8 values, among them '2'. Accepted"),
        ("Mapping.Size=-1", "Accepted: an integer of at least 0"),
        ("Mapping.Size=1 1", "Accepted: an integer"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(tmp_path, CONV.format(2) + lines, (4, 3, 3))


def test_outputs_of_a_pool_that_see_nothing_are_refused(tmp_path: Path) -> None:
    text = POOL.format(3) + "Mapping(env)=1 0 1"
    assert "7: [x] NbOutputs counts outputs that no" in refusal(tmp_path, text, (1, 3, 3))


PAIRS, STEPS, WEIGHTS = "pairs", "too many steps", "weights"
BOMBS = {  # channels, outputs, keys; how they end in a convolution and in a pooling
    "groups": (1 << 20, 1 << 20, "Mapping.ChannelsPerGroup=1", "", ""),
    "identity": (1 << 20, 1 << 20, "Mapping.Size=1", "", ""),
    "uneven groups": (1 << 20, (1 << 20) - 1, "Mapping.ChannelsPerGroup=1", PAIRS, PAIRS),
    "few groups": (1 << 20, 1 << 20, "Mapping.NbGroups=2", WEIGHTS, PAIRS),
    "wrapped": (1 << 20, 1 << 19, "Mapping.Size=1", PAIRS, PAIRS),
    "everything": (1 << 20, 1 << 20, "Mapping.Size=0", PAIRS, PAIRS),
    "nothing": (1 << 20, 1 << 20, "", WEIGHTS, PAIRS),
    "iterations": (4, 4, f"Mapping.NbIterations={10**9}", STEPS, STEPS),
    "many rows": (1 << 12, 1 << 12, f"Mapping.SizeY={1 << 11}", STEPS, STEPS),
    "wide rows": (4, 1 << 18, f"Mapping.SizeX={1 << 17}", STEPS, STEPS),
    "long rows": (1 << 10, 1 << 14, f"Mapping.SizeX={1 << 13}", "", ""),
    "strides": (64, 64, f"Mapping.Stride={1 << 62}\nMapping.SizeX=64", "", ""),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", [CONV, POOL])
def test_large_mappings_end_soon(tmp_path: Path, bomb: str, kind: str) -> None:
    channels, outputs, lines, of_conv, of_pool = BOMBS[bomb]
    text, image = kind.format(outputs) + lines, (channels, 4, 4)
    expected = of_conv if kind == CONV else of_pool
    start = time.perf_counter()
    if expected:
        assert expected in refusal(tmp_path, text, image)
    else:
        cells(tmp_path, text, image)
    assert time.perf_counter() - start < 3
