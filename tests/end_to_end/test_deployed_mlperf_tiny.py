"""The networks of MLPerf Tiny, trained for some steps on made images, leave in every form."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from killable_runs import start_forked
from onnx.reference import ReferenceEvaluator
from qonnx_operators import Quant

from qatlab.cli.main import run as run_command
from qatlab.deploy.integer import compute, with_rescale
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.run.loading import load_arguments

FORMS = {"integer": "onnx", "qdq": "onnx", "qonnx": "onnx", "c": "c"}
AS_SPEECH = (  # bytes of which 211 stands for the zeros that DS-CNN pads with
    "data.transforms={range: {_target_: qatlab.data.transforms.RangeAffine, "
    "first_operator: minus, first_value: [211], second_operator: divides, second_value: [128]}}"
)
NETWORKS = {  # words, channels, height and width, classes
    "resnet8": (["experiment=mlperf_tiny_ic"], 3, (32, 32), 10),
    "mobilenet_v1": (["experiment=mlperf_tiny_vww"], 3, (96, 96), 2),
    "ds_cnn": (["experiment=mlperf_tiny_kws", AS_SPEECH], 1, (49, 10), 12),
    "autoencoder": (["experiment=mlperf_tiny_ad"], 1, (5, 128), 2),
}
SMOKE = (
    *("quant=lsq_8bit", "solver=adam", "data=synthetic", "data.batch_size=8", "data.validation=8"),
    *("data.source.training_images=72", "data.source.test_images=24", "trainer.accelerator=cpu"),
    *("schedule.first_epochs=1", "schedule.quantize_epochs=1", "schedule.calibration_batches=1"),
)


def train(network: str, folder: Path) -> None:
    words, channels, (height, width), classes = NETWORKS[network]
    made = [f"data.source.channels={channels}", f"data.source.num_classes={classes}"]
    made += [f"data.image_size=[{height},{width}]", f"hydra.run.dir={folder}"]
    ended = start_forked(folder.with_suffix(".log"), "train.py", *SMOKE, *words, *made)
    assert ended.code == 0, ended.output


def check_qonnx(file: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    session = ReferenceEvaluator(onnx.load(file), new_ops=[Quant])
    (found,) = session.run(None, {"image": images.numpy()})
    near = 1e-4 * expected.abs().max().item()
    assert np.abs(found.reshape(len(images), -1) - expected.numpy()).max() <= near


def check_c(folder: Path, pixels: torch.Tensor, outputs: torch.Tensor) -> None:
    """Compile and run; the outputs are those of whole numbers, to the last bit."""
    flags: Sequence[str] = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *flags, "c.c", "-o", "program"], cwd=folder, check=True)
    (folder / "images.raw").write_bytes(pixels.numpy().tobytes())
    done = subprocess.run(
        ["./program", "--outputs", "images.raw"], cwd=folder, capture_output=True, check=True
    )
    rows = [line.split(b"\t")[2:] for line in done.stdout.splitlines()]
    assert np.array_equal(np.array(rows, dtype=np.float64), outputs.numpy())


@pytest.mark.parametrize(
    "network",
    # The others are of the kinds that test_deployed_networks computes.
    [
        pytest.param(name, marks=() if name in ("ds_cnn", "autoencoder") else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_a_trained_network_answers_the_same_in_all_forms(network: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(network, run)
    result = json.loads((run / "result.json").read_text())["test"]
    assert 0 <= result["auc" if network == "autoencoder" else "top1"] <= 1
    for form, suffix in FORMS.items():
        words = [str(run), "-o", str(tmp_path / f"{form}.{suffix}"), "--format", form]
        assert run_command(["export", *words]) == 0
    files = [str(tmp_path / f"{form}.onnx") for form in ("integer", "qdq", "qonnx")]
    numbers = tmp_path / "numbers.json"
    assert run_command(["verify", str(run), "--onnx", *files, "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert found["images"] == 24
    assert len(found["forms"]) == 3 + 3 * 2
    assert all(form["different"] == form["ties"] for form in found["forms"].values())
    sites = [list(found["forms"][name]["sites"]) for name in found["forms"] if "written" in name]
    assert len(sites) == 3
    assert all(own == list(found["forms"]["integers, float"]["sites"]) for own in sites)
    trained = load_arguments([str(run)])
    trained.data.setup("test")
    images = next(iter(trained.data.test_dataloader()))[0][:4]
    with torch.no_grad():
        expected = trained.model(images).flatten(1)
    check_qonnx(tmp_path / "qonnx.onnx", images, expected)
    pixels = bytes_of(images, pixel_codes(trained.data))
    if shutil.which("cc") is not None:
        whole = with_rescale(trained.lowered(), "fixed32")
        check_c(tmp_path, pixels, compute(whole, pixels).outputs.flatten(1))
