"""Starting values, from the formulas of the papers and by search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods import randn
from numpy.typing import NDArray
from torch import Tensor

from qatlab.quant.grid import Grid, cg_pact_grid, lsq_grid
from qatlab.quant.starts import STARTS, start_parameter, start_range

GRIDS = {
    "weights": lsq_grid(15, signed=True),  # -8 ... 7
    "activations": lsq_grid(15, signed=False),
    "clip value": cg_pact_grid(15, signed=False),
    "signed clip value": cg_pact_grid(15, signed=True),  # 7 steps on each side
}


def step_of(parameter: Tensor, grid: Grid) -> Tensor:
    return parameter / grid.divisor


# Of the values -1 and 3: mean 1, deviation 2, mean size 2.
@pytest.mark.parametrize(
    ("start", "grid", "step"),
    [
        ("mean", "weights", 2 * 2 / math.sqrt(7)),  # Esser et al. 2019, section 2.1
        ("mean", "activations", 2 * 2 / math.sqrt(15)),
        ("mean", "clip value", 2 * 2 / math.sqrt(15)),
        ("mean_std", "weights", 7 / 2**3),  # Bhalgat et al. 2020: max(|m - 3d|, |m + 3d|) / 2^(b-1)
        ("mean_std", "activations", 7 / 15),
        ("mean_std", "signed clip value", 7 / 7),
        ("min_max", "weights", 3 / 7),
        ("min_max", "activations", 3 / 15),
        ("min_max", "signed clip value", 3 / 7),
        ("percentile", "weights", 3 / 7),
        ("percentile", "clip value", 3 / 15),
    ],
)
def test_two_values_by_hand(start: str, grid: str, step: float) -> None:
    found = start_parameter(torch.tensor([-1.0, 3.0]), GRIDS[grid], start)
    assert found.shape == ()
    assert step_of(found, GRIDS[grid]).item() == pytest.approx(step, rel=1e-6)


def test_mean_std_looks_at_the_end_that_is_further_from_zero() -> None:
    for sign in (1, -1):  # 7 is |m + 3 d|, or |m - 3 d|
        found = start_parameter(sign * torch.tensor([-1.0, 3.0]), lsq_grid(15, True), "mean_std")
        assert found.item() == pytest.approx(7 / 8, rel=1e-6)


@pytest.mark.parametrize(("low", "high", "step"), [(-8.0, 3.0, 1.0), (-2.0, 14.0, 2.0)])
def test_min_max_is_the_smallest_step_that_clips_nothing(
    low: float, high: float, step: float
) -> None:
    # Esser's grid reaches one step further down than up.
    values = torch.tensor([low, 0.0, high])
    assert start_parameter(values, lsq_grid(15, True), "min_max").item() == step


@pytest.mark.parametrize(
    ("percentile", "clipped"), [(100.0, 0), (99.9, 1), (99.0, 10), (50.0, 500), (1e-3, 999)]
)
def test_percentile_clips_no_more_than_its_rest(percentile: float, clipped: int) -> None:
    values = torch.arange(1.0, 1001.0) * torch.tensor([1.0, -1.0]).repeat(500)
    found = start_parameter(
        values[torch.randperm(1000)], lsq_grid(15, True), "percentile", percentile
    )
    end = found.item() * 7
    assert end == pytest.approx(1000 - clipped, rel=1e-6)


def error(values: NDArray[np.float64], step: float, grid: Grid) -> float:
    index = np.clip(np.rint(values / step), grid.q_min, grid.q_max)
    return float(((index * step - values) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["weights", "activations", "clip value"])
def test_mse_is_the_best_of_80_steps(name: str, bits: int) -> None:
    make, signed = (cg_pact_grid if "clip" in name else lsq_grid), name == "weights"
    grid = make((1 << bits) - 1, signed)
    values = randn(2000).relu() if not signed else randn(2000)
    exact = values.double().numpy()
    found = step_of(start_parameter(values, grid, "mse"), grid).item()
    largest = max(exact.max() / grid.q_max, exact.min() / grid.q_min if signed else 0)
    least = min(error(exact, largest * part / 80, grid) for part in range(1, 81))
    assert error(exact, found, grid) == pytest.approx(least, rel=1e-4)
    assert found / largest * 80 == pytest.approx(round(found / largest * 80), abs=1e-3)
    # Not far from the best of all: a step is off by half a part at most.
    fine = min(error(exact, s, grid) for s in np.linspace(largest / 100, largest, 1000))
    assert error(exact, found, grid) < 1.02 * fine


@pytest.mark.parametrize("bits", [2, 4])
def test_mse_clips_an_outlier(bits: int) -> None:
    values = torch.cat([randn(4000), torch.tensor([40.0])])
    grid = lsq_grid((1 << bits) - 1, True)
    assert start_parameter(values, grid, "mse") < start_parameter(values, grid, "min_max") / 2


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (3, 40), (1, 2, 5, 5)])
def test_per_channel_is_the_start_of_each_channel(start: str, shape: tuple[int, ...]) -> None:
    grid = lsq_grid(15, True)
    values = randn(*shape) * torch.logspace(-3, 1, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    found = start_parameter(values, grid, start, 90.0, per_channel=True)
    assert found.shape == (shape[0], *(1,) * (len(shape) - 1))
    alone = torch.stack([start_parameter(row, grid, start, 90.0) for row in values])
    torch.testing.assert_close(found.flatten(), alone)


@pytest.mark.parametrize("start", STARTS)
def test_a_channel_of_zeros_takes_the_largest_step_of_the_others(start: str) -> None:
    values = torch.stack([randn(50), torch.zeros(50), 3 * randn(50, seed=1)])
    found = start_parameter(values, lsq_grid(15, True), start, per_channel=True).flatten()
    assert found[1] == found[2] == found.max()
    assert found[0] < found[2]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_values_without_a_start_give_none(start: str, per_channel: bool, value: float) -> None:
    values = torch.full((2, 8), value)
    found = start_parameter(values, lsq_grid(15, True), start, per_channel=per_channel)
    assert not (found.isfinite() & (found > 0)).any()


def test_one_channel_of_nan_is_not_hidden_by_the_others() -> None:
    values = torch.stack([randn(50), torch.full((50,), math.nan)])
    for start in STARTS:
        found = start_parameter(values, lsq_grid(15, True), start, per_channel=True)
        assert not found.isfinite().all()


# ---- the range of a step with an offset

GRID = lsq_grid(15, False)


@pytest.mark.parametrize(
    ("start", "percentile", "low", "high"),
    [
        # 99 times 0 and 100: mean 1, deviation sqrt(100 - 1); not below the lowest value
        ("mean_std", 99.9, 0.0, 1 + 3 * math.sqrt(99)),
        ("min_max", 99.9, 0.0, 100.0),
        ("percentile", 99.0, 0.0, 0.0),
        ("percentile", 100.0, 0.0, 100.0),
    ],
)
def test_the_range_of_an_outlier(start: str, percentile: float, low: float, high: float) -> None:
    values = torch.tensor([0.0] * 99 + [100.0])
    found = [end.item() for end in start_range(values, GRID, start, percentile)]
    assert found == pytest.approx([low, high], rel=1e-6)
    mirrored = [end.item() for end in start_range(-values, GRID, start, percentile)]
    assert mirrored == pytest.approx([-high, -low], rel=1e-6)


def test_percentile_leaves_out_its_rest_on_each_side() -> None:
    low, high = start_range(torch.arange(1.0, 101.0)[torch.randperm(100)], GRID, "percentile", 95.0)
    assert (low.item(), high.item()) == (6, 95)


def test_mse_takes_the_part_of_the_range_that_quantizes_best() -> None:
    values = torch.cat(
        [torch.rand(2000, generator=torch.Generator().manual_seed(0)), torch.tensor([9.0])]
    )
    low, high = start_range(values, lsq_grid(3, False), "mse")
    # by hand: 80 parts of the range, values rounded to the nearest of four levels in each
    errors = {}
    for part in range(1, 81):
        a, b = values.min() * part / 80, values.max() * part / 80
        levels = a + (b - a) * torch.arange(4) / 3
        nearest = (values[:, None] - levels).abs().min(1).values
        errors[part] = nearest.square().sum().item()
    best = min(errors, key=lambda part: errors[part])
    assert high.item() == pytest.approx(values.max().item() * best / 80, rel=1e-5)
    assert low.item() == pytest.approx(values.min().item() * best / 80, rel=1e-5)
    assert best < 80
