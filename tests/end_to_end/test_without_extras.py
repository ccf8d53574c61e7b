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


def test_a_network_trains_where_no_extra_is_installed(tmp_path: Path, root: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "run"
    site.mkdir()
    for distribution in _needed("qatlab", {}).values():
        for name in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not (site / name).is_symlink():  # torch and its libraries share folders
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    assert (site / "hydra").exists()
    assert not (site / "hydra_plugins").exists()  # a folder that only plugins make
    done = subprocess.run(
        # -S: without the site-packages of this environment
        [sys.executable, "-S", "train.py", "quant=sat_4bit", *TINY, f"hydra.run.dir={folder}"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "result.json").read_text())["test"]["images"] == 50
