"""How whole numbers are stored in ONNX, and what is told where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import EXAMPLE, NETWORKS, PIXEL, convert
from onnx import TensorProto, numpy_helper
from torch import nn

from qatlab.deploy.integer import lower
from qatlab.deploy.onnx.graph import NARROW, Graph, container, runtime
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.readers import READERS
from qatlab.deploy.onnx.stored import lowest_opset, stored
from qatlab.errors import ConfigError

ODD_4 = np.arange(-15, 16, 2)
ODD_8 = np.arange(-255, 256, 2)


@pytest.mark.parametrize(
    ("codes", "opset", "kind", "gap"),
    [
        (ODD_4, 21, TensorProto.INT4, 2),
        (ODD_4, 13, TensorProto.INT8, 1),  # no narrower type, so as they are
        (ODD_8, 13, TensorProto.INT8, 2),
        (np.arange(-8, 8), 21, TensorProto.INT4, 1),
        (np.arange(-8, 8), 20, TensorProto.INT8, 1),
        (np.array([-1, 1]), 25, TensorProto.INT2, 1),
        (np.array([-1, 1]), 21, TensorProto.INT4, 1),
        (np.array([-3, -1, 1, 3]), 25, TensorProto.INT2, 2),
        (np.array([-2, 0, 2]), 25, TensorProto.INT2, 2),  # ternary, of SAT
        (np.array([5, 5]), 21, TensorProto.INT4, 1),
        (np.arange(-300, 301), 21, TensorProto.INT16, 1),
    ],
)
def test_codes_are_stored_in_the_narrowest_type(
    codes: np.ndarray, opset: int, kind: int, gap: int
) -> None:
    found = stored(codes, opset, "conv")
    assert (found.kind, found.gap) == (kind, gap)
    assert np.array_equal(found.gap * found.numbers + found.base, codes)


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=40),
    st.sampled_from([(1, 0), (2, 0), (2, 1)]),
    st.sampled_from([13, 21, 25]),
)
def test_any_codes_come_back(numbers: list[int], grid: tuple[int, int], opset: int) -> None:
    codes = grid[0] * np.array(numbers, dtype=np.int64) + grid[1]
    found = stored(codes, opset, "conv")
    assert np.array_equal(found.gap * found.numbers + found.base, codes)
    _, low, high = NARROW[found.kind]
    assert low <= found.numbers.min() <= found.numbers.max() <= high


@given(st.data())
def test_narrow_constants_are_packed_as_onnx_unpacks_them(data: Any) -> None:
    kind = data.draw(st.sampled_from(list(NARROW)))
    _, low, high = NARROW[kind]
    numbers = np.array(data.draw(st.lists(st.integers(low, high), min_size=1, max_size=30)))
    graph = Graph(25, [])
    graph.constant(numbers, "x", kind)
    (tensor,) = graph._constants.values()
    assert numpy_helper.to_array(tensor).astype(int).tolist() == numbers.tolist()
    bits = (high - low).bit_length()
    assert len(tensor.raw_data) == (len(numbers) * bits + 7) // 8


def test_containers_have_the_sign_and_the_width_that_is_needed() -> None:
    assert container(0, 15, 21) == TensorProto.UINT4
    assert container(0, 15, 21, of_bytes=True) == TensorProto.UINT8
    assert container(-8, 7, 20) == TensorProto.INT8
    assert container(0, 256, 20) is None
    assert container(0, 256, 21) == TensorProto.UINT16
    assert container(0, 1 << 16, 25) is None


@pytest.mark.parametrize(
    ("writer", "opset", "rule", "words"),
    [
        (QdqWriter, 20, {"weight": {"bits": 10}}, "4: weights of 10 bits need --opset 21 or hi"),
        (
            QdqWriter,
            20,
            {"activation": {"bits": 10}},
            "2: activations of 10 bits need --opset 21 or higher; opset 20 has integers of 8",
        ),
        (
            IntegerWriter,
            21,
            {"weight": {"bits": 10}},
            "4: weights of 10 bits are more than the 8",
        ),
        (IntegerWriter, 21, {"activation": {"bits": 10}}, "2: activations of 10 bits are more th"),
    ],
)
def test_what_an_opset_cannot_hold_is_reported(
    writer: Any, opset: int, rule: dict[str, Any], words: str
) -> None:
    torch.manual_seed(0)
    name = "4" if "weight" in rule else "2"
    model = convert(NETWORKS["chain"](), "sat", 4, one={"name": name, **rule})
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    with pytest.raises(ConfigError, match=words):
        writer(network, opset).write({})


def test_sixteen_bits_are_written_from_opset_21_on() -> None:
    torch.manual_seed(0)
    rules = {
        "a": {"name": "4", "weight": {"bits": 10}},
        "b": {"name": "2", "activation": {"bits": 10}},
    }
    network = lower(convert(NETWORKS["chain"](), "sat", 4, **rules), [PIXEL] * 3, EXAMPLE)
    graph = QdqWriter(network, 21).write({}).graph
    types = {tensor.data_type for tensor in graph.initializer}
    assert {TensorProto.INT16, TensorProto.UINT16, TensorProto.INT4} <= types


@pytest.mark.parametrize(
    ("bits", "rules", "opset"),
    [
        (8, {}, 13),
        (4, {}, 21),
        (3, {}, 21),  # there are no constants of 3 bits
        (2, {}, 25),
        (8, {"one": {"index": 1, "weight": {"bits": 2}}}, 25),
        (8, {"all": {"name": "*", "activation": {"bits": 9}}}, 21),  # codes of 16 bits
    ],
)
def test_the_lowest_opset_stores_weights_at_their_width(
    bits: int, rules: dict[str, Any], opset: int
) -> None:
    network = lower(convert(NETWORKS["chain"](), "sat", bits, **rules), [PIXEL] * 3, EXAMPLE)
    assert lowest_opset(network, "qdq", READERS["onnxruntime"]) == opset
    assert lowest_opset(network, "qonnx", READERS["qonnx"]) == 13
    assert lowest_opset(network, "qdq", READERS["tvm"]) == min(opset, 19)

    def size(opset: int) -> int:
        return sum(len(t.raw_data) for t in QdqWriter(network, opset).write({}).graph.initializer)

    assert size(opset) == size(25)


def test_circular_padding_needs_its_opset_in_files_of_floats_too() -> None:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    padded = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    network = lower(convert(nn.Sequential(*layers, padded), "sat", 8), [PIXEL] * 3, EXAMPLE)
    for kind, reader in (("qdq", "onnxruntime"), ("qonnx", "qonnx")):
        assert lowest_opset(network, kind, READERS[reader]) == 19


@pytest.mark.parametrize(
    ("opset", "words"),
    [
        (13, "IR version 8, opset 13: onnxruntime 1.10 or later"),
        (21, "IR version 10, opset 21: onnxruntime 1.19 or later"),  # 1.18 has no INT4
        (25, "IR version 13, opset 25: onnxruntime 1.24 or later"),
    ],
)
def test_the_first_onnxruntime_that_reads_a_file_is_reported(opset: int, words: str) -> None:
    assert runtime(opset) == words
