"""What stands in the way of a network's forms, before anything has trained it."""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import pytest
import torch
from networks import METHODS, NETWORKS
from torch import Tensor, nn
from torch.nn import functional as F

import qatlab
from qatlab import quant
from qatlab.deploy.c import program
from qatlab.deploy.integer.lowering import Obstacle
from qatlab.deploy.integer.operations import Gather
from qatlab.deploy.obstacles import OF_FLOATS, check_target, forms_of, in_short, listed, obstacles
from qatlab.deploy.onnx import integer, qdq
from qatlab.errors import ConfigError
from qatlab.quant import Phase, Rule, quantizers

ALL = ["integer", "qdq", "qonnx", "c"]
IMAGE = torch.zeros(1, 3, 8, 8)


def untrained(
    network: nn.Module, method: str = "sat", phase: Phase = Phase.FLOAT, **more: Any
) -> Any:
    weight, activation = (partial(part, bits=4) for part in METHODS[method])
    rules = [Rule.parse(key, node) for key, node in more.items()]
    model, _ = quant.quantize(network, weight, activation, rules, IMAGE)
    quant.set_phase(model, phase)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_stands_in_the_way_of_a_network_that_no_training_has_started(
    name: str, method: str
) -> None:
    assert qatlab.obstacles(untrained(NETWORKS[name](), method)) == dict.fromkeys(ALL, ())


@pytest.mark.parametrize(
    "more",
    [{"start": start} for start in quant.LsqPlusActivation.starts] + [{"step_size": 0.1}],
    ids=repr,
)
def test_a_start_that_is_still_to_be_found_is_no_obstacle(more: dict[str, Any]) -> None:
    every = {"name": "*", "activation": more}
    model = untrained(NETWORKS["chain"](), "lsq_plus", all=every)
    assert obstacles(model) == dict.fromkeys(ALL, ())


@pytest.mark.parametrize(
    ("writer", "target", "forms"),
    [
        (program, "C", {"c"}),
        (qdq, "ONNX", {"qdq", "qonnx"}),
        (integer, "ONNX of integers", {"integer"}),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_target_may_lack_a_kind_of_operation(
    writer: Any, target: str, forms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(writer.WRITERS, Gather)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Upsample(scale_factor=2))
    model = untrained(nn.Sequential(*network, nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten()))
    reason = f"2 is a Gather, which has no form in {target}."
    found = {form: [one.reason for one in own] for form, own in obstacles(model).items()}
    assert found == {form: [reason] if form in forms else [] for form in ALL}


def everything_of(model: nn.Module) -> dict[str, Any]:
    return {
        **{f"{name}.training": module.training for name, module in model.named_modules()},
        **{f"{q.layer}.phase": q.phase for q in quantizers(model)},
        **copy.deepcopy(model.state_dict()),
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(method: str, phase: Phase, training: bool) -> None:
    model = untrained(NETWORKS["inception"](), method, phase).train(training)
    model.get_submodule("norm").eval()  # one that someone has frozen
    before = everything_of(model)
    assert any(key.endswith("initialized") for key in before)
    obstacles(model)
    after = everything_of(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


def test_a_network_that_was_looked_at_starts_as_any_other() -> None:
    network = NETWORKS["chain"]()
    one, other = (untrained(copy.deepcopy(network), "lsq_plus") for _ in range(2))
    obstacles(one)
    images = torch.rand(4, 3, 8, 8)
    for model in (one, other):
        quant.start_quantizers(model, [images])
    assert all(
        torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True)
    )


class Several(nn.Module):
    """Three operators without an integer form, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        x = x * self.gate(x).sigmoid()
        return self.fc(x.exp().mean((2, 3)))


def test_each_operator_is_reported_once_with_its_layer() -> None:
    found = obstacles(untrained(Several()), tried=())
    assert [one.layer for one in found["c"]] == ["silu", "sigmoid", "exp"]
    assert all(one.in_float for one in found["c"])
    assert found == {form: () if form in OF_FLOATS else found["c"] for form in ALL}
    lines = listed(found)
    assert len(lines) == 3
    assert all(line.startswith("  integer, c: ") for line in lines)
    assert re.match(r"  [a-z, ]+: silu \(SiLU\) reads conv, which is no codes", lines[0])
    line = in_short(found, tried=["qdq"])
    assert line.startswith(
        "Can be exported as qdq, qonnx with 3 parts in float (silu, sigmoid, exp; mode=plan tries "
        "qonnx), but not as integer: silu (SiLU)"
    )
    assert "\n" not in line


def test_a_float_network_has_one_obstacle() -> None:
    found = obstacles(NETWORKS["chain"]())
    assert found == dict.fromkeys(ALL, found["c"])
    assert [one.layer for one in found["c"]] == ["network"]
    assert found["c"][0].reason.startswith("the network is float")


@pytest.mark.parametrize(
    ("rule", "form", "words"),
    [
        ({"name": "0", "weight": {"bits": 12}}, "integer", "0: weights of 12 bits are more than"),
        ({"name": "2", "activation": {"bits": 12}}, "integer", "2: activations of 12 bits are mor"),
    ],
)
def test_a_form_may_take_what_another_does_not(rule: Any, form: str, words: str) -> None:
    found = obstacles(untrained(NETWORKS["chain"](), rule=rule))
    assert [own for own in ALL if not found[own]] == [own for own in ALL if own != form]
    (one,) = found[form]
    assert one.reason.startswith(words)
    others = ", ".join(own for own in ALL if own != form)
    line = in_short(found)
    assert line.startswith(f"Can be exported as {others}, but not as {form}: {words}")
    assert listed(found) == [f"  {form}: {one.reason}"]
    check_target(["qdq", "c"], found)
    with pytest.raises(ConfigError, match=f"^target={form}: the network cannot leave so: "):
        check_target(["qdq", form], found)


def test_an_accumulator_that_may_not_fit_is_an_obstacle_of_the_weights_that_there_are() -> None:
    every = {"name": "*", "weight": {"bits": 16}, "activation": {"bits": 16}}
    found = obstacles(untrained(NETWORKS["chain"](), every=every), tried=())
    assert "32 bits do not hold" in found["integer"][0].reason
    assert not found["qdq"]  # whose sums are float32, as in training


NOTHING: dict[str, tuple[Obstacle, ...]] = dict.fromkeys(ALL, ())


@pytest.mark.parametrize(
    ("target", "forms"), [(None, []), ("c", ["c"]), (["qdq", "c"], ["qdq", "c"]), ([], [])]
)
def test_a_target_is_a_form_or_a_list(target: Any, forms: list[str]) -> None:
    assert forms_of(target) == forms
    check_target(target, NOTHING)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("qdqq", "target=qdqq is wrong. Did you mean 'qdq'?"),
        (["c", "qonx"], "target=qonx is wrong. Did you mean 'qonnx'?"),
        (3, "target=3 is wrong. Accepted: integer, qdq, qonnx, c, o"),
    ],
)
def test_a_target_that_is_no_form_is_reported(target: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        forms_of(target)


class Odd(nn.Module):
    """Tensors of more or fewer dimensions, behind an operator that has an integer form or not."""

    def __init__(self, activation: Any, function: Any) -> None:
        super().__init__()
        self.activation = activation
        self.conv, self.line = nn.Conv2d(3, 4, 3), nn.Conv1d(4, 4, 1)
        self.space = nn.Conv3d(1, 1, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.fc, self.norm, self.function = nn.Linear(4, 2), nn.LayerNorm(4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self, self.activation(self.conv(x))))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.line(x.flatten(2)).mean(-1),
        lambda net, x: F.relu(net.line(x.flatten(2))).amax(2),
        lambda net, x: net.space(x[:, None])[:, 0].mean((2, 3)),
        lambda net, x: F.max_pool3d(x[:, None], (1, 2, 2)).squeeze(1).mean((2, 3)),
        lambda net, x: net.attention(*[net.norm(tokens(x))] * 3)[0].mean(1),
        lambda net, x: torch.relu(net.norm(tokens(x)))[:, 0],
        lambda net, x: torch.einsum("nchw,nchw->nc", x, x),
        lambda net, x: (tokens(x) @ tokens(x).transpose(1, 2)).softmax(-1)[:, 0, :4],
        lambda net, x: torch.fft.rfft(x).real.mean((2, 3)),
        lambda net, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).mean((2, 3)),
        lambda net, x: x.sort(1)[0].topk(2, 1)[1].float().mean((2, 3)).repeat(1, 2),
        lambda net, x: torch.stack([x, x.cumsum(1)], 2).flatten(1, 2).view(1, 8, -1)[:, :4, 0],
        lambda net, x: F.grid_sample(x, torch.zeros(1, 2, 2, 2), align_corners=False).mean((2, 3)),
    ],
)
@pytest.mark.parametrize("activation", [F.relu, F.silu])
def test_no_network_ends_in_a_stack_trace(activation: Any, function: Any) -> None:
    found = obstacles(untrained(Odd(activation, function)), tried=())
    assert (found["c"][0].layer == "silu") is (activation is F.silu)
    assert len(listed(found)) == len(found["c"])
