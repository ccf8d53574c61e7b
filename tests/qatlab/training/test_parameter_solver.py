from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from qatlab.errors import ConfigError
from qatlab.quant.quantizer import Quantizer
from qatlab.training.lr_policy import cosine, polynomial, step
from qatlab.training.parameter_solver import ParameterSolver

CONF = Path(__file__).parents[3] / "conf"
ALL = {"parameters": "*"}


class Learned(Quantizer):
    def __init__(self, name: str) -> None:
        super().__init__(bits=4, n_steps=None)
        self.register_parameter(name, nn.Parameter(torch.ones(())))


class Net(nn.Module):
    def __init__(self, site: str | None = None, weight: str | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.bn1 = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 2, bias=False)
        if site:
            self.bn1_qact = Learned(site)
        if weight:
            self.conv1.weight_quantizer = Learned(weight)


FLOAT = ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "fc.weight"]


def groups_of(model: nn.Module, groups: dict[str, Any]) -> dict[str, list[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    built = ParameterSolver(groups).build(model).param_groups
    return {group["name"]: [names[p] for p in group["params"]] for group in built}


def test_a_parameter_belongs_to_the_last_group_that_matches() -> None:
    groups = {
        "main": ALL,
        "biases": {"parameters": ["*.bias", "*.alpha"]},
        "scale": {"parameters": "bn1.weight"},
        "last": {"parameters": ["fc.*", "conv1.bias"]},
    }
    assert groups_of(Net("alpha"), groups) == {
        "main": ["conv1.weight"],
        "biases": ["bn1.bias", "bn1_qact.alpha"],
        "scale": ["bn1.weight"],
        "last": ["conv1.bias", "fc.weight"],
    }


def test_a_group_whose_parameters_all_belong_to_later_ones_is_an_error() -> None:
    groups = {
        "main": ALL,
        "norms": {"parameters": "bn*"},
        "biases": {"parameters": "*.bias"},
        "scale": {"parameters": "bn1.weight"},
    }
    with pytest.raises(ConfigError, match=r"^solver\.groups\.norms is left with no parameter: all"):
        ParameterSolver(groups).build(Net())


def test_a_parameter_without_a_group_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^solver\.groups has no group for .* bn1\.weight; "):
        ParameterSolver({"convs": {"parameters": ["conv*", "fc*"]}}).build(Net())


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("cnv1.weight", "'conv1.weight'"), ("*.wieght", r"'\*\.weight'"), ("bn2.bias", "'bn1.bias'")],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest(
    pattern: str, near: str
) -> None:
    groups = {"main": ALL, "other": {"parameters": ["fc.*", pattern]}}
    told = (
        rf"^solver\.groups\.other\.parameters: .* matches no parameter\. Did you mean {near}\? "
        r"Accepted: conv1\.weight, conv1\.bias, "
    )
    with pytest.raises(ConfigError, match=told):
        ParameterSolver(groups).build(Net())


def test_a_long_list_of_names_is_cut() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(15)))
    with pytest.raises(ConfigError, match=r"9\.bias and 10 more\.$"):
        ParameterSolver({"main": ALL, "other": {"parameters": "x"}}).build(model)


LEARNED = {"main": ALL, "learned": {"parameters": ["*_qact.alpha", "*_qact.step_size"], "lr": 1.0}}


@pytest.mark.parametrize(
    ("model", "learned"),
    [
        (Net(), None),  # quant=none
        (Net("alpha"), "bn1_qact.alpha"),
        (Net("step_size", "step_size"), "bn1_qact.step_size"),
        (Net("alpha", "step_size"), "bn1_qact.alpha"),
    ],
)
def test_what_no_quantizer_learns_need_not_be_there(model: nn.Module, learned: str | None) -> None:
    found = groups_of(model, LEARNED)
    assert found.get("learned") == (None if learned is None else [learned])
    assert set(FLOAT) <= set(found["main"])


def test_of_weights_and_of_sites_are_told_apart() -> None:
    groups = {"main": ALL, "steps": {"parameters": "*.weight_quantizer.step_size"}}
    assert list(groups_of(Net("step_size"), groups)) == ["main"]  # quant.weight=null
    groups = {"main": ALL, "steps": {"parameters": "conv2.weight_quantizer.step_size"}}
    with pytest.raises(ConfigError, match="matches no parameter"):
        ParameterSolver(groups).build(Net(weight="step_size"))


@pytest.mark.parametrize("pattern", ["bn1_qat.alpha", "*_qat.alpha", "*.alpa"])
def test_a_slip_in_the_name_of_a_quantizer_is_reported(pattern: str) -> None:
    with pytest.raises(ConfigError, match="matches no parameter"):
        ParameterSolver({"main": ALL, "alphas": {"parameters": pattern}}).build(Net("alpha"))


def test_what_is_not_trained_is_in_no_group() -> None:
    model = Net("alpha")
    model.bn1_qact.alpha.requires_grad_(False)
    model.fc.weight.requires_grad_(False)
    groups = {"main": ALL, "alphas": {"parameters": "*.alpha"}}
    assert groups_of(model, groups) == {"main": FLOAT[:-1]}
    with pytest.raises(ConfigError, match=r"^solver: the model has no trainable parameter"):
        ParameterSolver(groups).build(model.requires_grad_(False))


def test_defaults_are_those_of_n2d2() -> None:
    groups = {"main": ALL, "fc": {"parameters": "fc.*", "method": "adam"}}
    sgd, adam = ParameterSolver(groups).build(Net()).param_groups
    expected = {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "clamp": (None, None)}
    assert {k: sgd[k] for k in expected} == expected
    expected = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "clamp": (None, None)}
    assert {k: adam[k] for k in expected} == expected


def test_settings_reach_the_optimizer() -> None:
    groups = {
        "main": {**ALL, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "clamp": [-1, None]},
        "fc": {"parameters": "fc.*", "method": "adam", "lr": 0.2, "betas": [0.5, 0.6], "eps": 0.1},
    }
    sgd, adam = ParameterSolver(groups).build(Net()).param_groups
    expected = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "clamp": (-1, None)}
    assert {k: sgd[k] for k in expected} == expected
    expected = {"method": "adam", "lr": 0.2, "betas": (0.5, 0.6), "eps": 0.1}
    assert {k: adam[k] for k in expected} == expected


def test_each_group_has_its_own_policy() -> None:
    groups = {
        "main": {**ALL, "lr": 0.1},
        "fc": {"parameters": "fc.*", "lr": 0.2, "lr_policy": partial(step, every=0.5, factor=0.5)},
        "bn": {"parameters": "bn*", "lr": 0.4, "lr_policy": partial(polynomial, power=1.0)},
    }
    solver = ParameterSolver(groups)
    optimizer = solver.build(Net())
    scheduler = solver.lr_scheduler(optimizer, lambda steps: (steps / 4, 2))
    rates = []
    for _ in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    main, fc, bn = zip(*rates, strict=True)
    assert main == (0.1,) * 8
    assert fc == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert bn == pytest.approx([0.4 * (1 - k / 8) for k in range(8)])
    assert [solver.lr_factor(1.0, 2, name) for name in groups] == [1.0, 0.25, 0.5]
    assert solver.lr_factor(1.0, 2) == 1.0
    assert solver.lr_key("fc") == "solver.groups.fc.lr"


def test_a_warm_up_that_is_longer_than_a_phase_is_reported_with_the_group() -> None:
    policy = partial(cosine, warmup_epochs=3)
    solver = ParameterSolver({"main": ALL, "fc": {"parameters": "fc.*", "lr_policy": policy}})
    solver.check_phase(4)
    told = r"^solver\.groups\.fc\.lr_policy\.warmup_epochs=3 is wrong\. .* less than .* has 3\.$"
    with pytest.raises(ConfigError, match=told):
        solver.check_phase(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.1}, r"parameters is missing or not a pattern\. Accepted: "),
        ({"parameters": []}, "parameters is missing"),
        ({"parameters": [3]}, "parameters is missing or not a pattern"),
        ({"parameters": 3}, "parameters=3 is wrong"),
        ({**ALL, "momentun": 1}, r"momentun is unknown\. Did you mean 'momentum'\? .* lr_policy"),
        ({**ALL, "method": "adm"}, r"method=adm is wrong\. Did you mean 'adam'\? .* sgd, adam"),
        ({**ALL, "lr": "fast"}, "lr=fast is wrong"),
        ({**ALL, "lr": -1}, "lr=-1 is wrong. Accepted: a number of at least 0"),
        ({**ALL, "momentum": -0.1}, "momentum=-0.1 is wrong"),
        ({**ALL, "weight_decay": -1}, "weight_decay=-1 is wrong"),
        ({**ALL, "method": "adam", "eps": -1}, "eps=-1 is wrong"),
        ({**ALL, "method": "adam", "betas": [0.9]}, r"betas=\[0\.9\] is wrong"),
        ({**ALL, "method": "adam", "betas": [0.9, 1]}, r"betas=\[0\.9, 1\] is wrong"),
        ({**ALL, "clamp": [1, -1]}, r"clamp=\[1, -1\] is wrong.* \[lowest, highest\]"),
        ({**ALL, "clamp": [1, 1]}, r"clamp=\[1, 1\] is wrong"),
        ({**ALL, "clamp": [1]}, r"clamp=\[1\] is wrong"),
        ({**ALL, "clamp": ["a", 1]}, r"clamp=\['a', 1\] is wrong"),
        ({**ALL, "clamp": 1}, "clamp=1 is wrong"),
        (
            {**ALL, "betas": [0.9, 0.9]},
            "betas.* cannot be combined with method=sgd, .* of method=adam",
        ),
        ({**ALL, "eps": 0.1}, "eps=0.1 cannot be combined with method=sgd"),
        (
            {**ALL, "method": "adam", "momentum": 0.9},
            "momentum=0.9 cannot be combined with method=adam",
        ),
        (
            {**ALL, "method": "adam", "weight_decay": 1},
            "weight_decay=1 cannot be combined with method=adam",
        ),
        ({**ALL, "lr_policy": 3}, "lr_policy=3 is wrong"),
        ({**ALL, "lr_policy": {"every": 1}}, r"lr_policy=.* with _target_ and _partial_: true"),
        ({**ALL, "lr_policy": partial(cosine, final=2)}, r"lr_policy\.final=2 is wrong"),
        ({**ALL, "lr_policy": step}, r"lr_policy: .*'every'.* Accepted: every, factor"),
        (None, "=null is wrong. Accepted: a mapping of parameters, method, lr"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_its_path(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^solver\.groups\.main\.?{message}"):
        ParameterSolver({"main": settings})


def test_a_group_of_adam_may_name_what_sgd_has_if_it_is_0() -> None:
    # so that an experiment can change the method of the preset's group
    settings = {**ALL, "method": "adam", "momentum": 0.0, "weight_decay": 0.0}
    ParameterSolver({"main": settings}).build(Net())


@pytest.mark.parametrize("groups", [None, {}, 3])
def test_a_solver_needs_groups(groups: Any) -> None:
    with pytest.raises(ConfigError, match=r"^solver\.groups=.* is wrong\. Accepted: a mapping"):
        ParameterSolver(groups)


def composed(*overrides: str) -> ParameterSolver:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=["+solver=by_parameter", *overrides])
    solver = instantiate(config.solver)
    assert isinstance(solver, ParameterSolver)
    return solver


def test_the_preset_has_the_defaults_of_the_class() -> None:
    (preset,) = composed().build(Net()).param_groups
    (default,) = ParameterSolver({"main": ALL}).build(Net()).param_groups
    del preset["params"], default["params"]
    assert preset == default


def test_groups_and_policies_come_from_the_command_line() -> None:
    solver = composed(
        "solver.groups.main.clamp=[-1,1]",
        "solver/lr_policy@solver.groups.main.lr_policy=step",
        "solver.groups.main.lr_policy.every=1",
        '+solver.groups.biases={parameters: "*.bias", method: adam}',
    )
    main, biases = solver.build(Net()).param_groups
    assert (main["clamp"], biases["method"]) == ((-1, 1), "adam")
    assert solver.lr_factor(2.0, 10) == pytest.approx(0.01)
    assert solver.lr_factor(2.0, 10, "biases") == 1.0
