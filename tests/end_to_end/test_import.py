"""N2D2 projects, imported from the command line, trained, killed, resumed and tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from killable_runs import KILL_AT, Ended, start_forked

from ini_compat.__main__ import main

MODELS = "data/n2d2/tests_data/mnist_model"


@pytest.fixture
def data(root: Path) -> str:
    """The option that says where MNIST is."""
    if not (root / "data/MNIST/raw").is_dir():
        pytest.skip("data/MNIST is not here")
    return f"data.source.folder={root / 'data'}"


def convert(ini: Path, name: str, *options: str) -> None:
    """Import a file as an experiment into a folder beside conf/."""
    Path("extra/experiment").mkdir(parents=True, exist_ok=True)
    assert main(["convert", str(ini), "-o", f"extra/experiment/{name}.yaml", *options]) == 0


def run(script: str, *settings: str, **environment: str) -> Ended:
    folder = Path.cwd() / "extra"
    words = ("--config-dir", str(folder), *settings, "trainer.accelerator=cpu")
    return start_forked(Path.cwd() / "log", script, *words, **environment)


@pytest.mark.parametrize("name", ["LeNet_4b", "LeNet_w4_a8", "LeNet_w1_a4"])
def test_imported_weights_predict_and_score_as_in_n2d2(shared: Path, data: str, name: str) -> None:
    weights = shared / f"{MODELS}/weights_{name}"
    convert(shared / f"{MODELS}/{name}.ini", name, "--weights", str(weights))
    file = Path.cwd() / f"extra/experiment/{name}.safetensors"
    saved = Path.cwd() / "outputs.npz"
    settings = (f"experiment={name}", f"init_weights={file}", f"save_outputs={saved}", data)
    ended = run("test.py", *settings)
    assert ended.code == 0, ended.output
    golden = np.load(shared / "data/n2d2/golden/logits_mnist_test.npz")[f"weights_{name}"]
    outputs = np.load(saved)["outputs"]
    assert np.array_equal(outputs.argmax(1), golden.argmax(1))  # of all 10,000 images
    expected = json.loads((shared / "data/n2d2/golden/reports.json").read_text())[name]
    said = [line.strip() for line in ended.output.splitlines()]
    assert [line for line in said if line in expected["report_lines"]] == expected["report_lines"]


@pytest.mark.parametrize(
    ("images", "tolerance"),
    [(2000, 1.5), pytest.param(10_000, 0.05, marks=pytest.mark.slow)],  # in percent; harder first
)
def test_a_network_with_branches_scores_as_its_own_test_asserts(
    shared: Path, data: str, images: int, tolerance: float
) -> None:
    folder = shared / "data/n2d2/tests_data/mnist_multibranch_model"
    weights = folder / "mobilenet-v2-weights-8b"
    convert(folder / "MobileNet_v2_mini.ini", "mini", "--weights", str(weights))
    file = Path.cwd() / "extra/experiment/mini.safetensors"
    batches = ("data.eval_batch_size=1000", f"+trainer.limit_test_batches={images // 1000}")
    ended = run("test.py", "experiment=mini", f"init_weights={file}", data, *batches)
    assert ended.code == 0, ended.output
    rate = float(ended.output.partition("Final recognition rate: ")[2].partition("%")[0])
    assert rate == pytest.approx(98.67, abs=tolerance)


@pytest.mark.parametrize("choice", ["quant=none", "loss=cross_entropy", "data=fashion_mnist"])
def test_a_group_that_the_experiment_would_hide_is_an_error(root: Path, choice: str) -> None:
    convert(root / "tests/data/ini/LeNet_bn_SAT_clamp.ini", "mine")
    ended = run("train.py", "experiment=mine", choice, "mode=plan")
    assert ended.code == 1
    assert f"{choice} has no effect: experiment=mine has its own" in ended.output


def test_the_float_network_of_an_import(root: Path) -> None:
    convert(root / "tests/data/ini/LeNet_bn_SAT_clamp.ini", "mine")
    keys = ("quant.weight=null", "quant.activation=null", "quant.rules=null")
    ended = run("train.py", "experiment=mine", *keys, "mode=plan")
    assert "246,448 bytes in float32 (1.00x)" in ended.output


def test_an_imported_project_is_trained_killed_and_resumed(shared: Path, data: str) -> None:
    convert(shared / f"{MODELS}/LeNet_4b.ini", "mine", "--epochs", "2")
    folder = Path.cwd() / "run"
    settings = (
        *("experiment=mine", "trainer=smoke", data, f'hydra.run.dir="{folder}"'),
        "+callbacks.kill._target_=killable_runs.KillAt",
    )
    ended = run("train.py", *settings, **{KILL_AT: "SIGKILL 2 2"})
    assert ended.code == -9, ended.output
    ended = start_forked(Path.cwd() / "log", "train.py", f"resume={folder}")
    assert ended.code == 0, ended.output
    result = json.loads((folder / "result.json").read_text())
    assert result["name"] == "LeNet_4b"
    assert result["epochs"] == {"quantize": 2}
    assert result["resumed"] is True
    layers = json.loads((folder / "layers.json").read_text())
    bits = {layer["name"]: layer["bits"] for layer in layers["layers"]}
    assert bits == {
        **{"conv1": 8, "bn1_qact": 4, "conv2": 4, "bn2_qact": 4, "conv3": 4, "bn3_qact": 4},
        **{"fc1": 4, "fc1_qact": 4, "fc2": 8},
    }
