"""N2D2's own weights as integer networks, against what its tests assert of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ini_compat.__main__ import main as ini_compat
from qatlab.cli.main import run as run_command

FOLDERS = {"LeNet": "mnist_model", "MobileNet": "mnist_multibranch_model"}
WEIGHTS = {"MobileNet_v2_mini": "mobilenet-v2-weights-8b"}
# Accuracies in percent that N2D2's tests assert of its integer networks.
ASSERTED = [
    ("LeNet_4b", "float", 99.23),
    ("LeNet_4b", "fixed32", 99.20),
    ("LeNet_w4_a8", "float", 99.32),
    ("LeNet_w1_a4", "fixed32", 98.76),
    ("MobileNet_v2_mini", "float", 98.67),
]


@pytest.fixture
def checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the configuration and the data of the project."""
    if not (root / "data/MNIST/raw").is_dir():
        pytest.skip("data/MNIST is not here")
    shutil.copytree(root / "conf", tmp_path / "conf")
    (tmp_path / "data").symlink_to(root / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(shared: Path, name: str) -> None:
    folder = shared / "data/n2d2/tests_data" / FOLDERS[name.partition("_")[0]]
    weights = folder / WEIGHTS.get(name, f"weights_{name}")
    assert ini_compat(["convert", str(folder / f"{name}.ini"), "--weights", str(weights)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LeNet_4b", "LeNet_w4_a8", "LeNet_w1_a4", "MobileNet_v2_mini"])
def test_integer_networks_reach_what_n2d2_asserts(checkout: Path, shared: Path, name: str) -> None:
    convert(shared, name)
    assert run_command(["verify", f"experiment={name}", "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["images"] == 10_000
    for own, rescale, accuracy in ASSERTED:
        if own == name:
            reached = found["forms"][f"integers, {rescale}"]["top1"]
            assert 100 * reached == pytest.approx(accuracy, abs=0.05)


def test_an_imported_experiment_is_verified(
    checkout: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(shared, "LeNet_w1_a4")
    assert run_command(["verify", "experiment=LeNet_w1_a4", "--images", "200"]) == 0
    assert "200 images; " in capsys.readouterr().out
    assert run_command(["verify", "experiment=LeNet_w1_a4", "init_weights=null"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"Error: [^\n]+ there are no weights; add init_weights=<file>\.\n", error)
    assert run_command(["verify", "experiment=LeNet_w1_b4"]) == 1
    assert "LeNet_w1_a4" in capsys.readouterr().err


def test_experiments_are_looked_for_in_the_current_folder_and_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["verify", "experiment=LeNet_4b"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: experiment=LeNet_4b is unknown.")
    assert told.count("\n") == 1
