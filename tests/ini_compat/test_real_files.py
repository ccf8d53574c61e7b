"""N2D2's own files: what qatlab builds is what they say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from ini_compat.build import understand
from ini_compat.convert import experiment
from ini_compat.errors import Place
from ini_compat.network import Network, Node
from ini_compat.report import experiment_text
from qatlab.models import LayerGraph
from qatlab.quant import Rule, quantize
from qatlab.training.parameter_group import ParameterGroup
from qatlab.training.parameter_solver import ParameterSolver

PLACE = Place("model.ini", 1)


CONVERTED = (
    *("LeNet", "LeNet-bn-SAT", "LeNet_4b", "LeNet_w1_a4", "LeNet_w4_a8", "MobileNet_v1"),
    *("MobileNet_v2", "MobileNet_v2_mini", "ResNet-50", "SqueezeNet_v1.0", "VGG16", "cifar-10"),
    *("mnist-autoencoder", "mnist24_16c4s2_24c5s2_150_10"),
)
REFUSED = {
    "LeNet_quant": "SGD has no parameter QuantizationLevels",
    "ResNet-18-BN": "N2D2 needs a section [sp] or [env]",
    "resnet-18-v1-onnx": "give it with --onnx FILE",
    "resnet-18v1-LSQ-8b": "give it with --onnx FILE",
}


@cache
def real(path: Path) -> tuple[Network, Node]:
    network = understand(str(path))
    assert network.problems == []
    return network, experiment(network)


@pytest.fixture(params=CONVERTED)
def of_file(request: pytest.FixtureRequest, shared: Path) -> tuple[Network, Node]:
    """One of N2D2's own files, and its experiment."""
    (path,) = (shared / "data/n2d2").rglob(f"{request.param}.ini")
    return real(path)


def network_of(content: Node) -> nn.Module:
    """Return qatlab's network; without memory where nothing is computed."""
    if "quant" not in content:
        with torch.device("meta"):
            return LayerGraph(**content["model"])
    model = LayerGraph(**content["model"])
    factories = (
        node and instantiate(node, _partial_=True)
        for node in (content["quant"]["weight"], content["quant"]["activation"])
    )
    rules = [Rule.parse(key, node) for key, node in content["quant"]["rules"].items()]
    example = torch.zeros(1, *content["model"]["input_shape"])
    return quantize(model, *factories, rules, example)[0]  # type: ignore[arg-type]


def test_all_other_files_are_refused_with_a_reason(shared: Path) -> None:
    paths = {path.stem: path for path in (shared / "data/n2d2").rglob("*.ini")}
    assert paths.keys() == {*CONVERTED, *REFUSED}
    for name, reason in REFUSED.items():
        told = [str(problem) for problem in understand(str(paths[name])).problems]
        assert any(reason in text for text in told), told


def test_the_text_is_read_as_the_experiment(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    read = OmegaConf.create(experiment_text(network, content, "command"))
    assert OmegaConf.to_container(read, resolve=True) == content


def test_qatlab_has_the_shapes_of_all_cells(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    with torch.device("meta"):
        shapes = LayerGraph(**content["model"]).shapes
    for cell in network.cells.values():
        if cell.layers:
            assert shapes[cell.output] == cell.shape, cell.name


def test_qatlab_makes_the_quantizers_of_all_cells(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    modules = dict(network_of(content).named_modules())
    clamped = content["schedule"].get("clamp_epochs")
    for cell in network.cells.values():
        for layer, node in cell.layers.items():
            made = getattr(modules.get(layer), "weight_quantizer", None)
            if cell.weight is None or node["type"] not in ("conv", "linear"):
                assert made is None, layer
                continue
            assert type(made).__name__ == f"{cell.weight.method.title()}Weight"
            assert made.n_steps == cell.weight.n_steps
            given = cell.weight.arguments
            if cell.weight.method == "SAT":
                assert made.grid == given.get("grid", "default")
                assert made.scaling == given.get("scaling", False)
                clamp_only = bool(given.get("clamp_only") and not clamped)
                assert made.describe().get("clamp_only", False) is clamp_only
        if cell.activation is not None:
            made = modules[cell.site]
            assert type(made).__name__ == f"{cell.activation.method.title()}Activation"
            assert made.n_steps == cell.activation.n_steps
            assert made.dead_zeros == cell.activation.arguments.get("dead_zeros", False)
            assert made.given == cell.activation.arguments.get("alpha", made.given)
    sites = {cell.site for cell in network.cells.values() if cell.site}
    quantizers = {n for n, m in modules.items() if type(m).__name__.endswith("tActivation")}
    assert quantizers == sites


def test_qatlab_trains_each_parameter_as_n2d2_does(of_file: tuple[Network, Node]) -> None:
    network, content = of_file
    model = network_of(content)
    own = {name: node for cell in network.cells.values() for name, node in cell.solvers.items()}
    assert own.keys() == {name for name, _ in model.named_parameters()}
    groups = content["solver"]["groups"]
    solver = ParameterSolver(instantiate(groups, _convert_="all"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    epochs = sum(content["schedule"].values())
    for group in solver.build(model).param_groups:
        for parameter in group["params"]:
            node = own[names[id(parameter)]]
            expected = ParameterGroup.of("x", instantiate({"parameters": "*", **node}))
            for key, value in expected.for_optimizer().items():
                assert group[key] == value
            for epoch in (0.0, 0.3 * epochs, 0.999 * epochs):
                factor = expected.lr_policy(epoch, epochs)
                assert solver.lr_factor(epoch, epochs, group["name"]) == pytest.approx(
                    factor, abs=0.003
                )


def test_the_same_groups_serve_the_float_network(of_file: tuple[Network, Node]) -> None:
    _, content = of_file
    with torch.device("meta"):
        model = LayerGraph(**content["model"])
    solver = ParameterSolver(instantiate(content["solver"]["groups"], _convert_="all"))
    trained = [p for group in solver.build(model).param_groups for p in group["params"]]
    assert len(trained) == len(list(model.parameters()))


def test_any_keys_can_be_given_on_the_command_line(of_file: tuple[Network, Node]) -> None:
    _, content = of_file
    for part in ("weight", "activation"):
        node: Any = content.get("quant", {}).get(part)
        if node:
            assert {"bits", "n_steps"} <= node.keys()  # so that a sweep needs no +
