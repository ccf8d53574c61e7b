from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import native, opencv_resize
from qatlab.data.transforms.opencv_resize import resize_bilinear

needs_compiler = pytest.mark.skipif(native.resize_bilinear() is None, reason="needs a C++ compiler")


def by_torch(images: Tensor, size: tuple[int, int]) -> Tensor:
    return opencv_resize._resize_bytes(images, size)


def layouts(images: Tensor) -> dict[str, Tensor]:
    """Return the same kind of images as they may lie in memory; (N, 3, H, W)."""
    pixels = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return {
        "planes": images,
        "pixels": pixels,
        "part of pixels": pixels[:, :, 2:-1, 1:-3],
        "part of planes": images[:, :, 2:-1, 1:-3],
        "one channel of pixels": pixels[:, 1:2],
        "mirrored": pixels.flip(1),
        "every other pixel": pixels[..., ::2],
        "grey as three": pixels[:, :1].expand(-1, 3, -1, -1),
        "five channels": torch.cat([images, images[:, :2].flip(2)], 1),
    }


@needs_compiler
@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 3, 9, 9, dtype=torch.uint8)))
def test_the_compiled_resize_is_torchs_bit_for_bit_however_images_lie(layout: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(5, 60, 2)
        images = torch.from_numpy(rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8))
        images = layouts(images)[layout]
        size = (int(rng.integers(1, 80)), int(rng.integers(1, 80)))
        result = resize_bilinear(images, size)
        assert result.is_contiguous()
        assert torch.equal(result, by_torch(images, size)), (images.shape, size)


@needs_compiler
@pytest.mark.parametrize("size", [(224, 224), (1, 1), (375, 500), (600, 7)])
def test_photographs_are_resized_alike(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    assert torch.equal(resize_bilinear(images, size), by_torch(images, size))


def test_without_a_compiler_torch_does_it_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.resize_bilinear.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
            for _ in range(2):
                assert resize_bilinear(images, (1, 4)).tolist() == [[[[0, 64, 191, 255]]]]
        (record,) = caplog.records
        assert "no C++ compiler was found" in record.getMessage()
    finally:
        native.resize_bilinear.cache_clear()


def test_a_source_that_does_not_compile_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if native.resize_bilinear() is None:
        pytest.skip("needs a C++ compiler")
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no C++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "SOURCE", broken)
    native.resize_bilinear.cache_clear()
    try:
        assert native.resize_bilinear() is None
        assert "broken.cpp" in caplog.text
    finally:
        native.resize_bilinear.cache_clear()
