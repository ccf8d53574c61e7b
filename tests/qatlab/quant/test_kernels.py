"""Compiled kernels: same results as the functions they compile, and a way to do without."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor

from qatlab.quant.eager import cg_pact_eager
from qatlab.quant.functional import cg_pact
from qatlab.quant.kernels import SMALLEST, Kernel


def shrink(x: Tensor, factor: Tensor, twice: bool) -> tuple[Tensor, Tensor]:
    y = x * factor
    return y, (y * y if twice else y).sum()


def copy_of_shrink(name: str) -> Any:
    """Return the same function with code of its own, which the compiler has not seen yet."""
    return FunctionType(shrink.__code__.replace(co_name=name), shrink.__globals__, name)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Kernel, "available", True)
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent/compiler")}):
        yield


def test_small_tensors_are_not_compiled() -> None:
    kernel = Kernel(shrink)
    kernel.compiled = None  # calling it would raise
    y, total = kernel(torch.ones(SMALLEST - 1), torch.tensor(0.5), False)
    assert total == (SMALLEST - 1) / 2
    assert y[0] == 0.5
    y, total = kernel(torch.ones(SMALLEST, dtype=torch.float64), torch.tensor(0.5), True)
    assert total == SMALLEST / 4


def test_one_compilation_serves_all_sizes() -> None:
    kernel = Kernel(copy_of_shrink("once"))
    kernel(torch.ones(SMALLEST), torch.tensor(0.5), True)
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for size in (SMALLEST + 1, 300_001):
            assert kernel(torch.ones(size), torch.tensor(0.5), True)[1] == size / 4
    finally:
        torch.compiler.set_stance("default")
    assert Kernel.available  # it would have been given up


def test_without_a_compiler_there_is_one_warning(
    no_compiler: None, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = [Kernel(copy_of_shrink(name)) for name in ("one", "two")]
    with caplog.at_level(logging.WARNING):
        for kernel in kernels:
            _, total = kernel(torch.ones(SMALLEST), torch.tensor(0.5), False)
            assert total == SMALLEST / 2
    warnings = [r.getMessage() for r in caplog.records if "uncompiled" in r.getMessage()]
    assert len(warnings) == 1
    assert "compiler" in warnings[0]
    assert "\n" not in warnings[0]


IMAGES = [(5, 8, 32, 32), (1, 3, 1, 7000)]
CASES = [(s, "channels_last") for s in IMAGES] + [
    (s, layout) for s in [(200, 100), *IMAGES] for layout in ("contiguous", "transposed")
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("shape", "layout"), CASES)
def test_compiled_cg_pact_is_the_definition(
    shape: tuple[int, ...], layout: str, signed: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, grad = torch.randn(2, *shape, generator=generator)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        x, grad = x.transpose(0, -1), grad.transpose(0, -1).contiguous()
    assert x.numel() >= SMALLEST
    results = []
    for function in (cg_pact_eager, cg_pact):
        leaf, alpha = x.clone().requires_grad_(), torch.tensor(1.3, requires_grad=True)
        y = function(leaf, alpha, 15, signed)
        results.append((y, *torch.autograd.grad(y, (leaf, alpha), grad)))
    (y, grad_x, grad_alpha), (y2, grad_x2, grad_alpha2) = results
    assert torch.equal(y, y2)
    assert torch.equal(grad_x, grad_x2)
    assert abs(grad_alpha - grad_alpha2) <= 1e-5 * grad.abs().sum()


def test_the_result_can_be_changed_in_place() -> None:
    x, alpha = torch.randn(SMALLEST, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    y = cg_pact_eager(x, alpha, 15).add_(1.0).mul_(2.0)
    y.sum().backward()
    assert torch.equal(x.grad, 2.0 * ((x > 0) & (x <= 1)))
