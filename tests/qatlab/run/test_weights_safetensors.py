"""Weights of a ``.safetensors`` file, and the phase in which they are evaluated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qatlab import config
from qatlab.errors import CheckpointError, TrainingError
from qatlab.models import LeNet
from qatlab.quant import (
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    Phase,
    SatActivation,
    SatWeight,
    quantize,
    quantizers,
    set_phase,
    start_quantizers,
)
from qatlab.run import experiment
from qatlab.run.build import build
from qatlab.run.weight_files import read_weights
from qatlab.run.weights import init_weights, save_weights

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
METHODS = {
    "SAT": (SatWeight, SatActivation),
    "LSQ": (LsqWeight, LsqActivation),
    "LSQ+": (LsqWeight, LsqPlusActivation),
}


def network(method: str | None = "SAT", bits: int = 4, seed: int = 0, **of_sites: Any) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Flatten(), nn.Linear(144, 2)
    )
    if method is None:
        return model
    weight, activation = METHODS[method]
    factories = partial(weight, bits=bits), partial(activation, bits=bits, **of_sites)
    return quantize(model, *factories, (), IMAGES[:1])[0]


def trained(method: str = "SAT", bits: int = 4) -> nn.Module:
    """Started, and with learned values that no start gives."""
    model = network(method, bits, seed=1)
    start_quantizers(model, [IMAGES])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("step_size", "alpha")):
                parameter.mul_(1.5)
    return model.eval()


def saved(model: nn.Module, path: Path, without: tuple[str, ...] = (), **texts: str) -> str:
    """Write a file; what is not a tensor goes to its metadata."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(without or "\n")}
    tensors = {k: v.contiguous() for k, v in state.items() if isinstance(v, Tensor)}
    others = {k: v for k, v in state.items() if k not in tensors}
    save_file(tensors, path, metadata={"format": "pt", **others, **texts})
    return str(path)


def phases(model: nn.Module) -> set[Phase]:
    return {q.phase for q in quantizers(model)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_network_takes_all(method: str, path: Path) -> None:
    old, new = trained(method), network(method).eval()
    assert init_weights(new, saved(old, path)) == f"weights from {path}"
    assert old.state_dict().keys() == new.state_dict().keys()
    for key, value in old.state_dict().items():
        taken = new.state_dict()[key]
        assert torch.equal(taken, value) if isinstance(value, Tensor) else taken == value, key
    assert torch.equal(new(IMAGES), old(IMAGES))


def test_a_float_network_takes_and_gives_what_it_has(path: Path) -> None:
    plain = network(None)
    assert "values of quantizers left out" in init_weights(plain, saved(trained(), path))
    assert torch.equal(plain.get_parameter("0.weight"), trained().get_parameter("0.weight"))
    model = network()
    assert "left out" not in init_weights(model, saved(network(None, seed=2), path))
    assert phases(model) == {Phase.QUANTIZE}


# ---- the phase


def test_weights_for_which_the_file_names_no_quantizer_are_quantized(path: Path) -> None:
    old, new = trained(), network().eval()
    file = saved(old, path, without=("weight_quantizer._extra_state",))
    assert "left out" not in init_weights(new, file)
    assert phases(new) == {Phase.QUANTIZE}
    assert torch.equal(new(IMAGES), old(IMAGES))


@pytest.mark.parametrize("phase", [Phase.CLAMP, Phase.QUANTIZE])
@pytest.mark.parametrize("without", [(), ("weight_quantizer._extra_state",)])
def test_all_quantizers_are_in_the_phase_of_those_that_the_file_names(
    phase: Phase, without: tuple[str, ...], path: Path
) -> None:
    old = trained(bits=8)
    set_phase(old, phase)
    new = network(bits=4)
    init_weights(new, saved(old, path, without))  # of 8 bits only the sites mean the same
    assert phases(new) == {phase}


def test_a_file_of_two_phases_keeps_them(path: Path) -> None:
    old, new = trained(), network()
    old.get_submodule("2").phase = Phase.CLAMP  # type: ignore[assignment]
    init_weights(new, saved(old, path))
    assert phases(new) == {Phase.CLAMP, Phase.QUANTIZE}


# ---- sites without a value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "without", [("2._extra_state",), ("2.initialized",), (".alpha", ".step_size")]
)
def test_no_site_starts_from_the_images_of_a_test(
    without: tuple[str, ...], method: str, path: Path
) -> None:
    new = network(method).eval()
    told = init_weights(new, saved(trained(method), path, without))
    assert "values of quantizers left out" in told
    learned = "alpha" if method == "SAT" else "step_size"
    with pytest.raises(
        TrainingError, match=rf"^2: {learned} is not initialized.* set {learned} to a"
    ):
        new(IMAGES)
    assert not new.get_buffer("2.initialized")
    new.train()(IMAGES)  # as ever
    assert new.get_buffer("2.initialized")
    new.eval()(IMAGES)


@pytest.mark.parametrize("method", ["SAT", "LSQ"])
def test_a_number_is_a_value_to_evaluate_with(method: str, path: Path) -> None:
    name = "alpha" if method == "SAT" else "step_size"
    new = network(method, **{name: 0.75}).eval()
    init_weights(new, saved(network(None, seed=2), path))
    new(IMAGES)
    assert new.get_parameter(f"2.{name}").item() == 0.75


# ---- faults


def test_a_missing_file_is_reported(path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^init_weights={path} does not exist$"):
        init_weights(network(), str(path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:100],
        lambda content: content[:-3],
        lambda content: content + b"more",
        lambda content: content[:8] + b"\xff" + content[9:],
        lambda content: b"no such file " * 100,
    ],
)
def test_a_damaged_file_is_reported(damage: Any, path: Path) -> None:
    saved(trained(), path)
    path.write_bytes(damage(path.read_bytes()))
    told = rf"^init_weights={path} is damaged or no safetensors file: [^\n]+$"
    with pytest.raises(CheckpointError, match=told):
        init_weights(network(), str(path))


def test_a_flipped_bit_of_a_runs_weights_is_reported_or_changes_nothing(path: Path) -> None:
    model = network(None)
    save_weights(model, path)
    sound = path.read_bytes()
    expected = read_weights(path)
    header = 8 + int.from_bytes(sound[:8], "little")
    places = [*range(header), *range(header, len(sound), 97)]
    passed = []
    for place in places:
        content = bytearray(sound)
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        try:
            found = read_weights(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path} is damaged")  # noqa: PT017 # most do raise
        else:
            passed.append(place)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)
    start = sound.index(b"_sha256")
    assert all(start <= place < start + 7 for place in passed)  # without that name, there is no sum


def test_the_sum_of_a_runs_weights_is_that_of_the_file_with_zeros_in_its_place(
    path: Path,
) -> None:
    save_weights(network(), path)
    with safe_open(path, "pt") as file:
        sum_of_file = file.metadata()["_sha256"]
    content = path.read_bytes().replace(sum_of_file.encode(), b"0" * 64)
    assert hashlib.sha256(content).hexdigest() == sum_of_file


def test_what_is_no_file_is_reported(path: Path) -> None:
    os.mkfifo(path)  # reading would not end
    with pytest.raises(CheckpointError, match="it is not a regular file, but a pipe or a device"):
        init_weights(network(), str(path))


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        ("[1]", "holds no mapping"),
        ("{}", r"result\.json is not the result of a run: its checkpoint is 'None'"),
        ('{"checkpoint": [1]}', r"its checkpoint is '\[1\]'"),
        ('{"checkpoint": "checkpoints/none.ckpt"}', "none.ckpt does not exist"),
        ('{"checkpoint": "checkpoints"}', "it is a folder"),
        ("[" * 100_000, "it is nested too deep"),
        ("", "cannot read"),
    ],
)
def test_a_run_without_a_sound_result_is_reported(result: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "result.json").write_text(result)
    with pytest.raises(CheckpointError, match=f"^init_weights={tmp_path}.*{fault}"):
        init_weights(network(), str(tmp_path))


@pytest.mark.parametrize("value", ["", " "])
def test_no_value_is_reported(value: str) -> None:
    with pytest.raises(CheckpointError, match=r"^init_weights has no value\. Accepted: the folder"):
        init_weights(network(), value)


def test_a_checkpoint_under_that_name_is_reported(path: Path) -> None:
    torch.save(trained().state_dict(), path)
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        init_weights(network(), str(path))


def test_a_file_without_weights_is_reported(path: Path) -> None:
    save_file({}, path, metadata={"2._extra_state": "quantize SatActivation 15"})
    with pytest.raises(CheckpointError, match=rf"^init_weights={path}: the file holds no weights"):
        init_weights(network(), str(path))


@pytest.mark.parametrize("text", ["", "quantise SatActivation 15", "SatActivation 15"])
def test_a_phase_that_is_none_is_reported(text: str, path: Path) -> None:
    file = saved(trained(), path, **{"2._extra_state": text})
    told = rf"2\._extra_state is '{text}' in it, .* float, clamp, quantize$"
    with pytest.raises(CheckpointError, match=told):
        init_weights(network(), file)


def test_weights_of_another_network_are_reported(path: Path) -> None:
    float_parts = list(network(None))
    other = [nn.Conv2d(3, 5, 3), *float_parts[1:4], nn.Identity(), nn.Linear(144, 2)]
    file = saved(nn.Sequential(*other), path)
    with pytest.raises(CheckpointError) as caught:
        init_weights(network(), file)
    for words in ("0.weight is (5, 3, 3, 3)", "it lacks 2 values", "the model lacks 2 values of"):
        assert words in str(caught.value)


def test_codes_are_no_weights(path: Path) -> None:
    state = network(None).state_dict()
    save_file({**state, "0.weight": state["0.weight"].to(torch.int8)}, path)
    with pytest.raises(
        CheckpointError, match=r"does not fit the model: 0\.weight is int8 in the file$"
    ):
        init_weights(network(), str(path))


# ---- test.py


@pytest.fixture
def cfg(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DictConfig]:
    config.register()
    monkeypatch.chdir(tmp_path)
    words = ["data=synthetic", "data.source.test_images=50", "trainer=smoke", "folder=run"]
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        yield compose("test", ["model=lenet", "quant=sat_4bit", *words])
    GlobalHydra.instance().clear()
    torch.use_deterministic_algorithms(False)


def test_a_test_of_such_a_file_measures_the_quantized_network(cfg: DictConfig, path: Path) -> None:
    model = build(cfg).model
    start_quantizers(model, [torch.randn(4, 1, 32, 32)])
    saved(model, path, without=("weight_quantizer._extra_state",))
    cfg.init_weights = str(path)
    assert experiment.evaluate(cfg).phase == "quantize"


def test_a_test_of_float_weights_does_not_start_sites(cfg: DictConfig, path: Path) -> None:
    saved(LeNet(10, 1), path)
    cfg.init_weights = str(path)
    with pytest.raises(TrainingError, match=r"^relu1: alpha is not initialized"):
        experiment.evaluate(cfg)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_network_is_read_back_whole(method: str, path: Path) -> None:
    old, new = trained(method), network(method).eval()
    save_weights(old, path)
    assert init_weights(new, str(path)) == f"weights from {path}"
    assert torch.equal(new(IMAGES), old(IMAGES))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tied_weights_can_be_saved(path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    save_weights(nn.Sequential(first, second), path)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    init_weights(model, str(path))
    assert torch.equal(model[0].weight, first.weight)
    assert torch.equal(model[1].weight, first.weight)


def test_values_that_the_file_leaves_to_be_drawn_stay(path: Path) -> None:
    old, new = network(None, seed=1), network(None, seed=2)
    kept = new.state_dict()["4.weight"].clone()
    saved(old, path, without=("4.weight",), _drawn="4.weight")
    text = init_weights(new, str(path))
    assert text == f"weights from {path}; 1 values keep their initial ones, first 4.weight"
    assert torch.equal(new.state_dict()["4.weight"], kept)
    assert torch.equal(new.state_dict()["0.weight"], old.state_dict()["0.weight"])
