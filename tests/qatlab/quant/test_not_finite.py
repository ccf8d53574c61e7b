import math

import pytest
import torch
from torch import nn

from qatlab.quant import first_not_finite


def network() -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Sequential(nn.Conv2d(2, 1, 1)))
    return nn.Sequential(*layers).eval()


IMAGES = torch.ones(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("1.running_var", -1.0, "1 puts out NaN"),  # the root of a negative number
        ("1.running_var", math.nan, "1.running_var holds NaN"),
        ("0.weight", math.inf, "0.weight holds infinite values"),
        ("1.bias", 3e38, "1.bias holds values up to 3e+38"),
        ("1.bias", 1e30, "3.0 puts out infinite values"),  # 2e60
    ],
)
def test_the_first_layer_that_makes_values_that_are_not_finite_is_named(
    name: str, value: float, expected: str
) -> None:
    model = network()
    model.get_submodule("3.0").weight.data.fill_(1e30)
    model.state_dict()[name].fill_(value)
    assert first_not_finite(model, IMAGES) == expected
    assert not any(module._forward_hooks for module in model.modules())


def test_what_a_layer_is_given_is_told_apart_from_what_it_makes() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.fc(x.log())
            return result

    assert first_not_finite(Logarithm(), -IMAGES) == "fc is given NaN"


def test_images_may_be_the_cause_and_a_sound_network_has_none() -> None:
    assert first_not_finite(network(), IMAGES * math.nan) == "the images hold NaN"
    assert first_not_finite(network(), IMAGES) == ""
