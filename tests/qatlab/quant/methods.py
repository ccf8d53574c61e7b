"""The learned quantizers as functions of tensors, by definition and fast."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from qatlab.quant.eager import fake_quantize_eager
from qatlab.quant.functional import cg_pact_grid, fake_quantize

BOTH = pytest.mark.parametrize("function", [fake_quantize, fake_quantize_eager])


def cg_pact(x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False, **more: Any) -> Tensor:
    return fake_quantize(x, alpha, cg_pact_grid(n_steps, signed), **more)


def cg_pact_eager(
    x: Tensor, alpha: Tensor, n_steps: int, signed: bool = False, **more: Any
) -> Tensor:
    return fake_quantize_eager(x, alpha, cg_pact_grid(n_steps, signed), **more)
