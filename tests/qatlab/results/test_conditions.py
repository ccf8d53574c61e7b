from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from qatlab.errors import ConfigError
from qatlab.results.conditions import check_unchanged, settings_of, trained_under

CONFIG = {
    "seed": 1,
    "folder": "here",
    "init_weights": "float.safetensors",
    "data": {"source": {"folder": "data", "seed": 0}, "scale": 0.30810001},
    "quant": {"weight": {"bits": 4}, "rules": {"last": {"index": -1}}},
    "solver": {"optimizer": {"lr": "1e-05"}},  # as PyYAML reads it
}


def run(place: Path, *trained: dict[str, object], **changed: object) -> Path:
    """Write the files of a run that was begun, and resumed, with configurations."""
    (place / "config.yaml").write_text(yaml.safe_dump(CONFIG | changed))
    listed = [{"threads": 2, **settings_of(one)} for one in trained or (CONFIG,)]
    (place / "environment.json").write_text(json.dumps({"environments": listed}))
    return place


def test_what_a_run_was_trained_with_is_accepted(tmp_path: Path) -> None:
    moved = {"source": {"folder": "elsewhere", "seed": 0}, "scale": 0.30810001}
    check_unchanged(run(tmp_path, folder="there", init_weights=None))
    check_unchanged(run(tmp_path, data=moved))
    resumed = CONFIG | {"seed": 2}
    check_unchanged(run(tmp_path, CONFIG, resumed))
    assert trained_under(tmp_path)[1]["seed"] == "2"
    check_unchanged(run(tmp_path, CONFIG, resumed, seed=2))
    (tmp_path / "environment.json").unlink()  # of a run that was made before it was written
    check_unchanged(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"quant": {"weight": {"bits": 5}, "rules": {"last": {"index": -1}}}}, "bits is 5"),
        ({"quant": {"weight": {"bits": 4}, "rules": {}}}, "quant.rules is {}"),
        ({"seed": None}, "seed is null, and the run was trained with 1"),
        (
            {"data": {"source": {"folder": "data", "seed": 0}, "scale": 0.30810002}},
            "data.scale is 0.30810002, and the run was trained with 0.30810001",
        ),
        ({"compile": True}, "compile is true, and the run was trained with absent"),
        (
            {"quant": {"weight": {"bits": 4}}},
            "quant.rules.last.index is absent, and the run was trained with -1",
        ),
    ],
)
def test_a_changed_configuration_is_refused_by_its_key(
    changed: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_unchanged(run(tmp_path, **changed))
    assert words in str(refused.value)
    assert "config.yaml was changed after the training" in str(refused.value)


@pytest.mark.parametrize("content", ["{}", '{"environments": 1}', '{"environments": [{}]}', "x"])
def test_a_damaged_file_of_conditions_is_reported(content: str, tmp_path: Path) -> None:
    (run(tmp_path) / "environment.json").write_text(content)
    with pytest.raises(ConfigError, match=r"environment\.json"):
        check_unchanged(tmp_path)
