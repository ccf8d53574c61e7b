"""The Triton kernels, run by Triton's interpreter on a CPU, do what the definitions do."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from qatlab.quant import Memory, dispatch
from qatlab.quant.dispatch import (
    dorefa_weight_fused,
    fake_quantize_fused,
    fits,
    sat_weight_fused,
)
from qatlab.quant.functional import GRIDS, Scaling, dorefa_weight, sat_weight
from qatlab.quant.grid import cg_pact_grid, fake_quantize, lsq_grid, pact_grid

METHODS = {"cg_pact": (cg_pact_grid, 1.3), "pact": (pact_grid, 1.3), "lsq": (lsq_grid, -0.2)}


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read when Triton is imported
in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="run by the first test here")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_kernels_in_a_process_with_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 60


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """All tensors are sent to the kernels of a GPU."""
    module = importlib.import_module("qatlab.quant.gpu")
    monkeypatch.setattr(dispatch, "on_gpu", lambda x: True)
    module.available.cache_clear()
    assert fits(torch.zeros(1))
    return module


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    upstream = randn(*y.shape, seed=9).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize("ewgs", [0.0, 0.3])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", METHODS)
@in_interpreter
def test_sites_are_the_definition(
    interpreted: ModuleType, method: str, bits: int, signed: bool, ewgs: float
) -> None:
    if signed and bits == 1:
        pytest.skip("a signed site has no levels at 1 bit")
    make, size = METHODS[method]
    grid = make((1 << bits) - 1, signed)
    whole = randn(3, 700)
    for x in (whole, whole.t(), whole[:, ::2], whole[:0]):
        (y, grad_x, grad_p), (y2, grad_x2, grad_p2) = (
            results(partial(core, grid=grid, gradient_scale=0.5, ewgs=ewgs), x, torch.tensor(size))
            for core in (fake_quantize_fused, fake_quantize)
        )
        assert torch.equal(y, y2)
        torch.testing.assert_close(grad_x, grad_x2, rtol=1e-6, atol=0)
        torch.testing.assert_close(grad_p, grad_p2, rtol=1e-5, atol=1e-4)


@in_interpreter
def test_weights_of_dorefa_are_the_definition(interpreted: ModuleType) -> None:
    for bits in (1, 2, 4, 8):
        fast, slow = (
            results(partial(core, n_steps=(1 << bits) - 1), randn(30, 70))
            for core in (dorefa_weight_fused, dorefa_weight)
        )
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", METHODS)
@in_interpreter
def test_noise_at_an_end_does_not_choose_the_gradient(
    interpreted: ModuleType, method: str, signed: bool
) -> None:
    make, size = METHODS[method]
    grid = make(15, signed)
    noise = torch.tensor([0.0, 1e-17, -1e-17, 1e-9, -1e-9, 3e-6, -3e-6])
    for end in (grid.q_min, grid.q_max):
        x, parameter = (end + noise) * abs(size) / grid.divisor, torch.tensor(size)
        grad_x, grad_p = results(partial(fake_quantize_fused, grid=grid), x, parameter)[1:]
        through = end != 0 and method == "cg_pact"
        g = randn(len(noise), seed=9)
        assert torch.equal(grad_x, g * through)
        sign = 1 if grid.closed else parameter.sign()
        torch.testing.assert_close(grad_p, sign * g.sum() * end / grid.divisor)


@in_interpreter
def test_offsets_and_steps_for_each_channel(interpreted: ModuleType) -> None:
    grid, x = lsq_grid(15, False), randn(2, 3, 40, 11)

    def with_offset(core: Any, x: Tensor, p: Tensor, b: Tensor) -> Tensor:
        result: Tensor = core(x, p, grid, 0.1, b)
        return result

    inputs = (x, torch.tensor(0.2), torch.tensor(-0.37))
    for a, b in zip(
        results(partial(with_offset, fake_quantize_fused), *inputs),
        results(partial(with_offset, fake_quantize), *inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    rows = torch.tensor([-0.37, 0.2]).view(2, 1, 1, 1)
    for offset in (rows, rows.double(), torch.tensor(-0.37).double()):
        given = (x, torch.tensor(0.2).double(), offset)
        assert all(
            map(
                torch.equal,
                results(partial(with_offset, fake_quantize_fused), *given),
                results(partial(with_offset, fake_quantize), *given),
            )
        )
    weight, steps = randn(5, 300, 3, 3), 0.05 + randn(5, 1, 1, 1, seed=1).abs()
    for a, b in zip(
        results(partial(fake_quantize_fused, grid=lsq_grid(7, True)), weight, steps),
        results(partial(fake_quantize, grid=lsq_grid(7, True)), weight, steps),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@in_interpreter
def test_half_precision_differs_by_its_last_bit(
    interpreted: ModuleType, dtype: torch.dtype
) -> None:
    x, p = randn(3, 700).to(dtype), torch.tensor(0.2)
    fast, slow = (
        results(partial(core, grid=lsq_grid(15, True)), x, p)
        for core in (fake_quantize_fused, fake_quantize)
    )
    assert fast[0].dtype is dtype
    # The interpreter cuts what a GPU rounds, when it makes half numbers.
    torch.testing.assert_close(fast[0], slow[0], rtol=torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(fast[2], slow[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scaling", [False, True, "fan_in"])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
@in_interpreter
def test_sat_weights_are_the_definition(
    interpreted: ModuleType, grid: str, quantized: bool, scaling: Scaling
) -> None:
    weight = randn(10, 30, 3, 3) / 3
    (q, gradient), (q2, gradient2) = (
        results(lambda w, f=f: f(w, 15, grid, quantized, scaling), weight)
        for f in (sat_weight_fused, sat_weight)
    )
    apart = (q - q2).abs() > 2e-6 * q2.abs().max()
    assert apart.sum() <= (1 if quantized else 0)  # between two levels the last bit may decide
    torch.testing.assert_close(gradient, gradient2, rtol=1e-5, atol=2e-6)


@in_interpreter
def test_weights_are_made_again_on_a_gpu_too(interpreted: ModuleType) -> None:
    weight, step = randn(8, 8).requires_grad_(), torch.tensor(0.2, requires_grad=True)
    with Memory("keep") as memory:
        q = fake_quantize_fused(weight, step, lsq_grid(15, True))
        entry = memory._find(q)
        assert entry is not None
        assert torch.equal(entry.rebuild(), q)


@in_interpreter
def test_kernels_are_tried_before_they_are_used(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = torch.device("cpu")
    assert interpreted.available(cpu)
    assert fits(randn(3).half())
    interpreted.available.cache_clear()
    monkeypatch.setattr(interpreted, "fake_quantize_forward", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        assert not interpreted.available(cpu)
        assert not fits(randn(3))
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "Triton cannot be used" in warning


def test_without_triton_the_definition_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_gpu", lambda: None)
    monkeypatch.setattr(dispatch, "on_gpu", lambda x: True)
    x, step = randn(5, 7), torch.tensor(0.3)
    assert not fits(x)
    y = fake_quantize_fused(x, step, lsq_grid(15, True))
    assert torch.equal(y, fake_quantize(x, step, lsq_grid(15, True)))
