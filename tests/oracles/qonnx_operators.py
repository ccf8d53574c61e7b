"""The operators of QONNX, by their definition, for onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx.reference.op_run import OpRun
from torch.nn import functional as F

from qatlab.deploy.onnx.qonnx import DOMAIN


class Quant(OpRun):
    """Pappalardo et al. 2022, arXiv:2206.07527, section 3.

    clip(round(x / scale + zero), low, high) of so many bits, back to real numbers.
    Narrow ones leave out the lowest.
    """

    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any, zero: Any, bits: Any, **given: Any) -> tuple[Any]:
        signed, narrow = given["signed"], given["narrow"]
        assert given == {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
        assert signed or not narrow
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        index = np.clip(np.round(x / scale + zero), low, high)
        return (((index - zero) * scale).astype(np.float32),)


class BipolarQuant(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any) -> tuple[Any]:
        return ((np.where(x >= 0, 1, -1) * scale).astype(np.float32),)


class MaxPool(OpRun):
    """ONNX's own, which the evaluator of onnx 1.23 pads wrongly if rows have more than columns.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html: windows that begin beyond the end are none.
    """

    op_domain = ""

    def _run(self, x: Any, kernel_shape: Any, **given: Any) -> tuple[Any]:
        top, left, bottom, right = given["pads"] or [0] * 4
        strides, dilations = (given[name] or [1, 1] for name in ("strides", "dilations"))
        padded = F.pad(torch.from_numpy(x), (left, right, top, bottom), value=-torch.inf)
        ceil_mode = bool(given["ceil_mode"])
        windows = F.max_pool2d(padded, kernel_shape, strides, 0, dilations, ceil_mode)
        rows, columns = (-(-(x.shape[i] + (top, left)[i - 2]) // strides[i - 2]) for i in (2, 3))
        return (windows[:, :, :rows, :columns].numpy(),)


class LogSoftmax(OpRun):
    """ONNX's own, which the evaluator of onnx 1.23 computes as the logarithm of what may be 0."""

    op_domain = ""

    def _run(self, x: Any, axis: int = -1) -> tuple[Any]:
        return (F.log_softmax(torch.from_numpy(x), axis).numpy(),)
