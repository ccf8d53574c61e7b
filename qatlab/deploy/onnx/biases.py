"""Files whose layers have their biases as inputs, as most readers want them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Reals
from qatlab.deploy.onnx.qdq import Floats, QdqWriter
from qatlab.deploy.onnx.readers import Reader

LAYERS = (ops.Convolve, ops.Multiply)


class BiasWriter(QdqWriter):
    """Writes one network; of layers that are summed up, the last one has the bias."""

    def __init__(self, network: IntegerNetwork, opset: int, reader: Reader) -> None:
        super().__init__(network, opset, reader)
        self._biases: dict[str, Floats] = {}  # of the layers that are being summed up

    def _total(self, op: ops.Weighted, unit: float) -> str:
        bias = np.asarray(op.bias * unit, dtype=np.float32)
        layers = [name for name in op.inputs if isinstance(self.by_name[name], LAYERS)]
        self._biases = {}
        if layers and bias.ndim < 2:
            self._biases = {layers[-1]: np.broadcast_to(bias, self.shapes[layers[-1]][:1])}
            op = replace(op, bias=np.array(0.0))
        return super()._total(op, unit)

    def _plus(self, x: str, constant: str) -> str:
        return self.graph.node("Add", [x, constant])

    def _layer(self, op: ops.Convolve | ops.Multiply, factor: Reals) -> list[str]:
        inputs, bias = super()._layer(op, factor), self._biases.get(op.name)
        if isinstance(op, ops.Multiply) and bias is None:
            bias = np.zeros(len(op.weight), np.float32)  # readers take no Gemm without
        if bias is not None and (bias.any() or isinstance(op, ops.Multiply)):
            inputs.append(self.graph.constant(bias, f"{op.name}_bias"))
        return inputs
