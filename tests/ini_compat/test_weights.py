"""``.syntxt`` files as tensors and back, by section 7 of the format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import project, read
from reading import Cells, cells

from ini_compat.build import understand
from ini_compat.convert import experiment, phase
from ini_compat.errors import IniError
from ini_compat.network import Network, Node
from ini_compat.weights import State, read_folder, read_state, write_folder, write_state
from qatlab.models import LayerGraph
from qatlab.quant import LsqActivation, Phase, Rule, SatActivation, SatWeight, quantize
from qatlab.weights import init_weights

Index = tuple[int, int, int, int]  # output, channel, row, column of a kernel


def numbers(count: int) -> list[float]:
    """Return different numbers that six digits hold."""
    return [(i * 37 % 1009 - 500) / 64 for i in range(count)]


def put(folder: Path, **files: list[float] | str) -> Path:
    """Write files of numbers, or with that content."""
    for stem, content in files.items():
        text = content if isinstance(content, str) else " ".join(map(repr, content))
        (folder / f"{stem}.syntxt").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    return path


def state_of(found: Cells, folder: Path, phase: str = "quantize") -> State:
    return read_folder(found.network(), folder, phase)


# -- the order of the numbers -----------------------------------------------------------------

CELL = "[x]\nInput=env\nType={}\nKernelDims=3 2\nNbOutputs={}\n{}\nConfigSection=c\n[c]\n{}\n"
MAPS = {  # channels, outputs, keys, and which output sees which channel
    "full": (3, 4, "", lambda o, c: True),
    "groups": (4, 6, "Mapping.NbGroups=2", lambda o, c: o // 3 == c // 2),
    "depthwise": (3, 3, "Mapping.ChannelsPerGroup=1", lambda o, c: o == c),
    "wrapped": (2, 3, "Mapping.Size=1", lambda o, c: o % 2 == c),
    "unequal": (2, 3, "Mapping(env)=1 0 0 1 1 0", lambda o, c: (o, c) in ((0, 0), (0, 1), (1, 1))),
}


def order(
    outputs: int, channels: int, connected: Any, swapped: bool, flipped: bool
) -> Iterator[Index]:
    """Walk over kernels as N2D2 writes them, unconnected pairs skipped."""
    places = list(product(range(2), range(3)))
    places = places[::-1] if flipped else places
    if swapped:  # HWCO
        walk = ((o, c, p) for p in places for c in range(channels) for o in range(outputs))
    else:  # OCHW
        walk = ((o, c, p) for o in range(outputs) for c in range(channels) for p in places)
    for o, c, (y, x) in walk:
        if connected(o, c):
            yield o, c, y, x


@pytest.mark.parametrize("kind", ["Conv", "Deconv"])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_kernels(
    tmp_path: Path, folder: Path, kind: str, name: str, swapped: bool, flipped: bool
) -> None:
    channels, outputs, keys, connected = MAPS[name]
    config = f"NoBias=1\nWeightsExportFormat={'HWCO' if swapped else 'OCHW'}\n"
    config += f"WeightsExportFlip={int(flipped)}\n"
    found = cells(tmp_path, CELL.format(kind, outputs, keys, config), (channels, 5, 7))
    walk = list(order(outputs, channels, connected, swapped, flipped))
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
    assert made == pytest.approx(naive(image[0].numpy(), expected), abs=1e-3)

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
    outputs, channels, height, width = weights.shape
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
    assert made == pytest.approx(expected, rel=1e-5, abs=1e-3)


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
        list(expected), abs=1e-3
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
    walk = list(order(outputs, channels, connected, False, False))
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


NORM = "[x]\nInput=env\nType=BatchNorm\nNbOutputs=2\n"
NORM_FILES = {"x_scales": [1.0, 2.0], "x_biases": [3.0, 4.0], "x_means": [5.0, 6.0]}
NORM_FILES |= {"x_variances": [7.0, 8.0]}


def test_batch_norms(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, NORM, (2, 4, 4))
    put(folder, **NORM_FILES)
    state = state_of(found, folder)
    assert {key: value.tolist() for key, value in state.tensors.items()} == {
        "x.weight": [1, 2],
        "x.bias": [3, 4],
        "x.running_mean": [5, 6],
        "x.running_var": [7, 8],
        "x.num_batches_tracked": 0,
    }
    assert state.notices == []
    (folder / "x_scales.syntxt").unlink()
    state = state_of(found, folder)
    assert state.tensors["x.weight"].tolist() == [1, 1]
    assert state.notices == ["there is no x_scales.syntxt: x.weight is 1"]


@pytest.mark.parametrize("momentum", ["0", "0.1"])
def test_the_layer_graph_takes_the_files_of_batch_norms(
    tmp_path: Path, folder: Path, momentum: str
) -> None:
    text = f"{NORM}ConfigSection=c\n[c]\nMovingAverageMomentum={momentum}\n"
    found = cells(tmp_path, text, (2, 4, 4))
    write_state(state_of(found, put(folder, **NORM_FILES)), tmp_path / "w.safetensors")
    init_weights(found.graph(), str(tmp_path / "w.safetensors"))


# -- there and back ---------------------------------------------------------------------------


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    *(st.sampled_from(["Conv", "Deconv"]), st.sampled_from(list(MAPS)), st.booleans()),
    *(st.booleans(), st.booleans(), st.integers(0, 2**32 - 1)),
)
def test_there_and_back(
    tmp_path: Path, kind: str, name: str, swapped: bool, flipped: bool, bias: bool, seed: int
) -> None:
    channels, outputs, keys, _ = MAPS[name]
    config = f"NoBias={int(not bias)}\nWeightsExportFlip={int(flipped)}\n"
    config += f"WeightsExportFormat={'HWCO' if swapped else 'OCHW'}"
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


SETS = {
    "mnist_model/LeNet_4b.ini": "mnist_model/weights_LeNet_4b",
    "mnist_model/LeNet_w1_a4.ini": "mnist_model/weights_LeNet_w1_a4",
    "mnist_model/LeNet_w4_a8.ini": "mnist_model/weights_LeNet_w4_a8",
    "mnist_multibranch_model/MobileNet_v2_mini.ini": "mnist_multibranch_model/"
    "mobilenet-v2-weights-8b",
}


@pytest.mark.parametrize("name", SETS)
def test_n2d2s_own_files_come_back_byte_for_byte(tmp_path: Path, shared: Path, name: str) -> None:
    data = shared / "data/n2d2/tests_data"
    network = understand(str(data / name))
    content = experiment(network)
    state = read_folder(network, data / SETS[name], phase(content))
    assert state.notices == []
    assert write_folder(network, state.tensors, tmp_path / "back") == []
    originals = {
        path.name: path.read_bytes()
        for path in (data / SETS[name]).iterdir()
        if "_quant_" not in path.name
    }
    back = {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()}
    assert back == originals
    write_state(state, tmp_path / "w.safetensors")
    model = converted(content)
    assert "left out" not in init_weights(model, str(tmp_path / "w.safetensors"))
    saved = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    for key, value in state.tensors.items():
        assert torch.equal(saved[key], torch.from_numpy(np.asarray(value)))


# -- what quantizers keep ---------------------------------------------------------------------


def converted(content: Node) -> torch.nn.Module:
    """Return the network that an experiment trains."""
    quant = content["quant"]
    model = LayerGraph(**content["model"])
    factories = [
        None if node is None else instantiate({**node, "_partial_": True})
        for node in (quant["weight"], quant["activation"])
    ]
    rules = [Rule.parse(key, node) for key, node in quant["rules"].items()]
    return quantize(model, *factories, rules, torch.zeros(1, *content["model"]["input_shape"]))[0]


QUANTIZED = """[c]
Input=sp
Type=Conv
KernelSize=3
NbOutputs=2
QWeight={method}
QWeight.Range=15
[b]
Input=c
Type=BatchNorm
NbOutputs=2
ActivationFunction=Linear
QAct={method}
QAct.Range=7
{more}
[fc]
Input=b
Type=Fc
NbOutputs=10
QWeight={method}
"""


def quantized(folder: Path, method: str, more: str = "") -> Network:
    network = read(folder, project(QUANTIZED.format(method=method, more=more)))
    assert network.problems == []
    return network


def files_of(network: Network, *left_out: str) -> dict[str, list[float]]:
    files = {f.stem: f for cell in network.cells.values() for f in cell.files}
    return {
        stem: [abs(n) + 0.5 for n in numbers(file.count)]
        for stem, file in files.items()
        if stem not in left_out
    }


def test_sat_keeps_texts_and_clip_values(tmp_path: Path, folder: Path) -> None:
    network = quantized(tmp_path, "SAT")
    content = experiment(network)
    state = read_folder(network, put(folder, **files_of(network)), phase(content))
    assert state.texts == {
        "c.weight_quantizer._extra_state": "quantize SatWeight 15",
        "b_qact._extra_state": "quantize SatActivation 7",
        "fc.weight_quantizer._extra_state": "quantize SatWeight 255",
    }
    assert state.tensors["b_qact.alpha"] == np.float32(numbers(1)[0] * -1 + 0.5)
    assert state.tensors["b_qact.initialized"].dtype == np.bool_
    write_state(state, tmp_path / "w.safetensors")
    model = converted(content)
    assert "left out" not in init_weights(model, str(tmp_path / "w.safetensors"))
    site = model.get_submodule("b_qact")
    assert isinstance(site, SatActivation)
    assert site.alpha.item() == pytest.approx(numbers(1)[0] * -1 + 0.5)
    assert site.phase is Phase.QUANTIZE


def test_weights_of_the_clamp_phase_stay_in_it(tmp_path: Path, folder: Path) -> None:
    text = "[fc]\nInput=sp\nType=Fc\nNbOutputs=10\nQWeight=SAT\nQWeight.ApplyQuantization=0\n"
    network = read(tmp_path, project(text))
    content = experiment(network)
    assert phase(content) == "clamp"
    state = read_folder(network, put(folder, **files_of(network)), "clamp")
    assert state.texts == {"fc.weight_quantizer._extra_state": "clamp SatWeight 255"}
    write_state(state, tmp_path / "w.safetensors")
    model = converted(content)
    init_weights(model, str(tmp_path / "w.safetensors"))
    quantizer = model.get_submodule("fc.weight_quantizer")
    assert isinstance(quantizer, SatWeight)
    assert quantizer.phase is Phase.CLAMP


def test_lsq_keeps_steps(tmp_path: Path, folder: Path) -> None:
    network = quantized(tmp_path, "LSQ")
    content = experiment(network)
    state = read_folder(network, put(folder, **files_of(network)), phase(content))
    assert state.texts == {
        "c.weight_quantizer._extra_state": "quantize LsqWeight 15",
        "b_qact._extra_state": "quantize LsqActivation 7",
        "fc.weight_quantizer._extra_state": "quantize LsqWeight 255",
    }
    write_state(state, tmp_path / "w.safetensors")
    model = converted(content)
    assert "left out" not in init_weights(model, str(tmp_path / "w.safetensors"))
    site = model.get_submodule("b_qact")
    assert isinstance(site, LsqActivation)
    assert site.step_size.item() == state.tensors["b_qact.step_size"]
    assert not site.needs_start


def test_values_of_quantizers_may_be_missing(tmp_path: Path, folder: Path) -> None:
    network = quantized(tmp_path, "SAT", "QAct.Alpha=6")
    put(folder, **files_of(network, "b_QAct_SAT_Alpha"))
    state = read_folder(network, folder, "quantize")
    assert state.notices == ["there is no b_QAct_SAT_Alpha.syntxt: b_qact.alpha is 6"]
    assert state.tensors["b_qact.alpha"] == 6
    network = quantized(tmp_path, "LSQ")
    left_out = ("b_QAct_LSQ_StepSize", "c_alphaW_LSQ")
    for path in folder.iterdir():
        path.unlink()
    put(folder, **files_of(network, *left_out))
    state = read_folder(network, folder, "quantize")
    assert state.notices == [
        "there is no c_alphaW_LSQ.syntxt: c.weight_quantizer.step_size starts from the data",
        "there is no b_QAct_LSQ_StepSize.syntxt: b_qact.step_size starts from the data",
    ]
    assert not any(
        key.startswith(("b_qact.", "c.weight_q")) for key in {**state.tensors, **state.texts}
    )
    write_state(state, tmp_path / "w.safetensors")
    model = converted(experiment(network))
    init_weights(model, str(tmp_path / "w.safetensors"))
    network = quantized(tmp_path, "LSQ", "QAct.SetOptInitStepSize=0\nQAct.StepSize=0.25")
    state = read_folder(network, folder, "quantize")
    assert state.tensors["b_qact.step_size"] == 0.25


# -- what is wrong with files -----------------------------------------------------------------

PLAIN = "[x]\nInput=env\nType=Fc\nNbOutputs=2\n"
GOOD = {"x_weights": "1 2\n3 4\n", "x_biases": "5\n6\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"x_biases": None}, "lacks 1 of the network's files: x_biases.syntxt"),
        ({"x_weights": None}, "lacks 1 of the network's files: x_weights.syntxt"),
        ({"x_weights": "1 2 3"}, "x_weights.syntxt holds 3 numbers. Accepted: 4"),
        ({"x_weights": "1 2 3 4 5"}, "x_weights.syntxt holds 5 numbers. Accepted: 4"),
        ({"x_weights": ""}, "x_weights.syntxt holds 0 numbers. Accepted: 4"),
        ({"x_weights": "1 2\n3 x"}, "x_weights.syntxt:2: 'x' is no number that a 32-bit float can"),
        ({"x_weights": "1 2\n\n3 1_0"}, "x_weights.syntxt:3: '1_0' is no number"),
        ({"x_weights": "1\n2 nan 4"}, "x_weights.syntxt:2: 'nan' is no number"),
        ({"x_weights": "inf 2 3 4"}, "x_weights.syntxt:1: 'inf' is no number"),
        ({"x_weights": "1 2 3 1e39"}, "x_weights.syntxt:1: '1e39' is no number that a 32-bit flo"),
        ({"x_weights": "1 2 3 1e999"}, "'1e999' is no number"),
        ({"x_weights": "1 2 3 1e"}, "'1e' is no number"),
        ({"x_weights": "1 2 3 --4"}, "'--4' is no number"),
        ({"x_weights": "1 2 3 ٣"}, "is no number"),
        ({"x_weights": "1 2 3 \x00"}, "is no number"),
        ({"x_weights": "1 2 3 " + "4" * 65}, "is no number"),
        (
            {"x_weights": "1 " * 10_000},
            "x_weights.syntxt has 20,000 bytes. Accepted: a file of 4 nu",
        ),
    ],
)
def test_files_that_are_wrong(
    tmp_path: Path, folder: Path, files: dict[str, str | None], expected: str
) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, **{stem: text for stem, text in {**GOOD, **files}.items() if text is not None})
    with pytest.raises(IniError) as error:
        state_of(found, folder)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_smallest_and_largest_numbers(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, **{**GOOD, "x_weights": "+1.\t-.5e+00\r\n3.4e38 1e-999"})
    weights = state_of(found, folder).tensors["x.weight"]
    assert weights.dtype == np.float32
    assert weights.tolist() == [[1, -0.5], [float(np.float32(3.4e38)), 0]]


def test_huge_files_are_not_read(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, **GOOD)
    with (folder / "x_weights.syntxt").open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(
        IniError, match="has 1,099,511,627,776 bytes. Accepted: a file of 4 numbers"
    ):
        state_of(found, folder)


def test_a_folder_is_no_file(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, x_biases=GOOD["x_biases"])
    (folder / "x_weights.syntxt").mkdir()
    with pytest.raises(
        IniError, match="x_weights.syntxt is no file. Accepted: a file of 4 numbers"
    ):
        state_of(found, folder)
    with pytest.raises(IniError, match="nowhere is no folder of weight files"):
        state_of(found, tmp_path / "nowhere")


def test_missing_files_are_listed_together(tmp_path: Path, folder: Path) -> None:
    text = "".join(PLAIN.replace("[x]", f"[x{i}]") for i in range(6))
    with pytest.raises(IniError) as error:
        state_of(cells(tmp_path, text, (1, 1, 2)), folder)
    assert str(error.value) == (
        f"{folder} lacks 12 of the network's files: x0_weights.syntxt, x0_biases.syntxt, "
        "x1_weights.syntxt, x1_biases.syntxt, x2_weights.syntxt, x2_biases.syntxt, "
        "x3_weights.syntxt, x3_biases.syntxt, ..."
    )


def test_surplus_files_are_told(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, **GOOD, y_weights="1", x_quant_weights="1", x_scales="1", x="1")
    (folder / "x_weights.distrib.dat").write_text("1")
    assert state_of(found, folder).notices == [
        f"{folder}/x_scales.syntxt belongs to no cell of the network",
        f"{folder}/y_weights.syntxt belongs to no cell of the network",
    ]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, folder: Path, name: str) -> None:
    found = cells(tmp_path, PLAIN.replace("[x]", f"[{name}]"), (1, 1, 2))
    with pytest.raises(IniError, match="leads out of"):
        state_of(found, folder)
    keys = found.network().cells[name].files
    tensors = {file.key: np.zeros(file.shape, np.float32) for file in keys}
    with pytest.raises(IniError, match="leads out of"):
        write_folder(found.network(), tensors, folder)
    assert list(tmp_path.rglob("*.syntxt")) == []


def test_names_may_lead_into_folders(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN.replace("[x]", "[block/x]"), (1, 1, 2))
    files = found["block/x"].files
    tensors = {file.key: np.ones(file.shape, np.float32) for file in files}
    write_folder(found.network(), tensors, folder)
    assert (folder / "block/x_weights.syntxt").read_text() == "1 1 \n1 1 \n"
    assert state_of(found, folder).tensors.keys() == tensors.keys()


def test_what_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    network = cells(tmp_path, PLAIN, (1, 1, 2)).network()
    good = {"x.weight": np.zeros((2, 2), np.float32), "x.bias": np.zeros(2, np.float32)}
    for tensors, expected in (
        ({"x.weight": good["x.weight"]}, "the file has no x.bias, which x needs"),
        ({**good, "x.bias": np.zeros(3)}, r"x.bias is \(3,\) in the file and \(2,\) in x"),
        ({**good, "x.bias": np.array([1, np.nan])}, "x.bias has numbers that are not finite"),
    ):
        with pytest.raises(IniError, match=expected):
            write_folder(network, tensors, folder)
    assert list(folder.iterdir()) == []
    remarks = write_folder(network, {**good, "y.weight": np.zeros(1)}, folder)
    assert remarks == ["y.weight belongs to no cell of the network"]
    twice = cells(tmp_path, PLAIN.replace("[x]", "[a:b]") + PLAIN.replace("[x]", "[a?b]"))
    keys = [file for cell in twice.cells.values() for file in cell.files]
    with pytest.raises(IniError, match="two cells would have the same file a_b_weights.syntxt"):
        write_folder(twice.network(), {f.key: np.zeros(f.shape, np.float32) for f in keys}, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(IniError, match="cannot write"):
        write_folder(network, good, tmp_path / "file")


def test_quantizers_without_values_are_told(tmp_path: Path, folder: Path) -> None:
    text = f"{PLAIN}ActivationFunction=Linear\nQAct=SAT\n"
    network = cells(tmp_path, text, (1, 1, 2)).network()
    good = {"x.weight": np.zeros((2, 2), np.float32), "x.bias": np.zeros(2, np.float32)}
    assert write_folder(network, good, folder) == [
        "the file has no x_qact.alpha: x_QAct_SAT_Alpha.syntxt is not written"
    ]
    full = {**good, "x_qact.alpha": np.float32(6), "x_qact.initialized": np.array(True)}
    assert write_folder(network, full, folder) == []
    assert (folder / "x_QAct_SAT_Alpha.syntxt").read_text() == "6"


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 100, struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"[]"],
)
def test_damaged_safetensors_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(IniError, match="is damaged or no safetensors file"):
        read_state(path)
    with pytest.raises(IniError, match="does not exist"):
        read_state(tmp_path / "none.safetensors")
