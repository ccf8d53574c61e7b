"""What each reader of a file is given."""

from __future__ import annotations

import numpy as np
import pytest

from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Convolve
from qatlab.deploy.onnx.readers import READERS, check_layers, check_rescale, chosen, unfit
from qatlab.errors import ConfigError


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None, None), ("onnxruntime", "qdq")),
        ((None, "integer", 13), ("onnxruntime", "integer")),
        ((None, "qonnx", None), ("qonnx", "qonnx")),
        (("hls4ml", None, None), ("hls4ml", "qonnx")),
        (("finn", "qonnx", 13), ("finn", "qonnx")),
        (("openvino", None, None), ("openvino", "integer")),
        (("openvino", "qdq", 21), ("openvino", "qdq")),
    ],
)
def test_a_reader_has_a_format_and_a_format_a_reader(
    asked: tuple[str | None, str | None, int | None], expected: tuple[str, str]
) -> None:
    assert chosen(*asked) == expected


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("hls5ml", None, None), "--for=hls5ml is wrong. Did you mean 'hls4ml'. Accepted: onnxr"),
        (("hls4ml", "qdq", None), "--format=qdq is wrong.* Accepted: qonnx. hls4ml reads no other"),
        (("tvm", None, 21), "--opset=21 is wrong. Accepted: 13 to 19. tvm reads no other."),
        ((None, "qdq", 12), "--opset=12 is wrong. Accepted: 13 to 25.$"),
    ],
)
def test_what_a_reader_does_not_take_is_reported(
    asked: tuple[str | None, str | None, int | None], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen(*asked)


def test_each_format_has_a_reader_that_was_run() -> None:
    for kind in ("qdq", "integer"):
        assert READERS[chosen(None, kind, None)[0]].tried


def test_a_rescale_that_a_reader_computes_wrongly_is_refused() -> None:
    check_rescale(READERS["openvino"], "sums24")
    check_rescale(READERS["onnxruntime"], "fixed16")
    reason = "Accepted: sums24. openvino computes sums of 64 bits in 32."
    with pytest.raises(ConfigError, match=f"--rescale=fixed32 is wrong.* {reason}"):
        check_rescale(READERS["openvino"], "fixed32")


@pytest.mark.parametrize(
    ("facts", "readers"),
    [
        ({"format": "qdq", "reader": "onnxruntime"}, {"openvino"}),
        ({"format": "qdq", "reader": "openvino"}, set()),
        ({"format": "integer", "reader": "onnxruntime", "rescale": "fixed32"}, {"openvino"}),
        ({"format": "integer", "reader": "onnxruntime", "rescale": "sums24"}, set()),
        ({"format": "qonnx", "reader": "finn"}, set()),
    ],
)
def test_readers_that_would_compute_another_network_are_named(
    facts: dict[str, str], readers: set[str]
) -> None:
    assert unfit(facts).keys() == readers


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "refused"),
    [(1, 2, 1, True), (1, 2, 0, False), (1, 1, 1, False), (3, 2, 1, False)],
)
def test_strides_that_openvino_moves_are_refused_for_it_only(
    kernel: int, stride: int, padding: int, refused: bool
) -> None:
    weight = np.ones((2, 3, kernel, kernel), np.int64)
    sides = ((padding, padding), (padding, padding))
    layer = Convolve("conv1", ("image",), weight, (stride, stride), sides, (1, 1), 1, 100)
    network = IntegerNetwork([layer])
    check_layers(READERS["onnxruntime"], network)
    if refused:
        with pytest.raises(ConfigError, match="conv1: openvino computes a map of another size"):
            check_layers(READERS["openvino"], network)
    else:
        check_layers(READERS["openvino"], network)
