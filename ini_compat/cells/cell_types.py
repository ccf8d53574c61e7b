"""What reads each Type of cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ini_compat.cells import pointwise, shaping, weighted
from ini_compat.cells.reader import CellReader

DETECTION = "it belongs to object detection; only image classification and reconstruction are here"


def refuse(cell_type: str, reason: str) -> Callable[[CellReader], None]:
    """Return a reader that says why such a cell cannot be taken over."""

    def read(reader: CellReader) -> None:
        raise reader.error("Type", f"is {cell_type}, which is not supported here: {reason}")

    return read


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
    "LSTM": refuse("LSTM", "recurrent networks have no layers here"),
    "ROIPooling": refuse("ROIPooling", DETECTION),
    "RP": refuse("RP", DETECTION),
    "Proposal": refuse("Proposal", DETECTION),
    "Anchor": refuse("Anchor", DETECTION),
    "ObjectDet": refuse("ObjectDet", DETECTION),
    "TargetBias": refuse("TargetBias", "it needs the label in the forward pass"),
    "Distance": refuse("Distance", "it needs the label in the forward pass"),
    "Transformation": refuse("Transformation", "images are transformed before the network only"),
}
