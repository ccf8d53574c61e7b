"""Learning from the answers of a trained network beside the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import wrong
from qatlab.quant.quantizer import is_number
from qatlab.training.loss import as_tuple


class Distillation:
    """Adds to the loss how far a network's answers are from those of its teacher.

        (1 - weight) loss + weight T^2 KL(softmax(teacher / T) || softmax(network / T))

    The teacher is in evaluation, its weights stay as they are, and no checkpoint holds them.

    Source: Hinton et al. 2015, arXiv:1503.02531.

    Args:
        teacher: a trained network that takes the same images and knows the same classes.
        temperature: T; above 1 the answers for other classes than the most likely one count more.
        weight: of the teacher, in (0, 1].
    """

    def __init__(self, teacher: nn.Module, temperature: float = 4.0, weight: float = 0.5) -> None:
        if not (is_number(temperature) and 0 < temperature < math.inf):
            raise wrong("distill.temperature", temperature, "a number above 0")
        if not (is_number(weight) and 0 < weight <= 1):
            raise wrong("distill.weight", weight, "a number in (0, 1]")
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature, self.weight = temperature, weight

    def __call__(self, losses: Tensor, output: Tensor, images: Tensor) -> Tensor:
        """Return the loss of each image with the teacher's part.

        Args:
            losses: ``(N,)``, without it.
            output: of the network, ``(N, classes)``.
            images: ``(N, C, H, W)``, as the network got them.
        """
        self.teacher.to(images.device)
        with torch.no_grad():
            wanted = as_tuple(self.teacher(images))[0].flatten(1)
        own, wanted = (
            F.log_softmax(x.float() / self.temperature, 1) for x in (output.flatten(1), wanted)
        )
        apart = F.kl_div(own, wanted, reduction="none", log_target=True).sum(1)
        return losses.lerp(apart * self.temperature**2, self.weight)
