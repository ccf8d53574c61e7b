"""Mixup: trains on mixtures of two images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qatlab.training.lr_policy import check_number


class Mixed(NamedTuple):
    """A batch of mixtures: ``share`` of each image, and the rest of its partner."""

    images: Tensor  # (N, C, H, W)
    share: float  # from 1/2 to 1
    partners: Tensor  # int64, (N,), places in the batch


class Mixup:
    """Mixes each image of a batch with another one of it, all in the same proportion.

        lambda x_i + (1 - lambda) x_j,   lambda ~ Beta(alpha, alpha)

    j is a random permutation. Of lambda the larger of it and 1 - lambda is taken, so that an image
    keeps its place; as both are as likely, and the permutation has no order, batches are the same.

    Source: Zhang et al. 2018, arXiv:1710.09412; one lambda for each batch, as in figure 1.

    Args:
        alpha: of the Beta distribution: near 0 images are hardly mixed, at 1 all proportions are
            as likely; 0 mixes nothing.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = check_number("mixup", alpha)

    def __call__(self, images: Tensor) -> Mixed:
        """Draw from torch's generators, which checkpoints hold, and mix ``images``."""
        # On the CPU: a proportion from a GPU would be one to wait for.
        concentration = torch.tensor(self.alpha, dtype=torch.float64)
        drawn = torch.distributions.Beta(concentration, concentration).sample().item()
        share = max(drawn, 1 - drawn)
        partners = torch.randperm(len(images), device=images.device)
        return Mixed(images[partners].lerp_(images, share), share, partners)
