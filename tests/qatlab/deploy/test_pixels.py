"""Which bytes stand for the images that a network gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from qatlab.data import ImageData
from qatlab.data.synthetic import Synthetic
from qatlab.data.transforms import PadCrop, RangeAffine, Transform
from qatlab.deploy.integer import Codes
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.errors import ConfigError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def data_with(transforms: Mapping[str, Transform | nn.Module | None] | None) -> ImageData:
    source = Synthetic(4, 4, num_classes=2, channels=3, size=(8, 8), noise=20.0, seed=0)
    return ImageData(source, (8, 8), 4, 4, 0, 0, 0, 0, False, transforms=transforms)


NORMALISED: dict[str, Any] = {
    "none": (None, [Codes(0, 255, 1 / 255)] * 3),
    "range": (
        {"a": RangeAffine("minus", 127.5, "divides", 63.75)},
        [Codes(0, 255, 1 / 63.75, -2.0)] * 3,
    ),
    "inverted": (
        {"a": RangeAffine("multiplies", -1 / 255, "plus", 1.0)},
        [Codes(0, 255, -1 / 255, 1.0)] * 3,
    ),
    "torchvision": (
        {
            "float": v2.ToDtype(torch.float32, scale=True),
            "norm": v2.Normalize(mean=MEAN, std=STD),
            "crop": PadCrop(8, 8),
        },
        [Codes(0, 255, 1 / 255 / s, -m / s) for m, s in zip(MEAN, STD, strict=True)],
    ),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_bytes_stand_for_what_the_transforms_make_of_them(name: str) -> None:
    transforms, expected = NORMALISED[name]
    data = data_with(transforms)
    codes = pixel_codes(data)
    for own, other in zip(codes, expected, strict=True):
        assert (own.low, own.high) == (0, 255)
        assert own.step == pytest.approx(other.step, rel=1e-5)
        assert own.offset == pytest.approx(other.offset, rel=1e-5)
    data.setup("test")
    images, _ = next(iter(data.test_dataloader()))
    assert torch.equal(bytes_of(images, codes), data.source.test_set().images)


@pytest.mark.parametrize(
    "transform",
    [v2.Lambda(lambda x: x.float() ** 2), v2.Lambda(lambda x: 0.0 * x)],
    ids=["square", "nothing"],
)
def test_more_than_a_product_and_a_sum_is_reported(transform: nn.Module) -> None:
    with pytest.raises(ConfigError, match="do more to a pixel than to multiply and add"):
        pixel_codes(data_with({"a": transform}))


def test_images_between_bytes_are_reported() -> None:
    source = Synthetic(4, 4, num_classes=2, channels=3, size=(7, 9), noise=20.0, seed=0)
    transforms = {"float": v2.ToDtype(torch.float32, scale=True), "resize": v2.Resize((8, 8))}
    data = ImageData(source, (8, 8), 4, 4, 0, 0, 0, 0, False, transforms=transforms)
    codes = pixel_codes(data)
    data.setup("test")
    images, _ = next(iter(data.test_dataloader()))
    with pytest.raises(ConfigError, match="are no bytes times a number"):
        bytes_of(images, codes)
