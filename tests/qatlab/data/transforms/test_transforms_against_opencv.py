"""Comparisons with OpenCV, which is no dependency: ``pip install opencv-python-headless``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qatlab.data.transforms import (
    ChannelExtraction,
    ColorSpace,
    Equalize,
    GradientFilter,
    Morphology,
    Normalize,
    PadCrop,
    Rescale,
    Threshold,
    Transform,
)

cv2: Any = pytest.importorskip("cv2", reason="needs OpenCV (opencv-python-headless)")
cv2.ipp.setUseIPP(False)  # Intel's library rounds positions in another way
Array = NDArray[Any]
SIZES = [(28, 28), (37, 51), (64, 64)]
BORDERS = {
    "reflect_101": cv2.BORDER_REFLECT_101,
    "reflect": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}
NAMES = {"hsv": "HSV", "hls": "HLS", "ycrcb": "YCrCb", "cielab": "Lab", "cieluv": "Luv"}
MORPHOLOGY = {
    "erode": cv2.MORPH_ERODE,
    "dilate": cv2.MORPH_DILATE,
    "opening": cv2.MORPH_OPEN,
    "closing": cv2.MORPH_CLOSE,
    "gradient": cv2.MORPH_GRADIENT,
    "top_hat": cv2.MORPH_TOPHAT,
    "black_hat": cv2.MORPH_BLACKHAT,
}
THRESHOLDS = {
    "binary": cv2.THRESH_BINARY,
    "binary_inverted": cv2.THRESH_BINARY_INV,
    "truncate": cv2.THRESH_TRUNC,
    "to_zero": cv2.THRESH_TOZERO,
    "to_zero_inverted": cv2.THRESH_TOZERO_INV,
}


def photo(size: tuple[int, int], channels: int = 1) -> Array:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(100, 50, (*size, channels)), 0, 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def made(transform: Transform, image: Array) -> Array:
    pixels = torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1)[None]
    result: Array = transform(pixels, np.random.default_rng(0))[0].permute(1, 2, 0).numpy()
    return result.squeeze(2) if result.shape[2] == 1 else result


def assert_close(ours: Array, theirs: Array, limit: float = 0, share: float = 0) -> None:
    """Compare: all within the limit, and no more than a share different at all."""
    assert ours.dtype == theirs.dtype
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    assert apart.max() <= limit
    assert (apart > 0).mean() <= share


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(32, 32), (20, 61), (90, 11)])
def test_rescale(size: tuple[int, int], target: tuple[int, int]) -> None:
    for channels in (1, 3):
        image = photo(size, channels)
        transform = Rescale(width=target[1], height=target[0])
        assert_close(made(transform, image), cv2.resize(image, target[::-1]))
        floats = image.astype(np.float32) + 0.5
        # A few in a thousand differ in the last bit.
        assert_close(made(transform, floats), cv2.resize(floats, target[::-1]), 4e-5, 0.01)


@pytest.mark.parametrize("border", BORDERS)
def test_pad_crop(border: Any) -> None:
    image = photo((5, 7), 3)
    theirs = cv2.copyMakeBorder(image, 9, 10, 8, 8, BORDERS[border], value=(1, 2, 3))
    ours = PadCrop(7 + 16, 5 + 19, border=border, border_value=[1, 2, 3])
    assert_close(made(ours, image), theirs)


@pytest.mark.parametrize("space", NAMES)
def test_color_space(space: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    there = cv2.cvtColor(image, getattr(cv2, f"COLOR_RGB2{NAMES[space]}"))
    limit, share = {"hsv": (0, 0), "hls": (1, 0.01), "ycrcb": (0, 0)}.get(space, (2, 0.3))
    assert_close(made(ColorSpace(space), image), there, limit, share)
    back = cv2.cvtColor(there, getattr(cv2, f"COLOR_{NAMES[space]}2RGB"))
    # Newer versions of OpenCV cut bits off on the way from HSV, older ones round.
    limit, share = {"hsv": (1, 0.4), "hls": (1, 0.01), "ycrcb": (0, 0)}.get(space, (2, 0.1))
    assert_close(made(ColorSpace("rgb", given=space), there), back, limit, share)


def test_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    theirs = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert_close(made(ChannelExtraction("gray"), image), theirs)


@pytest.mark.parametrize("size", SIZES)
def test_equalize(size: tuple[int, int]) -> None:
    image = photo(size)
    assert_close(made(Equalize(), image), cv2.equalizeHist(image))
    for clip_limit in (40.0, 2.0, 0.5, 0.0):
        for grid in (8, 3):
            theirs = cv2.createCLAHE(clip_limit, (grid, grid)).apply(image)
            assert_close(made(Equalize("clahe", clip_limit, grid), image), theirs)


@pytest.mark.parametrize("operation", THRESHOLDS)
def test_threshold(operation: Any) -> None:
    image, code = photo((40, 40)), THRESHOLDS[operation]
    for given in (image, image.astype(np.float32)):
        theirs = cv2.threshold(given, 90.7, 200.4, code)[1]
        assert_close(made(Threshold(90.7, False, operation, 200.4), given), theirs, 1e-5, 1)
    theirs = cv2.threshold(image, 0, 255, code | cv2.THRESH_OTSU)[1]
    assert_close(made(Threshold(0, True, operation, 255), image), theirs)


@pytest.mark.parametrize("operation", MORPHOLOGY)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_morphology(operation: Any, size: int) -> None:
    image = photo((30, 40))
    theirs = cv2.morphologyEx(image, MORPHOLOGY[operation], np.ones((size, size), np.uint8))
    assert_close(made(Morphology(operation, size), image), theirs)


@pytest.mark.parametrize(
    ("norm", "code"),
    [
        ("min_max", cv2.NORM_MINMAX),
        ("l1", cv2.NORM_L1),
        ("l2", cv2.NORM_L2),
        ("linf", cv2.NORM_INF),
    ],
)
def test_normalize(norm: Any, code: int) -> None:
    image = photo((30, 40), 3).astype(np.float32)
    ends = (-1, 2) if norm == "min_max" else (3, 0)
    theirs = cv2.normalize(image, None, *ends, code)
    assert_close(made(Normalize(norm, 3, -1, 2), image), theirs, 1e-6, 1)


def test_gradient_filter() -> None:
    image = photo((30, 40))
    slopes = (cv2.Sobel(image, cv2.CV_16S, *axes, ksize=3) for axes in ((1, 0), (0, 1)))
    absolute = [cv2.convertScaleAbs(slope) for slope in slopes]
    theirs = cv2.addWeighted(absolute[0], 0.5, absolute[1], 0.5, 0)
    assert_close(made(GradientFilter(), image), theirs)
