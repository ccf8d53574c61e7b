"""Image files as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from qatlab.data.transforms.color_spaces import luma
from qatlab.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pnm", ".bmp", ".webp", ".tif", ".tiff")
_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Pillow's modes


def read_image(file: Path, channels: int) -> Tensor:
    """Decode a file, whatever its name says it is.

    JPEG files come out as OpenCV reads them: turned as their EXIF data say, and grey from their own
    luma.

    Args:
        file: JPEG, PNG, PPM, BMP, WebP, TIFF or what else Pillow knows, of 8 bits per channel.
        channels: 3 for RGB, 1 for grey; images of the other kind are converted.

    Returns:
        uint8, (channels, H, W).

    Raises:
        DataError: naming the file, if it is missing or cannot be decoded.
    """
    try:
        with Image.open(file) as opened:
            if opened.mode not in _8_BITS:
                raise DataError(
                    f"{file} is an image of mode {opened.mode}; 8 bits per channel are needed."
                )
            if channels == 1:
                opened.draft("L", None)  # a JPEG file then gives its luma; others ignore it
            image = ImageOps.exif_transpose(opened)
            pixels = np.array(image if image.mode == "L" else image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{file} is no image, or of a kind that cannot be read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}.") from error
    if pixels.ndim == 2:
        return torch.from_numpy(pixels)[None].repeat(channels, 1, 1)
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)
    return luma(rgb[None])[0] if channels == 1 else rgb.contiguous()
