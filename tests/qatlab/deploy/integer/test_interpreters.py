"""The vectorised computation against Python's whole numbers, in all ways to rescale."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from integer_reference import Values, compute_one
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from torch import Tensor, nn

from qatlab import quant
from qatlab.deploy.integer import Codes, IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.integer.operations import (
    NO_SIDES,
    Convolve,
    FixedPoint,
    Group,
    Rescale,
    Weighted,
)
from qatlab.deploy.integer.rescaling import RESCALES
from qatlab.deploy.integer.vectorised import results


def as_array(values: Values, shape: tuple[int, ...]) -> np.ndarray:
    assert len(values) == np.prod(shape)
    found = np.empty(shape)
    for place, number in values.items():
        found[place] = number
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["sat", "lsq_plus"])
@pytest.mark.parametrize("rescale", RESCALES)
def test_both_interpreters_agree_to_the_last_bit(name: str, method: str, rescale: str) -> None:
    torch.manual_seed(2)
    network = with_rescale(
        lower(convert(NETWORKS[name](), method, 3), [PIXEL] * 3, EXAMPLE), rescale
    )
    slow = compute_one(network, PIXELS[0].numpy())
    sizes = network.shapes
    kinds = {type(op) for op in network.operations}
    assert issubclass(next(k for k in kinds if "Rescale" in k.__name__), FixedPoint) == (
        rescale != "float"
    )
    for op, fast, _ in results(network, PIXELS[:1]):
        assert op.group is Group.ANSWER or fast.shape[1:] == sizes[op.name]
        expected = as_array(slow[op.name], sizes[op.name])
        assert np.array_equal(fast[0].double().numpy(), expected), op.name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("rescale", "step"), [("fixed32", 1e-6), ("fixed16", 5e-3)])
def test_fixed_point_moves_only_what_lies_next_to_a_tie(
    name: str, rescale: str, step: float
) -> None:
    torch.manual_seed(3)
    exact = lower(convert(NETWORKS[name](), "lsq_plus", 4), [PIXEL] * 3, EXAMPLE)
    found, expected = compute(with_rescale(exact, rescale), PIXELS), compute(exact, PIXELS)
    for site, codes in expected.codes.items():
        position = expected.positions[site]
        from_tie = (position - position.floor() - 0.5).abs()
        other = found.codes[site] != codes
        assert not other.any() or from_tie[other].max() < step
        if other.any():
            return  # what follows has other inputs
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=step, atol=step)


@pytest.mark.parametrize(
    ("rescale", "error"),
    # Powers of two are 3/2 apart from their middle; with a second one the widest gap is 3/4 to 7/8
    # wide, or 5/4 to 3/2.
    [("fixed32", 2**-30), ("fixed16", 2**-14), ("single_shift", 1 / 3), ("double_shift", 1 / 11)],
)
def test_multipliers_are_as_near_as_their_form_allows(rescale: str, error: float) -> None:
    rng = np.random.default_rng(0)
    multiplier = np.exp(rng.uniform(-12, 1, 500)) * rng.choice([-1, 1], 500)
    multiplier[:3] = [0.0, 2.0**-7, 0.99999999999]
    weight = np.ones((500, 1, 1, 1), dtype=np.int64)
    bias, nothing = rng.uniform(-3, 3, 500), np.array(0.0)
    layer = Convolve("c", ("x",), weight, (1, 1), NO_SIDES, (1, 1), 1, 1000)
    site = Rescale("r", ("c",), (multiplier,), bias, nothing, Codes(0, 255, 1.0))
    (_, fixed) = with_rescale(IntegerNetwork([layer, site]), rescale).operations
    assert isinstance(fixed, FixedPoint)
    (whole,), shift = fixed.multipliers, fixed.shift
    found = np.ldexp(whole.astype(np.float64), -shift)
    apart = abs(found - multiplier)
    assert (apart <= error * abs(multiplier)).all()
    assert apart[0] == apart[1] == 0
    assert abs(whole).max() < (2**15 if rescale == "fixed16" else 2**31)
    ones = np.array([bin(abs(int(number))).count("1") for number in whole])
    if rescale == "single_shift":
        assert ones.max() == 1
    if rescale == "double_shift":  # a difference of two is a row of ones
        rows = np.array([int(n) + (int(n) & -int(n)) for n in abs(whole)])
        assert all(o <= 2 or bin(row).count("1") == 1 for o, row in zip(ones, rows, strict=True))
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
    offset = np.ldexp((fixed.offset - half).astype(np.float64), -shift)
    expected = (
        bias
        if "fixed" in rescale
        else bias * np.divide(found, multiplier, out=np.ones(500), where=multiplier != 0)
    )
    np.testing.assert_allclose(offset, expected, atol=2.0**-13)


def test_sums_in_fixed_point_stay_below_63_bits() -> None:
    torch.manual_seed(1)
    exact = lower(convert(NETWORKS["residual"](), "sat", 8), [PIXEL] * 3, EXAMPLE)
    network = with_rescale(exact, "fixed32")
    bounds = {op.name: op.largest for op in network.operations if isinstance(op, Convolve)}
    bounds |= {name: codes.largest for name, codes in network.codes.items()}
    bounds["fc"] = 2**31 - 1
    for op in network.operations:
        if isinstance(op, FixedPoint):
            size = abs(op.offset).max() + sum(
                int(abs(m).max()) * bounds[name]
                for m, name in zip(op.multipliers, op.inputs, strict=True)
            )
            assert size < 2**63


def test_images_that_are_normalised_keep_their_bytes() -> None:
    torch.manual_seed(1)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    codes = [
        Codes(0, 255, 1 / 255 / s, -m / s) for m, s in zip(mean.tolist(), std.tolist(), strict=True)
    ]
    images = (PIXELS.double() / 255 - mean[:, None, None]) / std[:, None, None]
    for name, same in (("chain", False), ("inception", True)):
        model = convert(NETWORKS[name](), "lsq")
        given, seen = codes, images
        if same:
            given, seen = [codes[1]] * 3, (PIXELS.double() / 255 - mean[1]) / std[1]
        network = lower(model, given, seen[:1])
        computed = compute(network, PIXELS)
        torch.testing.assert_close(computed.outputs, model(seen), rtol=1e-6, atol=1e-6)
        assert sum(isinstance(op, Convolve) for op in network.operations) >= (1 if same else 4)


def test_a_network_without_norm_or_bias_needs_no_offset() -> None:
    torch.manual_seed(1)
    model = convert(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten()))
    network = lower(model, [PIXEL] * 3, EXAMPLE)
    assert all(not op.offset.any() for op in network.operations if isinstance(op, Weighted))


def test_too_wide_codes_are_computed_in_float64() -> None:
    weight = np.array([[2**20, 1]])
    from qatlab.deploy.integer.operations import Input, Multiply, Output, Reshape

    one, nothing = np.array(1.0), np.array(0.0)
    network = IntegerNetwork(
        [
            Input("x", (), PIXEL, (2, 1, 1)),
            Reshape("flat", ("x",), (2,)),
            Multiply("fc", ("flat",), weight, 2**28),
            Output("output", ("fc",), (one,), nothing, nothing),
        ]
    )
    image = torch.tensor([255, 1]).reshape(1, 2, 1, 1)
    assert compute(network, image).outputs.item() == 255 * 2**20 + 1
    narrow = dataclasses.replace(network.operations[2], largest=1)  # a bound that is not true
    wrong = IntegerNetwork([*network.operations[:2], narrow, *network.operations[3:]])
    assert compute(wrong, image).outputs.item() == 255 * 2**20


class BentCodes(nn.Module):
    """A LeakyReLU that reads codes of a site with the same step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.leaky = nn.Conv2d(3, 2, 1), nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.leaky(y)


def test_what_a_site_of_codes_has_rounded_is_known() -> None:
    torch.manual_seed(1)
    weight, activation = (
        partial(quant.DorefaWeight, bits=4),
        partial(quant.DorefaActivation, bits=8),
    )
    model, _ = quant.quantize(BentCodes(), weight, activation, [], (PIXELS / 255)[:1])
    quant.start_quantizers(model, [PIXELS / 255])
    computed = compute(lower(model.double().eval(), [PIXEL] * 3, EXAMPLE), PIXELS)
    codes = computed.codes["conv_site"].double()
    assert (codes == -50).any()  # -0.5 is a tie
    expected = torch.where(codes < 0, 0.01 * codes, codes)
    torch.testing.assert_close(computed.positions["leaky"], expected, rtol=0, atol=1e-9)
