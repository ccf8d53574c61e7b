from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from qatlab.run import shared_phases
from qatlab.run.belonging import sum_of
from qatlab.run.shared_phases import _is_valid, _sources, _take


def test_sources_are_those_of_qatlab_and_of_the_users_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loss.py").write_text("def loss(): ...\n")
    (tmp_path / "own_base.py").write_text("from torch import nn\nclass Base(nn.ReLU): ...\n")
    (tmp_path / "own_layer.py").write_text("import own_base\nclass Layer(own_base.Base): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_layer import Layer

    settings = {
        "loss": {"terms": [{"_target_": "own_loss.loss"}]},
        "solver": {"_target_": "torch.optim.SGD", "none": None},
    }
    found = set(_sources(settings, nn.Sequential(Layer())))
    package = Path(shared_phases.__file__).parents[1]
    assert {package / "cli/main.py", package / "quant/kernels.cpp"} <= found
    own = {tmp_path / f"own_{name}.py" for name in ("loss", "base", "layer")}
    assert {file for file in found if not file.is_relative_to(package)} == own
    for name in ("own_loss", "own_base", "own_layer"):
        del sys.modules[name]


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """What a job has left for others."""
    (tmp_path / "entry/checkpoints").mkdir(parents=True)
    for name in ("last", "best_clamp"):
        torch.save({"weights": torch.ones(100)}, tmp_path / f"entry/checkpoints/{name}.ckpt")
    (tmp_path / "entry/metrics.csv").write_text("epoch,step\n0,1\n")
    (tmp_path / "entry/facts.json").write_text("facts")
    names = ("metrics.csv", "checkpoints/last.ckpt", "checkpoints/best_clamp.ckpt")
    sums = {name: sum_of(tmp_path / "entry" / name) for name in names}
    content = json.dumps({"job": "bits=2", "sha256": sums})
    (tmp_path / "entry/shared_phases.json").write_text(content)
    return tmp_path / "entry"


def test_sound_phases_are_taken_over_byte_by_byte(entry: Path, tmp_path: Path) -> None:
    assert _is_valid(entry, "facts")
    _take(entry, tmp_path / "run")
    files = {path.relative_to(entry) for path in entry.rglob("*.*")} - {Path("facts.json")}
    assert {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*.*")} == files
    for file in files:
        assert (tmp_path / "run" / file).read_bytes() == (entry / file).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["checkpoints/last.ckpt", "checkpoints/best_clamp.ckpt", "shared_phases.json", "facts.json"],
)
def test_damaged_phases_are_reported_and_removed(
    name: str, entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = b"\xff" * 8
    (entry / name).write_bytes(content)
    assert not _is_valid(entry, "facts")
    assert not entry.exists()  # so that this job trains them, and leaves them for others
    assert f"{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/last.ckpt"])
def test_whole_files_of_other_phases_are_reported_and_removed(
    name: str, entry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": torch.zeros(100)}, tmp_path / "last.ckpt")
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,2\n")
    shutil.copy(tmp_path / Path(name).name, entry / name)
    assert not _is_valid(entry, "facts")
    assert not entry.exists()
    assert f"{entry} holds other files than" in capsys.readouterr().out


def test_phases_under_the_name_of_others_are_reported_and_removed(
    entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not _is_valid(entry, "other facts")
    assert not entry.exists()
    assert f"{entry / 'facts.json'} holds the facts of other phases" in capsys.readouterr().out


def test_a_pipe_in_the_place_of_metrics_is_not_read(entry: Path) -> None:
    (entry / "metrics.csv").unlink()
    os.mkfifo(entry / "metrics.csv")
    assert not _is_valid(entry, "facts")  # reading it would never end


def test_a_link_in_the_place_of_phases_is_removed_and_what_it_names_kept(
    entry: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(entry)
    assert not _is_valid(tmp_path / "link", "other facts")
    assert not (tmp_path / "link").is_symlink()
    assert (entry / "facts.json").exists()


def test_no_phases_are_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not _is_valid(tmp_path / "entry", "facts")
    assert capsys.readouterr().out == ""
