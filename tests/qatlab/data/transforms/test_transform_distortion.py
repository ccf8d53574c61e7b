from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qatlab.data.transforms import Distortion, RandomAffine
from qatlab.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


COLUMNS = torch.arange(64.0).view(1, 1, 1, 64).expand(40, 1, 64, 64).contiguous()
INNER = slice(20, 44)


def test_without_strength_nothing_moves() -> None:
    images = torch.randint(0, 256, (3, 2, 9, 9)).byte()
    assert torch.equal(Distortion()(images, rng()), images)


def test_the_elastic_field_is_a_smoothed_uniform_one_times_its_strength() -> None:
    transform = Distortion(elastic_gaussian_size=21, elastic_sigma=3.0, elastic_scaling=36.0)
    moved = (transform(COLUMNS, rng()) - COLUMNS)[:, 0, INNER, INNER]
    # Uniform numbers in [-1, 1] have variance 1/3, which weights w multiply by sum(w^2). Along each
    # axis of a Gaussian, sum(w^2) = 1 / (2 sigma sqrt(pi)).
    expected = 36 * (1 / 3) ** 0.5 / (2 * 3 * np.pi**0.5)
    assert moved.std() == pytest.approx(expected, rel=0.05)
    assert moved.mean() == pytest.approx(0, abs=0.1)
    # Smooth: neighbours of a Gaussian of sigma differ by a share of about 1 / (sigma sqrt(2)).
    steps = (moved[:, :, 1:] - moved[:, :, :-1]).std() / moved.std()
    assert steps == pytest.approx(1 / (3 * 2**0.5), rel=0.1)


def test_size_and_angle_stay_within_their_limits() -> None:
    grown = Distortion(scaling=20.0)(COLUMNS.repeat(8, 1, 1, 1), rng())[:, 0, 32]
    factor = 1 / (grown[:, 33] - grown[:, 32])
    assert factor.min() == pytest.approx(0.8, abs=0.02)
    assert factor.max() == pytest.approx(1.2, abs=0.02)
    turned = Distortion(rotation=30.0)(COLUMNS.repeat(8, 1, 1, 1), rng())[:, 0]
    angle = torch.rad2deg(torch.asin((turned[:, 32, 32] - turned[:, 33, 32]).clamp(-1, 1)))
    assert angle.abs().max() <= 30.1
    assert angle.max() > 28
    assert angle.min() < -28


def test_missing_data_are_those_at_the_edge_or_black() -> None:
    white = torch.full((20, 1, 9, 9), 255, dtype=torch.uint8)
    strong = {"rotation": 45.0, "scaling": 50.0}
    assert (Distortion(**strong)(white, rng()) == 255).all()
    black = Distortion(**strong, ignore_missing_data=False)(white, rng())
    assert (black == 0).any()


def test_distortions_are_random_and_repeatable() -> None:
    images = torch.randint(0, 256, (4, 1, 16, 16)).byte()
    transform = Distortion(elastic_scaling=30.0, rotation=10.0)
    assert transform.random
    first = transform(images, rng())
    assert first.dtype == torch.uint8
    assert torch.equal(first, transform(images, rng()))
    assert not torch.equal(first, transform(images, rng(1)))
    same = transform(images[:1].repeat(4, 1, 1, 1), rng())
    assert not torch.equal(same[0], same[1])


FLAT = torch.full((500, 2, 1, 1), 0.25)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gain": [2, 2]}, 0.5),
        ({"bias": [0.5, 0.5]}, 0.75),
        ({"gamma": [0.5, 0.5]}, 0.5),
        ({"gain": [2, 2], "gamma": [0.5, 0.5], "bias": [-0.1, -0.1]}, 0.9),
        ({"gain": [2, 2], "gain_probability": 0.0}, 0.25),
        ({"gain": [2, 2], "gamma": [0.5, 0.5], "disjoint_gamma": True}, 0.5),
    ],
)
def test_random_affine_is_gain_times_power_plus_bias(
    options: dict[str, Any], expected: float
) -> None:
    assert RandomAffine(**options)(FLAT, rng()).unique().tolist() == pytest.approx([expected])


def test_bytes_are_changed_in_units_of_their_range() -> None:
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    result = RandomAffine(bias=[0.2, 0.2])(images, rng())
    assert result.dtype == torch.uint8
    assert result.flatten().tolist() == [51, 102, 255]
    squared = RandomAffine(gamma=[2, 2])(images, rng())
    assert squared.flatten().tolist() == [0, 10, 255]  # 51^2 / 255 = 10.2


def test_each_image_draws_its_own_and_channels_share_it_unless_told_otherwise() -> None:
    transform = RandomAffine(gain=(0.5, 2.0))
    result = transform(FLAT, rng())
    assert torch.equal(result[:, 0], result[:, 1])
    assert result.min() == pytest.approx(0.125, abs=0.01)
    assert result.max() == pytest.approx(0.5, abs=0.01)
    apart = RandomAffine(gain=(0.5, 2.0), per_channel=True)(FLAT, rng())
    assert not torch.equal(apart[:, 0], apart[:, 1])


def test_a_share_of_images_is_changed() -> None:
    changed = (RandomAffine(bias=[1, 1], bias_probability=0.3)(FLAT, rng()) > 1).float().mean()
    assert changed == pytest.approx(0.3, abs=0.07)  # 3 standard deviations


def test_a_mask_leaves_channels_as_they_are() -> None:
    transform = RandomAffine(gain=[2, 2], channels_mask=[0, 1])
    assert transform(FLAT, rng())[0].flatten().tolist() == [0.25, 0.5]
    with pytest.raises(ConfigError, match="has 2 numbers for images of 3 channels"):
        transform.channels(3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: Distortion(elastic_gaussian_size=4),
            r"elastic_gaussian_size=4 is wrong\. Accepted: an odd number",
        ),
        (lambda: Distortion(elastic_sigma=0), r"elastic_sigma=0 is wrong"),
        (lambda: Distortion(rotation=200), r"rotation=200 is wrong.* at least 0 and at most 180"),
        (lambda: Distortion(scaling=100), r"scaling=100 is wrong.* at most 99"),
        (
            lambda: RandomAffine(gain=[1]),
            r"gain=\[1\.0\] is wrong\. Accepted: \[lowest, highest\], two numbers",
        ),
        (lambda: RandomAffine(gamma=[0, 1]), r"gamma=\[0\.0, 1\.0\] is wrong.* above 0"),
        (lambda: RandomAffine(gain_probability=2), r"gain_probability=2 is wrong.* at most 1"),
    ],
)
def test_wrong_arguments_are_reported(make: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.transforms: .*{expected}"):
        make()
