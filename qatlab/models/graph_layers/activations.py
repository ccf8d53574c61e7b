"""Activation functions, softmax and dropout."""

from __future__ import annotations

import operator
from functools import partial

import torch
from torch import Tensor, nn

from qatlab.models.graph_layers.place import Layer, Place, Step
from qatlab.models.graph_layers.shapes import reshaped


def relu(at: Place, *, slope: float = 0.0, clip: float | None = None) -> Layer:
    """``x``, ``slope * x`` where it is negative, and ``clip`` where it is above that."""
    if clip is not None and not clip > 0:
        raise at.wrong("clip", clip, "a number above 0, or null")
    if slope:
        before = () if clip is None else (partial(torch.clamp, max=clip),)
        return alike(at, nn.LeakyReLU(slope), before)
    if clip is None:
        return alike(at, nn.ReLU())
    return alike(at, nn.ReLU6() if clip == 6 else nn.Hardtanh(0.0, clip))


def saturation(at: Place, *, threshold: float = 1.0) -> Layer:
    """``x`` cut to ``[-threshold, threshold]``."""
    if not threshold > 0:
        raise at.wrong("threshold", threshold, "a number above 0")
    return alike(at, nn.Hardtanh(-threshold, threshold))


def sigmoid(at: Place) -> Layer:
    """``1 / (1 + exp(-x))``."""
    return alike(at, nn.Sigmoid())


def tanh(at: Place, *, alpha: float = 1.0) -> Layer:
    """``tanh(alpha * x)``."""
    return alike(at, nn.Tanh(), () if alpha == 1 else (partial(operator.mul, alpha),))


def tanh_lecun(at: Place) -> Layer:
    """``1.7159 * tanh(2/3 * x)``."""
    return alike(at, nn.Tanh(), (partial(operator.mul, 2 / 3),), (partial(operator.mul, 1.7159),))


def softplus(at: Place) -> Layer:
    """``log(1 + exp(x))``."""
    return alike(at, nn.Softplus())


def silu(at: Place) -> Layer:
    """``x / (1 + exp(-x))``."""
    return alike(at, nn.SiLU())


def softmax(at: Place, *, group_size: int = 0) -> Layer:
    """Softmax over all channels, or over groups of consecutive ones."""
    channels = at.joined()[0]
    group_size = at.whole("group_size", group_size, lowest=0)
    if group_size == 0 or group_size == channels:
        return alike(at, nn.Softmax(dim=1))
    if channels % group_size:
        raise at.wrong("group_size", group_size, f"0 or a divisor of {channels} channels")
    shape = at.joined()
    split = (shape[0] // group_size, group_size, *(() if at.flat else shape[1:]))
    whole = shape[:1] if at.flat else shape
    before, after = (partial(reshaped, shape=s) for s in (split, whole))
    return alike(at, nn.Softmax(dim=2), (before,), (after,))


def dropout(at: Place, *, p: float = 0.5, rescale: bool = True) -> Layer:
    """Zeros with probability ``p`` in training; ``rescale`` divides the others by ``1 - p``."""
    if not 0 <= p < 1:
        raise at.wrong("p", p, "a probability in [0, 1)")
    module = nn.Dropout(p)
    if not rescale:
        module.register_forward_hook(_undo_rescaling)
    return alike(at, module)


def alike(
    at: Place, module: nn.Module, before: tuple[Step, ...] = (), after: tuple[Step, ...] = ()
) -> Layer:
    """A layer whose output has the shape of its input."""
    return Layer(at.joined(), at.same(), module, before, after, at.flat)


def _undo_rescaling(module: nn.Dropout, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output * (1 - module.p) if module.training else output
