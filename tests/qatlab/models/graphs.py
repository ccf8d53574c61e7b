"""Networks of one layer, and what they are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
import torch
from torch import Tensor, fx

from qatlab.models import LayerGraph

SHAPE = (4, 7, 6)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def one(node: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> LayerGraph:
    """A network of that layer alone, named ``layer``."""
    torch.manual_seed(0)
    return LayerGraph(shape, {"layer": node}).eval()


def check(node: dict[str, Any], expected: Any, x: Tensor, tolerance: float = 1e-5) -> LayerGraph:
    """Compare the layer, and its trace, with what the formula gives for ``x``."""
    model = one(node, tuple(x.shape[1:]))
    expected = torch.as_tensor(np.asarray(expected(model)), dtype=torch.float32)
    assert model.shapes["layer"] == tuple(expected.shape[1:])
    y = model(x)
    expected = expected.reshape(y.shape)  # (N, C) where it is 1 x 1
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(fx.symbolic_trace(model)(x), y)
    return model


def array(x: Any) -> reference.Array:
    return x.detach().double().numpy()  # type: ignore[no-any-return]
