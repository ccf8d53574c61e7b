"""Quantization-aware training of image networks with PyTorch Lightning and Hydra."""
