"""Kernels, strides and paddings of ONNX's convolutions and poolings."""

from __future__ import annotations

from dataclasses import dataclass

from ini_compat.cells.geometry import Pair
from ini_compat.onnx_graph.step import Sides, Step, Tensor

HIGHEST = 1 << 20  # of a kernel, a stride, a padding: more is no network


@dataclass(frozen=True)
class Window:
    """How a window moves over the images; pairs are height and width."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    sides: Sides


def read_window(step: Step, tensor: Tensor, kernel: Pair | None = None) -> Window:
    """Read the attributes of a node.

    Args:
        step: the node.
        tensor: its input.
        kernel: of the weights; None: the node has to say it.
    """
    said = _pair(step, "kernel_shape", kernel)
    if kernel is not None and said != kernel:
        raise step.error(f"has kernel_shape={list(said)}, but weights of {list(kernel)}")
    stride, dilation = _pair(step, "strides", (1, 1)), _pair(step, "dilations", (1, 1))
    return Window(said, stride, dilation, _sides(step, tensor, said, stride, dilation))


def ceil_sides(step: Step, tensor: Tensor, window: Window) -> Sides:
    """Return the padding that makes room for the incomplete windows of ``ceil_mode``."""
    if not step.integer("ceil_mode", 0):
        return window.sides
    top, bottom, left, right = window.sides
    more = []
    for size, k, s, d, begin, end in zip(
        *(tensor.shape[1:], window.kernel, window.stride, window.dilation),
        *((top, left), (bottom, right)),
        strict=True,
    ):
        room = size + begin + end - (d * (k - 1) + 1)
        steps = -(-room // s)
        if steps * s >= size + begin:
            steps -= 1  # a window that would begin behind the image does not count
        more.append(max(steps * s - room, 0))
    return top, bottom + more[0], left, right + more[1]


def _sides(step: Step, tensor: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    automatic = step.text("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        edges = []
        for size, k, s, d in zip(tensor.shape[1:], kernel, stride, dilation, strict=True):
            whole = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            less, greater = whole // 2, whole - whole // 2
            edges.append((less, greater) if automatic == "SAME_UPPER" else (greater, less))
        return edges[0][0], edges[0][1], edges[1][0], edges[1][1]
    if automatic not in ("NOTSET", "VALID", ""):
        raise step.error(
            f"has auto_pad={automatic!r:.40}. Accepted: NOTSET, VALID, SAME_UPPER, SAME_LOWER"
        )
    pads = step.integers("pads") or [0, 0, 0, 0]
    if len(pads) != 4 or not all(0 <= n <= HIGHEST for n in pads):
        raise step.error(f"has pads={pads!s:.60}. Accepted: four numbers from 0, for images")
    return pads[0], pads[2], pads[1], pads[3]


def _pair(step: Step, key: str, default: Pair | None) -> Pair:
    numbers = step.integers(key)
    if numbers is None:
        if default is None:
            raise step.error(f"has no {key}")
        return default
    if len(numbers) != 2 or not all(1 <= n <= HIGHEST for n in numbers):
        raise step.error(f"has {key}={numbers!s:.60}. Accepted: two numbers from 1, for images")
    return numbers[0], numbers[1]
