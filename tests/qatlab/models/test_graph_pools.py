"""Pooling layers against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from graphs import SHAPE, array, check, one, randn
from torch import fx, nn

from qatlab.models import LayerGraph

POOLS = [
    {"kernel": 2, "stride": 2},
    {"kernel": [3, 2], "stride": [2, 3], "padding": [1, 0]},
    {"kernel": 3, "padding": 2},  # more than torch pads itself
    {"kernel": 3, "stride": 2, "padding": [0, 1, 0, 2]},
]
MAPPINGS = [
    None,
    ["1000", "0100", "0010", "0001"],
    ["11111"] * 4,
    ["110010", "011000", "000111", "000001"],
]


@pytest.mark.parametrize("keys", POOLS)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(("kind", "reduce"), [("max_pool", np.max), ("avg_pool", np.mean)])
def test_pools(kind: str, reduce: Any, mapping: Any, keys: Any) -> None:
    x = randn(2, *SHAPE) - 1  # mostly negative: a padded 0 would win
    kernel = keys["kernel"] if isinstance(keys["kernel"], list) else [keys["kernel"]] * 2
    settings = reference.spelled_out(keys)
    expected = reference.pool(array(x), reduce, kernel, mapping=mapping, **settings)
    model = check({"type": kind, "mapping": mapping, **keys}, lambda _: expected, x)
    plain = mapping in MAPPINGS[:2]
    classes = {"max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d}
    assert (type(model.layer) is classes[kind]) == plain
    assert not model.state_dict()


def test_max_unpool_puts_values_where_the_maxima_were() -> None:
    keys: Any = {"kernel": [3, 2], "stride": 2, "padding": [1, 0]}
    layers = {
        "pool": {"type": "max_pool", **keys},
        "twice": {"type": "scale", "factor": 2.0},
        "layer": {"type": "max_unpool", "pool": "pool", **keys},
    }
    model = LayerGraph(SHAPE, layers)
    x = randn(2, *SHAPE)
    expected = torch.zeros_like(x)
    for n, c, r, k in np.ndindex(2, 4, 4, 3):
        top, left = max(2 * r - 1, 0), 2 * k
        window = x[n, c, top : 2 * r + 2, left : left + 2]
        row, column = divmod(int(window.argmax()), window.shape[1])
        expected[n, c, top + row, left + column] += 2 * window.max()
    assert (expected > 2 * x).any()  # windows overlap, and some share their maximum
    torch.testing.assert_close(model(x), expected)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert model.shapes["layer"] == SHAPE


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("pseudo_random", [True, False])
@pytest.mark.parametrize(("size", "ratio", "count"), [(25, 1.4, 17), (12, 2.0, 6), (9, 2.5, 3)])
def test_fractional_max_pool_takes_maxima_of_regions_that_cover_the_plane(
    overlapping: bool, pseudo_random: bool, size: int, ratio: float, count: int
) -> None:
    node = {"type": "fractional_max_pool", "ratio": ratio, "overlapping": overlapping}
    model = one({**node, "pseudo_random": pseudo_random}, (2, size, size))
    traced = fx.symbolic_trace(fx.symbolic_trace(model))
    assert model.shapes["layer"] == (2, count, count)
    rows = torch.arange(size).float()[:, None].expand(size, size)  # rows grow downwards ...
    x = torch.stack([rows, -rows])[None]  # ... and upwards, for last and first row of each region
    seen = set()
    for network in (model, traced):
        for _ in range(10):
            y = network(x)
            assert (y == y[..., :1]).all()
            last, first = y[0, 0, :, 0], -y[0, 1, :, 0]
            assert first[0] == 0
            assert last[-1] == size - 1
            between = first[1:] - last[:-1]
            assert (between == (0 if overlapping else 1)).all()
            lengths = first[1:] - first[:-1]
            assert set(lengths.tolist()) <= {size // count, -(-size // count)}
            seen.add(tuple(lengths.tolist()))
    assert (len(seen) > 1) == (size % count > 0)
