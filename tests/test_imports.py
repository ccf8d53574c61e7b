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
FOR_ALL = {
    "qatlab.errors",
    "qatlab.arguments",
    "qatlab.files",
    "qatlab.native",
}  # import nothing but each other
# What each room may import beside the standard library, itself and FOR_ALL.
ROOMS = {
    "qatlab.errors": set(),
    "qatlab.arguments": set(),
    "qatlab.files": {"yaml"},
    "qatlab.native": set(),
    "qatlab.tracing": {"torch"},
    "qatlab.quant": {"qatlab.tracing", "torch", "triton"},
    "qatlab.integer": {"qatlab.quant", "torch", "numpy"},
    # A network, an integer network, a file. Runs are loaded by qatlab.loading.
    "qatlab.export": {
        *("qatlab.integer", "qatlab.loading", "qatlab.messages", "qatlab.pixels", "qatlab.record"),
        *("qatlab.quant", "qatlab.terminal", "torch", "numpy", "onnx", "rich"),
    },
    "qatlab.verify": {
        *("qatlab.integer", "qatlab.loading", "qatlab.messages", "qatlab.pixels", "qatlab.record"),
        *("qatlab.build", "qatlab.data", "qatlab.export", "qatlab.quant", "qatlab.terminal"),
        *("torch", "numpy", "onnx", "onnxruntime", "rich"),
    },
    "qatlab.models": {"qatlab.tracing", "torch", "torchvision", "timm"},
    "qatlab.data": {"torch", "torchvision", "pytorch_lightning", "numpy", "PIL"},
    # numpy for the state of its generator, rich for the progress bar
    "qatlab.training": {
        *("qatlab.quant", "torch", "pytorch_lightning", "torchmetrics"),
        *("numpy", "rich"),
    },
    # It reads files only, so that it starts in a moment.
    "qatlab.report": {
        *("qatlab.record", "qatlab.figures"),
        *("plotly", "matplotlib", "numpy", "yaml"),
    },
    # Its contract with qatlab is files: YAML and safetensors. So it starts in a moment.
    "ini_compat": {"numpy", "safetensors", "onnx", "google.protobuf"},
}
NUMERIC = {"ini_compat.weights", "ini_compat.parameter_files", "ini_compat.data.statistics"}
# Where configuration is composed and becomes objects; elsewhere there are plain values.
KNOW_HYDRA = {
    *("qatlab.config", "qatlab.cli", "qatlab.build", "qatlab.experiment", "qatlab.folders"),
    *("qatlab.sweep", "qatlab.search", "qatlab.launchers", "qatlab.loading"),
    *("qatlab.messages", "qatlab.targets"),
}


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


def lies_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


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
    assert know <= KNOW_HYDRA


def test_no_room_imports_the_experiment() -> None:
    for module, names in IMPORTS.items():
        if module not in KNOW_HYDRA:
            assert not names & {"qatlab.experiment", "qatlab.cli", "qatlab.config"}, module


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
from qatlab import record
from qatlab.quant import Phase
def f():
    import hydra
    if True:
        from omegaconf.errors import OmegaConfBaseException
"""
    assert imports_of(source) == {
        *("torch.nn", "qatlab.record", "qatlab.quant", "hydra", "omegaconf.errors"),
    }
