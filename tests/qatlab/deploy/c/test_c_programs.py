"""Programs in C against the integer networks that they are made of, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from programs import assert_computes_the_same
from torch import nn

from qatlab.deploy.integer import Codes, IntegerNetwork, lower, with_rescale
from qatlab.deploy.integer.operations import Convolve, Reinterpret

# Pixels of every size, and both ends of their range in all places.
IMAGES = torch.cat([PIXELS, torch.zeros_like(PIXELS[:1]), torch.full_like(PIXELS[:1], 255)])


def network_of(name: str, method: str, bits: int, rescale: str, **rules: object) -> IntegerNetwork:
    torch.manual_seed(4)
    model = convert(NETWORKS[name](), method, bits, **rules)
    return with_rescale(lower(model, [PIXEL] * 3, EXAMPLE), rescale)


SETTINGS = (
    *(("sat", 4, "fixed32"), ("lsq", 2, "fixed16")),
    *(("lsq_plus", 3, "float"), ("dorefa", 8, "double_shift")),
)


@pytest.mark.parametrize(
    ("name", "method", "bits", "rescale"),
    [  # by default each network with two of them, and each with half of the networks
        pytest.param(name, *own, marks=pytest.mark.slow if (i + j) % 2 else ())
        for i, name in enumerate(NETWORKS)
        for j, own in enumerate(SETTINGS)
    ],
)
def test_outputs_are_those_of_the_integer_network(
    name: str, method: str, bits: int, rescale: str, tmp_path: Path
) -> None:
    assert_computes_the_same(network_of(name, method, bits, rescale), IMAGES, tmp_path)


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_an_image_that_is_flattened_first_is_read_in_either_layout(
    layout: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5))
    network = with_rescale(lower(convert(model, "lsq", 4), [PIXEL] * 3, EXAMPLE), "fixed32")
    assert_computes_the_same(network, IMAGES, tmp_path, layout=layout)


def test_names_of_two_arrays_are_told_apart(tmp_path: Path) -> None:
    """``offsets_below`` of ``act`` is another array than ``offsets`` of ``below_act``."""
    torch.manual_seed(3)
    model = nn.Sequential()
    for i, name in enumerate(("act", "below_act")):
        model.add_module(f"from_bit_1_conv{i}" if i else "conv0", nn.Conv2d(3, 3, 3, padding=1))
        model.add_module(name, nn.LeakyReLU(0.1 + 0.2 * i))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(192, 4))
    exact = lower(convert(model, "lsq", 3), [PIXEL] * 3, EXAMPLE)
    assert {"act", "below_act"} <= {op.name for op in exact.operations}
    assert_computes_the_same(with_rescale(exact, "fixed32"), IMAGES, tmp_path)


@pytest.mark.parametrize("rescale", ["float", "fixed32"])
def test_optimised_programs_compute_the_same(rescale: str, tmp_path: Path) -> None:
    network = network_of("inception", "lsq_plus", 4, rescale)
    assert_computes_the_same(network, IMAGES, tmp_path, ["-O2"])


@pytest.mark.parametrize("weight", [{"bits": 1}, {"n_steps": 2}, {"bits": 16}])
def test_weights_of_other_widths(weight: dict[str, int], tmp_path: Path) -> None:
    network = network_of("bottleneck", "sat", 4, "fixed32", all={"name": "*", "weight": weight})
    levels = [len(set(op.weight.flat)) for op in network.operations if isinstance(op, Convolve)]
    assert max(levels) == weight.get("n_steps", 1) + 1 or min(levels) > 16
    assert_computes_the_same(network, IMAGES, tmp_path)


@pytest.mark.parametrize("name", ["chain", "bottleneck", "windows"])
def test_activations_of_16_bits(name: str, tmp_path: Path) -> None:
    network = network_of(name, "lsq", 3, "fixed32", wide={"name": "*", "activation": {"bits": 16}})
    assert max(codes.bits for codes in network.codes.values()) >= 16
    assert_computes_the_same(network, IMAGES, tmp_path)


def test_channels_of_normalised_images_have_steps_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(1)
    codes = [Codes(0, 255, 1 / 255 / s, -m / s) for m, s in ((0.5, 0.2), (0.4, 0.25), (0.3, 0.3))]
    images = torch.stack([c.step * x + c.offset for c, x in zip(codes, PIXELS[0], strict=True)])
    exact = lower(convert(NETWORKS["chain"](), "lsq"), codes, images[None].double())
    assert any(isinstance(op, Reinterpret) for op in exact.operations)
    assert_computes_the_same(with_rescale(exact, "fixed32"), IMAGES, tmp_path)


def test_a_layer_of_equal_weights_and_one_without_sites(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False))
    nn.init.constant_(model[1].weight, 0.25)
    nn.init.constant_(model[1].weight[3], 0.125)
    exact = lower(convert(model, "lsq", 4), [PIXEL] * 3, EXAMPLE)
    assert_computes_the_same(exact, IMAGES, tmp_path)


class Squared(nn.Module):
    """Products of codes are the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv(x))
        return x * x


def test_a_product_that_is_an_answer_is_rounded_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = with_rescale(lower(convert(Squared(), "sat", 4), [PIXEL] * 3, EXAMPLE), "float")
    assert_computes_the_same(network, IMAGES, tmp_path)
