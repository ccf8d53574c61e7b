"""The order of the numbers in ``.syntxt`` files, by section 7 of the format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import cells, numbers, put, state_of

from ini_compat.errors import IniError
from ini_compat.weights import read_folder, write_folder

Index = tuple[int, int, int, int]  # output, channel, row, column of a kernel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    return path


CELL = "[x]\nInput=env\nType={}\nKernelDims=3 2\nNbOutputs={}\n{}\nConfigSection=c\n[c]\n{}\n"
MAPS = {  # channels, outputs, keys, and which output sees which channel
    "full": (3, 4, "", lambda o, c: True),
    "groups": (4, 6, "Mapping.NbGroups=2", lambda o, c: o // 3 == c // 2),
    "depthwise": (3, 3, "Mapping.ChannelsPerGroup=1", lambda o, c: o == c),
    "wrapped": (2, 3, "Mapping.Size=1", lambda o, c: o % 2 == c),
    "unequal": (2, 3, "Mapping(env)=1 0 0 1 1 0", lambda o, c: (o, c) in ((0, 0), (0, 1), (1, 1))),
}


def order(outputs: int, channels: int, connected: Any, swapped: bool) -> Iterator[Index]:
    """Walk over kernels as N2D2 writes them, unconnected pairs skipped."""
    places = list(product(range(2), range(3)))
    if swapped:  # HWCO
        walk = ((o, c, p) for p in places for c in range(channels) for o in range(outputs))
    else:  # OCHW
        walk = ((o, c, p) for o in range(outputs) for c in range(channels) for p in places)
    for o, c, (y, x) in walk:
        if connected(o, c):
            yield o, c, y, x


@pytest.mark.parametrize("kind", ["Conv", "Deconv"])
@pytest.mark.parametrize(("name", "swapped"), [*((name, False) for name in MAPS), ("full", True)])
def test_kernels(tmp_path: Path, folder: Path, kind: str, name: str, swapped: bool) -> None:
    channels, outputs, keys, connected = MAPS[name]
    config = f"NoBias=1\nWeightsExportFormat={'HWCO' if swapped else 'OCHW'}\n"
    found = cells(tmp_path, CELL.format(kind, outputs, keys, config), (channels, 5, 7))
    walk = list(order(outputs, channels, connected, swapped))
    values = numbers(len(walk))
    put(folder, x_weights=values)
    state = state_of(found, folder)
    expected = np.zeros((outputs, channels, 2, 3), np.float32)
    for index, value in zip(walk, values, strict=True):
        expected[index] = value
    model = found.graph()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.tensors.items()})
    image = torch.from_numpy(
        np.array(numbers(channels * 35), np.float32).reshape(1, channels, 5, 7)
    )
    naive = convolved if kind == "Conv" else deconvolved
    made = model(image)[0].detach().numpy()
    assert made == pytest.approx(naive(image[0].numpy(), expected), rel=1e-5)

    assert write_folder(found.network(), state.tensors, tmp_path / "back") == []
    text = (tmp_path / "back/x_weights.syntxt").read_text()
    assert [float(word) for word in text.split()] == values
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == (6 if swapped else outputs)  # of a place of the kernel, or an output
    assert all(line == "" or line.endswith(" ") for line in lines)
    if not swapped:
        counts = [6 * sum(connected(o, c) for c in range(channels)) for o in range(outputs)]
        assert [len(line.split()) for line in lines] == counts


def convolved(image: Any, weights: Any) -> Any:
    outputs, _, height, width = weights.shape
    rows, columns = image.shape[1] - height + 1, image.shape[2] - width + 1
    made = np.zeros((outputs, rows, columns))
    for o, c, y, x in np.ndindex(*weights.shape):
        made[o] += weights[o, c, y, x] * image[c, y : y + rows, x : x + columns]
    return made


def deconvolved(image: Any, weights: Any, stride: int = 1) -> Any:
    """Add the kernel of each pixel where the pixel stands: size in * s + (k - 1) + 1 - s."""
    outputs, channels, height, width = weights.shape
    rows, columns = image.shape[1:]
    sizes = [n * stride + k - stride for n, k in ((rows, height), (columns, width))]
    made = np.zeros((outputs, *sizes))
    for o, c, y, x in np.ndindex(outputs, channels, rows, columns):
        top, left = y * stride, x * stride
        made[o, top : top + height, left : left + width] += weights[o, c] * image[c, y, x]
    return made


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 2), (4, 3)])
def test_deconvolutions_compute_what_the_specification_says(
    tmp_path: Path, folder: Path, groups: int, stride: int
) -> None:
    keys = f"Mapping.NbGroups={groups}\nStride={stride}"
    found = cells(tmp_path, CELL.format("Deconv", 8, keys, ""), (4, 3, 5))
    per_output = 4 // groups * 6
    values, biases = numbers(8 * per_output), numbers(8)
    put(folder, x_weights=values, x_biases=biases)
    model = found.graph()
    tensors = state_of(found, folder).tensors
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    dense = np.zeros((8, 4, 2, 3))
    own = np.array(values).reshape(8, 4 // groups, 2, 3)
    for o in range(8):
        first = o // (8 // groups) * (4 // groups)
        dense[o, first : first + 4 // groups] = own[o]
    image = np.array(numbers(60), np.float32).reshape(4, 3, 5)
    expected = deconvolved(image, dense, stride) + np.array(biases)[:, None, None]
    made = model(torch.from_numpy(image)[None])[0].detach().numpy()
    assert made == pytest.approx(expected, rel=1e-5)


FC = "[x]\nInput={}\nType=Fc\nNbOutputs=3\nConfigSection=c\n[c]\nWeightsExportFormat={}\n"
POOL = "[p]\nInput=env\nType=Pool\nPoolSize=2\nPooling=Max\nNbOutputs=2\nMapping.Size=1\n"


@pytest.mark.parametrize("form", ["OC", "CO"])
def test_fully_connected_layers(tmp_path: Path, folder: Path, form: str) -> None:
    found = cells(tmp_path, POOL + FC.format("p,env", form), (2, 2, 3))
    features = 2 * 1 * 2 + 2 * 2 * 3
    values, biases = numbers(3 * features), numbers(3)
    put(folder, x_weights=values, x_biases=biases)
    weights = np.array(values).reshape((3, features) if form == "OC" else (features, 3))
    weights = weights if form == "OC" else weights.T
    image = np.array(numbers(12), np.float32).reshape(2, 2, 3)
    pooled = np.maximum(image[:, :, :-1], image[:, :, 1:]).max(1, keepdims=True)
    # C, H, W of one parent after the other
    expected = weights @ np.concatenate([pooled.ravel(), image.ravel()]) + np.array(biases)
    model = found.graph()
    tensors = state_of(found, folder).tensors
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    assert model(torch.from_numpy(image)[None])[0].tolist() == pytest.approx(
        list(expected), rel=1e-5
    )
    write_folder(found.network(), tensors, tmp_path / "back")
    text = (tmp_path / "back/x_weights.syntxt").read_text()
    assert [float(word) for word in text.split()] == values
    assert text.count("\n") == (3 if form == "OC" else features)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", ["Conv", "Deconv"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_single_file_holds_each_bias_behind_its_weights(
    tmp_path: Path, folder: Path, kind: str, name: str, bias: bool
) -> None:
    channels, outputs, keys, connected = MAPS[name]
    text = CELL.format(kind, outputs, keys, f"NoBias={int(not bias)}")
    found = cells(tmp_path, text, (channels, 5, 7))
    walk = list(order(outputs, channels, connected, False))
    weights, biases = numbers(len(walk)), numbers(outputs)
    together: list[float] = []
    for o in range(outputs):
        together += [w for w, index in zip(weights, walk, strict=True) if index[0] == o]
        together += [biases[o]] if bias else []
    put(folder, x=together)
    single = state_of(found, folder).tensors
    (folder / "x.syntxt").unlink()
    put(folder, x_weights=weights, **({"x_biases": biases} if bias else {}))
    two = state_of(found, folder).tensors
    assert single.keys() == two.keys()
    for key, value in two.items():
        assert np.array_equal(value, single[key])


def test_a_single_file_of_a_fully_connected_layer(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, FC.format("env", "OC"), (1, 1, 2))
    put(folder, x=[1, 2, 10, 3, 4, 20, 5, 6, 30])
    tensors = state_of(found, folder).tensors
    assert tensors["x.weight"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert tensors["x.bias"].tolist() == [10, 20, 30]
    found = cells(tmp_path, FC.format("env", "CO"), (1, 1, 2))
    with pytest.raises(IniError, match="is not read beside WeightsExportFormat"):
        state_of(found, folder)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    *(st.sampled_from(["Conv", "Deconv"]), st.sampled_from(list(MAPS)), st.booleans()),
    *(st.booleans(), st.integers(0, 2**32 - 1)),
)
def test_there_and_back(
    tmp_path: Path, kind: str, name: str, swapped: bool, bias: bool, seed: int
) -> None:
    channels, outputs, keys, _ = MAPS[name]
    form = "HWCO" if swapped and name == "full" else "OCHW"
    config = f"NoBias={int(not bias)}\nWeightsExportFormat={form}"
    text = CELL.format(kind, outputs, f"QWeight=SAT\n{keys}", config)
    found = cells(tmp_path, text, (channels, 5, 7))
    random = np.random.default_rng(seed)
    network = found.network()
    tensors = {
        key: value.numpy() * random.uniform(0.5, 2, tuple(value.shape)).astype(np.float32)
        for key, value in found.graph().state_dict().items()
    }
    write_folder(network, tensors, tmp_path / "there")
    back = read_folder(network, tmp_path / "there", "quantize").tensors
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        # ten digits hold any float32; six are those of cells without a quantizer
        exact = kind == "Conv"
        assert back[key] == pytest.approx(value, rel=0 if exact else 5e-6, abs=0)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("full", "WeightsExportFlip=1", "WeightsExportFlip=1: export it without"),
        ("groups", "WeightsExportFormat=HWCO", "HWCO where outputs do not see all channels"),
        ("wrapped", "WeightsExportFormat=HWCO", "HWCO where outputs do not see all channels"),
    ],
)
def test_forms_of_which_only_the_name_is_known_are_refused(
    tmp_path: Path, folder: Path, name: str, line: str, expected: str
) -> None:
    channels, outputs, keys, connected = MAPS[name]
    found = cells(
        tmp_path, CELL.format("Conv", outputs, keys, f"NoBias=1\n{line}"), (channels, 5, 7)
    )
    put(folder, x_weights=numbers(len(list(order(outputs, channels, connected, False)))))
    with pytest.raises(IniError, match=expected):
        state_of(found, folder)
    tensors = {key: value.numpy() for key, value in found.graph().state_dict().items()}
    with pytest.raises(IniError, match=expected):
        write_folder(found.network(), tensors, tmp_path / "back")


def test_digits(tmp_path: Path) -> None:
    values = np.array([[1 / 3, -1e-7, 12345678.0, 0.1]], np.float32)
    for quantizer, expected in (
        ("", "0.333333 -1e-07 1.23457e+07 0.1 \n"),
        ("QWeight=SAT\n", "0.3333333433 -1.000000012e-07 12345678 0.1000000015 \n"),
    ):
        text = f"[x]\nInput=env\nType=Fc\nNbOutputs=1\n{quantizer}ConfigSection=c\n[c]\nNoBias=1\n"
        found = cells(tmp_path, text, (1, 1, 4))
        write_folder(found.network(), {"x.weight": values}, tmp_path / "w")
        assert (tmp_path / "w/x_weights.syntxt").read_text() == expected
