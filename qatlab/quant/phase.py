"""What the quantizers of a model do now."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Phase of quantization-aware training.

    The values are what checkpoints and ``metrics.csv`` hold.
    """

    FLOAT = "float"  # nothing: the float network
    CLAMP = "clamp"  # weights are clamped to [-1, 1] but not rounded, activations stay float
    QUANTIZE = "quantize"  # weights and activations lie on their grids
