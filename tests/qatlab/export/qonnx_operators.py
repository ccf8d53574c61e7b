"""The operators of QONNX, by their definition, for onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from qatlab.export.qonnx import DOMAIN


class Quant(OpRun):
    """Pappalardo et al. 2022, arXiv:2206.07527, section 3.

    clip(round(x / scale + zero), low, high) of so many bits, back to real numbers.
    """

    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any, zero: Any, bits: Any, **given: Any) -> tuple[Any]:
        assert given == {"signed": given["signed"], "narrow": 0, "rounding_mode": "ROUND"}
        signed = given["signed"]
        low = -(2 ** (bits - 1)) if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        index = np.clip(np.round(x / scale + zero), low, high)
        return (((index - zero) * scale).astype(np.float32),)


class BipolarQuant(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any) -> tuple[Any]:
        return ((np.where(x >= 0, 1, -1) * scale).astype(np.float32),)
