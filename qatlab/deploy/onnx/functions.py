"""Activation functions of real numbers as nodes of ONNX, by their names in qatlab.quant.ops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qatlab.deploy.onnx.graph import Graph

HARDSWISH = 14  # the opset from which there is a node of it


def _number(graph: Graph, value: float) -> str:
    return graph.constant(np.float32(value))


def _times(graph: Graph, x: str, factor: float) -> str:
    return x if factor == 1 else graph.node("Mul", [x, _number(graph, factor)])


def _hardsigmoid(graph: Graph, x: str) -> str:
    return graph.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def _hardswish(graph: Graph, x: str) -> str:
    if graph.opset >= HARDSWISH:
        return graph.node("HardSwish", [x])
    return graph.node("Mul", [x, _hardsigmoid(graph, x)])


def _silu(graph: Graph, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x])])


def _gelu(graph: Graph, x: str, approximate: str) -> str:
    """Return ``x / 2 * (1 + erf(x / sqrt(2)))``, or with the tanh that is near to it."""
    if approximate == "tanh":
        cube = graph.node("Mul", [graph.node("Mul", [x, x]), x])
        inner = graph.node("Add", [x, _times(graph, cube, 0.044715)])
        bent = graph.node("Tanh", [_times(graph, inner, math.sqrt(2 / math.pi))])
    else:
        bent = graph.node("Erf", [_times(graph, x, math.sqrt(0.5))])
    share = graph.node("Add", [bent, _number(graph, 1)])
    return graph.node("Mul", [_times(graph, x, 0.5), share])


def _softplus(graph: Graph, x: str, beta: float = 1, threshold: float = 20) -> str:
    """Return ``log(1 + exp(beta x)) / beta``; beyond torch's threshold float32 has no difference.

    Below 15 it has, so the threshold is written then.
    """
    scaled = _times(graph, x, beta)
    soft = _times(graph, graph.node("Softplus", [scaled]), 1 / beta)
    if threshold >= 15:
        return soft
    beyond = graph.node("Greater", [scaled, _number(graph, threshold)])
    return graph.node("Where", [beyond, x, soft])


def _threshold(graph: Graph, x: str, threshold: float, value: float) -> str:
    above = graph.node("Greater", [x, _number(graph, threshold)])
    return graph.node("Where", [above, x, _number(graph, value)])


def _named(operator: str) -> Callable[..., str]:
    return lambda graph, x, **settings: graph.node(operator, [x], **settings)


FUNCTIONS: dict[str, Callable[..., str]] = {
    "sigmoid": _named("Sigmoid"),
    "tanh": _named("Tanh"),
    "elu": _named("Elu"),
    "celu": _named("Celu"),
    "selu": _named("Selu"),  # whose numbers are torch's
    "softsign": _named("Softsign"),
    "silu": _silu,
    "hardswish": _hardswish,
    "gelu": _gelu,
    "mish": lambda graph, x: graph.node("Mul", [x, graph.node("Tanh", [_softplus(graph, x)])]),
    "softplus": _softplus,
    "logsigmoid": lambda graph, x: graph.node(
        "Neg", [graph.node("Softplus", [graph.node("Neg", [x])])]
    ),
    "threshold": _threshold,
}
