"""Layers with weights: convolutions, deconvolutions and fully-connected layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.models.graph_layers.fillers import Fans, filler
from qatlab.models.graph_layers.place import Layer, Place, Sides, Size, Step, sizes

Init = Mapping[str, Any] | None
M = TypeVar("M", bound=nn.Module)


def conv(
    at: Place,
    *,
    channels: int,
    kernel: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    subsample: Size = 1,
    mapping: Sequence[str] | None = None,
    weight_init: Init = None,
    bias_init: Init = None,
) -> Layer:
    """Convolution (cross-correlation), of which every ``subsample``-th output is kept."""
    channels_in, _, _ = at.joined()
    channels = at.whole("channels", channels)
    area, steps = at.pair("kernel", kernel), at.pair("stride", stride)
    spread, every = at.pair("dilation", dilation), at.pair("subsample", subsample)
    sides = at.sides("padding", padding)
    groups = _groups(at, groups, channels_in, channels, mapping)
    connections = at.connections(mapping, channels_in, channels)
    extent = (spread[0] * (area[0] - 1) + 1, spread[1] * (area[1] - 1) + 1)
    height, width = at.window(extent, steps, sides, kernel)
    symmetric = sides[0] == sides[1] and sides[2] == sides[3]
    module = _uninitialized(
        nn.Conv2d,
        channels_in,
        channels,
        area,
        stride=steps,
        padding=(sides[0], sides[2]) if symmetric else 0,
        dilation=spread,
        groups=groups,
        bias=bias,
    )
    _fill(at, module, weight_init, bias_init, channels_in // groups, area[0] * area[1])
    if connections is not None:
        _mask(module, connections.T[:, :, None, None])
    return Layer(
        (channels, -(-height // every[0]), -(-width // every[1])),
        at.spatial(),
        module,
        before=() if symmetric else (zero_pad(sides),),
        after=() if every == (1, 1) else (partial(_every, steps=every),),
    )


def deconv(
    at: Place,
    *,
    channels: int,
    kernel: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    mapping: Sequence[str] | None = None,
    weight_init: Init = None,
    bias_init: Init = None,
) -> Layer:
    """Transposed convolution; padding is cut off its output."""
    channels_in, height, width = at.joined()
    channels = at.whole("channels", channels)
    area, steps = at.pair("kernel", kernel), at.pair("stride", stride)
    spread, sides = at.pair("dilation", dilation), at.sides("padding", padding)
    groups = _groups(at, groups, channels_in, channels, mapping)
    connections = at.connections(mapping, channels_in, channels)
    shape = (
        channels,
        (height - 1) * steps[0] + spread[0] * (area[0] - 1) + 1 - sides[0] - sides[1],
        (width - 1) * steps[1] + spread[1] * (area[1] - 1) + 1 - sides[2] - sides[3],
    )
    if min(shape) < 1:
        raise at.wrong("padding", padding, f"less, as the output would be {sizes(shape)}")
    symmetric = sides[0] == sides[1] and sides[2] == sides[3]
    module = _uninitialized(
        nn.ConvTranspose2d,
        channels_in,
        channels,
        area,
        stride=steps,
        padding=(sides[0], sides[2]) if symmetric else 0,
        dilation=spread,
        groups=groups,
        bias=bias,
    )
    _fill(at, module, weight_init, bias_init, channels_in // groups, area[0] * area[1])
    if connections is not None:
        _mask(module, connections[:, :, None, None])
    crop = () if symmetric else (zero_pad((-sides[0], -sides[1], -sides[2], -sides[3])),)
    return Layer(shape, at.spatial(), module, after=crop)


def linear(
    at: Place,
    *,
    channels: int,
    bias: bool = True,
    drop_connect: float | None = None,
    weight_init: Init = None,
    bias_init: Init = None,
) -> Layer:
    """Fully-connected layer that reads its inputs flattened in the order C, H, W."""
    channels, features = at.whole("channels", channels), at.features()
    if drop_connect is not None and not 0 < drop_connect <= 1:
        accepted = "the probability that a weight is kept, above 0 and up to 1, or null"
        raise at.wrong("drop_connect", drop_connect, accepted)
    module = _uninitialized(nn.Linear, features, channels, bias=bias)
    _fill(at, module, weight_init, bias_init, features, 1)
    if drop_connect is not None and drop_connect < 1:
        _drop_weights(module, 1 - drop_connect)
    return Layer((channels, 1, 1), at.flattened(), module, flat=True)


def zero_pad(sides: Sides) -> Step:
    """Return a function that pads with zeros; negative sides are cut off."""
    top, bottom, left, right = sides
    return partial(F.pad, pad=(left, right, top, bottom))


def _uninitialized(kind: Callable[..., M], *sizes: Any, **settings: Any) -> M:
    """Return a layer whose parameters hold no values yet, without drawing any at random."""
    return kind(*sizes, **settings, device="meta").to_empty(device="cpu")


def _groups(
    at: Place, groups: int, channels_in: int, channels: int, mapping: Sequence[str] | None
) -> int:
    groups = at.whole("groups", groups)
    if channels_in % groups or channels % groups:
        accepted = f"a divisor of {channels_in} channels of the input and {channels} outputs"
        raise at.wrong("groups", groups, accepted)
    if groups > 1 and mapping is not None:
        raise ConfigError(
            f"{at.key}.mapping cannot be combined with groups={groups}; leave one out."
        )
    return groups


def _fill(
    at: Place, module: Any, weight_init: Init, bias_init: Init, channels_in: int, area: int
) -> None:
    """Draw weights and biases; ``channels_in`` are those that an output reads."""
    channels = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    fans = Fans(channels_in * area, channels * area)
    fill = at.weight_fill
    if weight_init is not None:
        fill = filler(f"{at.key}.weight_init", weight_init, bias=False)
    fill(module.weight, fans)
    if module.bias is None:
        if bias_init is not None:
            raise ConfigError(f"{at.key}.bias_init cannot be combined with bias: false.")
        return
    fill = at.bias_fill
    if bias_init is not None:
        fill = filler(f"{at.key}.bias_init", bias_init, bias=True)
    fill(module.bias, fans)


def _mask(module: nn.Conv2d | nn.ConvTranspose2d, mask: Tensor) -> None:
    """Compute with ``weight * mask`` from now on, so that no gradient reaches the other weights.

    The class stays that of torch, by which ``quantize`` knows what it can replace; its layers take
    the mask over.
    """
    module.register_buffer("weight_mask", mask, persistent=False)
    with torch.no_grad():
        module.weight.mul_(mask)
    forward = _masked_conv if isinstance(module, nn.Conv2d) else _masked_deconv
    module.forward = MethodType(forward, module)  # type: ignore[method-assign]


def _drop_weights(module: nn.Linear, p: float) -> None:
    """Drop weights with probability ``p`` in training from now on; compare :func:`_mask`."""
    module.weight_dropout = p  # type: ignore[assignment]
    module.forward = MethodType(_linear_of_kept_weights, module)  # type: ignore[method-assign]


def _masked_conv(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self._conv_forward(x, self.weight * self.weight_mask, self.bias)
    return result


def _masked_deconv(self: Any, x: Tensor) -> Tensor:
    weight = self.weight * self.weight_mask
    settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
    return F.conv_transpose2d(x, weight, self.bias, *settings)


def _linear_of_kept_weights(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, F.dropout(self.weight, self.weight_dropout, self.training), self.bias)


def _every(x: Tensor, steps: tuple[int, int]) -> Tensor:
    return x[:, :, :: steps[0], :: steps[1]]
