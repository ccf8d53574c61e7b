"""Numbers that N2D2's own tests assert, or that N2D2 wrote; not part of the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

VECTORS = Path(__file__).parents[4] / "shared" / "reference" / "n2d2_vectors.json"
CASES = json.loads(VECTORS.read_text())["cases"] if VECTORS.exists() else []


def cases(kind: str) -> Any:
    """Parametrize a test with all cases of a kind, or skip it."""
    found = [pytest.param(c, id=c["id"]) for c in CASES if c["kind"] == kind]
    missing = pytest.mark.skip(reason="the reference vectors of ../shared are not here")
    return pytest.mark.parametrize("case", found or [pytest.param(None, marks=missing)])


def close(actual: Tensor, expected: list[float], tolerance: float) -> None:
    torch.testing.assert_close(
        actual.detach().flatten(), torch.tensor(expected), rtol=0, atol=tolerance
    )


def drawn(case: Any, count: int) -> Tensor:
    """Draw the inputs of a case again, all of them: ``(count,)``, or ``(count, 2)`` for two."""
    ends = np.array(case["rng"]["uniform"])
    size = (count, 2) if ends.ndim == 2 else (count,)
    bits = np.random.RandomState(case["rng"]["seed"]).randint(0, 1 << 32, size, np.uint32)
    low, high = ends[..., 0], ends[..., 1]
    return torch.from_numpy((low + bits / ((1 << 32) - 1) * (high - low)).astype(np.float32))


def small_network(case: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return images, targets and the weights of three convolutions."""
    inputs = case["inputs"]
    images = torch.tensor(inputs["input_batch"]).reshape(2, 1, 5, 5) / 255
    shapes = {"conv1": (1, 1, 3, 3), "conv2": (4, 1, 1, 1), "conv3_depthwise": (4, 1, 3, 3)}
    weights = [torch.tensor(inputs[k]).reshape(s).requires_grad_() for k, s in shapes.items()]
    return images, torch.tensor(inputs["targets"]), weights


def descend(
    logits: Callable[[], Tensor], targets: Tensor, parameters: list[Tensor], iterations: int
) -> None:
    """Train by plain SGD with a rate of 0.01 and the mean loss."""
    # For 50 numbers torch's plain convolution takes a third of the time of oneDNN's, and the
    # gradients need no optimizer: 10,000 iterations are all overhead.
    with torch.backends.mkldnn.flags(enabled=False):
        for _ in range(iterations):
            gradients = torch.autograd.grad(F.cross_entropy(logits(), targets), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.01)
