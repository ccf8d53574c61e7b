"""The learned quantizers as functions of tensors, by definition and fast; what tests share."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.quant.dispatch import fake_quantize_fused
from qatlab.quant.grid import cg_pact_grid, fake_quantize

BOTH = pytest.mark.parametrize("function", [fake_quantize, fake_quantize_fused])


def cg_pact(x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False, **more: Any) -> Tensor:
    return fake_quantize(x, alpha, cg_pact_grid(n_steps, signed), **more)


def cg_pact_fused(
    x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False, **more: Any
) -> Tensor:
    return fake_quantize_fused(x, alpha, cg_pact_grid(n_steps, signed), **more)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def saved_and_loaded(module: nn.Module) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state
