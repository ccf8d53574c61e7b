"""ONNX of quantized tensors for TensorRT and TFLite, whose engines compute layers of signed bytes.

They fuse DequantizeLinear, a layer with its bias, and QuantizeLinear; so layers have their biases,
codes are signed bytes, and where these clip a site as it does there is no Clip. Weights have a
scale for each channel and no offset.

Source: the documents of both on what they fuse; files were not run there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.operations import Codes, Integers
from qatlab.deploy.onnx.biases import BiasWriter
from qatlab.deploy.onnx.moves import MOVES
from qatlab.deploy.onnx.qdq import Floats, Stored
from qatlab.errors import ConfigError

LOW, HIGH = -128, 127


class FusedWriter(BiasWriter):
    """Writes one network."""

    def weights(self, codes: Integers, scale: Floats, name: str) -> str:
        """Return real weights: ``codes * scale``, one or one for each output channel."""
        lowest = LOW + self.conventions.narrow_weights
        if codes.min() < lowest or codes.max() > HIGH:
            raise ConfigError(
                f"{name}: {self.reader.name} takes weights of {lowest} to {HIGH}, and these are "
                f"from {codes.min()} to {codes.max()}: use a grid that is symmetric and has a 0, "
                "such as SAT's grid=symmetric, or fewer bits."
            )
        numbers = self.graph.constant(codes, f"{name}_weight", TensorProto.INT8)
        scales = self.graph.constant(scale)
        axis = 0 if scale.ndim else None
        return self.graph.node("DequantizeLinear", [numbers, scales], axis=axis)

    def site(self, op: ops.Rescale | ops.Table, x: str) -> None:
        """Write a site; ``x`` are the real numbers above its offset."""
        codes, graph = op.codes, self.graph
        zero = self._zero(op.name, codes)
        low, high = LOW - zero, HIGH - zero  # what the type clips to
        if (codes.low, codes.high) == (0, high) != (low, high):
            x = graph.node("Relu", [x])
        elif (codes.low, codes.high) != (low, high):
            ends = [graph.constant(np.float32(end * codes.step)) for end in (codes.low, codes.high)]
            x = graph.node("Clip", [x, *ends])
        scale = graph.constant(np.float32(codes.step))
        zero_point = graph.constant(np.array(zero), kind=TensorProto.INT8)
        made = graph.node("QuantizeLinear", [x, scale, zero_point], f"{op.name}_codes")
        self.stored[op.name] = Stored(made, scale, zero_point, TensorProto.INT8, codes.offset)

    def _zero(self, name: str, codes: Codes) -> int:
        """Return the byte that stands for code 0.

        Raises:
            ConfigError: if signed bytes do not hold the codes.
        """
        if codes.low >= LOW and codes.high <= HIGH:
            return 0
        if codes.high - codes.low <= HIGH - LOW and self.conventions.zero_points:
            return LOW - codes.low
        raise ConfigError(
            f"{name}: {self.reader.name} takes signed bytes that have no offset, and its codes go "
            f"from {codes.low} to {codes.high}: give it 7 bits, or --for onnxruntime."
        )

    def _move(self, op: ops.Move) -> None:
        """Write what moves values, and quantize again what was quantized alike: the same codes."""
        stored = [self.stored.get(name) for name in op.inputs]
        alike = {None if one is None else one[1:] for one in stored}
        inputs = [self.real(name) for name in op.inputs]
        write: Any = MOVES[type(op)]
        first = stored[0]
        if first is None or len(alike) > 1 or first.offset:
            self.tensors[op.name] = write(self.graph, op, inputs, np.float32(-np.inf))
            return
        x = write(self.graph, op, inputs, np.float32(-np.inf))
        again = [x, first.scale, first.zero]
        made = self.graph.node("QuantizeLinear", again, f"{op.name}_codes")
        self.stored[op.name] = first._replace(codes=made)
