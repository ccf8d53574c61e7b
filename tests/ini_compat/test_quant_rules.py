"""Quantizers of cells as ``quant``: what qatlab makes of the rules, for any mix."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import QUANTIZED, converted, project, read

from ini_compat.convert import experiment
from ini_compat.errors import IniError, Place
from ini_compat.network import Cell, Data, Network, Node, Quantizer, bits_node
from ini_compat.quant_rules import CLASSES, PLAIN, quant_node
from qatlab import quant
from qatlab.quant import Rule
from qatlab.quant.rules import Target, resolve

PLACE = Place("model.ini", 1)


def test_what_is_left_out_is_what_qatlab_takes() -> None:
    for path in CLASSES.values():
        parameters = inspect.signature(getattr(quant, path.rpartition(".")[2])).parameters
        for key, value in PLAIN.items():
            if key in parameters and key != "bits":
                assert parameters[key].default == value, (path, key)


SAT_WEIGHTS = st.builds(
    lambda n_steps, more: Quantizer("SAT", bits_node(n_steps) | more),
    st.sampled_from([1, 2, 3, 14, 15, 255]),
    st.fixed_dictionaries(
        {},
        optional={
            "grid": st.sampled_from(["full_range", "symmetric"]),
            "scaling": st.just(True),
            "clamp_only": st.just(True),
        },
    ),
)
LSQ_WEIGHTS = st.builds(
    lambda n_steps, more: Quantizer("LSQ", bits_node(n_steps) | {"gradient_scale": "n2d2"} | more),
    st.sampled_from([2, 15, 255]),
    st.fixed_dictionaries({}, optional={"step_size": st.sampled_from([0.1, 1e-16, 1e16])}),
)
SAT_ACTIVATIONS = st.builds(
    lambda n_steps, alpha, more: Quantizer("SAT", bits_node(n_steps) | {"alpha": alpha} | more),
    st.sampled_from([1, 14, 15, 255]),
    st.sampled_from([1.0, 6.0, 1e-16, 1e16, 0.1]),
    st.fixed_dictionaries({}, optional={"dead_zeros": st.just(True)}),
)
LSQ_ACTIVATIONS = LSQ_WEIGHTS
NAMES = st.from_regex(r"(conv|bn|fc|x_qact)[0-9_]{0,3}", fullmatch=True)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks whose cells have quantizers of one method, or none, and treacherous names."""
    weights = draw(st.sampled_from([SAT_WEIGHTS, LSQ_WEIGHTS]))
    activations = draw(st.sampled_from([SAT_ACTIVATIONS, LSQ_ACTIVATIONS]))
    taken: set[str] = set()
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for name in draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)):
        kind = draw(st.sampled_from(["conv", "linear", "deconv", "batch_norm", "relu"]))
        cell = Cell(name, "Conv", ["image"], PLACE, layers={name: {"type": kind}})
        taken.add(name)
        if kind in ("conv", "linear"):
            cell.weight = draw(st.none() | weights)
        site = f"{name}_qact"
        if site not in taken and draw(st.booleans()):
            cell.layers[site] = {"type": "relu"}
            cell.site, cell.activation = site, draw(activations)
        taken |= cell.layers.keys()
        network.cells[name] = cell
    return network


def decided(part: str, node: Node, targets: list[str]) -> dict[str, Node | None]:
    """Return the arguments that qatlab makes each quantizer of."""
    if not node.get(part):
        return dict.fromkeys(targets)
    rules = [Rule.parse(key, rule) for key, rule in node["rules"].items()]
    decisions = resolve(part, [Target(name, "Module") for name in targets], rules)
    common = {key: value for key, value in node[part].items() if key != "_target_"}
    return {
        name: None if d.arguments is None else {**PLAIN, **common, **d.arguments}
        for name, d in zip(targets, decisions, strict=True)
    }


@settings(max_examples=150, deadline=None)
@given(networks())
def test_each_layer_and_site_has_the_quantizer_of_its_cell(network: Network) -> None:
    cells = network.cells.values()
    layers = {name: layer["type"] for cell in cells for name, layer in cell.layers.items()}
    weights = [name for name, kind in layers.items() if kind in ("conv", "linear")]
    # qatlab's sites: activation functions, and tensors that reach weight layers in float.
    sites = [name for name, kind in layers.items() if kind == "relu"]
    sites += [f"{name}_site" for name, kind in layers.items() if kind != "relu"]
    node, ends_in = quant_node(network)

    own: dict[str, dict[str, Quantizer | None]] = {
        "weight": {name: cell.weight for cell in cells for name in cell.layers},
        "activation": {cell.site: cell.activation for cell in cells if cell.site},
    }
    for part, targets in (("weight", weights), ("activation", sites)):
        if not targets and part == "weight":
            assert not node.get("weight")
        for name, arguments in decided(part, node, targets).items():
            quantizer = own[part].get(name)
            if quantizer is None:
                assert arguments is None, name
                continue
            expected = {**PLAIN, **quantizer.arguments}
            if ends_in == "clamp":
                assert expected["clamp_only"]  # the phase says it
                expected["clamp_only"] = False
            assert arguments == expected, name
            assert node[part]["_target_"] == CLASSES[part, quantizer.method]
    quantized = any(own["activation"].values()) or any(own["weight"][name] for name in weights)
    assert (ends_in == "float") == (not quantized) == (node == {})


def test_each_rule_has_a_name_of_its_own() -> None:
    network = Network("n", "n.ini", Data({}, (1, 1, 1), 1))
    for number, alpha in enumerate((1.0, 1.0, 1.0, 1e16, 1e-16)):
        site = f"a{number}_qact"
        activation = Quantizer("SAT", {"bits": 4, "alpha": alpha})
        network.cells[site] = Cell(
            *(site, "Conv", ["image"], PLACE, {site: {"type": "relu"}}),
            activation=activation,
            site=site,
        )
    rules = quant_node(network)[0]["rules"]
    assert rules["activation_alpha_1e_16"]["activation"] == {"alpha": 1e16}
    assert rules["activation_alpha_1e_16_2"]["activation"] == {"alpha": 1e-16}


def test_one_glob_names_all_sites_unless_it_names_more(tmp_path: Path) -> None:
    content, _ = converted(tmp_path, project(QUANTIZED.format("QAct=SAT\n")))
    assert content["quant"]["rules"]["qact"]["name"] == "*_qact"
    treacherous = "[b_qact]\nInput=conv\nType=Activation\nActivationFunction=Rectifier\n"
    cells = QUANTIZED.format("QAct=SAT\n").replace("[fc]", treacherous + "[fc]")
    cells = cells.replace("[fc]\nInput=conv", "[fc]\nInput=b_qact")
    content, _ = converted(tmp_path, project(cells))
    assert "b_qact_act" in content["model"]["layers"]


def test_methods_cannot_be_mixed(tmp_path: Path) -> None:
    cells = QUANTIZED.format("QWeight=SAT\n") + "QWeight=LSQ\n"
    network = read(tmp_path, project(cells))
    assert network.problems == []
    with pytest.raises(IniError) as error:
        experiment(network)
    assert "[fc] has LSQ and [conv] has SAT for weights. Accepted: one method for all" in str(
        error.value
    )
    assert str(error.value).startswith(str(tmp_path / "model.ini"))
    apart = QUANTIZED.format("QWeight=SAT\nQAct=LSQ\n")  # of weights and activations they can
    content, _ = converted(tmp_path, project(apart))
    assert content["quant"]["weight"]["_target_"] == "qatlab.quant.SatWeight"
    assert content["quant"]["activation"]["_target_"] == "qatlab.quant.LsqActivation"
