"""What a command says of the forms of a network, and ``target=``, which refuses to train others."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from mistakes import Told, check
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.cli import hydra_app
from qatlab.cli.main import run as run_command

Ran = Callable[..., str]
FLOAT_FIRST = "quant.rules.first.weight=null"
FLOAT = ("quant.weight=null", "quant.activation=null", "quant.rules=null")  # quant=none
NO_FORM = "conv1 has float weights, and so no integer form: give it bits."


@pytest.fixture
def ran(
    composed: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ran:
    """Runs a command in this process to its end, and returns what is on stdout."""

    def run(*overrides: str, network: str | None = None) -> str:
        cfg = copy.deepcopy(composed)
        if network is not None:
            cfg.model = OmegaConf.create({"_target_": f"{__name__}.{network}"})
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        hydra_app.start(lambda: hydra_app.checked("train", cfg))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (f"target=c {FLOAT_FIRST}", f"target=c: the network cannot leave so: {NO_FORM}"),
        (f"target=[c,integer] {FLOAT_FIRST}", f"target=c: the network cannot leave so: {NO_FORM}"),
        (f"target=integer {FLOAT_FIRST}", "target=integer: the network cannot leave so: "),
        (f"target=c mode=plan {FLOAT_FIRST}", "target=c: the network cannot leave so: "),
        (
            "target=[qdq,integer] quant.rules.first.weight.bits=12",
            "target=integer: |conv1: weights of 12 bits are more than the 8 that|use --format qdq",
        ),
        (
            "target=d",
            "target=d is wrong.|Accepted: integer, qdq, qonnx",
        ),
        ("target=hls5ml", "is wrong.|Did you mean 'hls4ml'?"),
        ("target=qonx", "target=qonx is wrong.|Did you mean 'qonnx'?"),
        (
            "target=[c,intger]",
            "target=intger is wrong.|Did you mean 'integer'?",
        ),
        (
            "target=[qonnx,finn] +quant.rules.x={name:relu1,activation:{bits:null,n_steps:12}}",
            "target=finn: the network cannot leave so: relu1 is written with Clip, which finn does",
        ),
        ("target=[qdq,c] quant.rules.first.weight.bits=0", "quant.rules.first.weight"),
    ],
)
def test_what_cannot_leave_is_not_trained(told: Told, overrides: str, words: str) -> None:
    check(told(*overrides.split()), tuple(words.split("|")))
    written = {path.name for path in Path().rglob("*") if path.parent.name != ".hydra"}
    assert not written & {"checkpoints", "layers.json", "config.yaml", "metrics.csv"}


class OwnWeights(nn.Module):
    """Weights that no quantizer knows: of other layers, and of a function."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=4)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.line = nn.Conv1d(4, 4, 1)
        self.table = nn.Parameter(torch.rand(num_classes, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.relu(self.conv(x)))
        x = self.line(x.flatten(2)).mean(-1)
        return F.linear(x, self.table)


def test_a_plan_lists_all_that_stands_in_the_way(ran: Ran) -> None:
    lines = ran("mode=plan", network="OwnWeights").splitlines()
    (line,) = (line for line in lines if line.startswith("Can be exported as "))
    floats = "qdq, qonnx with 3 parts in float (up, line, linear), but not as integer: up (Conv"
    assert line.startswith(f"Can be exported as {floats}Transpose2d: ")
    assert line.endswith("(2 more: mode=plan lists them)")
    listed = [line for line in lines if line.startswith("  integer, c: ")]
    assert [line.split()[2] for line in listed] == ["up", "line", "linear"]
    assert all(line.endswith(" has no integer form.") for line in listed)
    assert not list(Path().rglob("layers.json"))


def test_a_plan_lists_it_before_it_refuses_a_target(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ran("mode=plan", "target=c", network="OwnWeights")
    told = capsys.readouterr()
    check(told.err, ("target=c: the network cannot leave so: up (Conv",))
    lines = told.out.splitlines()
    assert lines[0].startswith("Layers and sites")
    listed = [line.split()[2] for line in lines if line.startswith("  integer, c: ")]
    assert listed == ["up", "line", "linear"]


def test_a_plan_says_that_a_network_can_leave(ran: Ran) -> None:
    lines = ran("mode=plan", "target=[integer,qdq,qonnx,c]").splitlines()
    assert lines[-1] == "Can be exported as integer, qdq, qonnx, c."
    assert not any(line.startswith("Weights that stay float") for line in lines)


def test_a_training_tells_its_forms_and_float_weights_at_its_start_and_keeps_them(ran: Ran) -> None:
    lines = ran("schedule.clamp_epochs=0", network="OwnWeights").splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("Can be exported as qdq, qonnx ")]
    floats = [i for i, line in enumerate(lines) if line.strip().startswith("Weights that stay fl")]
    report = next(i for i, line in enumerate(lines) if line.startswith("    Size: "))
    assert len(told) == 1
    assert "(up, line, linear; mode=plan tries qdq, qonnx), but not as integer: " in lines[told[0]]
    assert len(floats) == 2
    assert floats[0] < told[0] < report < floats[1]
    for i in floats:
        words = lines[i].strip()
        assert all(name in words for name in ("up (ConvTranspose2d)", "line (Conv1d)", "table ("))
    forms = json.loads(Path("run/layers.json").read_text())["forms"]
    assert forms.keys() == {"integer", "qdq", "qonnx", "c"}
    assert forms["qdq"] == forms["qonnx"] == []  # which nothing has tried
    for own in (forms["integer"], forms["c"]):
        assert [one["layer"] for one in own] == ["up", "line", "linear"]
        assert own[0].keys() == {"layer", "operator", "reason", "in_float"}
        assert own[0]["in_float"] is True
        assert own[0]["operator"].startswith("ConvTranspose2d")


def test_a_network_that_can_leave_is_trained_for_its_target(ran: Ran) -> None:
    lines = ran("schedule.clamp_epochs=0", "target=[c,qdq]").splitlines()
    assert lines.count("Can be exported as integer, qdq, qonnx, c.") == 1
    forms = json.loads(Path("run/layers.json").read_text())["forms"]
    assert forms == {"integer": [], "qdq": [], "qonnx": [], "c": []}
    assert Path("run/result.json").exists()


def test_a_float_network_is_trained_whatever_its_target(ran: Ran) -> None:
    lines = ran("schedule.clamp_epochs=0", "target=c", *FLOAT)
    cannot = "Cannot be exported: the network is float: give it quantizers, such as quant=sat_4bit."
    assert lines.splitlines().count(cannot) == 1
    assert Path("run/result.json").exists()


class Swish(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(F.silu(self.norm(self.conv(x))).mean((2, 3)))
        return result


def test_a_reader_is_a_target_like_a_form(ran: Ran) -> None:
    lines = ran("mode=plan", "target=[c,hls4ml]").splitlines()
    assert lines[-1] == "Can be exported as integer, qdq, qonnx, c, hls4ml."


@pytest.mark.parametrize(
    ("words", "in_front"),
    [
        ("target=[qdq,qonnx]", False),
        ("target=[qdq,integer]", True),
        ("target=c", True),
        ("quant.inputs_of_functions=true", True),
        ("quant.inputs_of_functions=false", False),
    ],
)
def test_a_target_of_whole_numbers_puts_a_site_in_front_of_functions(
    ran: Ran, words: str, in_front: bool
) -> None:
    table = ran("mode=plan", *words.split(), network="Swish")
    assert ("norm_site" in table) is in_front
    floats = "Can be exported as qdq, qonnx with 1 part in float (silu), but not as integer: silu"
    assert ("Can be exported as integer, qdq, qonnx, c." if in_front else floats) in table


class Normed(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=4), nn.LayerNorm(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu()
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


def test_a_layer_norm_stays_float_in_files_of_floats_only(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ran("target=integer", network="Normed")
    refused = "target=integer: the network cannot leave so: norm (LayerNorm: (4,), "
    check(capsys.readouterr().err, (refused,))
    lines = ran("schedule.clamp_epochs=0", "target=[qdq,qonnx]", network="Normed").splitlines()
    floats = "Can be exported as qdq, qonnx with 1 part in float (norm), but not as integer: norm ("
    assert len([line for line in lines if line.startswith(floats)]) == 1
    words = ["run", f"allow={__name__}"]
    assert run_command(["export", *words, "-o", "net.onnx"]) == 0
    assert " In float between quantizers: 1 part (norm)." in capsys.readouterr().out
    facts = {entry.key: entry.value for entry in onnx.load("net.onnx").metadata_props}
    assert (facts["format"], facts["float parts"], facts["batch"]) == ("qdq", '["norm"]', "N")
    assert run_command(["export", *words, "-o", "net.c", "--format", "c"]) == 1
    assert "norm (LayerNorm: (4,), " in capsys.readouterr().err
    files = ["--onnx", "net.onnx", "--json", "found.json"]
    assert run_command(["verify", *words, *files]) == 0
    assert "no integers are compared: norm (LayerNorm: " in capsys.readouterr().out
    found = json.loads(Path("found.json").read_text())
    names = ["fake-quantized", "net.onnx, as written", "net.onnx, optimised"]
    assert list(found["forms"]) == names
    assert [form["different"] - form["ties"] for form in found["forms"].values()] == [0] * 3
    assert found["forms"]["net.onnx, as written"]["sites"].keys() == {"relu", "mean_site"}


def test_whether_there_are_sites_in_front_of_functions_is_true_or_false(told: Told) -> None:
    check(told("quant.inputs_of_functions=3"), ("quant.inputs_of_functions=3 is wrong. Accepted",))
