from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data import transforms
from qatlab.data.transforms import (
    ChannelExtraction,
    ColorSpace,
    Equalize,
    Flip,
    PadCrop,
    RandomErasing,
    RangeAffine,
    Rescale,
    SliceExtraction,
    Torchvision,
    Transform,
    pipeline,
)
from qatlab.data.transforms.pipeline import (
    apply_once,
    channels_after,
    named,
    of_part,
    split,
    to_unit,
)
from qatlab.errors import ConfigError

OWN = (Transform, RandomErasing, Torchvision)  # all others have a name that N2D2 gave them
CLASSES = [
    member
    for member in vars(transforms).values()
    if isinstance(member, type) and issubclass(member, Transform) and member not in OWN
]
REQUIRED: dict[str, dict[str, Any]] = {
    "ChannelExtraction": {"channel": "gray"},
    "ColorSpace": {"to": "bgr"},
    "Morphology": {"operation": "erode", "size": 3},
    "PadCrop": {"width": 5, "height": 5},
    "RandomResizeCrop": {"width": 5, "height": 5},
    "RangeAffine": {"first_operator": "plus", "first_value": 1},
    "Rescale": {"width": 5, "height": 5},
    "Reshape": {"rows": 9},
    "WallisFilter": {"size": 3},
}


def made(kind: type[Transform], **options: Any) -> Transform:
    return kind(**REQUIRED.get(kind.__name__, {}), **options)


def random_flip(apply_to: Sequence[str] | None = None) -> Flip:
    return Flip(random_horizontal=True, apply_to=apply_to)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_transform_applies_to_all_parts_unless_told_otherwise(kind: type[Transform]) -> None:
    assert made(kind).apply_to == ("training", "validation", "test")
    assert made(kind, apply_to=["test"]).apply_to == ("test",)
    with pytest.raises(ConfigError, match=r"apply_to=tranining is wrong\. Did you mean 'training'"):
        made(kind, apply_to=["tranining"])
    for nothing in ([], "training"):
        with pytest.raises(
            ConfigError, match=rf"{kind.__name__}\.apply_to=.* is wrong\. Accepted: a list"
        ):
            made(kind, apply_to=nothing)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_transform_says_which_of_n2d2_it_is(kind: type[Transform]) -> None:
    assert f"N2D2's ``{kind.__name__}" in str(kind.__doc__)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_transform_keeps_its_promises(kind: type[Transform], dtype: torch.dtype) -> None:
    transform = made(kind)
    if kind is Equalize and dtype is torch.float32:
        pytest.skip("takes bytes only")
    channels = 3 if kind in (ColorSpace, ChannelExtraction) else 1
    images = torch.randint(0, 256, (4, channels, 9, 9)).to(dtype)
    before = images.clone()
    result = transform(images, np.random.default_rng(0))
    assert result.shape[:2] == (4, transform.channels(channels))
    assert result.dtype in (torch.uint8, torch.float32)
    assert torch.equal(images, before)
    # Images do not see each other, but for what is random.
    if not transform.random:
        alone = transform(images[2:3], np.random.default_rng(0))
        assert torch.equal(alone, result[2:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_transform_does_the_same_on_a_gpu(kind: type[Transform], dtype: torch.dtype) -> None:
    if kind is Equalize and dtype is torch.float32:
        pytest.skip("takes bytes only")
    channels = 3 if kind in (ColorSpace, ChannelExtraction) else 1
    images = torch.randint(0, 256, (4, channels, 9, 9)).to(dtype)
    on_cpu, on_gpu = (made(kind)(x, np.random.default_rng(0)) for x in (images, images.cuda()))
    assert on_gpu.is_cuda
    # Sums may be made in another order.
    assert torch.allclose(on_cpu.float(), on_gpu.cpu().float(), rtol=1e-5, atol=1e-4)


def test_transforms_learn_their_place_in_the_configuration() -> None:
    first, second = named({"crop": SliceExtraction(9, 9), "grey": Equalize()})
    with pytest.raises(ConfigError, match=r"^data\.transforms\.grey takes images of one channel"):
        second.channels(3)
    assert first.key_of("width") == "data.transforms.crop.width"
    with pytest.raises(ConfigError, match=r"data\.transforms\.crop=.* is wrong"):
        named({"crop": {"width": 3}})  # type: ignore[dict-item]


def test_each_part_has_its_own_transforms_in_order() -> None:
    all_of_them = [
        Rescale(4, 4),
        random_flip(["training"]),
        PadCrop(3, 3, apply_to=["validation", "test"]),
    ]
    assert of_part(all_of_them, "training") == all_of_them[:2]
    assert of_part(all_of_them, "validation") == [all_of_them[0], all_of_them[2]]


def test_channels_follow_from_all_transforms() -> None:
    assert channels_after([], 1) == 1
    assert channels_after([ColorSpace("rgb")], 1) == 3
    assert channels_after([ColorSpace("hsv"), ChannelExtraction("hue", "hsv")], 3) == 1
    with pytest.raises(ConfigError, match="1 for training, 3 for validation, 3 for test"):
        channels_after([ChannelExtraction("gray", apply_to=["training"])], 3)


def test_what_is_random_and_what_is_quick_is_left_to_the_batches() -> None:
    rescale, crop, flip = Rescale(4, 4), PadCrop(3, 3), random_flip()
    to_range = RangeAffine("divides", 255)
    assert split([rescale, crop]) == ([rescale, crop], [])
    assert split([rescale, to_range]) == ([rescale], [to_range])
    assert split([rescale, to_range, crop]) == ([rescale, to_range, crop], [])
    assert split([rescale, flip, crop]) == ([rescale], [flip, crop])
    assert split([rescale, to_range, flip]) == ([rescale], [to_range, flip])
    assert split([]) == ([], [])


def test_many_images_are_prepared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_ELEMENTS_PER_PIECE", 500 * 4)
    sizes = []

    class Noted(Transform):
        def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
            sizes.append(len(images))
            return images.float() + 1

    images = torch.randint(0, 255, (1201, 1, 2, 2)).byte()
    assert torch.equal(apply_once([Noted()], images), images.float() + 1)
    assert sizes == [1, 500, 500, 201]  # the first to see what comes out
    assert apply_once([], images) is images


def test_bytes_are_multiplied_by_a_255th_and_floats_left_alone() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    assert to_unit(levels).tolist() == expected.tolist()
    floats = torch.tensor([-1.0, 300.0])
    assert to_unit(floats) is floats
