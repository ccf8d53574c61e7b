"""Each operator against onnx's own reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import shape_inference
from onnx.reference import ReferenceEvaluator
from onnx_files import compute, floats, graph, layers, node, problems, read
from torch import Tensor
from torch.nn import functional as F

VARIANCE = np.array([0.5, 1.5, 2.0], np.float32)


def sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes that onnx infers, without the number of images."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.value_info, *inferred.output]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in values}


def check(folder: Path, model: onnx.ModelProto, more: str = "", images: int = 2) -> Any:
    """Compare outputs and shapes; return the network."""
    given = model.graph.input[0].type.tensor_type.shape.dim
    shape = tuple(d.dim_value for d in given)[1:]
    shape = shape if len(shape) == 3 else (shape[0], 1, 1)
    network = read(folder, model, more, shape)
    output = model.graph.output[0].name
    generator = np.random.default_rng(1)
    x = generator.normal(size=(images, *shape)).astype(np.float32)
    made = compute(network, output, torch.tensor(x))
    fed = x.reshape(images, -1) if len(given) == 2 else x
    wanted = ReferenceEvaluator(model).run(None, {"x": fed})[0]
    torch.testing.assert_close(made, torch.tensor(wanted).flatten(1), rtol=1e-4, atol=1e-4)
    inferred = sizes(model)
    for name, cell in network.cells.items():
        if len(inferred.get(name, ())) == 3 and all(inferred[name]):
            assert list(cell.shape or ()) == inferred[name], name
    return network


def conv(**attributes: Any) -> list[onnx.NodeProto]:
    return [node("Conv", "x w b", "y", **attributes)]


W = {"w": floats(4, 3, 3, 3), "b": floats(4)}

CONVOLUTIONS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "plain": (conv(), W),
    "kernel_said": (conv(kernel_shape=[3, 3]), W),
    "no_bias": ([node("Conv", "x w", "y")], {"w": W["w"]}),
    "bias_left_out": ([node("Conv", "x w -", "y")], {"w": W["w"]}),
    "padding": (conv(pads=[1, 2, 1, 2]), W),
    "one_sided": (conv(pads=[0, 1, 2, 0]), W),
    "strides": (conv(strides=[2, 3], pads=[1, 1, 1, 1]), W),
    "dilations": (conv(dilations=[2, 1], pads=[2, 1, 2, 1]), W),
    "same_upper": (conv(auto_pad="SAME_UPPER", strides=[3, 2]), W),
    "same_lower": (conv(auto_pad="SAME_LOWER", strides=[2, 2]), W),
    "valid": (conv(auto_pad="VALID"), W),
    "not_square": (conv(), {"w": floats(4, 3, 5, 1), "b": floats(4)}),
    "depthwise": (conv(group=3), {"w": floats(3, 1, 3, 3), "b": floats(3)}),
    "depthwise_twice": (conv(group=3), {"w": floats(6, 1, 3, 3), "b": floats(6)}),
    "bias_added_later": (
        [node("Conv", "x w", "c"), node("Add", "c b", "y")],
        {"w": W["w"], "b": floats(1, 4, 1, 1)},
    ),
    "deconv": ([node("ConvTranspose", "x w b", "y")], {"w": floats(3, 4, 3, 3), "b": floats(4)}),
    "deconv_strides": (
        [node("ConvTranspose", "x w", "y", strides=[2, 3], dilations=[2, 1], pads=[1, 0, 1, 0])],
        {"w": floats(3, 2, 4, 3)},
    ),
    "deconv_output_padding": (
        [node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])],
        {"w": floats(3, 2, 3, 3)},
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(tmp_path: Path, name: str) -> None:
    nodes, constants = CONVOLUTIONS[name]
    network = check(tmp_path, graph(nodes, constants, (1, 3, 9, 8)))
    assert len(layers(network)) == 1  # padding and cropping are part of it


def test_weights_in_groups_of_many_channels(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k", "c"), node("Conv", "c w b", "y", group=2)]
    constants = {"k": floats(4, 3, 1, 1), "w": floats(6, 2, 3, 3), "b": floats(6)}
    network = check(tmp_path, graph(nodes, constants, (1, 3, 6, 6)))
    assert layers(network)["y"]["groups"] == 2


POOLS: dict[str, list[onnx.NodeProto]] = {
    "max": [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2])],
    "max_same": [
        node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    ],
    "max_ceil": [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
    "average": [node("AveragePool", "x", "y", kernel_shape=[3, 2], strides=[2, 1])],
    "average_padding": [
        node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    ],
    "average_one_sided": [
        node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 0, 0, 2], count_include_pad=1)
    ],
    "average_ceil_without_need": [
        node("AveragePool", "x", "y", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1)
    ],
    "global_average": [node("GlobalAveragePool", "x", "y")],
    "global_max": [node("GlobalMaxPool", "x", "y")],
    "mean": [node("ReduceMean", "x", "y", axes=[2, 3])],
    "mean_from_the_end": [node("ReduceMean", "x", "y", axes=[-1, -2], keepdims=0)],
    "largest": [node("ReduceMax", "x", "y", axes=[3, 2])],
}


@pytest.mark.parametrize("name", POOLS)
def test_poolings(tmp_path: Path, name: str) -> None:
    shape = (1, 3, 9, 8)
    check(tmp_path, graph(POOLS[name], None, shape))


def pooled(folder: Path, x: Tensor, **attributes: Any) -> Tensor:
    model = graph([node("MaxPool", "x", "y", **attributes)], None, (1, *x.shape[1:]))
    network = read(folder, model, "", tuple(x.shape[1:]))
    shape = network.cells["y"].shape
    assert shape is not None
    return compute(network, "y", x).unflatten(1, shape)


def test_maxima_beside_padding(tmp_path: Path) -> None:
    # onnx's reference does not compute these; padding never wins
    x = -1 - torch.rand(2, 3, 9, 8)
    least = {"value": float("-inf")}
    made = pooled(tmp_path, x, kernel_shape=[3, 2], pads=[1, 0, 1, 0])
    assert torch.equal(made, F.max_pool2d(F.pad(x, (0, 0, 1, 1), **least), (3, 2), 1))
    made = pooled(tmp_path, x, kernel_shape=[3, 3], pads=[0, 1, 2, 0])
    assert torch.equal(made, F.max_pool2d(F.pad(x, (1, 0, 0, 2), **least), 3, 1))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((13, 14), 3, 2, 1), ((9, 8), 2, 3, 0), ((13, 13), 1, 6, 0), ((10, 11), 3, 4, 1)],
)
def test_ceil_mode_as_torch_has_it(
    tmp_path: Path, size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    x = torch.randn(2, 3, *size)
    made = pooled(
        *(tmp_path, x),
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=[padding] * 4,
        ceil_mode=1,
    )
    assert torch.equal(made, F.max_pool2d(x, kernel, stride, padding, ceil_mode=True))


def test_deconvolution_in_groups(tmp_path: Path) -> None:
    # onnx's reference knows no groups here
    weights = floats(3, 2, 3, 3)
    deconv = node("ConvTranspose", "x w", "y", group=3, strides=[2, 2], pads=[0, 1, 2, 0])
    network = read(tmp_path, graph([deconv], {"w": weights}))
    x = torch.randn(2, 3, 8, 8)
    wanted = F.conv_transpose2d(x, torch.tensor(weights), stride=2, groups=3)[:, :, :-2, 1:]
    torch.testing.assert_close(compute(network, "y", x), wanted.flatten(1))


def test_softmax_of_images_in_old_opsets(tmp_path: Path) -> None:
    # Up to opset 12 it takes all behind the axis, by default 1, together; since then one axis.
    nodes = [node("GlobalAveragePool", "x", "p"), node("Softmax", "p", "y")]
    x = torch.randn(2, 3, 8, 8)
    made = compute(read(tmp_path, graph(nodes, opset=12)), "y", x)
    torch.testing.assert_close(made, x.mean((2, 3)).softmax(1))
    assert "the channels" in problems(read(tmp_path, graph(nodes, opset=13)))
    whole = [node("Softmax", "x", "y", axis=1)]
    assert "the channels" in problems(read(tmp_path, graph(whole, opset=12)))


def test_negative_padding_cuts_off(tmp_path: Path) -> None:
    pad = node("Pad", "x p v", "y")
    constants = {"p": np.array([0, 0, 1, 0, 0, 0, 0, -1]), "v": np.float32(0)}
    x = torch.randn(2, 3, 8, 8)
    made = compute(read(tmp_path, graph([pad], constants)), "y", x)
    assert torch.equal(made, F.pad(x, (0, -1, 1, 0)).flatten(1))


def vectors(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes behind a convolution of 3 channels that makes ``c``, 3 x 2 x 4."""
    return [node("Conv", "x k", "c"), *nodes]


K = {"k": floats(3, 3, 7, 5)}
BEHIND: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "flatten": (vectors(node("Flatten", "c", "y")), {}, 17),
    "flatten_from_the_end": (vectors(node("Flatten", "c", "y", axis=-3)), {}, 17),
    "reshape": (vectors(node("Reshape", "c s", "y")), {"s": np.array([0, -1])}, 17),
    "reshape_for_one_image": (
        vectors(node("Reshape", "c s", "y")),
        {"s": np.array([1, -1])},
        17,
    ),
    "reshape_known": (vectors(node("Reshape", "c s", "y")), {"s": np.array([-1, 24])}, 17),
    "reshape_image": (vectors(node("Reshape", "c s", "y")), {"s": np.array([0, 2, 6, 2])}, 17),
    "squeeze": (
        vectors(node("GlobalAveragePool", "c", "p"), node("Squeeze", "p a", "y")),
        {"a": np.array([2, 3])},
        17,
    ),
    "squeeze_attribute": (
        vectors(node("GlobalAveragePool", "c", "p"), node("Squeeze", "p", "y", axes=[-1, -2])),
        {},
        11,
    ),
    "unsqueeze": (
        vectors(node("Flatten", "c", "f"), node("Unsqueeze", "f a", "u"), node("Relu", "u", "y")),
        {"a": np.array([2, 3])},
        17,
    ),
    "gemm": (
        vectors(node("Flatten", "c", "f"), node("Gemm", "f w b", "y", alpha=0.5, beta=2.0)),
        {"w": floats(24, 5), "b": floats(5)},
        17,
    ),
    "gemm_one_bias": (
        vectors(node("Flatten", "c", "f"), node("Gemm", "f w b", "y", transB=1)),
        {"w": floats(5, 24), "b": floats(1)},
        17,
    ),
    "matmul": (
        vectors(node("Flatten", "c", "f"), node("MatMul", "f w", "y")),
        {"w": floats(24, 5)},
        17,
    ),
    "matmul_of_transposed": (
        vectors(
            node("Flatten", "c", "f"),
            node("Transpose", "w", "t", perm=[1, 0]),
            node("MatMul", "f t", "m"),
            node("Add", "b m", "y"),
        ),
        {"w": floats(5, 24), "b": floats(5)},
        17,
    ),
    "vectors_in_norm": (
        vectors(node("Flatten", "c", "f"), node("BatchNormalization", "f s o m v", "y")),
        {"s": floats(24), "o": floats(24), "m": floats(24), "v": floats(24) ** 2 + 1},
        17,
    ),
    "vectors_in_concat": (
        vectors(
            node("Flatten", "c", "f"),
            node("Flatten", "x", "g"),
            node("Concat", "g f", "y", axis=-1),
        ),
        {},
        17,
    ),
    "vectors_in_sum": (
        vectors(node("Flatten", "c", "f"), node("Relu", "f", "g"), node("Add", "g f", "y")),
        {},
        17,
    ),
    "concat": (vectors(node("Relu", "c", "r"), node("Concat", "r c r", "y", axis=1)), {}, 17),
    "transpose": (vectors(node("Transpose", "c", "y", perm=[0, 3, 1, 2])), {}, 17),
    "transpose_of_nothing": (
        vectors(
            node("GlobalAveragePool", "c", "p"),
            node("Transpose", "p", "t", perm=[0, 2, 3, 1]),
            node("Relu", "t", "y"),
        ),
        {},
        17,
    ),
    "shape_subgraph": (
        vectors(
            node("Shape", "c", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n zeros", "n1"),
            node("Concat", "n1 minus", "to", axis=0),
            node("Reshape", "c to", "y"),
        ),
        {"zero": np.array(0), "zeros": np.array([0]), "minus": np.array([-1])},
        17,
    ),
    "shape_computed": (
        vectors(
            node("Shape", "c", "s"),
            node("Slice", "s one four", "chw"),
            node("Gather", "chw zero", "c0", axis=0),
            node("Gather", "chw one", "h0", axis=0),
            node("Mul", "c0 h0", "ch"),
            node("Concat", "minus ch rest", "to", axis=0),
            node("Reshape", "c to", "r"),
            node("Flatten", "r", "y"),
        ),
        {
            **{"one": np.array([1]), "four": np.array([4]), "zero": np.array([0])},
            **{"minus": np.array([-1]), "rest": np.array([2, 2])},
        },
        17,
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_shapes_and_vectors(tmp_path: Path, name: str) -> None:
    nodes, constants, opset = BEHIND[name]
    check(tmp_path, graph(nodes, K | constants, (1, 3, 8, 8), opset), images=1)


def test_flattening_alone_makes_no_layer(tmp_path: Path) -> None:
    nodes, constants, opset = BEHIND["gemm"]
    made = layers(read(tmp_path, graph(nodes, K | constants, (1, 3, 8, 8), opset)))
    assert [layer["type"] for layer in made.values()] == ["conv", "linear"]
    assert made["y"]["input"] == "c"


POINTWISE: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "relu": ([node("Relu", "x", "y")], {}, 17),
    "leaky_relu": ([node("LeakyRelu", "x", "y", alpha=0.2)], {}, 17),
    "leaky_relu_default": ([node("LeakyRelu", "x", "y")], {}, 17),
    "sigmoid": ([node("Sigmoid", "x", "y")], {}, 17),
    "tanh": ([node("Tanh", "x", "y")], {}, 17),
    "softplus": ([node("Softplus", "x", "y")], {}, 17),
    "clip": (
        [node("Clip", "x low high", "y")],
        {"low": np.float32(0), "high": np.float32(0.5)},
        17,
    ),
    "clip_below": ([node("Clip", "x low -", "y")], {"low": np.float32(0)}, 17),
    "clip_both": (
        [node("Clip", "x low high", "y")],
        {"low": np.float32(-0.3), "high": np.float32(0.3)},
        17,
    ),
    "clip_above_of_relu": (
        [node("Relu", "x", "r"), node("Clip", "r - high", "y")],
        {"high": np.float32(0.25)},
        17,
    ),
    "clip_of_nothing": ([node("Relu", "x", "r"), node("Clip", "r", "y")], {}, 17),
    "sum": ([node("Relu", "x", "r"), node("Tanh", "x", "t"), node("Sum", "r t x", "y")], {}, 17),
    "sub": ([node("Relu", "x", "r"), node("Sub", "r x", "y")], {}, 17),
    "mul": ([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")], {}, 17),
    "max": ([node("Tanh", "x", "t"), node("Max", "x t", "y")], {}, 17),
    "mul_constant": ([node("Mul", "x c", "y")], {"c": np.float32(0.3)}, 17),
    "mul_channels": ([node("Mul", "c x", "y")], {"c": floats(3, 1, 1)}, 17),
    "div_constant": ([node("Div", "x c", "y")], {"c": np.float32(3)}, 17),
    "add_constant": ([node("Add", "x c", "y")], {"c": np.float32(0.3)}, 17),
    "sub_channels": ([node("Sub", "x c", "y")], {"c": floats(1, 3, 1, 1)}, 17),
    "add_nothing": ([node("Relu", "x", "r"), node("Add", "r c", "y")], {"c": np.float32(0)}, 17),
    "softmax": ([node("Softmax", "x", "y", axis=1)], {}, 17),
    "softmax_of_vectors": ([node("Flatten", "x", "f"), node("Softmax", "f", "y")], {}, 11),
    "softmax_from_the_end": ([node("Flatten", "x", "f"), node("Softmax", "f", "y")], {}, 17),
    "lrn": ([node("LRN", "x", "y", size=3, alpha=0.1, beta=0.5, bias=2.0)], {}, 17),
    "dropout": (
        [node("Relu", "x", "r"), node("Dropout", "r p", "y")],
        {"p": np.float32(0.25)},
        17,
    ),
    "dropout_attribute": ([node("Relu", "x", "r"), node("Dropout", "r", "y", ratio=0.25)], {}, 10),
    "identity": ([node("Relu", "x", "r"), node("Identity", "r", "y")], {}, 17),
    "cast": ([node("Relu", "x", "r"), node("Cast", "r", "y", to=1)], {}, 17),
    "pad": ([node("Pad", "x p", "y")], {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}, 17),
    "pad_axes": (
        [node("Pad", "x p - a", "y")],
        {"p": np.array([1, 2, 0, 1]), "a": np.array([3, -2])},
        18,
    ),
    "norm": (
        [node("BatchNormalization", "x s o m v", "y", epsilon=0.01, momentum=0.8)],
        {"s": floats(3), "o": floats(3, seed=1), "m": floats(3, seed=2), "v": VARIANCE},
        17,
    ),
    "constant_node": (
        [
            node("Constant", "", "c", value_floats=[0.5, 2.0, 3.0]),
            *[node("Unsqueeze", "c a", "u"), node("Mul", "x u", "y")],
        ],
        {"a": np.array([1, 2])},
        17,
    ),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(tmp_path: Path, name: str) -> None:
    nodes, constants, opset = POINTWISE[name]
    # As many images as channels: onnx's reference confuses the two in LRN.
    check(tmp_path, graph(nodes, constants, (1, 3, 4, 5), opset), images=3)


NORM = {"s": floats(3), "o": floats(3, seed=1), "m": floats(3, seed=2), "v": VARIANCE}
OLD: dict[str, tuple[onnx.NodeProto, int, onnx.NodeProto, dict[str, Any]]] = {
    "reshape": (
        node("Reshape", "x", "y", shape=[0, 6, -1, 2]),
        1,
        node("Reshape", "x s", "y"),
        {"s": np.array([0, 6, -1, 2])},
    ),
    "clip": (
        node("Clip", "x", "y", min=0.0, max=6.0),
        6,
        node("Clip", "x a b", "y"),
        {"a": np.float32(0), "b": np.float32(6)},
    ),
    "pad": (
        node("Pad", "x", "y", pads=[0, 0, 1, 1, 0, 0, 1, 2]),
        2,
        node("Pad", "x p", "y"),
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 2])},
    ),
    "pad_at_first": (
        node("Pad", "x", "y", paddings=[0, 0, 1, 1, 0, 0, 1, 2]),
        1,
        node("Pad", "x p", "y"),
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 2])},
    ),
    "norm": (
        node("BatchNormalization", "x s o m v", "y", spatial=1, is_test=1, consumed_inputs=[0] * 5),
        6,
        node("BatchNormalization", "x s o m v", "y"),
        NORM,
    ),
    "dropout": (
        node("Dropout", "x", "y", ratio=0.25),
        10,
        node("Dropout", "x p", "y"),
        {"p": np.float32(0.25)},
    ),
    "mean": (
        node("ReduceMean", "x", "y", axes=[2, 3]),
        13,
        node("ReduceMean", "x a", "y"),
        {"a": np.array([2, 3])},
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_old_forms_are_read_like_new_ones(tmp_path: Path, name: str) -> None:
    old, opset, new, constants = OLD[name]
    first = layers(read(tmp_path, graph([old], constants, (1, 3, 8, 8), opset)))
    assert first
    assert first == layers(read(tmp_path, graph([new], constants, (1, 3, 8, 8), 18)))


def test_other_types_of_numbers(tmp_path: Path) -> None:
    for kind in (np.float16, np.float64):
        weights = floats(2, 3, 1, 1).astype(kind)
        network = read(tmp_path, graph([node("Conv", "x w", "y")], {"w": weights}))
        assert network.weights["y.weight"].dtype == np.float32
        assert np.array_equal(network.weights["y.weight"], weights.astype(np.float32))


def test_only_a_plain_sum_of_two_is_an_addition(tmp_path: Path) -> None:
    made = layers(read(tmp_path, graph([node("Relu", "x", "r"), node("Add", "r x", "y")])))
    expected = {"type": "elementwise", "operation": "sum", "input": ["r_act", "image"]}
    assert made["y"] == expected


def test_momentum_is_what_onnx_means(tmp_path: Path) -> None:
    nodes, constants, _ = POINTWISE["norm"]
    network = read(tmp_path, graph(nodes, constants))
    # ONNX: running = 0.8 running + 0.2 batch
    assert layers(network)["y"]["momentum"] == 0.2
    assert layers(network)["y"]["eps"] == 0.01


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "hard_swish": ([node("HardSwish", "x", "y")], {}, "HardSwish"),
    "typo": ([node("Rellu", "x", "y")], {}, "Did you mean 'Relu'?"),
    "other_domain": ([node("Relu", "x", "y", domain="com.acme")], {}, "com.acme.Relu"),
    "if": ([node("If", "x", "y")], {}, "If"),
    "clip": ([node("Clip", "x a b", "y")], {"a": np.float32(-1), "b": np.float32(6)}, "-1 and 6"),
    "clip_above": ([node("Clip", "x - b", "y")], {"b": np.float32(6)}, "-inf and 6"),
    "average_padding": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1] * 4)],
        {},
        "count_include_pad=1",
    ),
    "average_ceil": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
        "ceil_mode=1",
    ),
    "max_dilations": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])],
        {},
        "dilations",
    ),
    "max_indices": ([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], {}, "where the maxima"),
    "mean_of_channels": ([node("ReduceMean", "x", "y", axes=[1])], {}, "rows and columns"),
    "mean_of_all": ([node("ReduceMean", "x", "y")], {}, "rows and columns"),
    "line": ([node("Conv", "x w", "y")], {"w": floats(4, 3, 3)}, "4x3x3"),
    "wrong_channels": ([node("Conv", "x w", "y")], {"w": floats(4, 2, 3, 3)}, "3 channels"),
    "kernel_too_large": ([node("Conv", "x w", "y")], {"w": floats(4, 3, 9, 9)}, "4x0x0"),
    "computed_weights": ([node("Conv", "x x", "y")], {}, "computed"),
    "linear_of_images": ([node("MatMul", "x w", "y")], {"w": floats(8, 2)}, "images"),
    "linear_of_wrong_size": (
        [node("Flatten", "x", "f"), node("Gemm", "f w", "y")],
        {"w": floats(100, 2)},
        "2x100",
    ),
    "bias_of_wrong_size": (
        [node("Conv", "x w b", "y")],
        {"w": floats(4, 3, 3, 3), "b": floats(5)},
        "bias of 5",
    ),
    "output_padding": (
        [node("ConvTranspose", "x w", "y", strides=[2, 2], output_padding=[1, 1])],
        {"w": floats(3, 2, 2, 2)},
        "output_padding",
    ),
    "output_shape": (
        [node("ConvTranspose", "x w", "y", output_shape=[9, 9])],
        {"w": floats(3, 2, 2, 2)},
        "give pads",
    ),
    "broadcast": (
        [node("GlobalAveragePool", "x", "p"), node("Mul", "x p", "y")],
        {},
        "different shapes",
    ),
    "images_and_vectors": (
        [node("Flatten", "x", "f"), node("Add", "x f", "y")],
        {},
        "images with vectors",
    ),
    "constant_picture": ([node("Add", "x c", "y")], {"c": floats(3, 8, 8)}, "3x8x8"),
    "from_constant": ([node("Sub", "c x", "y")], {"c": np.float32(1)}, "subtracts from"),
    "divided_by_0": ([node("Div", "x c", "y")], {"c": np.float32(0)}, "divides by 0"),
    "batch_mixed": ([node("Reshape", "x s", "y")], {"s": np.array([2, -1])}, "mixes the images"),
    "computed_batch": (
        [node("Shape", "x", "s"), node("Mul", "s two", "m"), node("Reshape", "x m", "y")],
        {"two": np.array([2])},
        "does not depend on the images",
    ),
    "five_dimensions": (
        [node("Reshape", "x s", "y")],
        {"s": np.array([0, 3, 1, 8, 8])},
        "(N, C, H, W)",
    ),
    "reshape_wrong": ([node("Reshape", "x s", "y")], {"s": np.array([0, 5])}, "192 numbers"),
    "transpose_batch": ([node("Transpose", "x", "y")], {}, "moves the images"),
    "concat_rows": ([node("Concat", "x x", "y", axis=2)], {}, "the channels"),
    "flatten_all": ([node("Flatten", "x", "y", axis=2)], {}, "axis=2"),
    "pad_mode": ([node("Pad", "x p", "y", mode="reflect")], {"p": np.array([0] * 8)}, "reflect"),
    "pad_value": (
        [node("Pad", "x p v", "y")],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float32(1)},
        "pads with 1",
    ),
    "pad_channels": ([node("Pad", "x p", "y")], {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0])}, "rows"),
    "softmax_rows": ([node("Softmax", "x", "y")], {}, "the channels"),
    "lrn_even": ([node("LRN", "x", "y", size=4)], {}, "odd"),
    "norm_spatial": (
        [node("BatchNormalization", "x s s s s", "y", spatial=0)],
        {"s": floats(3)},
        "spatial=0",
    ),
    "not_a_number": (
        [node("Conv", "x w", "y")],
        {"w": np.full((4, 3, 3, 3), np.nan, np.float32)},
        "finite",
    ),
    "cast": ([node("Cast", "x", "y", to=7)], {}, "makes integers"),
    "shape_as_bias": (
        [node("Shape", "x", "s"), node("Conv", "x w s", "y")],
        {"w": floats(4, 3, 3, 3)},
        "computed",
    ),
    "split": ([node("Split", "x", "y z", axis=1)], {}, "Split"),
    "unknown_input": ([node("Add", "x nothing", "y")], {}, "'nothing'"),
    "later_input": ([node("Add", "x r", "y"), node("Relu", "x", "r")], {}, "no node before it"),
    "auto_pad": ([node("MaxPool", "x", "y", kernel_shape=[2, 2], auto_pad="X")], {}, "SAME_UPPER"),
    "negative_pads": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 2], pads=[-1] * 4)],
        {},
        "four numbers",
    ),
    "no_kernel": ([node("MaxPool", "x", "y")], {}, "kernel_shape"),
    "image_as_name": ([node("Relu", "x", "image")], {}, "stands for the images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(tmp_path: Path, name: str) -> None:
    nodes, constants, expected = REFUSED[name]
    text = problems(read(tmp_path, graph(nodes, constants)))
    assert expected in text
    assert "\n" not in text
    if name not in ("kernel_too_large", "broadcast"):
        assert any(repr(n.output[0]) in text for n in nodes)


def test_accepted_operators_are_reported(tmp_path: Path) -> None:
    text = problems(read(tmp_path, graph([node("Gelu", "x", "y")], opset=20)))
    assert "Accepted: Add, AveragePool," in text


def names_of(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    return [n.output[0] for n in nodes]


def test_cells_are_named_after_outputs(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "/a/Conv_output_0"), node("Relu", "/a/Conv_output_0", "12")]
    nodes.append(node("MaxPool", "12", "pool:0", kernel_shape=[2, 2]))
    network = read(tmp_path, graph(nodes, {"w": floats(4, 3, 3, 3)}))
    assert list(network.cells) == [*names_of(nodes), "tail"]
    assert list(layers(network)) == ["layer_a_Conv_output_0", "layer_12_act", "pool_0"]
    assert network.cells["/a/Conv_output_0"].files[0].stem == "/a/Conv_output_0_weights"
