"""QONNX: the operators Quant and BipolarQuant on floats, as FINN and hls4ml read them.

Source: the specification of the operators in Pappalardo et al. 2022, arXiv:2206.07527.
"""

from __future__ import annotations

import numpy as np

from qatlab.deploy.integer.operations import Integers, Rescale, Table
from qatlab.deploy.onnx.qdq import Floats, QdqWriter

DOMAIN = "qonnx.custom_op.general"


class QonnxWriter(QdqWriter):
    """Writes one network; weights are floats on their grid, and a Quant says which."""

    domain = DOMAIN

    def weights(self, codes: Integers, scale: Floats, name: str) -> str:
        """Return real weights: ``codes * scale``, one or one for each output channel."""
        shaped = scale.reshape(-1, *(1,) * (codes.ndim - 1)) if scale.ndim else scale
        real = self.graph.constant((codes * shaped).astype(np.float32), f"{name}_weight")
        if set(np.unique(codes)) == {-1, 1}:
            scales = self.graph.constant(shaped)
            return self.graph.node("BipolarQuant", [real, scales], domain=DOMAIN)
        low, high = int(codes.min()), int(codes.max())
        bits = max((-low - 1).bit_length(), high.bit_length()) + 1
        return self._quant(real, shaped, bits, True, f"{name}_real")

    def site(self, op: Rescale | Table, x: str) -> None:
        """Write a site; ``x`` are the real numbers above its offset."""
        codes, name = op.codes, op.name
        signed = codes.low < 0
        bits = codes.high.bit_length()
        if signed:
            bits = max((-codes.low - 1).bit_length(), bits) + 1
        lowest = -(1 << (bits - 1)) if signed else 0
        highest = (1 << (bits - 1 if signed else bits)) - 1
        if (codes.low, codes.high) != (lowest, highest):
            ends = [
                self.graph.constant(np.float32(end * codes.step)) for end in (codes.low, codes.high)
            ]
            x = self.graph.node("Clip", [x, *ends])
        real = self._quant(x, np.float32(codes.step), bits, signed, name)
        if codes.offset:
            real = self.graph.node("Add", [real, self.graph.constant(np.float32(codes.offset))])
        self.tensors[name] = real

    def _quant(self, x: str, scale: Floats | np.float32, bits: int, signed: bool, name: str) -> str:
        inputs = [
            x,
            self.graph.constant(np.asarray(scale, np.float32)),
            self.graph.constant(np.float32(0)),
            self.graph.constant(np.float32(bits)),
        ]
        settings = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
        return self.graph.node("Quant", inputs, name, domain=DOMAIN, **settings)
