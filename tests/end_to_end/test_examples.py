"""The notebooks of examples/: run as they are, and stored with what they show."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = ("plain_pytorch", "lightning_module")


def read(root: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / f"examples/{name}.ipynb").read_text())
    return content


def outputs(notebook: Any) -> list[Any]:
    return [out for cell in notebook["cells"] for out in cell.get("outputs", [])]


def text_of(found: list[Any]) -> str:
    return "".join("".join(out.get("text", "")) for out in found)


def check(found: list[Any]) -> None:
    """A notebook shows accuracies far above chance, a table of layers and a picture."""
    assert not [out for out in found if out["output_type"] == "error"]
    kinds = [kind for out in found for kind in out.get("data", {})]
    assert "image/png" in kinds
    assert "text/html" in kinds or "Layers and sites" in text_of(found)
    percents = [float(number) for number in re.findall(r": ([\d.]+)%", text_of(found))]
    assert len(percents) >= 3
    assert min(percents) > 70  # chance is 10


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stored_notebook_shows_what_it_computes(name: str, root: Path) -> None:
    notebook = read(root, name)
    check(outputs(notebook))
    assert (root / f"examples/{name}.ipynb").stat().st_size < 150_000
    shown = json.dumps(outputs(notebook))
    assert "Warning" not in shown
    assert str(Path.home()) not in shown
    assert "site-packages" not in shown  # paths of the machine that made it
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["execution_count"] is not None


def test_each_notebook_is_tested(root: Path) -> None:
    assert {path.stem for path in (root / "examples").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_its_first_cell_to_its_last(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "needs a kernel: pip install 'qatlab[notebooks]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    notebook = nbformat.read(root / f"examples/{name}.ipynb", as_version=4)
    place = {"metadata": {"path": str(root / "examples")}}
    nbclient.NotebookClient(notebook, timeout=None, resources=place).execute()
    check(outputs(notebook))
