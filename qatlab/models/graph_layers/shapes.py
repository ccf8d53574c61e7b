"""Layers that move numbers to other places: padding, resizing, reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.models.graph_layers.place import Layer, Place, sizes


def concat(at: Place) -> Layer:
    """The inputs, one behind the other along channels."""
    return Layer(at.joined(), at.same(), flat=at.flat)


def identity(at: Place) -> Layer:
    """The input itself."""
    if len(at.sources) > 1:
        raise ConfigError(f"{at.key}.input has several; identity takes one, concat joins them.")
    return concat(at)


def padding(at: Place, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Layer:
    """Zeros around the plane; negative numbers cut off."""
    channels, height, width = at.joined()
    for name, value in (("top", top), ("bottom", bottom), ("left", left), ("right", right)):
        if type(value) is not int:
            raise at.wrong(name, value, "a whole number")
    shape = (channels, height + top + bottom, width + left + right)
    if min(shape) < 1:
        raise ConfigError(
            f"{at.key} cuts all off: its input is {sizes((channels, height, width))}."
        )
    return Layer(shape, at.spatial(), nn.ZeroPad2d((left, right, top, bottom)))


def resize(
    at: Place,
    *,
    height: int,
    width: int,
    mode: Literal["bilinear", "bilinear_tf", "nearest"] = "bilinear",
    align_corners: bool = True,
) -> Layer:
    """The plane in another size; ``bilinear_tf`` lets pixels begin, not lie, at whole numbers."""
    channels, rows, columns = at.joined()
    size = (at.whole("height", height), at.whole("width", width))
    module: nn.Module
    if mode == "nearest":
        module = nn.Upsample(size, mode="nearest")
    elif mode == "bilinear":
        module = nn.Upsample(size, mode="bilinear", align_corners=align_corners)
    else:
        module = ResizeTF((rows, columns), size, align_corners)
    return Layer((channels, *size), at.spatial(), module)


class ResizeTF(nn.Module):
    """Bilinear resizing as TensorFlow 1 does it: output ``i`` lies at ``i * scale`` of the input.

    Args:
        plane: height and width of the input.
        size: those of the output.
        align_corners: scale is ``(input - 1) / (output - 1)``, else ``input / output``.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, plane: tuple[int, int], size: tuple[int, int], align_corners: bool) -> None:
        super().__init__()
        shares = [_shares(*lengths, align_corners) for lengths in zip(plane, size, strict=True)]
        self.register_buffer("rows", shares[0], persistent=False)
        self.register_buffer("columns", shares[1].T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Resize ``x`` ``(N, C, H, W)``."""
        return torch.matmul(torch.matmul(self.rows, x), self.columns)


def _shares(length: int, size: int, align_corners: bool) -> Tensor:
    """Return the share of each input in each output, ``(size, length)``."""
    scale = length / size
    if align_corners:
        scale = (length - 1) / (size - 1) if size > 1 else 0.0
    shares = torch.zeros(size, length)
    for i in range(size):
        place = min(i * scale, length - 1)
        low = int(place)
        shares[i, low] += 1 - (place - low)
        shares[i, min(low + 1, length - 1)] += place - low
    return shares


def reshape(at: Place, *, dims: Sequence[int]) -> Layer:
    """The same numbers as ``[C, H, W]``, of which one may be -1 and 0 keeps what it was."""
    shape = at.joined()
    total = shape[0] * shape[1] * shape[2]
    accepted = f"[C, H, W] of {total} numbers, as its input is {sizes(shape)}"
    whole = [size for size in dims if type(size) is int and size >= -1]
    if not len(dims) == len(whole) == 3 or dims.count(-1) > 1:
        raise at.wrong("dims", dims, f"{accepted}; one may be -1, and 0 keeps what it was")
    kept = [old if size == 0 else size for size, old in zip(dims, shape, strict=True)]
    rest = kept[0] * kept[1] * kept[2]
    if rest < 0:
        kept[kept.index(-1)] = max(1, total // -rest)
    channels, height, width = kept
    if channels * height * width != total:
        raise at.wrong("dims", dims, accepted)
    new = (channels, height, width)
    return Layer(new, at.spatial(), before=(partial(reshaped, shape=new),))


def transpose(at: Place, *, perm: Sequence[int]) -> Layer:
    """Axis ``i`` of the output is axis ``perm[i]`` of the input; channels are 0, rows 1."""
    shape = at.joined()
    if sorted(perm, key=str) != [0, 1, 2]:
        raise at.wrong("perm", perm, "an order of 0 (channels), 1 (rows) and 2 (columns)")
    first, second, third = perm
    step = partial(torch.permute, dims=(0, 1 + first, 1 + second, 1 + third))
    return Layer((shape[first], shape[second], shape[third]), at.spatial(), before=(step,))


def reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` ``(N, ...)`` as ``(N, *shape)``."""
    return torch.reshape(x, (-1, *shape))
