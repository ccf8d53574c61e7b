"""The transforms of a data set in order: which apply to a part, and what can be done beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from qatlab.data.transforms.torchvision import Torchvision
from qatlab.data.transforms.transform import PARTS, Part, Transform
from qatlab.data.transforms.values import RangeAffine
from qatlab.errors import ConfigError, DataError, wrong

_ELEMENTS_PER_PIECE = 1 << 24  # prepared at once: what is computed in between stays small


def named(transforms: Mapping[str, Transform | nn.Module | None]) -> list[Transform]:
    """Return the transforms in order; each learns its key, for what it has to say.

    Those of torchvision, and other modules, are wrapped; None is a step that is left out.

    Raises:
        ConfigError: if one is none.
    """
    found = []
    for name, given in transforms.items():
        transform = Torchvision(given) if isinstance(given, nn.Module) else given
        if transform is None:
            continue
        key = f"data.transforms.{name}"
        if not isinstance(transform, Transform):
            classes = "a class of qatlab.data.transforms or torchvision.transforms.v2"
            raise wrong(key, transform, f"null, a mapping whose _target_ is {classes}")
        transform.key = key
        found.append(transform)
    return found


def of_part(transforms: Iterable[Transform], part: Part) -> list[Transform]:
    """Return those that apply to a part of the data set."""
    return [transform for transform in transforms if part in transform.apply_to]


def channels_after(transforms: Sequence[Transform], channels: int) -> int:
    """Return C of the images that come out, the same for all parts of the data set.

    Raises:
        ConfigError: if a transform cannot be applied to the channels it gets, or parts differ.
    """
    found = {}
    for part in PARTS:
        found[part] = channels
        for transform in of_part(transforms, part):
            found[part] = transform.channels(found[part])
    if len(set(found.values())) > 1:
        described = ", ".join(f"{count} for {part}" for part, count in found.items())
        raise ConfigError(f"data.transforms makes images of different channels: {described}.")
    return found["training"]


def split(transforms: Sequence[Transform]) -> tuple[list[Transform], list[Transform]]:
    """Return what is done once, and what is left to be done for each batch.

    That is everything from the first random transform on, and the steps pixel by pixel in front of
    it: images are then kept in memory as bytes, and what becomes floats is a batch.
    """
    first = next((i for i, t in enumerate(transforms) if t.random), len(transforms))
    while first > 0 and transforms[first - 1].per_pixel:
        first -= 1
    return list(transforms[:first]), list(transforms[first:])


def split_by_size(transforms: Sequence[Transform]) -> tuple[list[Transform], list[Transform]]:
    """Return the steps up to the last one that resizes, and those that take whole batches."""
    first = max((i for i, t in enumerate(transforms, 1) if t.resizes), default=0)
    return list(transforms[:first]), list(transforms[first:])


def apply(transforms: Iterable[Transform], images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return what all transforms make of the images, one after the other."""
    for transform in transforms:
        images = transform(images, rng)
    return images


def apply_once(transforms: Sequence[Transform], images: Tensor) -> Tensor:
    """Return what transforms without chance make of many images, in little extra memory."""
    if not transforms:
        return images
    rng = np.random.default_rng(0)  # nobody draws from it
    one = apply(transforms, images[:1], rng)
    n_images = max(1, _ELEMENTS_PER_PIECE // max(images[0].numel(), one.numel()))
    result = one.new_empty((len(images), *one.shape[1:]))
    pieces, parts = (torch.split(x, n_images) for x in (images, result))
    for piece, part in zip(pieces, parts, strict=True):
        part.copy_(apply(transforms, piece, rng))
    return result


def in_pieces(
    transforms: Sequence[Transform], images: Tensor, rng: np.random.Generator, n_images: int
) -> Tensor:
    """Return what transforms make of a batch, as floats, a few images at a time.

    These stay in a CPU's cache until the last operation writes them to where they belong. On a core
    that decodes images as well, this takes a third of the time that whole batches take.
    """
    last = transforms[-1] if transforms and isinstance(transforms[-1], RangeAffine) else None
    others = transforms[:-1] if last else transforms
    results: Sequence[Tensor] = ()
    result = torch.empty(0)
    for number, piece in enumerate(torch.split(images, n_images)):
        x = apply(others, piece, rng)
        if number == 0:
            # NumPy asks for large pages: with small ones, new memory takes longer than arithmetic.
            result = torch.from_numpy(np.empty((len(images), *x.shape[1:]), dtype=np.float32))
            results = torch.split(result, n_images)
        if last is not None:
            last.into(x, results[number])
        elif x.is_floating_point():
            results[number].copy_(x)
        else:
            torch.mul(x, 1 / 255, out=results[number])
    return result


def to_unit(images: Tensor) -> Tensor:
    """Return images as floats: bytes are multiplied by 1/255, floats are left alone."""
    if images.is_floating_point():
        return images
    # A product, as in N2D2: a division differs from it in the last bit for half of the levels.
    return images.float().mul_(1 / 255)


def check_shape(images: Tensor, channels: int, size: tuple[int, int], what: str) -> None:
    """Raise a ConfigError unless ``what``, images, have the shape the network was built for."""
    if tuple(images.shape[2:]) != size:
        height, width = images.shape[2:]
        raise ConfigError(
            f"data.image_size is {list(size)}, but data.transforms makes {what} "
            f"[{height}, {width}], height and width; change one of them."
        )
    if images.shape[1] != channels:
        raise DataError(f"data.source gave images of {images.shape[1]} channels, not {channels}.")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise DataError(
            f"data.transforms makes images of {images.dtype}; bytes or floats are needed."
        )
