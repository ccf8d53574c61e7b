"""Sizes: kernels, strides, and the shapes that follow from them."""

from __future__ import annotations

from ini_compat.errors import IniError
from ini_compat.network import Shape
from ini_compat.syntax.resolve import Section
from ini_compat.syntax.section import REQUIRED

Pair = tuple[int, int]  # height, width: N2D2 writes X Y, width first


def pair(
    section: Section, word: str, default: Pair | None, stem: str | None = None, lowest: int = 1
) -> Pair:
    """Read ``KernelDims``, ``KernelSize`` or ``KernelWidth`` and ``KernelHeight``, and the like.

    Args:
        section: of the cell.
        word: what all keys begin with, such as ``Kernel``.
        default: where none is given; None: one has to be.
        stem: the key for one number that holds for both; None: ``word`` itself, as in ``Stride``.
        lowest: smallest number accepted.

    Raises:
        IniError: for three dimensions, numbers that are too small, or none at all.
    """
    ends = ("Width", "Height", "Depth") if stem else ("X", "Y", "Z")
    key, single, parts = f"{word}Dims", stem or word, [word + end for end in ends]
    if section.has(key):
        numbers = section.integers(key)
    elif section.has(single):
        key, numbers = single, [section.integer(single)] * 2
    elif any(section.has(part) for part in parts):
        key = next(part for part in parts if section.has(part))
        start = REQUIRED if default is None else default[0]
        numbers = [section.integer(part, start) for part in parts[:2]]
        numbers += [section.integer(part) for part in parts[2:] if section.has(part)]
    elif default is not None:
        return default
    else:
        raise IniError(
            f"[{section.name}] has no {key}. Accepted: {key}, {single}, or {parts[0]} and "
            f"{parts[1]}",
            section.header,
        )
    if len(numbers) < 2 or any(n != lowest for n in numbers[2:]):
        count = f"{len(numbers)} dimension{'s' * (len(numbers) != 1)}"
        raise IniError(f"[{section.name}] {key} has {count}; images have two", section.place(key))
    width, height = numbers[:2]
    if min(width, height) < lowest:
        raise IniError(
            f"[{section.name}] {key}: {min(width, height)} is below {lowest}", section.place(key)
        )
    return height, width


def conv_size(size: int, kernel: int, stride: int, padding: int, dilation: int, sub: int) -> int:
    """Return the output size of a convolution along one axis; may be 0 or less."""
    full = (size + 2 * padding - (dilation * (kernel - 1) + 1) + stride) // stride
    return -(-full // sub)


def pool_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the output size of a pooling along one axis."""
    return (size + 2 * padding - kernel + stride) // stride


def deconv_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the output size of a transposed convolution along one axis."""
    return size * stride + dilation * (kernel - 1) + 1 - 2 * padding - stride


def check_size(section: Section, shape: Shape, before: Shape) -> Shape:
    """Return ``shape`` if all its sides are above 0.

    Raises:
        IniError: otherwise, with the shape that came in.
    """
    if min(shape) < 1:
        raise IniError(
            f"[{section.name}] would have outputs of {text(shape)} for inputs of {text(before)}: "
            "that does not fit",
            section.header,
        )
    return shape


def text(shape: Shape | None) -> str:
    """Return ``6x28x28``."""
    return "?" if shape is None else "x".join(map(str, shape))
