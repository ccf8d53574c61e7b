"""ONNX files: with quantizers as nodes (qdq, qonnx), or of whole numbers (integer)."""

OPSETS = (13, 25)  # the lowest quantizes by channel; above the highest nothing was tried
