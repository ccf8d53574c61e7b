"""ONNX files: with quantizers as nodes (qdq, qonnx), or of whole numbers (integer)."""

OPSET = 21  # the first one with integers of 4 bits
