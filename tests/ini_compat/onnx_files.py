"""Small ONNX files, and what the importer and the layer graph make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ini_compat.build import understand
from ini_compat.network import Network

INI = """
DefaultModel=Frame_CUDA
[database]
Type=CIFAR10_Database
[sp]
SizeX={width}
SizeY={height}
NbChannels={channels}
BatchSize=32
[onnx]
Input=sp
Type=ONNX
File=model.onnx
"""


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    shape: Sequence[int | str] = ("N", 3, 8, 8),
    opset: int = 17,
    output: str | None = None,
) -> onnx.ModelProto:
    """Return a network that reads ``x`` and ends in its last node."""
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    name = output or nodes[-1].output[0]
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node; ``inputs`` and ``output`` are names with spaces between; ``-`` is none."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(operator, names, output.split(), **attributes)


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


TAIL = """
[tail]
Input={output}
Type=Fc
NbOutputs=10
[tail.Target]
"""


def read(
    folder: Path,
    model: onnx.ModelProto | bytes,
    more: str = "",
    shape: tuple[int, int, int] = (3, 8, 8),
) -> Network:
    """Import a network.

    Args:
        folder: for the files.
        model: the ONNX file.
        more: follows the section [onnx] of the .ini; without a target, a cell ``tail`` gets one.
        shape: of the images.
    """
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    channels, height, width = shape
    text = INI.format(channels=channels, height=height, width=width) + more
    if ".Target" not in more:
        text += TAIL.format(output="y" if isinstance(model, bytes) else model.graph.output[0].name)
    (folder / "model.ini").write_text(text)
    return understand(str(folder / "model.ini"), onnx=str(folder / "model.onnx"))


def problems(network: Network) -> str:
    """Return all that is wrong with a network, and make sure that something is."""
    assert network.problems
    return "\n".join(str(problem) for problem in network.problems)


def losses(network: Network) -> dict[str, str]:
    """Return what was lost by key."""
    return {item.key: item.reason for item in network.deviations}


def layers(network: Network) -> dict[str, Any]:
    """Return all layers in their order, without those of ``tail``."""
    assert not network.problems, problems(network)
    cells = [cell for name, cell in network.cells.items() if name != "tail"]
    return {name: layer for cell in cells for name, layer in cell.layers.items()}


def rebuilt(network: Network, output: str) -> torch.nn.Module:
    """Return the layer graph of an import, with the file's weights, in evaluation."""
    from qatlab.models import LayerGraph

    made = layers(network)
    model = LayerGraph(network.data.shape, made, [network.cells[output].output])
    state = {name: torch.tensor(array) for name, array in network.weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval()


def compute(network: Network, output: str, images: Tensor) -> Tensor:
    """Return the rebuilt network's output, flat."""
    with torch.no_grad():
        result: Tensor = rebuilt(network, output)(images)
    return result.flatten(1)
