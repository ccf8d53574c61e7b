"""Image files as pixels."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from qatlab.data.contents import read_file
from qatlab.data.transforms.color_spaces import luma
from qatlab.errors import DataError

decode_jpeg: Callable[..., Tensor] | None = None
try:  # without torchvision's decoders, which it calls deprecated, Pillow decodes all files
    from torchvision.io import ImageReadMode

    # What torchvision.io.decode_jpeg calls after a warning, which takes as long as a small image.
    decode_jpeg = torch.ops.image.decode_jpeg.default
except (ImportError, AttributeError):
    pass

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pnm", ".bmp", ".webp", ".tif", ".tiff")
_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Pillow's modes


def read_image(file: str | Path, channels: int) -> Tensor:
    """Decode a file, whatever its name says it is.

    JPEG files come out as OpenCV reads them: turned as their EXIF data say, and grey from their own
    luma.

    Args:
        file: JPEG, PNG, PPM, BMP, WebP, TIFF or what else Pillow knows, of 8 bits per channel.
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
    if decode_jpeg is None:
        return None
    mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.UNCHANGED
    try:
        image = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode.value, True)
    except RuntimeError:
        return None
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    return image if image.shape[0] == channels else None  # inks


def _any_kind(file: str | Path, content: bytearray, channels: int) -> Tensor:
    try:
        with Image.open(BytesIO(content)) as opened:
            if opened.mode not in _8_BITS:
                raise DataError(
                    f"{file} is an image of mode {opened.mode}; 8 bits per channel are needed."
                )
            if channels == 1:
                opened.draft("L", None)  # a JPEG file then gives its luma; others ignore it
            ImageOps.exif_transpose(opened, in_place=True)
            pixels = np.array(opened if opened.mode in ("L", "RGB") else opened.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{file} is no image, or of a kind that cannot be read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}.") from error
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).expand(channels, -1, -1)
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)
    return luma(rgb[None])[0] if channels == 1 else rgb
