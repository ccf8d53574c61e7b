"""Networks that are quantized from Python, by the name of a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

import qatlab
from qatlab import config
from qatlab.errors import ConfigError, QatlabError
from qatlab.models import LeNet
from qatlab.quant import LayerRecord, ModelTable
from qatlab.run.build import build

IMAGE = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return LeNet(10, 1)


def bits(table: ModelTable, part: str = "weight") -> list[int | None]:
    return [layer.bits for layer in table.layers if layer.part == part]


def test_a_preset_is_the_one_of_the_command_line(root: Path) -> None:
    words = ["quant=lsq_4bit", "data=synthetic", "folder=run"]
    config.register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        wanted = build(compose("config", words)).table
    assert qatlab.quantize(net(), "lsq_4bit", IMAGE)[1] == wanted


def test_the_first_and_the_last_layer_are_as_the_preset_says() -> None:
    model, table = qatlab.quantize(net(), "sat_2bit", IMAGE)
    assert bits(table) == [8, 2, 2, 2, 8]
    assert set(bits(table, "activation")) == {2}
    assert model(IMAGE.repeat(2, 1, 1, 1)).shape == (2, 10)


def test_rules_go_behind_those_of_the_preset_and_change_them_by_name() -> None:
    rules: dict[str, Any] = {
        "first": {"weight": {"bits": 3}},
        "last": None,
        "mid": {"name": "conv2", "weight": None},
    }
    _, table = qatlab.quantize(net(), "lsq_4bit", IMAGE, rules=rules)
    assert bits(table) == [3, None, 4, 4, 4]


def test_arguments_of_the_quantizers_can_be_changed() -> None:
    options: dict[str, Any] = {"weight": {"bits": 5}, "activation": {"bits": 6}}
    _, table = qatlab.quantize(net(), "sat_4bit", IMAGE, **options)
    assert bits(table) == [8, 5, 5, 5, 8]
    assert set(bits(table, "activation")) == {6}


def test_none_is_the_float_network() -> None:
    own = net()
    model, table = qatlab.quantize(own, "none", IMAGE)
    assert model is own
    assert set(bits(table)) == {None}


def test_presets_of_the_users_project_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf/quant").mkdir(parents=True)
    text = "defaults: [_lsq, _2bit, _self_]\nactivation: {bits: 3}\n"
    (tmp_path / "conf/quant/mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    _, table = qatlab.quantize(net(), "mine", IMAGE)
    assert (bits(table)[1], set(bits(table, "activation"))) == (2, {3})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"method": "lsq_4bits"}, "method=lsq_4bits is wrong. Did you mean 'lsq_4bit'? Accepted: "),
        ({"method": None}, "qatlab.quant.quantize takes quantizers."),
        ({"rules": {"a": {"name": "con2", "weight": {"bits": 2}}}}, "Did you mean name='conv2'?"),
        ({"rules": {"a": {"nam": "conv2"}}}, "Did you mean 'name'?"),
        ({"rules": {"frist": None}}, "rules.frist is unknown. Did you mean 'first'?"),
        ({"rules": ["first"]}, "rules=['first'] is wrong. Accepted: a mapping."),
        ({"rules": {"a": {"name": object()}}}, "quantize: "),
        ({"weight": {"bit": 2}}, "quant.weight.bit is unknown. Did you mean 'bits'?"),
        ({"weight": {"bits": 77}}, "bits=77"),
        ({"method": "none", "weight": {"bits": 2}}, "weight has no effect on method=none."),
        ({"one_step_for_sums": True}, "has no effect: no addition adds up"),
    ],
)
def test_a_mistake_is_one_sentence(words: dict[str, Any], told: str) -> None:
    with pytest.raises(QatlabError) as caught:
        qatlab.quantize(net(), **{"method": "lsq_4bit", "example_input": IMAGE, **words})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_composition_that_is_at_work_is_left_as_it_is(root: Path) -> None:
    config.register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        qatlab.quantize(net(), "lsq_4bit", IMAGE)
        assert compose("config", ["quant=sat_2bit", "folder=run"]).quant.weight.bits == 2


def test_a_method_by_position_with_quantizers_is_refused_with_the_way_to_do_it() -> None:
    with pytest.raises(ConfigError, match=r"qatlab\.quant\.quantize takes quantizers\."):
        qatlab.quantize(net(), nn.ReLU, IMAGE)  # type: ignore[arg-type]


def shown() -> ModelTable:
    layer = LayerRecord(
        *("a<b", "Conv2d", "weight", (8, 3, 5, 5), 600, 4, {"grid": "symmetric"}, ("first", "x"))
    )
    site = LayerRecord("relu", "ReLU", "activation", (1, 8, 9, 9), 0, 3, {"signed": False}, ())
    return ModelTable((layer, site), 608, 32, 0, 100)


def test_a_table_is_printed_as_a_training_prints_it() -> None:
    lines = str(shown()).splitlines()
    assert lines[0] == "Layers and sites"
    words = [line.replace("┃", "│").replace("│", " ").split() for line in lines]
    assert ["a<b", "Conv2d", "8x3x5x5", "4", "symmetric", "first,", "x", "600"] in words
    assert ["relu", "ReLU", "8x9x9", "3", "unsigned"] in words
    # 600 weights of 4 bits and 8 biases of float32; all of them in float32
    assert "608 parameters; 332 bytes at these bits, of which 300 are weights; 2,432" in lines[-2]


def test_a_table_is_text_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = str(shown())
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # rich would display it itself
    assert str(shown()) == wanted


def test_a_notebook_shows_a_table_as_html() -> None:
    html = shown()._repr_html_()
    assert html.count("<tr>") == 3
    assert '<td style="text-align: left">a&lt;b</td>' in html
    assert "<p>608 parameters; 332 bytes" in html
    assert "a<b" not in html
