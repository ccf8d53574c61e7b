from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.data.transforms import SliceExtraction
from qatlab.errors import ConfigError, DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def places(n: int, height: int, width: int) -> Tensor:
    """Return images whose values tell row and column: 100 * row + column."""
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    return (100 * rows + columns).float().expand(n, 1, height, width).contiguous()


def test_a_fixed_slice_begins_at_its_offsets() -> None:
    transform = SliceExtraction(width=3, height=2, offset_x=4, offset_y=1)
    assert not transform.random
    assert transform(places(2, 5, 9), rng())[1, 0].tolist() == [[104, 105, 106], [204, 205, 206]]


def test_zero_means_the_whole_side() -> None:
    assert SliceExtraction(width=3)(places(1, 5, 9), rng()).shape == (1, 1, 5, 3)
    assert SliceExtraction(height=3)(places(1, 5, 9), rng()).shape == (1, 1, 3, 9)


def test_random_offsets_reach_every_place_inside_and_none_outside() -> None:
    transform = SliceExtraction(3, 3, random_offset_x=True, random_offset_y=True)
    assert transform.random
    result = transform(places(400, 5, 7), rng())
    first = result[:, 0, 0, 0]
    assert set(first.tolist()) == {100 * y + x for y in range(3) for x in range(5)}
    inner = torch.tensor([[0, 1, 2], [100, 101, 102], [200, 201, 202]])
    assert torch.equal(result[:, 0], first.view(-1, 1, 1) + inner)


def test_one_offset_may_be_random_and_the_other_fixed() -> None:
    transform = SliceExtraction(3, 3, offset_y=2, random_offset_x=True)
    first = transform(places(200, 6, 7), rng())[:, 0, 0, 0]
    assert set(first.tolist()) == {200, 201, 202, 203, 204}


def test_slices_are_a_function_of_the_generator() -> None:
    transform = SliceExtraction(3, 3, random_offset_x=True, random_rotation=True)
    images = places(9, 12, 12)
    assert torch.equal(transform(images, rng(1)), transform(images, rng(1)))
    assert not torch.equal(transform(images, rng(1)), transform(images, rng(2)))


@pytest.mark.parametrize(
    "options", [{"offset_x": 5}, {"width": 8}, {"height": 6, "random_offset_y": True}]
)
def test_a_slice_beyond_the_image_is_refused_unless_padding_is_allowed(
    options: dict[str, Any],
) -> None:
    options = {"width": 3, "height": 3, **options}
    with pytest.raises(DataError, match="of an image of 5x7; set allow_padding: true"):
        SliceExtraction(**options)(places(1, 5, 7), rng())
    result = SliceExtraction(**options, allow_padding=True)(places(1, 5, 7), rng())
    assert result.shape[2:] == (options["height"], options["width"])


def test_padding_lies_behind_the_image() -> None:
    transform = SliceExtraction(4, 1, allow_padding=True, border="constant", border_value=7)
    assert transform(places(1, 1, 2), rng()).flatten().tolist() == [0, 1, 7, 7]


def test_a_random_slice_larger_than_the_image_holds_all_of_it() -> None:
    transform = SliceExtraction(
        5, 1, random_offset_x=True, allow_padding=True, border="constant", border_value=-1
    )
    result = transform(places(100, 1, 3) + 1, rng())
    rows = {tuple(image.flatten().tolist()) for image in result}
    assert rows == {(1, 2, 3, -1, -1), (-1, 1, 2, 3, -1), (-1, -1, 1, 2, 3)}


def test_a_positive_angle_turns_the_content_anticlockwise() -> None:
    images = places(2, 5, 5)
    transform = SliceExtraction(random_rotation=True, rotation_range=[90, 90])
    turned = torch.rot90(images, 1, (2, 3))  # right of the image becomes its top
    assert torch.allclose(transform(images, rng()), turned, atol=1e-3)


def test_a_factor_above_one_magnifies_about_the_centre() -> None:
    images = torch.arange(9.0).view(1, 1, 1, 9).expand(1, 1, 9, 9).contiguous()
    grown = SliceExtraction(random_scaling=True, scaling_range=[2, 2])(images, rng())
    assert grown[0, 0, 4].tolist() == [2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6]
    shrunk = SliceExtraction(
        3, 3, offset_x=3, offset_y=3, random_scaling=True, scaling_range=[0.5, 0.5]
    )(images, rng())
    assert shrunk[0, 0, 1].tolist() == [2, 4, 6]


def test_angles_and_factors_are_drawn_for_each_image_in_their_ranges() -> None:
    images = torch.arange(21.0).view(1, 1, 1, 21).expand(300, 1, 21, 21).contiguous()
    grown = SliceExtraction(random_scaling=True, scaling_range=(0.5, 2.0))(images, rng())
    factor = 1 / (grown[:, 0, 10, 11] - grown[:, 0, 10, 10])
    assert factor.min() == pytest.approx(0.5, abs=0.02)
    assert factor.max() == pytest.approx(2.0, abs=0.02)
    assert factor.mean() == pytest.approx(1.25, abs=0.1)  # uniform


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("replicate", [0, 0, 0, 1, 2, 2, 2]),
        ("reflect_101", [2, 1, 0, 1, 2, 1, 0]),
        ("reflect", [1, 0, 0, 1, 2, 2, 1]),
        ("wrap", [1, 2, 0, 1, 2, 0, 1]),
        ("constant", [9, 9, 0, 1, 2, 9, 9]),
    ],
)
def test_what_rotation_and_scaling_bring_into_view_follows_the_border(
    border: Any, expected: list[int]
) -> None:
    images = torch.arange(3).byte().view(1, 1, 1, 3)
    transform = SliceExtraction(
        *(7, 1),
        random_offset_x=True,
        random_scaling=True,
        scaling_range=[1, 1],
        allow_padding=True,
        border=border,
        border_value=9,
    )
    results = {tuple(transform(images, rng(seed)).flatten().tolist()) for seed in range(40)}
    assert tuple(expected) in results  # where the image lies in the middle


def test_bytes_are_rounded_halves_up() -> None:
    images = torch.tensor([[[[0, 1, 2]]]], dtype=torch.uint8)
    transform = SliceExtraction(random_scaling=True, scaling_range=[2, 2])
    assert transform(images, rng()).flatten().tolist() == [1, 1, 2]  # 0.5, 1, 1.5
    assert transform(images, rng()).dtype == torch.uint8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", -1),
        ("offset_x", -1),
        ("offset_y", 1.5),
        ("scaling_range", [0, 1]),
        ("scaling_range", [2, 1]),
        ("rotation_range", [1]),
        ("border_value", "red"),
    ],
)
def test_an_impossible_value_is_refused_with_its_name(key: str, value: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"data\.transforms: SliceExtraction\.{key}=.* is wrong\. Accepted: "
    ):
        SliceExtraction(**{key: value})


def test_an_unknown_border_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"border=reflct is wrong\. Did you mean 'reflect'\?"):
        SliceExtraction(border="reflct")  # type: ignore[arg-type]
