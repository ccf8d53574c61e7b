from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qatlab.data import decode
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
    (tmp_path / "text.jpg").write_text("this is not an image")
    whole = saved(tmp_path, "whole.png", PIXELS)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:50])
    deep = saved(tmp_path, "deep.png", np.zeros((4, 4), dtype=np.uint16))
    for file, expected in (
        (tmp_path / "none.jpg", r"cannot read .*none\.jpg: No such file"),
        (tmp_path / "text.jpg", r"text\.jpg is not an image"),
        (tmp_path / "cut.png", r"cut\.png cannot be read as an image"),
        (deep, r"deep\.png is an image of mode I;16; 8 bits per channel"),
    ):
        with pytest.raises(DataError, match=expected):
            read_image(file, 3)


def jpeg(folder: Path, mode: str, size: tuple[int, int], **options: Any) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = folder / f"{mode}.jpg"
    Image.fromarray(noise).convert(mode).save(file, **options)
    return file


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 16)])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_both_ways_to_decode_jpeg_files_give_the_same(
    tmp_path: Path, size: tuple[int, int], subsampling: int, progressive: bool
) -> None:
    if decode.jpeg_decoder() is None:
        pytest.skip("this torchvision has no decoders")
    for mode in ("RGB", "L"):
        for turn in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = turn
            options = {"subsampling": subsampling, "progressive": progressive, "exif": exif}
            content = bytearray(jpeg(tmp_path, mode, size, **options).read_bytes())
            for channels in (1, 3):
                quick = decode._jpeg(content, channels)
                assert quick is not None
                assert torch.equal(quick, decode._any_kind("file", content, channels))


def test_inks_become_colours(tmp_path: Path) -> None:
    file = jpeg(tmp_path, "CMYK", (8, 8))
    content = bytearray(file.read_bytes())
    assert torch.equal(read_image(file, 3), decode._any_kind("file", content, 3))
    difference = read_image(file, 1).int() - decode._any_kind("file", content, 1).int()
    assert difference.abs().max() <= 1


def test_without_torchvisions_decoders_pillow_reads_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = jpeg(tmp_path, "RGB", (9, 9))
    expected = read_image(file, 3)
    monkeypatch.setattr(decode, "jpeg_decoder", lambda: None)
    assert torch.equal(read_image(file, 3), expected)


def test_half_a_photograph_is_no_photograph(tmp_path: Path) -> None:
    file = jpeg(tmp_path, "RGB", (64, 64))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"RGB\.jpg cannot be read as an image: .*truncated"):
        read_image(file, 3)


@pytest.mark.parametrize("decoders", [True, False])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_small_file_of_a_giant_photograph_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progressive: bool, decoders: bool
) -> None:
    if not decoders:
        monkeypatch.setattr(decode, "jpeg_decoder", lambda: None)
    content = jpeg(tmp_path, "L", (8, 8), progressive=progressive).read_bytes()
    header = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    giant = content[: header + 5] + b"\xff\xdc" * 2 + content[header + 9 :]  # 65500 x 65500 pixels
    (tmp_path / "giant.jpg").write_bytes(giant)
    for channels in (1, 3):
        with pytest.raises(DataError, match=r"giant\.jpg cannot be read as an image: .*4290250000"):
            read_image(tmp_path / "giant.jpg", channels)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_image_is_taken(tmp_path: Path, suffix: str) -> None:
    white, black = (Image.new("RGB", (4, 4), color) for color in ("white", "black"))
    file = tmp_path / f"several.{suffix}"
    white.save(file, save_all=True, append_images=[black], **{"lossless": True, "duration": 99})
    assert read_image(file, 3).min() == 255


def test_what_only_a_program_can_draw_is_no_image(tmp_path: Path) -> None:
    file = tmp_path / "drawing.png"
    Image.new("RGB", (4, 4)).save(file, format="EPS")
    with pytest.raises(DataError, match=r"drawing\.png is not an image, .*Accepted: JPEG, .*PNG"):
        read_image(file, 3)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it can still read
def test_damaged_files_are_reported_wherever_pillow_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = []
    for suffix in ("jpg", "png", "tif", "webp", "bmp", "ppm"):
        file = tmp_path / f"whole.{suffix}"
        Image.fromarray(PIXELS).save(file, **({"exif": exif} if suffix != "ppm" else {}))
        whole.append(file.read_bytes())
    for number in range(600):
        content = bytearray(whole[number % len(whole)])
        for place in rng.integers(0, min(len(content), 200), rng.integers(1, 5)):
            content[place] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(content)
        with suppress(DataError):  # and nothing else
            assert read_image(tmp_path / "damaged", 3).dtype == torch.uint8
