"""Which ONNX operators become cells, and by whom they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.errors import did_you_mean
from ini_compat.onnx_graph import moving as onnx_moving
from ini_compat.onnx_graph import pointwise as onnx_pointwise
from ini_compat.onnx_graph import weighted as onnx_weighted
from ini_compat.onnx_graph.step import Step, Tensor

OPERATORS: Mapping[str, Callable[[Step], Tensor]] = {
    "Conv": onnx_weighted.conv,
    "ConvTranspose": onnx_weighted.conv_transpose,
    "Gemm": onnx_weighted.gemm,
    "MatMul": onnx_weighted.matmul,
    "BatchNormalization": onnx_weighted.batch_norm,
    "Relu": onnx_pointwise.relu,
    "LeakyRelu": onnx_pointwise.leaky_relu,
    "Sigmoid": onnx_pointwise.function("Logistic"),
    "Tanh": onnx_pointwise.function("Tanh"),
    "Softplus": onnx_pointwise.function("Softplus"),
    "Clip": onnx_pointwise.clip,
    "Add": onnx_pointwise.add,
    "Sum": onnx_pointwise.add,
    "Sub": onnx_pointwise.subtract,
    "Mul": onnx_pointwise.multiply,
    "Div": onnx_pointwise.divide,
    "Max": onnx_pointwise.maximum,
    "Dropout": onnx_pointwise.dropout,
    "Softmax": onnx_pointwise.softmax,
    "LRN": onnx_pointwise.lrn,
    "MaxPool": onnx_moving.max_pool,
    "AveragePool": onnx_moving.average_pool,
    "GlobalMaxPool": onnx_moving.global_max_pool,
    "GlobalAveragePool": onnx_moving.global_average_pool,
    "ReduceMean": onnx_moving.reduce_mean,
    "ReduceMax": onnx_moving.reduce_max,
    "Pad": onnx_moving.pad,
    "Concat": onnx_moving.concat,
    "Identity": onnx_moving.same,
    "Cast": onnx_moving.cast,
    "Flatten": onnx_moving.flatten,
    "Reshape": onnx_moving.reshape,
    "Squeeze": onnx_moving.squeeze,
    "Unsqueeze": onnx_moving.unsqueeze,
    "Transpose": onnx_moving.transpose,
}
PASSED_ON = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
FUNCTIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Clip")


def read_node(step: Step) -> Tensor:
    """Make cells of a node and return what it hands on.

    Raises:
        IniError: for an operator that is not supported, or one that does something which is not.
    """
    operator = step.node.operator
    read = OPERATORS.get(operator)
    if read is None:
        hint = did_you_mean(operator, OPERATORS)
        raise step.error(f"is not supported here.{hint} Accepted: {', '.join(sorted(OPERATORS))}")
    return read(step)
