"""What is counted when two forms of a network are compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab import quant
from qatlab.deploy.integer import Codes
from qatlab.deploy.verify.comparison import Comparison, Site, compare
from qatlab.deploy.verify.forms import Answer, FakeQuantized
from qatlab.errors import TrainingError
from qatlab.quant.layers import QuantLinear

IMAGES = torch.zeros(3, 1, 2, 2)


class Given:
    """A form with given answers."""

    name, tolerance = "given", 0.0

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        return self.answer

    look_inside = __call__


def site_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def all_known(answer: Answer) -> dict[str, Tensor]:
    return {name: torch.ones(len(codes), dtype=torch.bool) for name, codes in answer.codes.items()}


def test_first_counts_what_differs_while_all_before_agrees() -> None:
    agree = torch.tensor([True, False, True])
    site = Site()
    other = torch.tensor([[True, False], [True, True], [False, False]])
    position = site_of([2.499, 0.1], [1.2, 1.3], [3.0, 3.0])
    site.add(other, position, agree, known=torch.tensor([True, True, True]))
    assert (site.different, site.first) == (3, 1)
    assert site.from_tie == pytest.approx(0.001)
    site.add(other, position, agree, known=torch.tensor([False, True, True]))
    assert (site.different, site.first) == (6, 2)
    assert site.from_tie == pytest.approx(0.001)  # what was rounded is not known here


@pytest.mark.parametrize(("tie", "ties"), [(1.50001, 1), (1.6, 0)])
def test_an_image_parts_at_a_tie_or_not(tie: float, ties: int) -> None:
    outputs = site_of([1.0, 0.0], [1.0, 0.0], [1.0, 0.0])
    others = site_of([0.0, 1.0], [1.0, 0.0], [1.0, 0.5])
    same, changed = site_of([1.0], [1.0], [4.0]), site_of([2.0], [1.0], [4.0])
    expected = Answer(outputs, {"a": same, "b": same})
    exact = Answer(outputs, expected.codes, {"a": site_of([tie], [1.0], [4.0]), "b": same})
    found = Answer(others, {"a": changed, "b": changed})
    own = Comparison("given", 0.0)
    one = Given(found.of(slice(0, 1)))  # what is asked for the image that got another class
    own.add(
        one, (IMAGES, IMAGES, torch.tensor([1, 0, 1])), expected, exact, all_known(expected), found
    )
    assert (own.images, own.right, own.different, own.ties) == (3, 2, 1, ties)
    assert (own.largest, own.total) == (1.0, 2.5)
    assert own.passes == bool(ties)
    assert own.parts_at == "a"
    assert (own.sites["b"].different, own.sites["b"].first) == (1, 0)  # the image parted before


@pytest.mark.parametrize(("apart", "ties"), [(1e-7, 1), (0.01, 0)])
def test_equal_outputs_are_ties(apart: float, ties: int) -> None:
    outputs, others = site_of([1.0, 1.0 - apart]), site_of([1.0 - apart, 1.0])
    codes = {"a": site_of([1.0])}
    expected, exact = Answer(outputs, codes), Answer(outputs, codes, codes)
    found = Answer(others, codes)
    own = Comparison("given", 0.0)
    batch = (IMAGES[:1], IMAGES[:1], torch.tensor([0]))
    own.add(Given(found), batch, expected, exact, all_known(expected), found)
    assert (own.different, own.ties) == (1, ties)


@pytest.mark.parametrize(
    # The largest output is 2, and one of 1e-4 of it off is not near; the code may be at a tie.
    ("apart", "code", "counts"),
    [(1e-4, 1.0, (0, 0)), (3e-4, 1.0, (1, 0)), (0.5, 2.0, (1, 1))],
)
def test_outputs_that_are_no_classes_have_to_be_near(
    apart: float, code: float, counts: tuple[int, int]
) -> None:
    outputs, codes = site_of([1.0, 2.0]), {"a": site_of([1.0])}
    expected, exact = Answer(outputs, codes), Answer(outputs, codes, {"a": site_of([1.5])})
    found = Answer(outputs + apart, {"a": site_of([code])})
    own = Comparison("given", 0.0, classifies=False)
    batch = (IMAGES[:1], IMAGES[:1], torch.tensor([0]))
    own.add(Given(found), batch, expected, exact, all_known(expected), found)
    assert (own.different, own.ties) == counts
    assert own.right == 0
    assert own.to_json()["top1"] is None


def test_a_share_of_images_is_tolerated() -> None:
    own = Comparison("given", 5e-4, images=10_000, different=6, ties=1)
    assert own.passes
    assert not Comparison("given", 5e-4, images=10_000, different=7, ties=1).passes


def test_a_network_without_sites_is_compared() -> None:
    model = nn.Flatten()
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    exact: Any = Given(Answer(images.flatten(1).double()))
    codes = (Codes(0, 255, 1.0),) * 2
    batches = iter([(images, torch.tensor([1, 0]))])
    found = compare(FakeQuantized(model), exact, [], batches, codes)
    assert [(own.right, own.different, own.parts_at) for own in found] == [(2, 0, None)] * 2


def test_answers_that_are_not_finite_are_not_compared() -> None:
    images = torch.ones(1, 2, 1, 1)
    wrong: Any = Given(Answer(torch.tensor([[math.inf, 0.0]])))
    with pytest.raises(TrainingError, match=r"^given: the answers are not finite"):
        compare(
            FakeQuantized(nn.Flatten()), wrong, [], iter([(images, images)]), (Codes(0, 255, 1.0),)
        )


def test_the_network_is_afterwards_as_it_was() -> None:
    site = quant.SatActivation(nn.ReLU(), bits=4, alpha=1.0)
    layer = QuantLinear.of(nn.Linear(2, 2), quant.SatWeight(bits=4))
    model = nn.Sequential(nn.Flatten(), layer, site).eval()
    quant.set_phase(model, quant.Phase.QUANTIZE)
    form = FakeQuantized(model)
    with form:
        assert layer.held is not None
        assert len(site._forward_hooks) == 1
        assert form(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)).codes.keys() == {"2"}
    assert layer.held is None
    assert not site._forward_hooks


def test_a_network_of_float64_computes_images_of_float32() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(FakeQuantized(model)(images, images).outputs, model(images.double()))
    assert len(FakeQuantized(nn.Flatten())(images, images).outputs) == 3  # without weights
