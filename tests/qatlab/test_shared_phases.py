from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from qatlab import shared_phases
from qatlab.shared_phases import _sources


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
    package = Path(shared_phases.__file__).parent
    assert {package / "cli.py", package / "quant/kernels.cpp"} <= found
    own = {tmp_path / f"own_{name}.py" for name in ("loss", "base", "layer")}
    assert {file for file in found if not file.is_relative_to(package)} == own
    for name in ("own_loss", "own_base", "own_layer"):
        del sys.modules[name]
