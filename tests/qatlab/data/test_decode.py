from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qatlab.data.decode import read_image
from qatlab.errors import DataError

PIXELS = np.array([[[200, 100, 50], [0, 0, 255]], [[255, 255, 255], [7, 7, 7]]], dtype=np.uint8)
RGB = torch.from_numpy(PIXELS).permute(2, 0, 1)
GREY = torch.tensor([[[124, 29], [255, 7]]], dtype=torch.uint8)  # 0.299 R + 0.587 G + 0.114 B


def saved(folder: Path, name: str, pixels: np.ndarray, mode: str = "") -> Path:
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    elif mode:
        image = image.convert(mode)
    image.save(folder / name)
    return folder / name


@pytest.mark.parametrize("suffix", ["png", "ppm", "bmp", "tif"])
def test_files_without_loss_come_out_as_they_went_in(tmp_path: Path, suffix: str) -> None:
    file = saved(tmp_path, f"image.{suffix}", PIXELS)
    assert torch.equal(read_image(file, 3), RGB)
    assert torch.equal(read_image(file, 1), GREY)
    assert read_image(file, 3).is_contiguous()


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_is_dropped_and_palettes_are_looked_up(tmp_path: Path, mode: str) -> None:
    file = saved(tmp_path, "image.png", PIXELS, mode)
    assert torch.equal(read_image(file, 3), RGB)


def test_grey_files_become_three_equal_channels(tmp_path: Path) -> None:
    file = saved(tmp_path, "image.pgm", PIXELS[..., 0])
    assert torch.equal(read_image(file, 1), RGB[:1])
    assert torch.equal(read_image(file, 3), RGB[:1].repeat(3, 1, 1))


def test_a_jpeg_file_keeps_its_colours_nearly(tmp_path: Path) -> None:
    flat = np.empty((16, 16, 3), dtype=np.uint8)
    flat[:] = (200, 100, 50)
    Image.fromarray(flat).save(tmp_path / "image.jpg", quality=95)
    rgb = read_image(tmp_path / "image.jpg", 3).float().mean(dim=(1, 2))
    assert rgb.tolist() == pytest.approx([200, 100, 50], abs=2)


def test_a_jpeg_file_gives_its_own_luma(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.jpg")
    with Image.open(tmp_path / "image.jpg") as opened:
        opened.draft("YCbCr", None)  # as it lies in the file
        luma = torch.from_numpy(np.array(opened)[..., 0])
    assert torch.equal(read_image(tmp_path / "image.jpg", 1)[0], luma)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held such that the image has to be turned clockwise
    file = tmp_path / "image.jpg"
    half = np.zeros((16, 32, 3), dtype=np.uint8)
    half[:, :16] = 255  # white to the left, so above after the turn
    Image.fromarray(half).save(file, exif=exif)
    for channels in (1, 3):
        image: Tensor = read_image(file, channels)
        assert image.shape == (channels, 32, 16)
        assert image[:, :14].min() > 200
        assert image[:, 18:].max() < 50


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no image")
    whole = saved(tmp_path, "whole.png", PIXELS)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:50])
    deep = saved(tmp_path, "deep.png", np.zeros((4, 4), dtype=np.uint16))
    for file, expected in (
        (tmp_path / "none.jpg", r"none\.jpg cannot be read as an image: .*No such file"),
        (tmp_path / "text.jpg", r"text\.jpg is no image"),
        (tmp_path / "cut.png", r"cut\.png cannot be read as an image"),
        (deep, r"deep\.png is an image of mode I;16; 8 bits per channel"),
    ):
        with pytest.raises(DataError, match=expected):
            read_image(file, 3)
