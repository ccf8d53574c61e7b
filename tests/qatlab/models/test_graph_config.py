"""What ``conf/model/layer_graph.yaml`` says of the layers, and how an experiment fills it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qatlab import config
from qatlab.config.targets import make
from qatlab.errors import ConfigError, text
from qatlab.models.graph_layers import TYPES
from qatlab.models.graph_layers.fillers import INITS

EXPERIMENT = """# @package _global_
defaults: [{override /model: layer_graph}]
model:
  input_shape: [1, 6, 6]
  weight_init: {type: he, norm: fan_out}
  layers:
    conv: {type: conv, channels: 3, kernel: [3, 3], mapping: ["101"], bias_init: {type: uniform}}
    relu: {type: relu}
    fc: {type: linear, channels: 10, input: [relu, image]}
"""


def keys_of(function: Callable[..., Any]) -> str:
    """Return the keys of a type as the table writes them."""
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return ", ".join(p.name if p.default is p.empty else f"{p.name} {text(p.default)}" for p in own)


def test_the_table_of_types_has_all_keys_with_their_defaults(root: Path) -> None:
    lines = (root / "conf/model/layer_graph.yaml").read_text().splitlines()
    told: dict[str, str] = {}
    for line in lines:
        # A type stands in column 4, its keys in 17 (further ones too), what is said of them in 19.
        match = re.fullmatch(r"#   (\w+)(?:  +(.*))?", line)
        if match:
            name = match[1]
            told[name] = match[2] or ""
        elif re.match(r"# {16}\w", line):
            told[name] += " " + line[17:]
    assert told == {name: keys_of(function) for name, function in (TYPES | INITS).items()}


@pytest.fixture
def experiment(root: Path, tmp_path: Path) -> Iterator[DictConfig]:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(EXPERIMENT)
    config.register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        words = ["hydra.runtime.output_dir=run", f"hydra.searchpath=[file://{tmp_path}]"]
        yield compose("config", overrides=[*words, "experiment=mine"])
    GlobalHydra.instance().clear()


def test_an_experiment_describes_the_whole_network(experiment: DictConfig) -> None:
    model: Any = make("model", experiment.model, nn.Module, num_classes=10, in_channels=1)
    assert list(dict(model.named_children())) == ["conv", "relu", "fc"]
    assert model.conv.weight_mask.flatten().tolist() == [1, 0, 1]
    assert model.fc.in_features == 3 * 4 * 4 + 36


def test_without_layers_there_is_no_network(root: Path) -> None:
    node = OmegaConf.load(root / "conf/model/layer_graph.yaml")
    with pytest.raises(ConfigError, match=r"^model\.layers is empty: a network needs layers"):
        make("model", node, nn.Module, num_classes=10, in_channels=1)
