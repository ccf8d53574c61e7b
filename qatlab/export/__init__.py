"""Files of trained networks for other programs: ONNX and C."""
