"""What a teacher adds to the loss (arXiv:1503.02531)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qatlab.errors import ConfigError
from qatlab.training.distillation import Distillation


class Says(nn.Module):
    """Answers the same to each image, and one thing more in training."""

    def __init__(self, answer: list[float]) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer.expand(len(images), -1) + (100.0 if self.training else 0.0)


IMAGES = torch.zeros(2, 1, 4, 4)


def test_the_loss_is_that_of_the_paper() -> None:
    # At T = 2 the teacher says 3/4 and 1/4, the network 1/2 and 1/2.
    distil = Distillation(Says([2 * math.log(3), 0.0]), temperature=2.0, weight=0.25)
    found = distil(torch.tensor([1.0, 3.0]), torch.zeros(2, 2), IMAGES)
    apart = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found.tolist() == pytest.approx([0.75 + apart, 0.75 * 3 + apart])


def test_a_network_that_answers_as_its_teacher_pays_for_its_labels_only() -> None:
    distil = Distillation(Says([1.0, 2.0, -1.0]), weight=0.5)
    output = torch.tensor([[1.0, 2.0, -1.0]]) + 5
    found = distil(torch.tensor([2.0]), output, IMAGES[:1])
    assert found.item() == pytest.approx(1.0, abs=1e-6)


def test_the_network_learns_and_the_teacher_does_not() -> None:
    teacher = Says([3.0, 0.0])
    distil = Distillation(teacher.train(), temperature=1.0, weight=1.0)
    output = torch.zeros(2, 2, requires_grad=True)
    distil(torch.zeros(2), output, IMAGES).sum().backward()
    share = torch.tensor([3.0, 0.0]).softmax(0)
    assert output.grad is not None
    assert torch.allclose(output.grad, (0.5 - share).expand(2, 2), atol=1e-6)
    assert teacher.answer.grad is None
    assert not teacher.training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0}, "distill.temperature=0 is wrong. Accepted: a number above 0."),
        ({"weight": 0}, "distill.weight=0 is wrong. Accepted: a number in (0, 1]."),
        ({"weight": True}, "distill.weight=true is wrong"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation(Says([0.0]), **settings)
    assert words in str(caught.value)
