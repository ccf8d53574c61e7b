"""What the README promises after ``pip install -e .``, which brings none of the extras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from mistakes import TINY
from packaging.requirements import Requirement


def _needed(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Return a distribution and all that it cannot be without, by name."""
    name = name.lower().replace("_", "-")
    if name not in found:
        found[name] = metadata.distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                _needed(requirement.name, found)
    return found


CODE = """
import runpy, sys
from qatlab.cli.main import run as run_command

run, folder, *words = sys.argv[1:]
sys.argv = ["train.py", *words, f"hydra.run.dir={run}"]
runpy.run_path("train.py", run_name="__main__")
assert run_command(["export", run, "-o", f"{folder}/model.onnx"]) == 1
assert run_command(["export", run, "-o", f"{folder}/model.c", "--format", "c"]) == 0
assert run_command(["verify", run]) == 0
assert run_command(["verify", run, "--onnx", f"{folder}/model.onnx"]) == 1
"""


def test_a_network_trains_where_no_extra_is_installed(tmp_path: Path, root: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "run"
    site.mkdir()
    for distribution in _needed("qatlab", {}).values():
        for name in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not (site / name).is_symlink():  # torch and its libraries share folders
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    assert (site / "hydra").exists()
    assert not (site / "hydra_plugins").exists()  # a folder that only plugins make

    words = (folder, tmp_path, "quant=sat_4bit", *TINY)
    told = subprocess.run(
        [sys.executable, "-S", "-c", CODE, *words],  # -S: without this environment's site-packages
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{site}:{root}"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert json.loads((folder / "result.json").read_text())["test"]["images"] == 50
    assert told.stderr == (
        "Error: --format qdq needs the package onnx: pip install 'qatlab[onnx]'.\n"
        "Error: ONNX files are read by the package onnx: pip install 'qatlab[onnx]'.\n"
    )
    assert "ONNX was not compared, as onnxruntime is not installed: pip install" in told.stdout
    assert (tmp_path / "model.c").is_file()
    assert not (tmp_path / "model.onnx").exists()
