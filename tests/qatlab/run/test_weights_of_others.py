"""Weights in the formats of other programs, and what is said of files that hold none."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from qatlab.errors import CheckpointError
from qatlab.quant import LsqActivation, LsqWeight, SatActivation, SatWeight, quantize
from qatlab.quant.trace import trace
from qatlab.run.weight_files import find_weights
from qatlab.run.weights import init_weights

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
State = dict[str, Any]


class Net(nn.Module):
    """Two convolutions and a head, with a module that is never called."""

    def __init__(self, num_classes: int = 3, spare: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, num_classes)
        if spare:
            self.spare = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class Settings(dict):  # type: ignore[type-arg] # as EasyDict and its kind
    """A dictionary of a class of its own."""


def net(seed: int = 1, **arguments: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**arguments)


def state(seed: int = 1, **arguments: Any) -> State:
    return dict(net(seed, **arguments).state_dict())


def prefixed(prefix: str, values: State) -> State:
    return {prefix + key: value for key, value in values.items()}


def quantized(model: nn.Module, weight: Any = SatWeight, activation: Any = SatActivation) -> Any:
    factories = partial(weight, bits=4), partial(activation, bits=4)
    return quantize(model, *factories, (), IMAGES[:1])[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.pth"


def load(content: Any, path: Path, model: nn.Module | None = None, **arguments: Any) -> str:
    """Save a file and load it into a network of other weights; return what is told."""
    torch.save(content, path)
    model = quantized(net(seed=9)) if model is None else model
    return init_weights(model, str(path), **arguments)


def holds(model: nn.Module, values: State, without: tuple[str, ...] = ("_none_",)) -> None:
    own = model.state_dict()
    for key, value in values.items():
        assert torch.equal(own[key], value) != key.startswith(without), key


# ---- where the weights stand


@pytest.mark.parametrize("quantizes", [True, False])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (state(), ()),
        ({"state_dict": state()}, ("taken from its 'state_dict'",)),
        ({"epoch": 3, "model_state_dict": state()}, ("'model_state_dict'",)),
        ({"net": state(), "acc": 91.2, "epoch": 3}, ("taken from its 'net'",)),
        ({"checkpoint": {"model": {"params": state()}}}, ("its 'checkpoint.model.params'",)),
        ([state(), {"lr": 0.1}], ("taken from its '0'",)),
        (prefixed("module.", state()), ("'module.' removed from the names",)),
        ({"state_dict": prefixed("module.", state())}, ("its 'state_dict'", "'module.' removed")),
        ({"state_dict": prefixed("net.", state())}, ("'net.' removed",)),
        ({"state_dict": prefixed("backbone.encoder.", state())}, ("'backbone.encoder.' removed",)),
        (
            {"state_dict": {**prefixed("model.", state()), "criterion.weight": torch.ones(3)}},
            ("'model.' removed", "1 value of other names left out, first criterion.weight"),
        ),
        (prefixed("_orig_mod.", state()), ("'_orig_mod.' removed from the names",)),
        (prefixed("module._orig_mod.", state()), ("'module.'", "'_orig_mod.'")),
        (prefixed("_orig_mod.module.", state()), ("'module.'", "'_orig_mod.'")),
        (
            {k.replace("blocks.", "blocks._orig_mod."): v for k, v in state().items()},
            ("'_orig_mod.' removed from the names",),
        ),
        (AveragedModel(net()).state_dict(), ("'module.' removed from the names",)),
        ({**state(), "epoch": 7, "best": 0.5, "names": ["a"]}, ()),
        ({k: v for k, v in state().items() if "num_batches" not in k}, ()),
        ({**state(), "total_ops": torch.zeros(1), "bn1.total_params": torch.zeros(1)}, ()),
        (
            {**state(), "aux1.fc.weight": torch.ones(3, 3)},
            ("1 value left out, of auxiliary heads",),
        ),
    ],
)
def test_the_formats_of_the_internet(
    content: Any, words: tuple[str, ...], quantizes: bool, path: Path
) -> None:
    model = quantized(net(seed=9)) if quantizes else net(seed=9)
    told = load(content, path, model)
    holds(model, {k: v for k, v in state().items() if "num_batches" not in k})
    assert told.startswith(f"weights from {path}")
    assert "\n" not in told
    for word in words:
        assert word in told
    assert words or told == f"weights from {path}"


@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "ema_state_dict", "ema", "swa"])
@pytest.mark.parametrize("first", [True, False])
def test_a_plain_model_is_taken_before_its_average(average: str, first: bool, path: Path) -> None:
    both = [("model", state(1)), (average, prefixed("module.", state(2)))]
    model = net(seed=9)
    told = load(dict(both if first else both[::-1]), path, model)
    holds(model, state(1))
    assert "taken from its 'model'" in told
    assert f"its '{average}', names that begin with 'module.' would fit as well" in told


def test_an_average_inside_of_one_dictionary_comes_second(path: Path) -> None:
    model = net(seed=9)
    both = {**prefixed("ema_model.", state(2)), **prefixed("model.", state(1))}
    told = load({"state_dict": both}, path, model)
    holds(model, state(1))
    assert "'model.' removed" in told


def test_the_dictionary_that_fits_is_taken(path: Path) -> None:
    model = net(seed=9)
    optimizer = torch.optim.Adam(net().parameters())
    told = load(
        {"D": {"a.weight": torch.ones(2)}, "opt": optimizer.state_dict(), "G": state(1)},
        path,
        model,
    )
    holds(model, state(1))
    assert "taken from its 'G'" in told


def test_the_average_serves_where_the_plain_model_does_not_fit(path: Path) -> None:
    model = net(seed=9)
    cut = {k: v for k, v in state(1).items() if k != "conv1.weight"}
    assert "its 'model_ema'" in load({"model": cut, "model_ema": state(2)}, path, model)
    holds(model, state(2))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net(seed=9)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


def test_a_network_inside_of_a_users_module_takes_its_plain_file(path: Path) -> None:
    model = quantized(Wrapped())
    told = load(state(), path, model)
    holds(model, prefixed("net.", state()))
    assert "'net.' added to the names" in told


def test_a_safetensors_file_is_known_by_its_content(path: Path) -> None:
    model = net(seed=9)
    save_file(prefixed("model.", state()), path)
    assert "'model.' removed" in init_weights(model, str(path))
    holds(model, state())


# ---- what differs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_copied_into_float32(dtype: torch.dtype, path: Path) -> None:
    model = quantized(net(seed=9))
    other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    told = load(other, path, model)
    name = str(dtype).removeprefix("torch.")
    assert f"; 13 values of {name} copied into float32" in told  # 2 + 4 + 1 + 4 + 2
    assert model.get_parameter("conv1.weight").dtype == torch.float32
    assert torch.equal(model.get_parameter("conv1.weight"), other["conv1.weight"].float())


def test_a_head_of_another_size_keeps_its_start(path: Path) -> None:
    model = quantized(net(seed=9))
    start = {k: v.clone() for k, v in model.state_dict().items() if k in ("fc.weight", "fc.bias")}
    told = load({"state_dict": prefixed("module.", state(num_classes=1000))}, path, model)
    assert "fc keeps its initial values, as it has 1000 outputs in the file and 3 here" in told
    holds(model, {k: v for k, v in state().items() if not k.startswith("fc")})
    holds(model, start)


def test_a_quantizer_of_another_head_starts_anew(path: Path) -> None:
    old = quantized(net(num_classes=5), LsqWeight, LsqActivation)
    for name, module in old.named_modules():
        if name.endswith("weight_quantizer"):
            module.begin(torch.tensor(0.125))
    model = quantized(net(seed=9), LsqWeight, LsqActivation)
    load(old.state_dict(), path, model)
    assert model.get_buffer("conv1.weight_quantizer.initialized")
    assert not model.get_buffer("fc.weight_quantizer.initialized")


def test_a_file_that_fits_whole_is_taken_before_one_of_another_head(path: Path) -> None:
    model = net(seed=9)
    told = load({"pretrained": state(2, num_classes=9), "tuned": state(1)}, path, model)
    holds(model, state(1))
    assert "keeps its initial values" not in told


def test_a_network_that_is_not_trained_any_more_needs_its_head(path: Path) -> None:
    torch.save(state(num_classes=5), path)
    model = quantized(net(seed=9))
    told = "does not fit the model: fc has 5 outputs in the file and 3 in the model$"
    with pytest.raises(CheckpointError, match=told):
        init_weights(model, str(path), whole=True)
    holds(model, {k: v for k, v in state(9).items() if not k.startswith("fc")})


def test_tied_weights_may_be_in_the_file_once(path: Path) -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    values = tied(1).state_dict()
    model = tied(2)
    assert load({k: v for k, v in values.items() if k != "2.weight"}, path, model)
    holds(model, dict(values))
    del values["0.bias"]  # a tensor of its own
    with pytest.raises(CheckpointError, match=r"lacks 1 value of the model, first 0\.bias"):
        load(values, path, model)


@pytest.mark.parametrize("key", ["conv1.weight", "blocks.0.weight", "bn1.weight", "fc.weight"])
def test_a_layer_of_another_width_is_no_head(key: str, path: Path) -> None:
    values = state()
    values[key] = torch.cat([values[key]] * 2, dim=min(1, values[key].ndim - 1))
    with pytest.raises(CheckpointError, match=rf"does not fit the model: {key} is \("):
        load(values, path)
    whole = state()  # a layer in front of others, whose norm or reader has another width, too
    whole["conv1.weight"], whole["conv1.bias"] = torch.ones(5, 3, 3, 3), torch.ones(5)
    whole["blocks.0.weight"] = torch.ones(6, 5, 3, 3)
    with pytest.raises(
        CheckpointError, match=r"does not fit the model: conv1\.weight is \(5, 3, 3, 3\)"
    ):
        load(whole, path)


@pytest.mark.parametrize("quantizes", [True, False])
@pytest.mark.parametrize("in_file", [True, False])
def test_modules_that_forward_never_calls_may_be_in_the_file_or_not(
    quantizes: bool, in_file: bool, path: Path
) -> None:
    plain = net(seed=9, spare=True)
    unused = plain.state_dict().keys() - trace(plain).state_dict().keys()
    assert unused == {"spare.weight", "spare.bias"}
    model = quantized(plain) if quantizes else plain
    told = load(state(spare=in_file), path, model, unused=unused)
    holds(model, state())
    if quantizes and in_file:
        assert "2 values left out, of modules that the network never calls, first spare" in told
    elif not (quantizes or in_file):
        assert "2 values not in the file, of modules that the network never calls" in told
    else:
        assert told == f"weights from {path}"


def test_surplus_layers_are_refused_all_the_same(path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"the model lacks 2 values of it, first spare\.weight"
    ):
        load(state(spare=True), path)


def test_pruned_weights_are_understood(path: Path) -> None:
    old, model = net(), quantized(net(seed=9))
    prune.l1_unstructured(old.conv1, "weight", amount=0.5)
    prune.random_unstructured(old.fc, "bias", amount=1)
    told = load({"net": prefixed("module.", dict(old.state_dict()))}, path, model)
    assert "2 values pruned: weight_orig * weight_mask" in told
    assert torch.equal(model.get_parameter("conv1.weight"), old.conv1.weight)
    assert (model.get_parameter("conv1.weight") == 0).sum() == 54  # half of 4 * 3 * 3 * 3
    assert torch.equal(model.get_parameter("fc.bias"), old.fc.bias)


def test_a_pruned_network_takes_its_own_file(path: Path) -> None:
    old, model = net(), net(seed=9)
    for pruned in (old, model):
        prune.l1_unstructured(pruned.conv1, "weight", amount=0.5)
    assert load(old.state_dict(), path, model) == f"weights from {path}"
    assert torch.equal(model.conv1.weight_orig, old.conv1.weight_orig)


def test_so_does_one_that_was_pruned_before_it_was_quantized(path: Path) -> None:
    old, new = net(), net(seed=9)
    for pruned in (old, new):
        prune.random_unstructured(pruned.conv1, "weight", amount=0.5)
    model: Any = quantized(new)
    assert load(old.state_dict(), path, model) == f"weights from {path}"
    assert torch.equal(model.conv1.weight, old.conv1.weight_orig)
    assert torch.equal(model.conv1.weight_mask, old.conv1.weight_mask)


# ---- values


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("conv1.weight", float("nan"), "holds NaN"),
        ("fc.bias", float("inf"), "holds infinite values"),
        ("bn1.running_mean", float("-inf"), "holds infinite values"),
        ("blocks.1.running_var", -0.25, "holds -0.25, and no variance is below 0"),
    ],
)
def test_values_that_no_network_can_compute_with(
    key: str, value: float, words: str, suffix: str, tmp_path: Path
) -> None:
    values = {k: v.clone() for k, v in state().items()}
    values[key].view(-1)[1] = value
    path = tmp_path / f"w{suffix}"
    torch.save({"state_dict": values}, path) if suffix == ".pth" else save_file(values, path)
    place = "state_dict." if suffix == ".pth" else ""
    for model in (net(seed=9), quantized(net(seed=9))):
        before = {k: v.clone() for k, v in model.state_dict().items() if k in values}
        with pytest.raises(CheckpointError) as caught:
            init_weights(model, str(path))
        assert str(caught.value) == f"init_weights={path}: {place}{key} {words}"
        holds(model, before)


def test_what_float32_cannot_hold_is_refused(path: Path) -> None:
    values = {**state(), "fc.bias": torch.tensor([1e300, 0, 0], dtype=torch.float64)}
    with pytest.raises(CheckpointError, match=r"fc\.bias holds infinite values"):
        load(values, path)


@pytest.mark.parametrize("quantizers", [(SatWeight, SatActivation), (LsqWeight, LsqActivation)])
@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (0.0, "is 0")]
)
def test_learned_values_that_no_grid_can_have(
    quantizers: Any, value: float, words: str, path: Path
) -> None:
    name = quantizers[1].learned
    values = quantized(net(), *quantizers).state_dict()
    values[f"relu.{name}"] = torch.tensor(value)
    with pytest.raises(CheckpointError, match=rf"relu\.{name} .*{words}"):
        load(values, path, quantized(net(seed=9), *quantizers))


def test_a_step_below_0_counts_by_its_size(path: Path) -> None:
    values = quantized(net(), LsqWeight, LsqActivation).state_dict()
    values["fc.weight_quantizer.step_size"] = torch.tensor(-0.125)
    values["fc.weight_quantizer.initialized"] = torch.tensor(True)
    model = quantized(net(seed=9), LsqWeight, LsqActivation)
    told = load(values, path, model)
    assert (
        "1 value of quantizers negative, whose absolute value is used, first fc.weight_quant"
        in told
    )
    codes = model.get_submodule("fc.weight_quantizer")(torch.tensor([[0.26, -0.4]]))
    assert codes.tolist() == [[0.25, -0.375]]


# ---- what else files hold


class Opens:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Runs(Opens):
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, path=Path("x")),
        np.float64(91.5),
        np.zeros(3),
        Path("x"),
        collections.defaultdict(list, {"loss": [0.5]}),
        collections.deque([1, 2]),
        Settings(lr=Settings(start=0.1)),
        len,
        torch.relu,
        partial(torch.clamp, min=0),
    ],
    ids=lambda x: type(x).__name__,
)
def test_objects_beside_the_weights_are_left_alone(beside: Any, zipped: bool, path: Path) -> None:
    content = {"args": beside, "model": state(), "best": [beside]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    model, safe = net(seed=9), {*torch.serialization.get_safe_globals()}
    assert init_weights(model, str(path)) == f"weights from {path}; taken from its 'model'"
    holds(model, state())
    assert {*torch.serialization.get_safe_globals()} == safe


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [Opens, Runs])
def test_nothing_in_a_file_is_executed(kind: Any, zipped: bool, path: Path, tmp_path: Path) -> None:
    written = tmp_path / "written"
    content = {"model": state(), "extra": kind(written)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"holds what .*(open|system) makes, which is not load"
    ):
        init_weights(net(), str(path))
    assert not written.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"epoch": 3, "model": x}])
def test_a_pickled_network_is_refused_by_its_class(
    place: Callable[[Any], Any], zipped: bool, path: Path
) -> None:
    torch.save(place(net()), path, _use_new_zipfile_serialization=zipped)
    told = rf"init_weights={path}.*\ba pickled nn\.Module of class \w+\.Net.* its state_dict\(\)"
    with pytest.raises(CheckpointError, match=told):
        init_weights(net(), str(path))


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers its newer layout
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


def jit(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: torch.save(torch.ones(3), path), "holds no weights, but a tensor"),
        (lambda path: torch.save([1], path), "no weights, but a list whose first item is a value"),
        (lambda path: torch.save({}, path), "the file holds no weights, but an empty dictionary"),
        (
            lambda path: torch.save({"epoch": 3, "model": {"weight": 1}}, path),
            "holds no weights, but a dictionary of 'epoch' (int), 'model' (dictionary)",
        ),
        (
            lambda path: torch.save({k: v.numpy() for k, v in state().items()}, path),
            "no weights, but a dictionary of 'conv1.weight' (a numpy array)",
        ),
        (
            lambda path: torch.save({**state(), "fc.bias": np.zeros(3)}, path),
            "does not fit the model: fc.bias is a numpy array in the file",
        ),
        (
            lambda path: torch.save({**state(), "fc.bias": torch.zeros(3).to_sparse()}, path),
            "does not fit the model: fc.bias is sparse_coo in the file",
        ),
        (
            lambda path: torch.save({**state(), "fc.bias": nested()}, path),
            "does not fit the model: fc.bias is a nested tensor in the file",
        ),
        (jit, "is a TorchScript archive: save the state_dict()"),
        (lambda path: path.write_bytes(pickle.dumps(state()["fc.bias"].numpy())), "it is a pickle"),
        (lambda path: path.write_bytes(b""), "is truncated or no checkpoint: it is empty"),
        (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "it is a web page"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
        (lambda path: path.write_text(json.dumps({"a": 1})), "it is JSON"),
        (lambda path: path.write_text("hello\n"), "is truncated or no checkpoint: it is text"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "it is a gzip archive"),
        (lambda path: path.write_bytes(npz()), "it is a zip archive that torch.save did not write"),
    ],
)
def test_a_file_without_weights_is_described(
    write: Callable[[Path], Any], words: str, path: Path
) -> None:
    write(path)
    with pytest.raises(CheckpointError) as caught:
        init_weights(net(), str(path))
    assert str(caught.value).startswith(f"init_weights={path}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def test_the_part_that_comes_nearest_is_named(path: Path) -> None:
    values = prefixed("net.", state())
    del values["net.fc.bias"]
    with pytest.raises(CheckpointError) as caught:
        load({"state_dict": values, "other": {"a": torch.ones(2)}}, path)
    assert str(caught.value) == (
        f"init_weights={path} (its 'state_dict', names that begin with 'net.') does not fit "
        "the model: it lacks 1 value of the model, first fc.bias"
    )


def test_what_an_optimizer_keeps_is_not_taken_for_weights() -> None:
    net = Net()
    adam = torch.optim.Adam(net.parameters())
    net(IMAGES).sum().backward()
    adam.step()
    content = {"state_dict": net.state_dict(), "optimizer_states": [adam.state_dict()]}
    assert [weights.place for weights in find_weights(content, net.state_dict())] == ["state_dict"]
    (first, *_) = find_weights({"optimizer": adam.state_dict()}, net.state_dict())
    assert first.n_known == 0  # there is no other, and a message needs one
