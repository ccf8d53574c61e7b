"""The kernels do what the definitions do, for all layouts; and there is a way without them."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.quant import kernels
from qatlab.quant.dispatch import (
    ON_CPU,
    dorefa_weight_fused,
    fake_quantize_fused,
    fits,
    sat_weight_fused,
)
from qatlab.quant.functional import GRIDS, Scaling, dorefa_weight, sat_weight
from qatlab.quant.grid import Grid, cg_pact_grid, fake_quantize, lsq_grid, pact_grid
from qatlab.quant.normed import FUNCTIONS, NOTHING, activate_and_quantize, norm_and_quantize

METHODS = {
    "cg_pact": (cg_pact_grid, 1.3),
    "pact": (pact_grid, 1.3),
    "lsq": (lsq_grid, 0.2),
    "negative step": (lsq_grid, -0.2),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, -1),
    "with gaps": lambda x: x[:, ::2, 1:],
    "expanded": lambda x: x[:1].expand_as(x),
}
NHWC = torch.channels_last
SIZES = [(5, 8, 32, 32), (1, 3, 1, 7), (2, 4, 1, 1), (0, 3, 8, 8)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def results(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """Output and gradients of all inputs for an upstream gradient of random numbers."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    upstream = randn(*y.shape, seed=9).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x for x in leaves if x is not None], upstream)]


def assert_same(fast: list[Tensor], slow: list[Tensor]) -> None:
    """The output and the gradient of x are equal; the others are sums, made in another order."""
    assert torch.equal(fast[0], slow[0])
    torch.testing.assert_close(fast[1], slow[1], rtol=1e-6, atol=0)
    for a, b in zip(fast[2:], slow[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, fast[0].numel() ** 0.5))


@pytest.fixture(autouse=True)
def _needs_kernels() -> None:
    if not kernels.available():
        pytest.skip("there is no C++ compiler here")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("method", METHODS)
def test_a_site_is_the_definition(method: str, bits: int, signed: bool, layout: str) -> None:
    if signed and bits == 1:
        pytest.skip("a signed site has no levels at 1 bit")
    make, size = METHODS[method]
    grid = make((1 << bits) - 1, signed)
    x = LAYOUTS[layout](randn(4, 6, 9, 7))
    for ewgs in (0.0, 0.3):
        both = (
            results(partial(core, grid=grid, gradient_scale=0.5, ewgs=ewgs), x, torch.tensor(size))
            for core in (fake_quantize_fused, fake_quantize)
        )
        assert_same(*both)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("offset", [None, -0.37])
def test_sizes_and_offsets(size: tuple[int, ...], offset: float | None) -> None:
    grid = lsq_grid(15, False)
    inputs = [randn(*size), torch.tensor(0.2)]
    inputs += [] if offset is None else [torch.tensor(offset)]
    both = (
        results(lambda x, p, b=None, core=core: core(x, p, grid, 0.1, b), *inputs)
        for core in (fake_quantize_fused, fake_quantize)
    )
    assert_same(*both)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("offset", [None, -0.37])
def test_bfloat16_is_read_as_it_is(method: str, layout: str, offset: float | None) -> None:
    make, size = METHODS[method]
    x = LAYOUTS[layout](randn(4, 6, 40, 30) * torch.logspace(-3, 1, 30)).bfloat16()
    assert fits(x, ON_CPU)
    inputs = [x, torch.tensor(size)] + ([] if offset is None else [torch.tensor(offset)])
    for ewgs in (0.0, 0.3):
        both = [
            results(lambda x, p, b=None, c=core, e=ewgs: c(x, p, make(7, True), 0.5, b, e), *inputs)
            for core in (fake_quantize_fused, fake_quantize)
        ]
        assert [found.dtype for found in both[0][:3]] == [torch.bfloat16] * 2 + [torch.float32]
        assert_same(*both)


@pytest.mark.parametrize("shape", [(20, 8, 3, 3), (300, 7), (1, 5), (3, 2000, 3, 3)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_step_for_each_channel(shape: tuple[int, ...], layout: str) -> None:
    if len(shape) == 2 and layout == "channels_last":
        pytest.skip("two dimensions have no channels_last")
    weight = LAYOUTS[layout](randn(*shape) / 10)
    step = 0.01 + randn(shape[0], *(1,) * (len(shape) - 1), seed=2).abs() / 20
    both = (
        results(lambda w, s, core=core: core(w, s, lsq_grid(15, True), 0.1), weight, step)
        for core in (fake_quantize_fused, fake_quantize)
    )
    assert_same(*both)


@pytest.mark.parametrize("scaling", [False, True, "fan_in"])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_sat_weights_are_the_definition(
    grid: str, bits: int, quantized: bool, scaling: Scaling
) -> None:
    if bits == 1 and grid in ("symmetric", "asymmetric"):
        pytest.skip("refused by SatWeight")
    n = (1 << bits) - 1
    weight = randn(16, 12, 3, 3, seed=bits) * torch.logspace(-6, 1, 12)[:, None, None]
    (q, gradient), (q2, gradient2) = (
        results(lambda w, f=f: f(w, n, grid, quantized, scaling), weight)
        for f in (sat_weight_fused, sat_weight)
    )
    # Its tanh is another one: between two levels the last bit may decide.
    apart = (q - q2).abs() > 2e-6 * q2.abs().max()
    assert apart.sum() <= (1 if quantized else 0)
    torch.testing.assert_close(gradient, gradient2, rtol=1e-5, atol=2e-6 * gradient2.abs().max())


def test_the_kernels_tanh_is_tanh() -> None:
    w = torch.cat(
        [torch.linspace(-12, 12, 100_001), torch.logspace(-38, 2, 10_001), -torch.ones(1)]
    )
    ours = sat_weight_fused(w, 15, "default", False, False)  # divided by the largest, 1
    torch.testing.assert_close(ours.double(), w.double().tanh(), rtol=2.5e-7, atol=1e-38)


class Normed:
    """A batch norm and what it and a quantizer make of ``x``, together or one by one."""

    def __init__(
        self, channels: int, training: bool = True, activation: nn.Module = NOTHING
    ) -> None:
        self.activation = activation
        self.norm = nn.BatchNorm2d(channels).train(training)
        with torch.no_grad():
            self.norm.weight.copy_(randn(channels, seed=3))  # of both signs
            self.norm.bias.copy_(randn(channels, seed=4))
            self.norm.running_mean.copy_(randn(channels, seed=5))

    def fast(self, x: Tensor, p: Tensor, grid: Grid, offset: Tensor | None = None) -> Tensor:
        return norm_and_quantize(x, self.norm, p, grid, 0.5, offset, 0.0, self.activation)

    def slow(self, x: Tensor, p: Tensor, grid: Grid, offset: Tensor | None = None) -> Tensor:
        return fake_quantize(self.activation(self.norm(x)), p, grid, 0.5, offset)


# Rows of many elements, and channels that are taken together: of one tile, and of several.
NORMED_SIZES = [
    *((6, 5, 17, 13), (40, 3, 1, 1), (2, 64, 40, 30), (1, 2, 70, 70)),
    *((130, 40, 3, 3), (3, 300, 1, 2), (2, 5, 11, 9), (70, 37, 2, 3)),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", NORMED_SIZES)
@pytest.mark.parametrize("grid", [cg_pact_grid(255, False), lsq_grid(15, True)])
def test_norm_and_quantizer_together_are_the_two(
    size: tuple[int, ...], grid: Grid, layout: str
) -> None:
    assert_together_as_apart(size, grid, NOTHING, layout=layout)


@pytest.mark.parametrize("size", [(6, 5, 17, 13), (70, 37, 3, 3)])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("grid", [cg_pact_grid(15, False), lsq_grid(255, True)])
@pytest.mark.parametrize(
    ("spread", "layout"), [(1.0, "contiguous"), (60.0, "contiguous"), (1.0, "channels_last")]
)
def test_a_function_between_them_is_that_of_torch(
    size: tuple[int, ...], function: type[nn.Module], grid: Grid, spread: float, layout: str
) -> None:
    assert_together_as_apart(size, grid, function(), spread, layout)


def assert_together_as_apart(
    size: tuple[int, ...],
    grid: Grid,
    activation: nn.Module,
    spread: float = 1.0,
    layout: str = "contiguous",
) -> None:
    """The same results, gradients and statistics of what has this spread behind the norm."""
    x = LAYOUTS[layout](2 * randn(*size) + 1)
    parameter = torch.tensor(2.0 if grid.divisor > 1 else 0.2)
    found = []
    for name in ("fast", "slow"):
        normed = Normed(size[1], activation=activation)
        normed.norm.weight.data *= spread
        p, leaf = parameter.clone().requires_grad_(), x.clone().requires_grad_()
        y = getattr(normed, name)(leaf, p, grid)
        gradients = torch.autograd.grad(
            y, (leaf, p, normed.norm.weight, normed.norm.bias), randn(*size, seed=9)
        )
        buffers = [b.clone() for b in normed.norm.buffers()]
        found.append((y.detach(), *gradients, *buffers))
    (y, *fast), (y2, *slow) = found
    # The batch's mean is summed in another order: a value between two levels may change sides.
    assert ((y - y2).abs() > 1e-6).sum() <= 1 + 1e-5 * y.numel()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * (b.abs().max() + 1))


@pytest.mark.parametrize("size", [(6, 16, 17, 13), (9, 37, 3, 3), (3, 600, 5, 4)])
@pytest.mark.parametrize("ewgs", [0.0, 0.4])
def test_bfloat16_in_nhwc_is_computed_in_float32(size: tuple[int, ...], ewgs: float) -> None:
    x, grid = LAYOUTS["channels_last"](2 * randn(*size) + 1).bfloat16(), lsq_grid(15, False)
    upstream = LAYOUTS["channels_last"](randn(*size, seed=9)).bfloat16()
    found = []
    for threads, values in ((1, x), (2, x), (1, x.float())):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        normed, p = Normed(size[1]), torch.tensor(0.2, requires_grad=True)
        leaf = values.clone().requires_grad_()
        y = norm_and_quantize(leaf, normed.norm, p, grid, 0.5, None, ewgs)
        learned = (p, normed.norm.weight, normed.norm.bias)
        gradients = torch.autograd.grad(y, (leaf, *learned), upstream.to(y.dtype))
        torch.set_num_threads(before)
        found.append([y.detach(), *gradients, *(b.clone() for b in normed.norm.buffers())])
    assert found[0][0].dtype is found[0][1].dtype is torch.bfloat16
    assert found[0][0].is_contiguous(memory_format=NHWC)
    assert all(map(torch.equal, *found[:2]))  # repeatable, by how many threads ever
    (y, of_x, *others), (y32, of_x32, *others32) = found[0], found[2]
    assert torch.equal(y, y32.bfloat16())
    # What reaches the norm is rounded once on its way.
    torch.testing.assert_close(of_x.float(), of_x32, rtol=2**-6, atol=2**-7)
    assert all(map(torch.equal, others, others32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("offset", [None, 0.3])
def test_a_function_without_a_norm_is_that_of_torch(
    layout: str, function: type[nn.Module], offset: float | None
) -> None:
    activation, grid = function(), lsq_grid(255, True)
    x = LAYOUTS[layout](3 * randn(6, 8, 20, 10))
    p, b = torch.tensor(0.02), None if offset is None else torch.tensor(offset)
    found = []
    for fast in (True, False):

        def once(x: Tensor, p: Tensor, b: Tensor | None, fast: bool = fast) -> Tensor:
            if fast:
                return activate_and_quantize(x, activation, p, grid, 0.5, b, 0.0)
            return fake_quantize(activation(x), p, grid, 0.5, b)

        found.append(results(once, x, p, b))
    (y, *fast_ones), (y2, *slow_ones) = found
    assert ((y - y2).abs() > 1e-6).sum() <= 1e-4 * y.numel()
    for ours, theirs in zip(fast_ones, slow_ones, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5 * (theirs.abs().max() + 1))
    with torch.no_grad():
        exact = activate_and_quantize(x, activation, p, grid, 0.5, b, 0.0)
    assert torch.equal(exact, y2)


def test_an_evaluation_computes_the_function_as_torch_does() -> None:
    normed, p = Normed(16, training=False, activation=nn.SiLU()), torch.tensor(0.1)
    x, grid = randn(20, 16, 30, 30), lsq_grid(255, True)
    with torch.no_grad():
        assert torch.equal(normed.fast(x, p, grid), normed.slow(x, p, grid))


@pytest.mark.parametrize("case", ["evaluation", "no affine", "no momentum"])
def test_where_the_kernel_does_not_fit_the_two_run_one_by_one(case: str) -> None:
    fast, slow = Normed(4, training=case != "evaluation"), Normed(4, training=case != "evaluation")
    for normed in (fast, slow):
        if case == "no affine":
            normed.norm = nn.BatchNorm2d(4, affine=False)
        normed.norm.momentum = None if case == "no momentum" else 0.1
    x = randn(5, 4, 6, 6)
    grid, p = lsq_grid(15, False), torch.tensor(0.1)
    (y, *_), (y2, *_) = (
        results(lambda x, p, f=f: f(x, p, grid), x, p) for f in (fast.fast, slow.slow)
    )
    assert ((y - y2).abs() > 1e-6).sum() == 0
    assert all(map(torch.equal, fast.norm.buffers(), slow.norm.buffers()))
    with torch.no_grad():
        assert (fast.fast(x, p, grid) - slow.slow(x, p, grid)).abs().max() <= 0.1001  # one step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity_are_not_hidden(dtype: torch.dtype) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=dtype)
    y = fake_quantize_fused(x, torch.tensor(0.5), lsq_grid(15, True))
    assert torch.equal(y[1:], torch.tensor([3.5, -4.0, 1.0], dtype=dtype))
    assert y[0].isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_use_the_definition(dtype: torch.dtype) -> None:
    x = randn(3, 4).to(dtype)
    assert not fits(x)
    y = fake_quantize_fused(x, torch.tensor(0.5), lsq_grid(15, True))
    assert y.dtype is dtype
    assert torch.equal(y, fake_quantize(x, torch.tensor(0.5), lsq_grid(15, True)))


def test_under_autocast_both_compute_in_float32_and_return_what_they_got() -> None:
    layer = nn.Linear(30, 20)
    found = []
    for core in (fake_quantize_fused, fake_quantize):
        x, p = randn(8, 30).requires_grad_(), torch.tensor(0.1, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = core(layer(x), p, lsq_grid(15, False))
        found.append([y, *torch.autograd.grad(y.float().square().sum(), (x, p))])
    assert found[0][0].dtype is torch.bfloat16
    assert_same(*found)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (70, 90), (1, 1)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_of_dorefa_are_the_definition(bits: int, shape: tuple[int, ...]) -> None:
    n_steps, weight = (1 << bits) - 1, randn(*shape)
    weight.view(-1)[-1] = -weight.abs().max()  # two at the maximum: each has a half of its gradient
    for w in (weight, weight.t() if weight.ndim == 2 else weight.contiguous(memory_format=NHWC)):
        fast, slow = (
            results(partial(core, n_steps=n_steps), w)
            for core in (dorefa_weight_fused, dorefa_weight)
        )
        torch.testing.assert_close(fast[0], slow[0])
        torch.testing.assert_close(fast[1], slow[1], rtol=1e-4, atol=1e-5)


def unlike(name: str, tensor: Tensor) -> Tensor:
    """A tensor that the kernels would misread: other bytes, or an element for each row."""
    if name == "float64":
        return tensor.double()
    return tensor + 0.1 * torch.arange(5.0).view(5, 1, 1, 1)


@pytest.mark.parametrize("bad_parameter", ["as it is", "float64"])
@pytest.mark.parametrize("bad_offset", ["float64", "for each row", "for each row, float64"])
@pytest.mark.parametrize("rows", [1, 5])
def test_what_the_kernels_cannot_read_is_computed_by_definition(
    bad_parameter: str, bad_offset: str, rows: int
) -> None:
    parameter, offset = torch.full((rows, 1, 1, 1), 0.2), torch.tensor(-0.3)
    if bad_parameter == "float64":
        parameter = unlike("float64", parameter)
    for name in bad_offset.split(", "):
        offset = unlike(name, offset)
    calls = [
        lambda x, p, b, core=core: core(x, p, lsq_grid(15, False), 0.5, b)
        for core in (fake_quantize_fused, fake_quantize)
    ]
    fast, slow = (results(call, randn(5, 3, 4, 4), parameter, offset) for call in calls)
    for a, b in zip(fast, slow, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    by_hand = randn(5, 3, 4, 4) - offset
    index = (by_hand / parameter).clamp(0, 15).round()
    torch.testing.assert_close(fast[0], (index * parameter + offset).float())


@pytest.mark.parametrize("which", ["norm", "parameter", "offset"])
def test_a_norm_or_a_step_of_another_type_is_computed_apart(which: str) -> None:
    x, grid = randn(4, 3, 5, 5), lsq_grid(15, False)
    types = {name: torch.float32 for name in ("norm", "parameter", "offset")}
    types[which] = torch.float64
    norm = nn.BatchNorm2d(3).to(types["norm"])
    parameter = torch.tensor(0.2, dtype=types["parameter"])
    offset = torch.tensor(-0.3, dtype=types["offset"])
    if which == "norm":  # torch has none for the two
        with pytest.raises(RuntimeError, match="scalar type"):
            norm_and_quantize(x, norm, parameter, grid, 1.0, offset, 0.0)
        return
    wanted = fake_quantize(nn.BatchNorm2d(3)(x), parameter, grid, 1.0, offset)
    found = norm_and_quantize(x, norm, parameter, grid, 1.0, offset, 0.0)
    torch.testing.assert_close(found, wanted)


def test_the_result_can_be_changed_in_place() -> None:
    x, alpha = randn(50_000).requires_grad_(), torch.tensor(1.0, requires_grad=True)
    y = fake_quantize_fused(x, alpha, cg_pact_grid(15, False)).add_(1.0).mul_(2.0)
    y.sum().backward()
    assert torch.equal(x.grad, 2.0 * ((x > 0) & (x <= 1)))


@pytest.fixture
def new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No library is loaded yet, and the cache folder is another one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels._library.cache_clear()
    yield tmp_path / "qatlab"
    kernels._library.cache_clear()


def test_the_library_is_compiled_once_and_kept(new_cache: Path) -> None:
    assert kernels.available()
    (library,) = new_cache.glob("*.so")
    first = library.stat().st_mtime_ns
    kernels._library.cache_clear()
    assert kernels.available()
    assert library.stat().st_mtime_ns == first


@pytest.mark.parametrize(("compiler", "words"), [("/nonexistent/g++", "g++"), ("false", "false")])
def test_without_a_compiler_there_is_one_warning(
    new_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiler: str,
    words: str,
) -> None:
    monkeypatch.setenv("CXX", compiler)
    x, p = randn(10), torch.tensor(0.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            y = fake_quantize_fused(x, p, lsq_grid(15, True))
    assert torch.equal(y, fake_quantize(x, p, lsq_grid(15, True)))
    warnings: list[Any] = [r.getMessage() for r in caplog.records if "slower" in r.getMessage()]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert "\n" not in warnings[0]
    assert list(new_cache.glob("*")) == []


def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = "c++"
    command = [compiler, *kernels.FLAGS, "-Wall", "-Wextra", "-Werror", str(kernels.SOURCE)]
    done = subprocess.run([*command, "-o", str(tmp_path / "k.so")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
