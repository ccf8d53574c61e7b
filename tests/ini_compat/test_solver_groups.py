"""Solvers of parameters as ``solver.groups``: no pattern catches a wrong one."""

from __future__ import annotations

from pathlib import Path

import projects
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import read

from ini_compat.convert import experiment
from ini_compat.errors import Place
from ini_compat.network import Cell, Data, Network, Node
from ini_compat.solver_groups import patterns, solver_groups
from qatlab.training.parameter_solver import ParameterSolver

PLACE = Place("model.ini", 1)


PARAMETERS = st.from_regex(
    r"(conv|bn|fc|inc)[0-9]{0,2}(_[0-9]x[0-9])?(_qact\.(alpha|step_size)|\.weight|\.bias"
    r"|\.weight_quantizer\.step_size)",
    fullmatch=True,
)
SETTINGS = st.sampled_from(
    [
        {"lr": 0.01},
        {"lr": 0.0},
        {"lr": 0.01, "momentum": 0.9},
        {"method": "adam", "lr": 0.01},
        {"lr": 0.01, "clamp": [None, 1.0]},
        {"lr": 0.01, "lr_policy": {"_target_": "qatlab.training.lr_policy.step", "every": 3.0}},
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PARAMETERS, SETTINGS, min_size=1, max_size=25))
def test_each_parameter_has_the_settings_of_its_solver(chosen: dict[str, Node]) -> None:
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for parameter, node in chosen.items():
        cell = Cell(parameter, "Conv", ["image"], PLACE, solvers={parameter: node})
        network.cells[parameter] = cell
    groups = solver_groups(network, 10)
    made = {
        name: {k: v for k, v in node.items() if k != "lr_policy"} for name, node in groups.items()
    }
    members = ParameterSolver(made).members(list(chosen))  # which refuses patterns without a match
    for name, parameters in members.items():
        for parameter in parameters:
            assert {"parameters": groups[name]["parameters"], **chosen[parameter]} == groups[name]
    assert sorted(p for names in members.values() for p in names) == sorted(chosen)
    assert next(iter(groups)) == "main"  # which conf/solver/by_parameter.yaml has, too


@settings(max_examples=150, deadline=None)
@given(st.lists(PARAMETERS, min_size=1, max_size=30, unique=True), st.data())
def test_patterns_match_all_that_is_wanted_and_nothing_else(
    names: list[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    globs = patterns(wanted, names)
    groups = {"rest": {"parameters": "*"}, "wanted": {"parameters": globs}}
    if set(wanted) == set(names):
        del groups["rest"]
    assert set(ParameterSolver(groups).members(names)["wanted"]) == set(wanted)
    assert len(globs) <= len(wanted)


def test_many_parameters_need_few_patterns() -> None:
    convs = [f"conv{i}_{j}.weight" for i in range(3) for j in range(3)]
    bns = [f"bn{i}_{j}.{last}" for i in range(3) for j in range(3) for last in ("weight", "bias")]
    assert patterns(bns, [*convs, *bns]) == ["*.bias", "bn*_*.weight"]
    assert patterns(convs, [*convs, *bns]) == ["conv*_*.weight"]
    alphas = [f"x{i}_qact.alpha" for i in range(9)]
    assert patterns(alphas, [*alphas, *convs, *bns]) == ["*_qact.alpha"]


@pytest.mark.parametrize(
    ("images", "batch", "over", "epochs", "settles"),
    [
        (1000, 100, 30.0, 30, True),
        (1000, 100, 30.1, 30, True),  # one update in all: what a division rounds off
        (1000, 100, 30.2, 30, False),
        (1050, 100, 30 * 10.5 / 11, 30, True),  # the file counts 10.5 batches, and here are 11
        (1050, 100, 29 * 10.5 / 11, 30, False),
        (1000, 100, 10.0, 30, False),
        (None, 100, 30.0, 30, True),
        (None, 100, 29.9, 30, False),
    ],
)
def test_a_decay_as_long_as_the_schedule_follows_it(
    images: int | None, batch: int, over: float, epochs: int, settles: bool
) -> None:
    policy = {"_target_": "qatlab.training.lr_policy.polynomial", "power": 1.0, "over": over}
    cell = Cell("fc", "Fc", ["image"], PLACE, solvers={"fc.weight": {"lr": 1, "lr_policy": policy}})
    data = Data({}, (1, 1, 1), batch, images)
    groups = solver_groups(Network("n", "n.ini", data, {"fc": cell}), epochs)
    assert groups["main"]["lr_policy"]["over"] == (None if settles else over)


def test_a_deep_network(tmp_path: Path) -> None:
    network = read(tmp_path, projects.deep(9))
    assert network.problems == []
    content = experiment(network)
    assert len(content["model"]["layers"]) == 9 * 18 + 1
    groups = content["solver"]["groups"]
    assert {name: node["parameters"] for name, node in groups.items()} == {
        "main": "*",
        "norms": ["*.bias", "*_bn.weight"],
        "clip_values": "*_qact.alpha",
    }
