"""ONNX files: with quantizers as nodes (qdq, qonnx), or of whole numbers (integer)."""
