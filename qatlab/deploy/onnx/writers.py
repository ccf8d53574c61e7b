"""Which class writes which files of floats."""

from __future__ import annotations

from collections.abc import Mapping

from qatlab.deploy.onnx.fused import FusedWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.qonnx import QonnxWriter

# By format, and by the convention `fused` of the reader.
WRITERS: Mapping[tuple[str, bool], type[QdqWriter]] = {
    ("qdq", False): QdqWriter,
    ("qdq", True): FusedWriter,
    ("qonnx", False): QonnxWriter,
}
