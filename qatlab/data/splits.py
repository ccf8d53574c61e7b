"""How images are shared out to training, validation and test, with N2D2's rounding."""

from __future__ import annotations

import logging
import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qatlab.data.transforms.limits import number
from qatlab.errors import ConfigError

log = logging.getLogger(__name__)

Split = Literal["random", "in_order"]
Indices = NDArray[np.int64]


class Counts(NamedTuple):
    """Number of images of each part; what is left over belongs to none."""

    training: int
    validation: int
    test: int


def counts(n_images: int, training: float, validation: float, test: float) -> Counts:
    """Return how many images make up these shares.

        training = round_half_up(n * training)
        rest = round_half_down(n * (validation + test))
        validation = round_half_up(rest * validation / (validation + test)),  test: the others

    Args:
        n_images: the number of all images, n.
        training: share of it, in [0, 1]; the three add up to 1 at most.
        validation: likewise.
        test: likewise.
    """
    n_training = min(n_images, _half_up(n_images * training))
    held_out = validation + test
    n_held_out = min(n_images - n_training, _half_down(n_images * held_out))
    n_validation = _half_up(n_held_out * validation / held_out) if held_out > 0 else 0
    return Counts(n_training, n_validation, n_held_out - n_validation)


class Shares:
    """How the images of one collection are divided.

    Args:
        training: share of the images, up to 1; a number above 1 is one of images. None for all that
            validation and test leave.
        validation: likewise.
        test: likewise; None for all that is left, or for none if training has that.
        per_label: divide the images of each class for itself, else all together.
        equal: with ``per_label``, divide as many images of each class as the smallest class has;
            the surplus goes to the test set.
    """

    def __init__(
        self,
        training: float | None,
        validation: float = 0.0,
        test: float | None = None,
        per_label: bool = True,
        equal: bool = True,
    ) -> None:
        key = "data.source"
        self.training = None if training is None else number(f"{key}.training", training, low=0)
        self.validation = number(f"{key}.validation", validation, low=0)
        self.test = None if test is None else number(f"{key}.test", test, low=0)
        self.per_label = per_label
        self.equal = equal and per_label
        self._warned = False
        named = {"training": self.training, "validation": self.validation, "test": self.test}
        given = {name: share for name, share in named.items() if share is not None}
        if max(given.values()) <= 1 and sum(given.values()) > 1 + 1e-9:
            shares = ", ".join(f"{name}={share:g}" for name, share in given.items())
            raise ConfigError(f"data.source: the shares {shares} together exceed 1.")

    def divide(self, labels: Indices, split: str, seed: int) -> dict[str, Indices]:
        """Return which images belong to which part, in ascending order.

        Args:
            labels: of all images, (N,).
            split: ``random``, or ``in_order``: first training, then validation, then test.
            seed: of the random choice.
        """
        rng = np.random.default_rng(seed)
        groups = [np.arange(len(labels))]
        if self.per_label:
            groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        smallest = min(map(len, groups), default=0)
        if self.equal:
            self._warn(smallest, len(groups), len(labels))
        parts: dict[str, list[Indices]] = {"training": [], "validation": [], "test": []}
        for group in groups:
            members = rng.permutation(group) if split == "random" else group
            divided = self._counts(smallest if self.equal else len(group))
            start = 0
            for part, count in zip(parts, divided, strict=True):
                parts[part].append(members[start : start + count])
                start += count
            if self.equal:
                parts["test"].append(members[max(start, smallest) :])
        return {part: np.sort(np.concatenate(pieces)) for part, pieces in parts.items()}

    def _warn(self, smallest: int, groups: int, n_images: int) -> None:
        """Tell once if most images are neither trained nor validated on, as one class has few."""
        surplus = n_images - groups * smallest
        if surplus > n_images / 2 and not self._warned:
            log.warning(
                "data.source.equal=true divides %s images of each class, as many as the smallest "
                "class has: %s of %s go to the test set; data.source.equal=false divides them too",
                *(f"{smallest:,}", f"{surplus:,}", f"{n_images:,}"),
            )
            self._warned = True

    def _counts(self, n_images: int) -> Counts:
        """Return how many images of a group make up each part."""
        held_out = [self.validation, self.test or 0.0]
        if max(self.training or 0.0, *held_out) <= 1:
            training = 1 - sum(held_out) if self.training is None else self.training
            if self.training is not None and self.test is None:
                held_out[1] = max(0.0, 1 - training - self.validation)
            return counts(n_images, max(0.0, training), *held_out)
        wanted = [self.training or 0.0, *held_out]
        training, validation, test = (
            _half_up(share * n_images) if share <= 1 else int(share) for share in wanted
        )
        left = n_images - training - validation - test
        if left < 0:
            raise ConfigError(
                f"data.source: training, validation and test want {n_images - left} images, but "
                f"there are only {n_images}{' of a class' if self.per_label else ''}."
            )
        if self.training is None:
            training += left
        elif self.test is None:
            test += left
        return Counts(training, validation, test)


def _half_up(x: float) -> int:
    return math.floor(x + 0.5)


def _half_down(x: float) -> int:
    return math.ceil(x - 0.5)
