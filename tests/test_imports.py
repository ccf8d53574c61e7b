"""Who may import whom: read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("qatlab", "ini_compat")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# The ground that everything may stand on; what prints is for those who speak with a user.
FOR_ALL = {"qatlab.errors", "qatlab.system.files", "qatlab.system.native"}
# What each room may import beside the standard library, itself and FOR_ALL.
ROOMS = {
    "qatlab.errors": set(),
    "qatlab.system": {"yaml", "rich"},
    "qatlab.quant": {"torch", "triton", "typing_extensions", "rich"},
    "qatlab.models": {"qatlab.quant.tracing", "torch", "timm"},
    "qatlab.data": {"qatlab.system.terminal", "torch", "torchvision", "numpy", "PIL"},
    # numpy for the state of its generator, rich for the progress bar
    "qatlab.training": {
        *("qatlab.quant", "qatlab.system.terminal"),
        *("torch", "pytorch_lightning", "torchmetrics"),
        *("numpy", "rich"),
    },
    "qatlab.deploy.integer": {"qatlab.quant", "torch", "numpy"},
    "qatlab.deploy.c": {"qatlab.deploy.integer", "numpy"},
    "qatlab.deploy.targets": {"numpy"},
    # A network with its data, an integer network, a file. Nothing here knows runs.
    "qatlab.deploy": {
        *("qatlab.data", "qatlab.quant", "qatlab.results.record"),
        *("torch", "numpy", "onnx", "onnxruntime", "openvino", "qonnx", "hls4ml"),
    },
    # Networks and their costs; nothing here knows runs or configurations.
    "qatlab.mixed_precision": {"qatlab.deploy", "qatlab.quant", "torch", "numpy", "scipy", "yaml"},
    "qatlab.results": {"numpy", "matplotlib"},
    "qatlab.config": {"qatlab.results", "qatlab.system.terminal", "hydra", "omegaconf", "filelock"},
    "qatlab.sweep": {
        *("qatlab.config", "qatlab.results.record", "qatlab.results.state"),
        "qatlab.system.terminal",
        *("hydra", "hydra_plugins", "omegaconf", "filelock", "optuna", "rich"),
    },
    "qatlab.run": {
        *("qatlab.config", "qatlab.data", "qatlab.deploy", "qatlab.quant", "qatlab.results"),
        "qatlab.mixed_precision",
        *(
            "qatlab.sweep",
            "qatlab.system.progress",
            "qatlab.system.terminal",
            "qatlab.training",
            "torch",
            "pytorch_lightning",
        ),
        *("safetensors", "filelock", "numpy", "hydra", "omegaconf", "rich", "yaml", "optuna"),
    },
    # It reads files only, so that it starts in a moment.
    "qatlab.report": {"qatlab.results", "plotly", "matplotlib", "numpy", "pandas"},
    "qatlab.cli": {*("qatlab", "hydra", "omegaconf", "torch", "rich", "yaml"), *("numpy", "PIL")},
    # Its contract with qatlab is files: YAML and safetensors. So it starts in a moment.
    "ini_compat": {"numpy", "safetensors", "onnx", "google.protobuf"},
}
NUMERIC = {"ini_compat.weights", "ini_compat.parameter_files", "ini_compat.data.statistics"}
# Where configuration is composed and becomes objects; elsewhere there are plain values.
KNOW_HYDRA = (
    *("qatlab.config", "qatlab.sweep", "qatlab.cli"),
    *("qatlab.run.build", "qatlab.run.experiment", "qatlab.run.fit", "qatlab.run.learned_bits"),
    *("qatlab.run.loading", "qatlab.run.mixed", "qatlab.run.plan", "qatlab.run.quantized"),
    *("qatlab.run.search", "qatlab.run.teacher"),
    "qatlab.run.trainer",
)


def imports_of(source: str) -> set[str]:
    """Full names of all modules that a source imports, without the standard library."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            module = str(node.module)
            inside = {f"{module}.{alias.name}" for alias in node.names}
            names |= (inside & MODULES.keys()) or {module}
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


IMPORTS = {name: imports_of(path.read_text()) for name, path in MODULES.items()}


def imports_at_once(source: str) -> set[str]:
    """Names of the modules that are imported with a source, and not by its functions later."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        of_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if of_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    return imports_of(ast.unparse(tree))


def lies_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def knows_hydra(module: str) -> bool:
    return any(lies_in(module, room) for room in KNOW_HYDRA)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = {room, *ROOMS[room], *(() if room == "ini_compat" else FOR_ALL)}
    members = [module for module in MODULES if lies_in(module, room)]
    assert members
    for module in members:
        for name in IMPORTS[module]:
            assert any(lies_in(name, a) for a in allowed), f"{module} imports {name}"


def test_the_mathematics_imports_torch_only() -> None:
    assert IMPORTS["qatlab.quant.functional"] == IMPORTS["qatlab.quant.grid"] == {"torch"}


def test_nothing_imports_the_importer() -> None:
    for module, names in IMPORTS.items():
        if not lies_in(module, "ini_compat"):
            assert not any(lies_in(name, "ini_compat") for name in names), module


def test_only_weights_and_graphs_need_more_than_the_standard_library() -> None:
    for module, names in IMPORTS.items():
        if lies_in(module, "ini_compat"):
            foreign = {name for name in names if not lies_in(name, "ini_compat")}
            of_graphs = lies_in(module, "ini_compat.onnx_graph")
            if not (of_graphs or module in NUMERIC):
                assert not foreign, module


def test_configuration_stops_at_the_experiment() -> None:
    know = {
        module
        for module, names in IMPORTS.items()
        if any(lies_in(name, library) for name in names for library in ("hydra", "omegaconf"))
    }
    assert not {module for module in know if not knows_hydra(module)}


def test_no_room_imports_the_experiment() -> None:
    for module, names in IMPORTS.items():
        if not knows_hydra(module):
            assert not names & {"qatlab.run.experiment", "qatlab.cli", "qatlab.config"}, module


@pytest.mark.parametrize(
    "module",
    ["qatlab.run.experiment", "qatlab.run.plan", "qatlab.cli.export", "qatlab.cli.verify"],
)
def test_what_does_not_train_imports_nothing_that_trains(module: str) -> None:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports_at_once(MODULES[waiting.pop()].read_text()) - found:
            found.add(name)
            parents = [name.rsplit(".", i)[0] for i in range(name.count("."))]
            waiting += [one for one in parents if one in MODULES]
    libraries = {name.partition(".")[0] for name in found}
    assert "torch" in libraries
    assert not libraries & {"pytorch_lightning", "torchmetrics", "torchvision", "matplotlib"}


def test_arrows_never_turn_back() -> None:
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in IMPORTS[module] & MODULES.keys():
                walk(name, (*path, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())
    assert done == MODULES.keys()


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import os.path, torch.nn
from collections import abc
from qatlab.results import record
from qatlab.quant import Phase
def f():
    import hydra
    if True:
        from omegaconf.errors import OmegaConfBaseException
"""
    assert imports_of(source) == {
        *("torch.nn", "qatlab.results.record", "qatlab.quant", "hydra", "omegaconf.errors"),
    }
