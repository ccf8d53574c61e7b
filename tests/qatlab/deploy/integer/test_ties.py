"""Sums half way between two codes, as steps that are powers of two make them: the even code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from integer_reference import compute_one
from programs import assert_computes_the_same

from qatlab.deploy.integer import Codes, IntegerNetwork, compute, with_rescale
from qatlab.deploy.integer.operations import FixedRescale, Input, Output, Rescale
from qatlab.deploy.onnx.integer import IntegerWriter

SIDE = 16
IMAGE = Input("x", (), Codes(0, 255, 1.0), (5, SIDE, SIDE))
IMAGES = torch.arange(256).reshape(1, 1, SIDE, SIDE).expand(2, 5, SIDE, SIDE).clone()
IMAGES[1] = IMAGES[1].flip(-1, -2)
# Of the last channel no sum lies half way; the others have numbers of few bits.
FACTORS = np.array([0.5, -0.25, 0.125, 1.0, np.pi / 10])
BIAS = np.array([0.0, 0.5, -0.25, -3.0, 0.1])
NONE = np.zeros(5)


def rescale(
    codes: Codes, slope: float | None = None, factors: np.ndarray = FACTORS, bias: np.ndarray = BIAS
) -> Rescale:
    slopes = None if slope is None else np.array(slope)
    return Rescale("site", ("x",), (factors,), bias, np.array(0.0), codes, slopes)


def network(site: Rescale) -> IntegerNetwork:
    two = Rescale(
        "sum",
        ("site", "x"),
        (np.array(0.5), np.array(-0.25)),
        np.array(0.0),
        np.array(0.0),
        Codes(-15, 15, 1.0),
    )
    many = np.ones(5)
    output = Output("output", ("sum",), (many,), NONE, NONE)
    return IntegerNetwork([IMAGE, site, two, output], {"site": ("site",), "sum": ("sum",)})


CASES = {
    "unsigned": rescale(Codes(0, 15, 1.0)),
    "odd ends": rescale(Codes(-7, 7, 1.0)),
    "even ends": rescale(Codes(-8, 8, 1.0)),
    "wide": rescale(Codes(-127, 127, 1.0)),
    "bent": rescale(Codes(-31, 31, 1.0), slope=0.25),
    "bent at another place": rescale(Codes(-31, 31, 0.5, 1.125), slope=0.5),
    "with ties below its bend only": rescale(
        Codes(-127, 127, 1.0), slope=0.25, factors=np.ones(5), bias=np.full(5, -128.0)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_all_forms_take_the_even_code(name: str, tmp_path: Path) -> None:
    real = network(CASES[name])
    expected = compute(real, IMAGES)
    halves = expected.positions["sum"] % 1 == 0.5
    assert halves.float().mean() > 0.1
    for way in ("fixed32", "sums24"):
        whole = with_rescale(real, way)
        first, last = whole.of(FixedRescale)
        assert last.to_even
        assert first.to_even or (first.below is not None and first.below.to_even)
        found = compute(whole, IMAGES)
        assert all(torch.equal(found.codes[site], expected.codes[site]) for site in real.sites)
        slow = compute_one(whole, IMAGES[0].numpy())
        assert [slow["sum"][place] for place in sorted(slow["sum"])] == (
            expected.codes["sum"][0].flatten().tolist()
        )
        file = IntegerWriter(whole, 21).write({}).SerializeToString()
        (outputs,) = onnxruntime.InferenceSession(file).run(
            None, {"image": IMAGES.to(torch.uint8).numpy()}
        )
        assert np.array_equal(outputs.reshape(2, -1), expected.outputs.numpy())
    if name not in ("even ends", "wide"):  # of which C knows nothing that it does not of others
        assert_computes_the_same(with_rescale(real, "fixed32"), IMAGES, tmp_path)


def test_numbers_have_no_more_bits_than_they_need() -> None:
    site = rescale(Codes(-127, 127, 1.0), factors=FACTORS[:4], bias=BIAS[:4])
    made = with_rescale(IntegerNetwork([IMAGE, site]), "single_shift")
    (op,) = made.of(FixedRescale)
    assert op.multipliers[0].tolist() == [1, -1, 1, 2]
    assert op.shift.tolist() == [1, 2, 3, 1]
    assert op.offset.tolist() == [1, 4, 2, -5]  # with the half: 1, 2, 4 and 1


@pytest.mark.parametrize("way", ["fixed32", "fixed16"])
def test_a_channel_of_whole_sums_hinders_no_other(way: str) -> None:
    site = rescale(Codes(0, 1 << 20, 1.0), factors=np.array([65536.0, 0.5]), bias=np.zeros(2))
    image = Input("x", (), Codes(0, 255, 1.0), (2, SIDE, SIDE))
    made = with_rescale(IntegerNetwork([image, site]), way)
    (op,) = made.of(FixedRescale)
    assert op.to_even
    sums = np.arange(256) * op.multipliers[0][1] + op.offset[1]
    codes = (sums - ((sums >> op.shift[1]) & 1)) >> op.shift[1]
    assert codes.tolist() == np.round(np.arange(256) / 2).tolist()


@pytest.mark.parametrize(
    ("factor", "bias", "has_ties"),
    [
        (0.5, 0.0, True),
        (0.5, 0.25, False),  # sums are a quarter apart from each half
        (0.25, 0.25, True),
        (1.0, 0.0, False),
        (1.0, 0.5, True),
        (2.0, 0.5, True),
        (2.0, 0.25, False),
        (0.3, 0.5, False),
        (0.0, 0.5, True),
    ],
)
def test_ties_are_looked_for_where_sums_can_be_half_way(
    factor: float, bias: float, has_ties: bool
) -> None:
    site = rescale(Codes(-127, 127, 1.0), factors=np.array([factor]), bias=np.array([bias]))
    exact, made = (with_rescale(IntegerNetwork([IMAGE, site]), way) for way in ("float", "fixed32"))
    assert exact["site"] is site
    (op,) = made.of(FixedRescale)
    assert op.to_even == has_ties
    positions = factor * np.arange(256) + bias
    assert has_ties == (factor != 0.3 and bool((positions % 1 == 0.5).any()))


@pytest.mark.parametrize("way", ["fixed32", "single_shift", "double_shift"])
def test_multipliers_may_depend_on_the_place_where_offsets_do_not(way: str, tmp_path: Path) -> None:
    """As behind an average whose last windows are smaller: shifts divide the offset, too."""
    factors = np.broadcast_to(FACTORS[:, None, None], (5, SIDE, SIDE)).copy()
    factors[:, :, -1] *= 1.3
    site = rescale(Codes(-7, 7, 1.0), factors=factors)
    made = with_rescale(network(site), way)
    assert_computes_the_same(made, IMAGES, tmp_path)
