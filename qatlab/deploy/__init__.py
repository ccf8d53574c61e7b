"""What leaves: integer networks, ONNX and C, what stands in their way, and whether they agree."""
