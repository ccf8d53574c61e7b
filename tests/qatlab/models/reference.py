"""Layers written down from their formulas, number by number, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def spelled_out(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a convolution or a pool as the functions below take them."""
    settings: dict[str, Any] = {"groups": keys["groups"]} if "groups" in keys else {}
    for key in {"stride", "dilation", "subsample"} & keys.keys():
        value = keys[key]
        settings[key] = tuple(value) if isinstance(value, list) else (value, value)
    if "padding" in keys:
        p = keys["padding"]
        p = p if isinstance(p, list) else [p, p]
        settings["sides"] = tuple(p) if len(p) == 4 else (p[0], p[0], p[1], p[1])
    return settings


def padded(x: Array, top: int, bottom: int, left: int, right: int, value: float) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    sides: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    subsample: tuple[int, int] = (1, 1),
) -> Array:
    """Cross-correlation; output sizes as N2D2 gives them."""
    outputs, by_group, k_h, k_w = weight.shape
    h, w = x.shape[2:]
    p_h, p_w = sides[0] + sides[1], sides[2] + sides[3]
    rows = (h + p_h - (dilation[0] * (k_h - 1) + 1) + stride[0]) // stride[0]
    columns = (w + p_w - (dilation[1] * (k_w - 1) + 1) + stride[1]) // stride[1]
    x = padded(x, *sides, value=0.0)
    y = np.zeros((len(x), outputs, rows, columns))
    for n, o, r, c in np.ndindex(*y.shape):
        first = o // (outputs // groups) * by_group
        for i, u, v in np.ndindex(by_group, k_h, k_w):
            at = r * stride[0] + u * dilation[0], c * stride[1] + v * dilation[1]
            y[n, o, r, c] += weight[o, i, u, v] * x[n, first + i, at[0], at[1]]
        y[n, o, r, c] += 0.0 if bias is None else bias[o]
    y = y[:, :, :: subsample[0], :: subsample[1]]
    assert y.shape[2:] == (-(-rows // subsample[0]), -(-columns // subsample[1]))
    return y


def deconv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    sides: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Every input adds its multiple of the kernel; padding is cut off."""
    inputs, by_group, k_h, k_w = weight.shape
    h, w = x.shape[2:]
    rows = h * stride[0] + dilation[0] * (k_h - 1) + 1 - stride[0]
    columns = w * stride[1] + dilation[1] * (k_w - 1) + 1 - stride[1]
    y = np.zeros((len(x), by_group * groups, rows, columns))
    for n, i, r, c in np.ndindex(*x.shape):
        first = i // (inputs // groups) * by_group
        for o, u, v in np.ndindex(by_group, k_h, k_w):
            at = r * stride[0] + u * dilation[0], c * stride[1] + v * dilation[1]
            y[n, first + o, at[0], at[1]] += weight[i, o, u, v] * x[n, i, r, c]
    top, bottom, left, right = sides
    y = y[:, :, top : rows - bottom, left : columns - right]
    return y if bias is None else y + bias[:, None, None]


def pool(
    x: Array,
    reduce: Callable[[Any], Any],
    kernel: list[int],
    stride: tuple[int, int] = (1, 1),
    sides: tuple[int, int, int, int] = (0, 0, 0, 0),
    mapping: list[str] | None = None,
) -> Array:
    """Each output reduces all values in the windows of its channels."""
    h, w = x.shape[2:]
    rows = (h + sides[0] + sides[1] - kernel[0] + stride[0]) // stride[0]
    columns = (w + sides[2] + sides[3] - kernel[1] + stride[1]) // stride[1]
    x = padded(x, *sides, value=0.0 if reduce is np.mean else -np.inf)
    mapping = mapping or [
        "".join(str(int(i == o)) for o in range(x.shape[1])) for i in range(x.shape[1])
    ]
    y = np.zeros((len(x), len(mapping[0]), rows, columns))
    for n, o, r, c in np.ndindex(*y.shape):
        channels = [i for i in range(x.shape[1]) if mapping[i][o] == "1"]
        top, left = r * stride[0], c * stride[1]
        window = x[n, channels, top : top + kernel[0], left : left + kernel[1]]
        y[n, o, r, c] = reduce(window)
    return y


def lrn(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        around = x[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha / size * (around**2).sum(1)) ** beta
    return y


def bilinear(x: Array, size: tuple[int, int], place: Callable[[int, int, int], float]) -> Array:
    """``place(i, input, output)`` says where output ``i`` lies in the input."""
    y = np.zeros((*x.shape[:2], *size))
    for r, c in np.ndindex(*size):
        v = min(max(place(r, x.shape[2], size[0]), 0.0), x.shape[2] - 1)
        u = min(max(place(c, x.shape[3], size[1]), 0.0), x.shape[3] - 1)
        low, left = int(v), int(u)
        high, right = min(low + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
        a, b = v - low, u - left
        y[:, :, r, c] = (1 - a) * ((1 - b) * x[:, :, low, left] + b * x[:, :, low, right])
        y[:, :, r, c] += a * ((1 - b) * x[:, :, high, left] + b * x[:, :, high, right])
    return y
