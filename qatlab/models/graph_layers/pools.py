"""Pooling layers, and the one that undoes a pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError, text, wrong
from qatlab.models.graph_layers.place import Layer, Pair, Place, Sides, Size, Step, sizes
from qatlab.models.graph_layers.random_pool import FractionalMaxPool
from qatlab.models.graph_layers.weights import zero_pad

Rows = Sequence[str] | None


def max_pool(
    at: Place, *, kernel: Size, stride: Size = 1, padding: Size = 0, mapping: Rows = None
) -> Layer:
    """Maximum over windows; padding never wins."""
    area, steps, sides = _settings(at, kernel, stride, padding)
    plane = at.window(area, steps, sides, kernel)
    if _torch_pads(area, sides):
        pool, before = nn.MaxPool2d(area, steps, (sides[0], sides[2])), ()
        return _pooled(at, pool, before, plane, mapping, MappedMax)
    top, bottom, left, right = sides
    pad = partial(F.pad, pad=(left, right, top, bottom), value=float("-inf"))
    return _pooled(at, nn.MaxPool2d(area, steps), (pad,), plane, mapping, MappedMax)


def avg_pool(
    at: Place, *, kernel: Size, stride: Size = 1, padding: Size = 0, mapping: Rows = None
) -> Layer:
    """Average over windows, in which padding counts as zeros."""
    area, steps, sides = _settings(at, kernel, stride, padding)
    plane = at.window(area, steps, sides, kernel)
    if _torch_pads(area, sides):
        pool, before = nn.AvgPool2d(area, steps, (sides[0], sides[2])), ()
        return _pooled(at, pool, before, plane, mapping, MappedAverage)
    return _pooled(at, nn.AvgPool2d(area, steps), (zero_pad(sides),), plane, mapping, MappedAverage)


def max_unpool(
    at: Place,
    *,
    pool: str,
    kernel: Size | None = None,
    stride: Size | None = None,
    padding: Size | None = None,
) -> Layer:
    """Put each value where a ``max_pool`` found its maximum; values that meet are added."""
    fit = {name: found for name, found in at.above.items() if _can_be_undone(found[1])}
    if pool not in fit:
        which = (
            "a max_pool above, without mapping, whose sides have the same padding of at most half"
        )
        raise wrong(f"{at.key}.pool", pool, fit or f"{which} of its kernel")
    pool_at, layer = fit[pool]
    module = layer.module
    assert isinstance(module, nn.MaxPool2d)
    area, steps, pads = map(_pair, (module.kernel_size, module.stride, module.padding))
    for name, value, own in (
        ("kernel", kernel, area),
        ("stride", stride, steps),
        ("padding", padding, pads),
    ):
        if value is not None and at.pair(name, value, lowest=0) != own:
            raise at.wrong(name, value, f"{list(own)}, which is that of {pool}, or null")
    shape, whole = at.joined(), pool_at.joined()
    if shape != layer.shape:
        raise ConfigError(
            f"{at.key}.input is {sizes(shape)}, but {pool} makes {sizes(layer.shape)}; they must "
            "have one shape."
        )
    made = tuple((shape[1 + i] - 1) * steps[i] + area[i] - 2 * pads[i] for i in (0, 1))
    if made != whole[1:]:
        raise ConfigError(
            f"{at.key}.pool={pool} cannot be undone: the way back makes {sizes(made)}, and it "
            f"reads {sizes(whole)}."
        )
    module.return_indices = True
    return Layer(
        whole,
        partial(_with_indices, join=at.spatial()),
        MaxUnpool(whole),
        reads=(f"{pool}.indices",),
    )


def fractional_max_pool(
    at: Place, *, ratio: float, overlapping: bool = True, pseudo_random: bool = True
) -> Layer:
    """Maximum over regions of random sizes, drawn anew at each pass (Graham 2014)."""
    shape = at.joined()
    if ratio < 1:
        raise at.wrong("ratio", ratio, "a number from 1")
    plane = (int(shape[1] / ratio), int(shape[2] / ratio))
    if min(plane) < 1:
        raise at.wrong("ratio", ratio, f"less, as its input is {sizes(shape)}")
    pool = FractionalMaxPool(shape[1:], plane, overlapping, pseudo_random)
    return Layer((shape[0], *plane), at.spatial(), pool)


class MappedMax(nn.Module):
    """Maximum over the channels that are connected to each output.

    Args:
        pool: over the windows of each channel.
        connections: ``(C_in, C_out)`` of 0 and 1.
    """

    channels: Tensor
    outputs: Tensor

    def __init__(self, pool: nn.Module, connections: Tensor) -> None:
        super().__init__()
        self.pool = pool
        different, outputs = torch.unique(connections.T, dim=0, return_inverse=True)
        most = int(different.sum(1).max())
        # What is connected first, and again until the list is as long as the longest.
        lists = [row.nonzero().flatten().repeat(most)[:most] for row in different]
        self.register_buffer("channels", torch.stack(lists), persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x`` ``(N, C_in, H, W)`` to ``(N, C_out, ...)``."""
        return torch.amax(self.pool(x)[:, self.channels], dim=2)[:, self.outputs]


class MappedAverage(nn.Module):
    """Average over the channels that are connected to each output; see :class:`MappedMax`."""

    shares: Tensor

    def __init__(self, pool: nn.Module, connections: Tensor) -> None:
        super().__init__()
        self.pool = pool
        shares = (connections / connections.sum(0)).T[:, :, None, None]
        self.register_buffer("shares", shares.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x`` ``(N, C_in, H, W)`` to ``(N, C_out, ...)``."""
        return F.conv2d(self.pool(x), self.shares)


class MaxUnpool(nn.Module):
    """Undoes a max pooling of an input of ``shape``; everything else is 0."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """Spread ``x`` ``(N, C, H, W)`` by ``indices`` of the same shape, into the larger plane."""
        channels, height, width = self.shape
        zeros = x.new_zeros((x.shape[0], channels, height * width))
        spread = torch.scatter_add(zeros, 2, torch.flatten(indices, 2), torch.flatten(x, 2))
        return torch.reshape(spread, (-1, channels, height, width))


def _settings(at: Place, kernel: Size, stride: Size, padding: Size) -> tuple[Pair, Pair, Sides]:
    area, steps = at.pair("kernel", kernel), at.pair("stride", stride)
    sides = at.sides("padding", padding)
    if max(sides[:2]) >= area[0] or max(sides[2:]) >= area[1]:
        raise at.wrong("padding", padding, f"less than kernel={text(kernel)}")
    return area, steps, sides


def _torch_pads(area: Pair, sides: Sides) -> bool:
    top, bottom, left, right = sides
    return top == bottom <= area[0] // 2 and left == right <= area[1] // 2


def _pooled(
    at: Place,
    pool: nn.Module,
    before: tuple[Step, ...],
    plane: Pair,
    mapping: Rows,
    mapped: Callable[[nn.Module, Tensor], nn.Module],
) -> Layer:
    channels_in = at.joined()[0]
    connections = at.connections(mapping, channels_in)
    if connections is None or torch.equal(connections, torch.eye(channels_in)):
        return Layer((channels_in, *plane), at.spatial(), pool, before)
    if not connections.any(0).all():
        raise at.wrong("mapping", mapping, "a 1 for each output, which has no channel otherwise")
    channels = connections.shape[1]
    return Layer((channels, *plane), at.spatial(), mapped(pool, connections), before)


def _can_be_undone(layer: Layer) -> bool:
    return type(layer.module) is nn.MaxPool2d and not layer.before


def _pair(value: int | tuple[int, ...]) -> Pair:
    numbers = (value,) if isinstance(value, int) else value
    return numbers[0], numbers[-1]


def _with_indices(
    tensors: Sequence[Tensor], join: Callable[[Sequence[Tensor]], Sequence[Tensor]]
) -> Sequence[Tensor]:
    *inputs, indices = tensors
    return (*join(inputs), indices)
