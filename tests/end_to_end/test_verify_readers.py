"""Programs that read exported files: each is run where it is installed, and told where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from qatlab.cli.main import run as run_command
from qatlab.deploy.verify import readers

Captured = pytest.CaptureFixture[str]


def assert_computes(run: Path, reader: str, images: int, folder: Path, *more: str) -> None:
    numbers = folder / "numbers.json"
    words = ["verify", str(run), "--reader", reader, "--images", str(images), *more]
    assert run_command([*words, "--json", str(numbers)]) == 0
    forms = json.loads(numbers.read_text())["forms"]
    assert [*forms][:2] == ["fake-quantized", "integers, float"]
    for name, form in [*forms.items()][2:]:
        assert name.startswith(f"{reader}, ")
        assert form["different"] == form["ties"]


def test_onnxruntime_computes_the_file_that_is_its(finished: Path, tmp_path: Path) -> None:
    assert_computes(finished, "onnxruntime", 20, tmp_path)


def test_openvino_computes_the_file_that_is_its(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert_computes(finished, "openvino", 20, tmp_path)


def test_qonnx_computes_the_file_that_is_its(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    assert_computes(finished, "qonnx", 10, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler: g++")
def test_the_c_simulation_of_hls4ml_gives_the_classes_of_training(
    finished: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hls4ml")
    assert_computes(finished, "hls4ml", 50, tmp_path, "--tolerance", "0")


@pytest.mark.slow
def test_finn_turns_all_quantizers_into_thresholds(finished: Path, tmp_path: Path) -> None:
    convert = pytest.importorskip("finn.transformation.qonnx.convert_qonnx_to_finn")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    file = tmp_path / "model.onnx"
    assert run_command(["export", str(finished), "--for", "finn", "-o", str(file)]) == 0
    model = cleanup_model(ModelWrapper(str(file))).transform(convert.ConvertQONNXtoFINN())
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MultiThreshold") == 4  # sites
    assert {*kinds} <= {"Conv", "MatMul", "MultiThreshold", "MaxPool", "Mul", "Add", "Flatten"}


def test_a_file_that_a_reader_does_not_take_is_reported(
    finished: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda name: name)
    file = tmp_path / "model.onnx"
    assert run_command(["export", str(finished), "--for", "hls4ml", "-o", str(file)]) == 0
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert (facts["format"], facts["reader"]) == ("qonnx", "hls4ml")
    words = ["verify", str(finished), "--onnx", str(file), "--reader", "openvino"]
    assert run_command(words) == 1
    assert "Accepted: what qatlab export has written with --format integer or qdq." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("reader", "told"),
    [
        ("hls4ml", "--reader hls4ml needs the package onnx: pip install 'qatlab[hls4ml]'."),
        ("onnxruntime", "--reader onnxruntime needs the package onnx: pip install 'qatlab[onnx]'."),
        (
            "tensorrt",
            "--reader=tensorrt is wrong. Accepted: onnxruntime, openvino, qonnx, hls4ml. ",
        ),
        ("hls5ml", "--reader=hls5ml is wrong. Did you mean 'hls4ml'?"),
    ],
)
def test_a_reader_that_cannot_be_run_is_reported(
    finished: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, reader: str, told: str
) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    assert run_command(["verify", str(finished), "--reader", reader]) == 1
    assert told in capsys.readouterr().err
