"""The graph of a section of Type=ONNX, as cells."""
