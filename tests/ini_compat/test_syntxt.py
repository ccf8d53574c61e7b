"""Folders of ``.syntxt`` files as state dicts and back, by section 7 of the format."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from projects import project, read
from reading import cells, numbers, put, state_of

from ini_compat.build import understand
from ini_compat.convert import experiment, phase
from ini_compat.errors import IniError
from ini_compat.network import Network, Node
from ini_compat.weights import read_folder, read_state, write_folder, write_state
from qatlab.models import LayerGraph
from qatlab.quant import LsqActivation, Phase, Rule, SatActivation, SatWeight, quantize
from qatlab.run.weights import init_weights, save_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    return path


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
        (
            {"x_weights": "1 2\n3 x"},
            "x_weights.syntxt:2: 'x' is not a number that a 32-bit float can",
        ),
        ({"x_weights": "1 2\n\n3 1_0"}, "x_weights.syntxt:3: '1_0' is not a number"),
        ({"x_weights": "1\n2 nan 4"}, "x_weights.syntxt:2: 'nan' is not a number"),
        ({"x_weights": "inf 2 3 4"}, "x_weights.syntxt:1: 'inf' is not a number"),
        (
            {"x_weights": "1 2 3 1e39"},
            "x_weights.syntxt:1: '1e39' is not a number that a 32-bit flo",
        ),
        ({"x_weights": "1 2 3 1e999"}, "'1e999' is not a number"),
        ({"x_weights": "1 2 3 1e"}, "'1e' is not a number"),
        ({"x_weights": "1 2 3 --4"}, "'--4' is not a number"),
        ({"x_weights": "1 2 3 ٣"}, "is not a number"),
        ({"x_weights": "1 2 3 \x00"}, "is not a number"),
        ({"x_weights": "1 2 3 " + "4" * 65}, "is not a number"),
        ({"x_weights": "1 2 3 0." + "4" * 63}, "is not a number"),
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
        IniError, match=re.escape("has 1,099,511,627,776 bytes. Accepted: a file of 4 numbers")
    ):
        state_of(found, folder)


def test_a_folder_is_no_file(tmp_path: Path, folder: Path) -> None:
    found = cells(tmp_path, PLAIN, (1, 1, 2))
    put(folder, x_biases=GOOD["x_biases"])
    (folder / "x_weights.syntxt").mkdir()
    with pytest.raises(
        IniError, match=re.escape("x_weights.syntxt is not a file. Accepted: a file of 4 numbers")
    ):
        state_of(found, folder)
    with pytest.raises(IniError, match="nowhere is not a folder of weight files"):
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


def test_surplus_files_are_reported(tmp_path: Path, folder: Path) -> None:
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
    with pytest.raises(
        IniError, match=re.escape("two cells would have the same file a_b_weights.syntxt")
    ):
        write_folder(twice.network(), {f.key: np.zeros(f.shape, np.float32) for f in keys}, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(IniError, match="cannot write"):
        write_folder(network, good, tmp_path / "file")


def test_quantizers_without_values_are_reported(tmp_path: Path, folder: Path) -> None:
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


def test_a_flipped_bit_in_the_weights_of_a_run_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(torch.nn.Linear(3, 2), path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    assert read_state(path).keys() == {"weight", "bias"}
    path.write_bytes(content)
    with pytest.raises(IniError, match=rf"^{path} is damaged: its checksum is wrong"):
        read_state(path)
