"""What reads each Type of cell, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.cells import pointwise, shaping, weighted
from ini_compat.cells.reader import CellReader

DETECTION = "it belongs to object detection; only image classification and reconstruction are here"


TYPES: Mapping[str, Callable[[CellReader], None]] = {
    "Conv": weighted.conv,
    "Deconv": weighted.deconv,
    "Fc": weighted.fc,
    "BatchNorm": weighted.batch_norm,
    "Pool": shaping.pool,
    "Unpool": shaping.unpool,
    "FMP": shaping.fmp,
    "Padding": shaping.padding,
    "Resize": shaping.resize,
    "Reshape": shaping.reshape,
    "Transpose": shaping.transpose,
    "ElemWise": pointwise.elementwise,
    "Activation": pointwise.activation,
    "Dropout": pointwise.dropout,
    "Softmax": pointwise.softmax,
    "LRN": pointwise.lrn,
    "Scaling": pointwise.scaling,
    "Normalize": pointwise.normalize,
    "Threshold": pointwise.threshold,
}
REFUSED = {  # with the reason
    "LSTM": "recurrent networks have no layers here",
    "ROIPooling": DETECTION,
    "RP": DETECTION,
    "Proposal": DETECTION,
    "Anchor": DETECTION,
    "ObjectDet": DETECTION,
    "TargetBias": "it needs the label in the forward pass",
    "Distance": "it needs the label in the forward pass",
    "Transformation": "images are transformed before the network only",
}
