"""Image files as pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from qatlab.data.contents import read_file
from qatlab.data.transforms.color_spaces import luma
from qatlab.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pnm", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF")  # others may start programs
MOST_PIXELS = 178_956_970  # of an image; where Pillow ends, too
_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Pillow's modes


@cache
def jpeg_decoder() -> Callable[[Tensor, bool], Tensor] | None:
    """Return torchvision's decoder of bytes, uint8, to grey or else to what is in the file.

    None if there is none: torchvision calls its decoders deprecated. Pillow decodes all files then.
    """
    try:
        from torchvision.io import ImageReadMode  # it takes a second

        # What torchvision.io.decode_jpeg calls after a warning that takes as long as a small image.
        decode: Callable[..., Tensor] = torch.ops.image.decode_jpeg.default
    except (ImportError, AttributeError):
        return None
    grey, unchanged = ImageReadMode.GRAY.value, ImageReadMode.UNCHANGED.value
    return lambda content, to_grey: decode(content, grey if to_grey else unchanged, True)


def read_image(file: str | Path, channels: int) -> Tensor:
    """Decode a file, whatever its name says it is.

    JPEG files come out as OpenCV reads them: turned as their EXIF data say, and grey from their own
    luma.

    Args:
        file: of one of `FORMATS`, of 8 bits per channel; the first of several images is taken.
        channels: 3 for RGB, 1 for grey; images of the other kind are converted.

    Returns:
        uint8, (channels, H, W); mostly the channels of a pixel lie side by side in memory.

    Raises:
        DataError: naming the file, if it is missing or cannot be decoded.
    """
    content = read_file(file)
    image = _jpeg(content, channels) if content.startswith(b"\xff\xd8") else None
    return _any_kind(file, content, channels) if image is None else image


def _jpeg(content: bytearray, channels: int) -> Tensor | None:
    """Decode a JPEG file as :func:`_any_kind` does, in two thirds of the time; None if it cannot.

    Both use libjpeg-turbo, but this way nothing is copied afterwards. Only inks that become grey
    may differ, by one level.
    """
    decode = jpeg_decoder()
    if decode is None or not 0 < _jpeg_pixels(content) <= MOST_PIXELS:
        return None
    try:
        image = decode(torch.frombuffer(content, dtype=torch.uint8), channels == 1)
    except RuntimeError:
        return None
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    return image if image.shape[0] == channels else None  # inks


def _jpeg_pixels(content: bytearray) -> int:
    """Return the number of pixels that the header of a JPEG file tells; 0 if it is not found."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = content[place + 5 : place + 7], content[place + 7 : place + 9]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0


def _any_kind(file: str | Path, content: bytearray, channels: int) -> Tensor:
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as opened:
            if opened.mode not in _8_BITS:
                raise DataError(
                    f"{file} is an image of mode {opened.mode}; 8 bits per channel are needed."
                )
            if channels == 1:
                opened.draft("L", None)  # a JPEG file then gives its luma; others ignore it
            ImageOps.exif_transpose(opened, in_place=True)
            pixels = np.array(opened if opened.mode in ("L", "RGB") else opened.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(
            f"{file} is not an image, or has an unknown format. Accepted: {', '.join(FORMATS)}."
        ) from None
    except DataError:
        raise
    except Exception as error:  # damaged headers end in all kinds of errors inside of Pillow
        raise DataError(f"{file} cannot be read as an image: {error}.") from error
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).expand(channels, -1, -1)
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)
    return luma(rgb[None])[0] if channels == 1 else rgb
