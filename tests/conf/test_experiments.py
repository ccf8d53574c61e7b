"""Every experiment has the bits that its name promises, and trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from qatlab.errors import ConfigError
from qatlab.models import LeNet, ResNet
from qatlab.results.record import read_json
from qatlab.run import experiment, summary
from qatlab.run.build import build
from qatlab.run.weights import save_weights

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("[!_]*.yaml"))
FOR_CIFAR10 = [name for name in EXPERIMENTS if name.endswith("cifar10")]
FOR_IMAGENET = [
    name
    for name in EXPERIMENTS
    if name.startswith(("mobilenet", "resnet18")) and name not in FOR_CIFAR10
]
# What MLPerf Tiny's networks are shown: channels, height and width, classes.
MLPERF_TINY = {
    "mlperf_tiny_ic": (3, "[32,32]", 10),
    "mlperf_tiny_vww": (3, "[96,96]", 2),
    "mlperf_tiny_kws": (1, "[49,10]", 12),
    "mlperf_tiny_ad": (1, "[5,128]", 2),
}
# Of 1x1 convolutions, of 3x3 convolutions, of activations: the rows of the manual's two tables, and
# of LSQ's (Esser et al. 2019, table 1).
MOBILENET_V1 = ("8_8_8", "4_4_4", "4_4_3", "2_2_8", "4_4_2", "3_3_3", "1_4_3", "1_4_2", "1_1_8")
MOBILENET_V2 = ("4_4", "1_8")
RESNET18 = (2, 3, 4, 8)
# One of each network and method trains by default; the others differ from it in numbers.
TRAINED = {
    *("lenet_sat_clamp", "lenet_sat_8bit", "lenet_sat_4bit_first8", "resnet20_cifar10"),
}


def composed(folder: Path, *overrides: str) -> DictConfig:
    words = [f"hydra.runtime.output_dir={folder}", *overrides]
    cfg = compose("config", overrides=words, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def test_there_is_an_experiment_for_each_row_of_the_published_tables() -> None:
    assert set(FOR_IMAGENET) == {
        *(f"mobilenet_v1_sat_{row}" for row in MOBILENET_V1),
        *(f"mobilenet_v2_sat_{row}" for row in MOBILENET_V2),
        *(f"resnet18_lsq_{bits}bit" for bits in RESNET18),
    }


@pytest.mark.parametrize(("row", "megabytes"), [("8_8_8", 4.2), ("4_4_4", 2.6)])
def test_mobilenet_v1_has_the_published_size(row: str, megabytes: float, tmp_path: Path) -> None:
    table = build(composed(tmp_path, f"experiment=mobilenet_v1_sat_{row}")).table
    bits = int(row[0])
    inner = 4_209_088 - 864 - 1_024_000  # stem and classifier keep 8 bits
    assert table.weight_bytes == 864 + 1_024_000 + inner * bits // 8
    assert round(table.weight_bytes / 1e6, 1) == megabytes


@pytest.mark.parametrize("name", [*FOR_CIFAR10, "mlperf_tiny_ic", "mlperf_tiny_vww"])
def test_the_rules_of_an_experiment_do_not_hinder_its_float_network(
    name: str, tmp_path: Path
) -> None:
    overrides = (f"experiment={name}", "quant=none", "data=synthetic", "data.source.channels=3")
    table = build(composed(tmp_path, *overrides)).table
    assert {layer.bits for layer in table.layers} == {None}
    rule = "+quant.rules.mine={index: 0, weight: {bits: 8}}"
    with pytest.raises(ConfigError, match=r"quant\.rules\.mine has no effect"):
        build(composed(tmp_path, *overrides, rule))


@pytest.fixture(scope="module")
def float_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights to start from, for experiments that demand some."""
    folder = tmp_path_factory.mktemp("float")
    files = {name: folder / f"{name}.safetensors" for name in ("resnet18", "lenet")}
    save_weights(ResNet(1000, 3, 18), files["resnet18"])
    save_weights(LeNet(10, 1), files["lenet"])
    return files


@pytest.mark.parametrize("name", FOR_IMAGENET)
def test_an_experiment_has_the_bits_of_its_name(
    name: str, float_weights: dict[str, Path], tmp_path: Path
) -> None:
    overrides = ["data=synthetic", "data.source.channels=3", "data.source.num_classes=1000"]
    if name.startswith("resnet18"):
        overrides.append(f"init_weights={float_weights['resnet18']}")
    table = build(composed(tmp_path, f"experiment={name}", *overrides)).table
    check_bits(name, table.to_json()["layers"])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in TRAINED else pytest.mark.slow) for name in EXPERIMENTS],
)
def test_an_experiment_trains_two_steps(
    name: str, float_weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "write_figures", lambda *args: None)
    # The last batch norm of a LeNet sees maps of one pixel, those of the autoencoder see no maps.
    batch = 2 if name.startswith("lenet") or name == "mlperf_tiny_ad" else 1
    overrides = [
        f"experiment={name}",
        "data=synthetic",
        "data.validation=0",
        f"data.batch_size={batch}",
    ]
    overrides += ["data.source.test_images=1"]
    overrides += ["trainer.accelerator=cpu", "~callbacks.quant_monitor"]
    if name in FOR_IMAGENET:
        overrides += ["data.source.channels=3", "data.source.num_classes=1000"]
        overrides += ["data.image_size=[64,64]", "schedule.calibration_batches=1"]
    if name in FOR_CIFAR10:
        overrides += ["data.source.channels=3"]
    if name in MLPERF_TINY:
        channels, size, classes = MLPERF_TINY[name]
        overrides += [f"data.source.channels={channels}", f"data.source.num_classes={classes}"]
        overrides += [f"data.image_size={size}"]
    start = [file for model, file in float_weights.items() if name.startswith(model)]
    overrides += [f"init_weights={file}" for file in start if name != "lenet_sat_clamp"]
    cfg = composed(tmp_path, *overrides)
    given = [key for key in ("float", "clamp", "quantize") if cfg.schedule[f"{key}_epochs"]]
    # With one phase two steps in it, with two phases one each.
    cfg.schedule.update({f"{key}_epochs": 1 for key in given})
    cfg.data.source.training_images = 2 * batch // len(given)
    result = experiment.train(cfg)
    assert result["name"].startswith(name)
    assert sum(result["epochs"].values()) == len(given)
    assert result["test"]["images"] == 1
    assert math.isfinite(result["test"]["loss"])
    if name in FOR_IMAGENET:
        check_bits(name, read_json(tmp_path / "layers.json")["layers"])


def check_bits(name: str, layers: list[dict[str, Any]]) -> None:
    numbers = [int(word) for word in name.removesuffix("bit").split("_") if word.isdecimal()]
    of_pointwise, of_others, of_activations = {
        1: numbers * 3,  # the same everywhere
        2: [numbers[0], *numbers],  # all convolutions, activations
        3: numbers,
    }[len(numbers)]
    expected: dict[str, int] = {}
    for layer in layers:
        if layer["part"] == "activation":
            expected[layer["name"]] = of_activations
        else:
            is_pointwise = list(layer["shape"][2:]) == [1, 1]
            expected[layer["name"]] = of_pointwise if is_pointwise else of_others
    addends = [n for n in expected if name.startswith("resnet") and n.endswith("_site")]
    assert {layer["name"]: layer["bits"] for layer in layers} == {
        **expected,
        **dict.fromkeys([*addends, "stem", "pool_site", "classifier"], 8),
    }
    read = {layer["name"]: layer["input_bits"] for layer in layers if layer["part"] == "weight"}
    assert read == {**dict.fromkeys(read, of_activations), "stem": 8, "classifier": 8}
    assert (
        sum(layer["part"] == "weight" for layer in layers)
        == {
            "mobilenet_v1": 28,
            "mobilenet_v2": 53,
            "resnet18_lsq": 21,
        }[name[:12]]
    )


def test_the_page_of_experiments_has_their_bits_and_no_other() -> None:
    page = (CONF.parent / "docs/experiments.md").read_text().partition("## Other networks")[0]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = {row.split("`")[1]: row for row in rows}
    assert set(listed) == set(EXPERIMENTS)
    for name in FOR_IMAGENET:
        target = (CONF / f"experiment/{name}.yaml").read_text().partition("Target: ")[2].split()[0]
        cells = [cell.strip() for cell in listed[name].strip("|").split("|")]
        numbers = [word for word in name.removesuffix("bit").split("_") if word.isdecimal()]
        assert cells[1].split(" / ") == numbers
        assert cells[2] == target
    for name in MLPERF_TINY:
        target = (CONF / f"experiment/{name}.yaml").read_text().partition("Target: ")[2]
        assert listed[name].rstrip(" |").rpartition("| ")[2].split()[0] == target.split()[0]
