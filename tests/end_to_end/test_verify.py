"""Runs that are compared with their integer networks and their ONNX files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mistakes import assert_refused

import qatlab
from qatlab.cli import verify as verify_command
from qatlab.cli.main import run as run_command
from qatlab.deploy.integer import IntegerNetwork, lower
from qatlab.deploy.integer.operations import (
    Convolve,
    FixedRescale,
    Operation,
    Output,
    Rescale,
    Weighted,
)
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.deploy.verify.comparison import compare
from qatlab.deploy.verify.forms import AsIntegers, FakeQuantized
from qatlab.deploy.verify.trained import batches_of
from qatlab.errors import ConfigError, QatlabError
from qatlab.quant.layers import quantized_weight
from qatlab.run.loading import load_run

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(finished: Path) -> Path:
    return finished


def test_a_run_answers_the_same_in_all_forms(run: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "found.json"
    assert (
        run_command(["verify", str(run), "--json", str(file), "--rescale", "fixed32", "fixed16"])
        == 0
    )
    told = capsys.readouterr().out
    assert re.search(r"50 images; accumulator bits: conv1 \d\d, conv2 ", told)
    found = json.loads(file.read_text())
    result = json.loads((run / "result.json").read_text())
    assert found["images"] == 50
    assert list(found["forms"]) == [
        *("fake-quantized", "integers, float", "integers, fixed32", "integers, fixed16"),
        *("onnx qdq, as written", "onnx qdq, optimised"),
    ]
    for name, form in found["forms"].items():
        assert name in told
        assert form["top1"] == pytest.approx(result["test"]["top1"])
        assert form["different"] == 0
        if name != "onnx qdq, optimised":
            assert list(form["sites"]) == ["relu1", "relu2", "relu3", "relu4"]
            assert form["sites"]["relu1"]["codes"] == 50 * 6 * 28 * 28
    exact = found["forms"]["integers, float"]
    assert all(site["from_tie"] < 1e-4 for site in exact["sites"].values())
    assert found["accumulator_bits"].keys() == {"conv1", "conv2", "conv3", "fc1", "fc2"}


@pytest.mark.parametrize("rescale", [["float"], ["float", "fixed32"]])
def test_onnx_that_is_not_there_is_reported_whatever_else_is_compared(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, rescale: list[str]
) -> None:
    words = [str(run), "--images", "10", "--rescale", *rescale]
    told = "ONNX was not compared, as onnxruntime is not installed"
    assert run_command(["verify", *words]) == 0
    assert told not in capsys.readouterr().out
    monkeypatch.setattr(verify_command, "can_make_onnx", lambda: False)
    assert run_command(["verify", *words]) == 0
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["qdq", "integer"])
def test_a_written_file_is_verified(run: Path, tmp_path: Path, capsys: Captured, kind: str) -> None:
    file = tmp_path / "model.onnx"
    assert run_command(["export", str(run), "-o", str(file), "--format", kind]) == 0
    told = capsys.readouterr().out
    assert f"{file}: {file.stat().st_size:,} bytes" in told
    runtime = "IR version 10, opset 21: onnxruntime 1.19 or later"
    assert f"{runtime}. Checked. Not for openvino, which " in told
    assert os.listdir(tmp_path) == ["model.onnx"]
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert (facts["format"], facts["reader"], facts["runtime"]) == (kind, "onnxruntime", runtime)
    assert json.loads(facts["class_names"]) == [f"pattern {i}" for i in range(10)]
    layers = {row["name"]: row["bits"] for row in json.loads(facts["layers"])}
    assert (layers["conv1"], layers["conv2"], layers["relu1"]) == (8, 4, 4)
    image = json.loads(facts["preprocessing"])["float = step * byte + offset"]
    assert image == {"step": [pytest.approx(1 / 255)], "offset": [0.0]}
    assert "_target_: qatlab.models.LeNet" in facts["config"]
    found = tmp_path / "found.json"
    words = [str(run), "--onnx", str(file), "--images", "10", "--data", "validation"]
    assert run_command(["verify", *words, "--json", str(found)]) == 0
    forms = json.loads(found.read_text())["forms"]
    assert [*forms][-2:] == [f"{file}, as written", f"{file}, optimised"]
    assert "10 images; " in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: cc")
def test_a_run_becomes_a_program(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_command(["export", str(run), "-o", str(tmp_path / "model.c"), "--format", "c"]) == 0
    told = capsys.readouterr().out
    assert "bytes of constants (flash)" in told
    assert re.search(r"conv2 +.* +240,000", told)  # products
    subprocess.run(["cc", "-std=c99", "-O2", "model.c", "-o", "model"], cwd=tmp_path, check=True)
    built = load_run(run)
    codes = pixel_codes(built.data)
    built.data.setup("test")
    images, labels = next(iter(built.data.test_dataloader()))
    (tmp_path / "images.raw").write_bytes(bytes_of(images, codes).numpy().tobytes())
    words = ["./model", "images.raw"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [int(line.split("\t")[0]) for line in done.stdout.splitlines()]
    result = json.loads((run / "result.json").read_text())
    right = np.mean(np.array(found) == labels.numpy())
    assert right == pytest.approx(result["test"]["top1"])


def test_three_lines_of_python_load_call_and_take_the_weights(run: Path) -> None:
    model = qatlab.load_quantized(run)
    outputs = model(torch.rand(2, 1, 32, 32))
    weights = qatlab.integer_weights(model)

    assert outputs.shape == (2, 10)
    assert list(weights) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    codes, step = weights["conv2"]
    assert set(np.unique(codes)) <= set(range(-15, 16, 2))
    expected = quantized_weight(model.get_submodule("conv2")).detach().numpy()
    np.testing.assert_allclose(codes * step, expected, rtol=1e-6)


def test_all_numbers_of_a_network_are_read_from_python(run: Path) -> None:
    network = qatlab.load_integers(run)
    layer, site = network["conv2"], network["relu2"]

    assert isinstance(layer, Convolve)
    assert isinstance(site, FixedRescale)
    codes = torch.randint(0, 16, (1, layer.weight.shape[1], 5, 5))
    sums = torch.nn.functional.conv2d(codes.double(), torch.from_numpy(layer.weight).double())
    by_channel = [
        torch.from_numpy(numbers.reshape(-1))
        for numbers in (site.multipliers[0], site.offset, site.shift)
    ]
    multiplier, offset, shift = by_channel
    found = (sums.flatten().long() * multiplier + offset) >> shift
    # The same by floats: the step of the sums, the bias and the step of the codes.
    exact = qatlab.load_integers(run, rescale="float")["relu2"]
    assert isinstance(exact, Rescale)
    position = sums.flatten().numpy() * exact.multipliers[0].reshape(-1) + exact.offset.reshape(-1)
    assert np.abs(found.numpy() - position).max() < 0.5 + 1e-4
    with pytest.raises(QatlabError, match=r"operation=conv22 is wrong\. Did you mean 'conv2'\?"):
        network["conv22"]


def changed(network: IntegerNetwork, kind: type[Weighted], by: float) -> IntegerNetwork:
    """Return a network whose last operation of a kind adds a little more to each channel."""
    at = max(i for i, op in enumerate(network.operations) if isinstance(op, kind))
    wrong = network.operations[at]
    assert isinstance(wrong, Weighted)
    bias = wrong.bias + by * np.arange(network.shapes[wrong.name][0])
    operations: list[Operation] = [*network.operations]
    operations[at] = dataclasses.replace(wrong, bias=bias)
    return dataclasses.replace(network, operations=operations)


@pytest.mark.parametrize("kind", [Rescale, Output])
def test_a_wrong_network_is_found(run: Path, kind: type[Weighted]) -> None:
    built = load_run(run)
    model, codes = built.model.eval(), pixel_codes(built.data)
    network = lower(model, codes, built.data.example_input())
    wrong = changed(network, kind, 0.3)
    exact = AsIntegers(network, "float", 0.0)
    forms = [AsIntegers(wrong, "fixed32", tolerance) for tolerance in (0.0, 1.0)]
    batches = batches_of(built.data, "test", None)
    found = compare(FakeQuantized(model), exact, forms, batches, codes)
    strict, lenient = found[2:]
    assert (found[1].different, found[1].passes) == (0, True)
    if kind is Output:
        assert strict.different > strict.ties == 0
        assert strict.parts_at is None
        assert not strict.passes
    else:
        assert strict.parts_at == "relu4"
        assert strict.sites["relu4"].from_tie > 0.01
    assert strict.largest > 0.01
    assert lenient.passes


def test_a_file_of_another_run_fails(
    run: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qatlab.deploy import onnx_file

    real: Callable[..., tuple[IntegerNetwork, object]] = onnx_file.try_to_lower
    monkeypatch.setattr(
        onnx_file, "try_to_lower", lambda *a: (changed(real(*a)[0], Output, 3.0), ())
    )
    file = tmp_path / "other.onnx"
    assert run_command(["export", str(run), "-o", str(file)]) == 0
    assert run_command(["verify", str(run), "--onnx", str(file)]) == 2
    error = capsys.readouterr().err
    assert error == f"Beyond the tolerance: {file}, as written, {file}, optimised.\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--onnx", "{tmp}/missing.onnx"],
            "cannot read {tmp}/missing.onnx: No such file or directory\n",
        ),
        (["--onnx", "{tmp}/run.log"], "cannot read {tmp}/run.log"),
        (["--rescale", "fixed23"], "rescale=fixed23 is wrong. Did you mean 'fixed32'?"),
        (["--rescale", "fixed16", "--reader", "onnxruntime"], "--rescale has no effect with"),
        (["--checkpoint", "lats"], "Did you mean 'last'?"),
        (["--images", "0"], "--images=0 is wrong. Accepted: a whole number above 0."),
    ],
)
def test_mistakes_are_reported(
    run: Path, tmp_path: Path, capsys: Captured, words: list[str], told: str
) -> None:
    (tmp_path / "run.log").write_text("no protocol buffer")
    given = [word.format(tmp=tmp_path) for word in words]
    assert run_command(["verify", str(run), *given]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"Error: [^\n]+\n", error)
    assert told.format(tmp=tmp_path) in error


def test_an_interruption_and_missing_images_are_reported(
    run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_command, "batches_of", lambda *given: iter(()))
    assert run_command(["verify", str(run), "--data", "validation"]) == 1
    assert capsys.readouterr().err == "Error: --data validation has no images.\n"

    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_command, "batches_of", interrupted)
    assert run_command(["verify", str(run)]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_images_that_no_bytes_stand_for_are_exported_in_float(
    run: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qatlab.deploy import onnx_file
    from qatlab.deploy import trained as trained_networks

    def refuse(data: object) -> None:
        raise ConfigError("no bytes stand for what the network gets")

    for module in (onnx_file, trained_networks):
        monkeypatch.setattr(module, "pixel_codes", refuse)
    file = tmp_path / "model.onnx"
    assert run_command(["export", str(run), "-o", str(file)]) == 0
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert "float = step * byte + offset" not in json.loads(facts["preprocessing"])
    assert run_command(["export", str(run), "-o", str(file), "--format", "integer"]) == 1
    assert "no bytes stand for" in capsys.readouterr().err


def test_a_folder_without_a_run_is_reported(tmp_path: Path, capsys: Captured) -> None:
    assert run_command(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"Error: {tmp_path} is not the folder of a run: it has no config.yaml\n"
    )
    (tmp_path / "config.yaml").write_text("model: [")
    assert run_command(["verify", str(tmp_path)]) == 1
    assert re.fullmatch(r"Error: [^\n]+\n", capsys.readouterr().err)


def test_a_clamped_run_has_nothing_to_export(run: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "model.onnx"
    words = [str(run), "-o", str(file), "--checkpoint", "best_clamp"]
    assert run_command(["export", *words]) == 1
    assert "is in the clamp phase: integer networks are made of runs" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "model.pt"], "a file that ends in .onnx, as --format qdq"),
        (["-o", "model.c"], "as --format qdq. For a program in C: --format c."),
        (
            ["-o", "model.onnx", "--format", "c"],
            "a file that ends in .c, or a folder, as --format c",
        ),
        (["-o", "m.onnx", "--opset", "12"], "--opset=12 is wrong. Accepted: 13 to 25."),
        (
            ["-o", "m.onnx", "--for", "hls4ml", "--format", "qdq"],
            "--format=qdq is wrong. Accepted: qonnx. hls4ml reads no other.",
        ),
        (
            ["-o", "m.c", "--format", "c", "--for", "tvm"],
            "--for cannot be combined with --format c",
        ),
        (["-o", "m.onnx", "--rescale", "float"], "--rescale cannot be combined with --format qdq"),
        (
            ["-o", "m.c", "--format", "c", "--opset", "21"],
            "--opset cannot be combined with --format c",
        ),
        (
            ["-o", "m.onnx", "--format", "integer", "--rescale", "float32"],
            "rescale=float32 is wrong",
        ),
    ],
)
def test_options_of_no_effect_are_reported(
    run: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    assert_refused(["export", str(run), *words], told, tmp_path, capsys, monkeypatch)
