"""Formulas of colour spaces, with OpenCV's ranges and roundings.

All functions take and give (N, 3, H, W), or one channel where they say grey. Ranges of OpenCV:

    8 bits           hsv, hls: H 0..179 (degrees / 2), S, V, L 0..255.  ycrcb: Cr, Cb around 128.
                     cielab: L * 255 / 100, a + 128, b + 128.
                     cieluv: L * 255 / 100, (u + 134) * 255 / 354, (v + 140) * 255 / 262.
    float32, in 0..1 hsv, hls: H 0..360, S, V, L 0..1.  ycrcb: Cr, Cb around 0.5.
                     cielab, cieluv: L 0..100.

Source: OpenCV documentation, "Color conversions".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SPACES = ("rgb", "bgr", "hsv", "hls", "ycrcb", "cielab", "cieluv")
_TO_XYZ = (  # of linear RGB with white point D65
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.950456, 1.0, 1.088754)


def convert(images: Tensor, given: str, to: str) -> Tensor:
    """Return images in another colour space.

    Args:
        images: uint8 or float32, (N, 3, H, W).
        given: colour space of ``images``, one of :data:`SPACES`.
        to: colour space of the result.

    Returns:
        Dtype and shape of ``images``. 8-bit results are those of OpenCV for rgb, bgr and ycrcb and
        into hsv and hls; elsewhere a value can differ from OpenCV's by one level.
    """
    if given == to:
        return images
    rgb = images
    if given == "bgr":
        rgb = images.flip(1)
    elif given != "rgb":
        rgb = _TO_RGB[given](images)
    if to == "rgb":
        return rgb
    return rgb.flip(1) if to == "bgr" else _FROM_RGB[to](rgb)


def luma(rgb: Tensor) -> Tensor:
    """Return the grey of RGB images: 0.299 R + 0.587 G + 0.114 B, (N, 1, H, W)."""
    if rgb.is_floating_point():
        r, g, b = torch.split(rgb, 1, 1)
        return r * 0.299 + g * 0.587 + b * 0.114
    r, g, b = torch.split(rgb.int(), 1, 1)
    return ((r * 9798 + g * 19235 + b * 3735 + (1 << 14)) >> 15).to(rgb.dtype)


def _to_hsv(rgb: Tensor) -> Tensor:
    if rgb.is_floating_point():
        value, _ = rgb.max(1, keepdim=True)
        spread = value - rgb.amin(1, keepdim=True)
        saturation = spread / (value.abs() + torch.finfo(torch.float32).eps)
        return torch.cat([_hue(rgb, value, spread, 360.0), saturation, value], 1)
    pixels = rgb.int()
    value, _ = pixels.max(1, keepdim=True)
    spread = value - pixels.amin(1, keepdim=True)
    # Divisions are products with rounded reciprocals of 12 binary digits.
    levels = torch.arange(1, 256, dtype=torch.float64, device=rgb.device)
    by_value, by_spread = (
        torch.cat([levels.new_zeros(1), ((full << 12) / (parts * levels)).round()]).int()
        for full, parts in ((255, 1), (180, 6))
    )
    saturation = (spread * by_value[value.long()] + (1 << 11)) >> 12
    hue = (_sixth(pixels, value, spread) * by_spread[spread.long()] + (1 << 11)) >> 12
    hue += 180 * (hue < 0)
    return torch.cat([hue, saturation, value], 1).to(rgb.dtype)


def _to_hls(rgb: Tensor) -> Tensor:
    x = _unit(rgb)
    top, bottom = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread, total = top - bottom, top + bottom
    lightness = total * 0.5
    grey = spread <= torch.finfo(torch.float32).eps
    saturation = spread / torch.where(lightness < 0.5, total, 2 - total)
    hue = _hue(x, top, spread, 360.0 if rgb.is_floating_point() else 180.0)
    hue, saturation = (torch.where(grey, 0.0, part) for part in (hue, saturation))
    return _like(rgb, torch.cat([hue, lightness, saturation], 1), (1.0, 255.0, 255.0))


def _to_ycrcb(rgb: Tensor) -> Tensor:
    if rgb.is_floating_point():
        y = luma(rgb)
        return torch.cat([y, (rgb[:, :1] - y) * 0.713 + 0.5, (rgb[:, 2:] - y) * 0.564 + 0.5], 1)
    r, g, b = torch.split(rgb.int(), 1, 1)
    half, middle = 1 << 13, 128 << 14
    y = (r * 4899 + g * 9617 + b * 1868 + half) >> 14
    cr = ((r - y) * 11682 + middle + half) >> 14
    cb = ((b - y) * 9241 + middle + half) >> 14
    return torch.cat([y, cr, cb], 1).clamp_(0, 255).to(rgb.dtype)


def _to_lab(rgb: Tensor) -> Tensor:
    x, y, z = (part / white for part, white in zip(_xyz(rgb), _WHITE, strict=True))
    lightness = torch.where(y > 0.008856, 116 * _root(y) - 16, 903.3 * y)
    fx, fy, fz = (
        torch.where(t > 0.008856, _root(t), 7.787 * t + 16 / 116) for t in (x, y, z)
    )  # fmt: skip
    lab = torch.cat([lightness, 500 * (fx - fy), 200 * (fy - fz)], 1)
    return _like(rgb, lab, (2.55, 1.0, 1.0), (0.0, 128.0, 128.0))


def _to_luv(rgb: Tensor) -> Tensor:
    x, y, z = _xyz(rgb)
    lightness = torch.where(y > 0.008856, 116 * _root(y) - 16, 903.3 * y)
    total = (x + 15 * y + 3 * z).clamp_(min=1e-12)
    u = 13 * lightness * (4 * x / total - _U_WHITE)
    v = 13 * lightness * (9 * y / total - _V_WHITE)
    black = lightness == 0
    luv = torch.cat([lightness, *(torch.where(black, 0.0, part) for part in (u, v))], 1)
    scale = (2.55, 255 / 354, 255 / 262)
    return _like(rgb, luv, scale, (0.0, 134 * scale[1], 140 * scale[2]))


def _from_hsv(hsv: Tensor) -> Tensor:
    hue, saturation, value = _parts(hsv, (2.0, 1 / 255, 1 / 255))
    sector, fraction = _sector(hue)
    p = value * (1 - saturation)
    q = value * (1 - saturation * fraction)
    t = value * (1 - saturation * (1 - fraction))
    return _like(hsv, _by_sector(sector, value, p, q, t), (255.0,) * 3)


def _from_hls(hls: Tensor) -> Tensor:
    hue, lightness, saturation = _parts(hls, (2.0, 1 / 255, 1 / 255))
    sector, fraction = _sector(hue)
    both = lightness * saturation
    top = lightness + torch.where(lightness <= 0.5, both, saturation - both)
    bottom = 2 * lightness - top
    rising = bottom + (top - bottom) * fraction
    falling = bottom + (top - bottom) * (1 - fraction)
    return _like(hls, _by_sector(sector, top, bottom, falling, rising), (255.0,) * 3)


def _from_ycrcb(ycrcb: Tensor) -> Tensor:
    if ycrcb.is_floating_point():
        y, cr, cb = torch.split(ycrcb, 1, 1)
        cr, cb = cr - 0.5, cb - 0.5
        return torch.cat([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], 1)
    y, cr, cb = torch.split(ycrcb.int(), 1, 1)
    cr, cb, half = cr - 128, cb - 128, 1 << 13
    r = y + ((cr * 22987 + half) >> 14)
    g = y + ((cr * -11698 + cb * -5636 + half) >> 14)
    b = y + ((cb * 29049 + half) >> 14)
    return torch.cat([r, g, b], 1).clamp_(0, 255).to(ycrcb.dtype)


def _from_lab(lab: Tensor) -> Tensor:
    lightness, a, b = _parts(lab, (100 / 255, 1.0, 1.0), (0.0, -128.0, -128.0))
    fy = (lightness + 16) / 116
    xyz = [
        white * torch.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787)
        for f, white in zip((fy + a / 500, fy, fy - b / 200), _WHITE, strict=True)
    ]
    return _from_xyz(lab, xyz)


def _from_luv(luv: Tensor) -> Tensor:
    lightness, u, v = _parts(luv, (100 / 255, 354 / 255, 262 / 255), (0.0, -134.0, -140.0))
    y = torch.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    u, v = u + 13 * lightness * _U_WHITE, v + 13 * lightness * _V_WHITE
    v = torch.where(v < 0, v.clamp(max=-1), v.clamp(min=1))  # OpenCV's limit near black
    return _from_xyz(
        luv, [y * 9 * u / (4 * v), y, y * (156 * lightness - 3 * u - 20 * v) / (4 * v)]
    )


def _sixth(rgb: Tensor, top: Tensor, spread: Tensor) -> Tensor:
    """Return the hue in units of 60 degrees times ``spread``, from -1 to 5."""
    r, g, b = torch.split(rgb, 1, 1)
    otherwise = torch.where(top == g, b - r + 2 * spread, r - g + 4 * spread)
    return torch.where(top == r, g - b, otherwise)


def _hue(rgb: Tensor, top: Tensor, spread: Tensor, circle: float) -> Tensor:
    hue = _sixth(rgb, top, spread) * (circle / 6 / (spread + torch.finfo(torch.float32).eps))
    return hue + circle * (hue < 0)


def _sector(hue: Tensor) -> tuple[Tensor, Tensor]:
    """Return in which sixth of the circle a hue in degrees lies, 0 to 5, and how far in it."""
    place = hue / 60
    sector = place.floor()
    return sector.remainder(6).long(), place - sector


def _by_sector(
    sector: Tensor, high: Tensor, low: Tensor, falling: Tensor, rising: Tensor
) -> Tensor:
    """Return RGB, of which each channel stays, falls or rises within a sixth of the circle."""
    red = torch.cat([high, falling, low, low, rising, high], 1)
    green = torch.cat([rising, high, high, falling, low, low], 1)
    blue = torch.cat([low, low, rising, high, high, falling], 1)
    return torch.cat([table.gather(1, sector) for table in (red, green, blue)], 1)


def _unit(images: Tensor) -> Tensor:
    """Return 8-bit images as floats in [0, 1], and floats as they are."""
    return images if images.is_floating_point() else images.float() * (1 / 255)


def _parts(
    images: Tensor, scale: tuple[float, ...], offset: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> tuple[Tensor, ...]:
    """Return the channels in the units of a float image: of 8 bits, ``scale * x + offset``."""
    if images.is_floating_point():
        return torch.split(images, 1, 1)
    channels = torch.split(images.float(), 1, 1)
    return tuple(c * s + o for c, s, o in zip(channels, scale, offset, strict=True))


def _like(
    given: Tensor,
    result: Tensor,
    scale: tuple[float, ...],
    offset: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Return floats, or where 8 bits were given, ``scale * x + offset`` rounded to 8 bits."""
    if given.is_floating_point():
        return result
    s, o = (torch.tensor(x, device=result.device).view(-1, 1, 1) for x in (scale, offset))
    return (result * s + o).round_().clamp_(0, 255).to(given.dtype)


def _xyz(rgb: Tensor) -> list[Tensor]:
    """Return X, Y and Z of RGB images that are encoded as sRGB."""
    x = _unit(rgb)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    r, g, b = torch.split(linear, 1, 1)
    return [r * row[0] + g * row[1] + b * row[2] for row in _TO_XYZ]


def _from_xyz(given: Tensor, xyz: list[Tensor]) -> Tensor:
    to_rgb = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).tolist()
    x, y, z = xyz
    linear = torch.cat([x * row[0] + y * row[1] + z * row[2] for row in to_rgb], 1).clamp_(0, 1)
    rgb = torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _like(given, rgb, (255.0,) * 3)


def _root(x: Tensor) -> Tensor:
    return x.clamp(min=0) ** (1 / 3)


_U_WHITE, _V_WHITE = (
    factor * part / (_WHITE[0] + 15 * _WHITE[1] + 3 * _WHITE[2])
    for factor, part in ((4, _WHITE[0]), (9, _WHITE[1]))
)
_FROM_RGB: dict[str, Callable[[Tensor], Tensor]] = {
    "hsv": _to_hsv,
    "hls": _to_hls,
    "ycrcb": _to_ycrcb,
    "cielab": _to_lab,
    "cieluv": _to_luv,
}
_TO_RGB: dict[str, Callable[[Tensor], Tensor]] = {
    "hsv": _from_hsv,
    "hls": _from_hls,
    "ycrcb": _from_ycrcb,
    "cielab": _from_lab,
    "cieluv": _from_luv,
}
