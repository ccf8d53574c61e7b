"""ONNX files in onnxruntime against the integer networks that they are made of."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from torch import nn

from qatlab.deploy.integer import IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.readers import READERS, Reader

VARIANTS = {  # changes of all weights
    "lsq by channel": {"per_channel": True},
    "sat ternary": {"bits": None, "n_steps": 2},
    "sat binary": {"bits": 1},
}
ALL, NONE = (
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
)


@cache
def network_of(name: str, method: str, bits: int) -> IntegerNetwork:
    torch.manual_seed(1)
    rules = {"all": {"name": "*", "weight": VARIANTS[method]}} if method in VARIANTS else {}
    model = convert(NETWORKS[name](), method.partition(" ")[0], bits, **rules)
    return lower(model, [PIXEL] * 3, EXAMPLE)


def answer(model: onnx.ModelProto, images: np.ndarray, level: Any, *more: str) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if more:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"image": images}))


WIDTHS = ((2, 25), (4, 21), (8, 13))  # bits, and the opset that goes with them
ONE_WIDTH = {"dorefa": 4, "lsq by channel": 8, "sat ternary": 2, "sat binary": 4}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "bits", "opset"),
    [
        pytest.param(
            *(method, bits, opset),
            marks=() if ONE_WIDTH.get(method, bits) == bits else pytest.mark.slow,
        )
        for method in ("sat", "lsq", "lsq_plus", "dorefa", *VARIANTS)
        for bits, opset in WIDTHS
    ],
)
@pytest.mark.parametrize("level", [NONE, ALL], ids=["as written", "optimised"])
def test_quantized_tensors_hold_what_the_integer_network_computes(
    name: str, method: str, bits: int, opset: int, level: Any
) -> None:
    assert_holds_the_codes(network_of(name, method, bits), opset, level, READERS["onnxruntime"])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["sat", "lsq_plus"])
def test_sites_in_floats_hold_what_the_integer_network_computes(name: str, method: str) -> None:
    assert_holds_the_codes(network_of(name, method, 4), 21, ALL, READERS["openvino"])


def assert_holds_the_codes(network: IntegerNetwork, opset: int, level: Any, reader: Reader) -> None:
    file = QdqWriter(network, opset, reader).write({})
    computed = compute(network, PIXELS)
    images = (PIXELS / 255).numpy()
    names = [f"{part}_codes" for site in computed.codes for part in network.sites[site]]
    outputs, *codes = answer(file, images, level, *names)
    for site, expected in computed.codes.items():
        parts = [codes.pop(0) for _ in network.sites[site]]
        other = torch.from_numpy(np.concatenate(parts, 1).astype(np.float32)) != expected
        position = computed.positions[site]
        from_tie = (position - position.floor() - 0.5).abs()
        if other.any():  # on another processor float32 may round a tie the other way
            assert from_tie[other].max() < 1e-4, site
            assert other.sum() < 4
            return  # what follows has other inputs
    np.testing.assert_allclose(outputs, computed.outputs.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "bits", "rescale", "opset"),
    [
        *(("sat binary", 4, "fixed32", 25), ("sat ternary", 4, "fixed32", 21)),
        *(("sat", 4, "float", 21), ("sat", 8, "fixed16", 13), ("sat", 8, "float", 21)),
        *(("lsq", 4, "fixed32", 21), ("lsq by channel", 8, "fixed32", 13)),
        *(("sat", 4, "sums24", 13), ("lsq", 8, "sums24", 21), ("lsq_plus", 4, "sums24", 21)),
        *(("lsq_plus", 4, "double_shift", 21), ("lsq_plus", 8, "float", 21)),
    ],
)
@pytest.mark.parametrize("level", [NONE, ALL], ids=["as written", "optimised"])
def test_files_of_whole_numbers_compute_the_same_to_the_last_bit(
    name: str, method: str, bits: int, rescale: str, opset: int, level: Any
) -> None:
    exact = network_of(name, method, bits)
    network = with_rescale(exact, rescale)
    file = IntegerWriter(network, opset).write({})
    computed = compute(network, PIXELS)
    images = PIXELS.to(torch.uint8).numpy()
    outputs, *codes = answer(file, images, level, *computed.codes)
    for (site, expected), found in zip(computed.codes.items(), codes, strict=True):
        assert np.array_equal(found, expected.numpy()), site
    assert np.array_equal(outputs, computed.outputs.numpy())


@pytest.mark.parametrize(
    ("weight", "opset"), [({"bits": 8}, 21), ({"bits": 8}, 13), ({"bits": 2}, 25)]
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Identity])
def test_a_layer_without_bias_is_no_layer_of_8_bits_to_onnxruntime(
    weight: dict[str, int], opset: int, activation: type[nn.Module], tmp_path: Path
) -> None:
    # Its sums of products overflow 16 bits on some processors, and it takes no weights of 2 bits.
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), activation())
    narrow = {"name": "*", "weight": weight}
    model = convert(nn.Sequential(*layers, nn.Conv2d(5, 2, 1)), "lsq", 8, narrow=narrow)
    file = QdqWriter(lower(model, [PIXEL] * 3, EXAMPLE), opset).write({})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file.SerializeToString(), options)
    kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert not {kind for kind in kinds if kind.startswith(("QLinear", "QGemm"))}
    assert kinds & {"Conv", "FusedConv"}
